"""The observer process: finds the sessions with new turns, analyses these turns and writes notes."""

import argparse
import logging
import signal
import sys
from contextlib import suppress
from datetime import timedelta

from analysers import analyser_from_environment
from session_notes import ActiveRun, BackgroundObserver, Notes, ObserverClient, Unavailable

TIME_LIMIT = timedelta(minutes=1)
"""The time limit of an analysis."""

SWEEP_INTERVAL = timedelta(seconds=1)
"""The interval at which it looks for sessions with new turns. With thousands of sessions, choose a longer one."""


def main() -> None:
    """Observe until Ctrl-C or SIGTERM, then finish the runs in flight."""
    parser = argparse.ArgumentParser(description="Observe all sessions of the sidecar at SESSION_NOTES_TARGET.")
    parser.add_argument(
        "--every",
        metavar="SPAN",
        type=span,
        default="5s",
        help="shortest time between two runs of a session: 500ms, 5s, 2m; default: 5s",
    )
    parser.add_argument("--once", action="store_true", help="analyse the sessions with new turns, then exit")
    arguments = parser.parse_args()

    # The client logs a failed run and records it in the sidecar, where the primary sees it.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    analyse = analyser_from_environment()

    analysed_ids = set()

    def analyse_and_print(run: ActiveRun) -> Notes:
        notes = analyse(run)
        analysed_ids.add(run.session_id)
        turns = f"turns {run.first_turn} to {run.observed_turn} of {run.session_id}"
        # In one write, because several threads print.
        print(f"run {run.number} over {turns}: {notes.summary}\n", end="", flush=True)
        return notes

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    due_ids = []
    with (
        suppress(KeyboardInterrupt),
        BackgroundObserver(
            analyse_and_print, transcript="new", time_limit=TIME_LIMIT, min_interval=arguments.every
        ) as observer,
    ):
        if arguments.once:
            due_ids = _due_ids()
            for session_id in due_ids:
                observer.submit(session_id)
            observer.close(TIME_LIMIT)
        else:
            observer.sweep(every=SWEEP_INTERVAL)
            signal.pause()
    if missing := [session_id for session_id in due_ids if session_id not in analysed_ids]:
        sys.exit(f"no notes on {', '.join(missing)}")  # The client has logged the reason.


def _due_ids() -> list[str]:
    try:
        with ObserverClient() as client:
            return [due.session_id for due in client.due_sessions()]
    except Unavailable as error:
        sys.exit(f"the sidecar does not respond ({error}); start one with: make run")


def span(text: str) -> timedelta:
    """Parse a span such as `500ms`, `5s` or `2m`."""
    for unit, name in (("ms", "milliseconds"), ("s", "seconds"), ("m", "minutes")):
        if text.endswith(unit) and (number := float(text.removesuffix(unit))) > 0:
            return timedelta(**{name: number})
    raise ValueError(text)


if __name__ == "__main__":
    main()
