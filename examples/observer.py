"""The observer process: analyses sessions on its own schedule and writes notes."""

import argparse
import logging
import signal
import sys
import time
from contextlib import suppress
from datetime import timedelta

from analysers import analyser_from_environment
from session_notes import ActiveRun, BackgroundObserver, Notes

TIME_LIMIT = timedelta(minutes=1)
"""The time limit of an analysis."""


def main() -> None:
    """Observe until Ctrl-C or SIGTERM, then finish the runs in flight."""
    parser = argparse.ArgumentParser(description="Observe sessions of the sidecar at SESSION_NOTES_TARGET.")
    parser.add_argument("--session", metavar="ID", action="append", required=True, help="can be repeated")
    parser.add_argument("--every", metavar="SPAN", type=span, default="5s", help="500ms, 5s, 2m; default: 5s")
    parser.add_argument("--once", action="store_true", help="analyse each session once, then exit")
    arguments = parser.parse_args()

    # The client logs a failed run and records it in the sidecar, where the primary sees it.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    analyse = analyser_from_environment()

    analysed_ids = set()

    def analyse_and_print(run: ActiveRun) -> Notes:
        notes = analyse(run)
        analysed_ids.add(run.session_id)
        print(f"run {run.number} over {run.observed_turn or 0} turns of {run.session_id}: {notes.summary}", flush=True)
        return notes

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # This program has a schedule of its own. In its rounds, only sessions with new turns are analysed.
    background = BackgroundObserver(
        analyse_and_print,
        time_limit=TIME_LIMIT,
        min_interval=arguments.every,
        min_new_turns=0 if arguments.once else 1,
        quiet_for=timedelta(),
    )
    with suppress(KeyboardInterrupt), background as observer:
        while True:
            for session_id in arguments.session:
                observer.submit(session_id)
            if arguments.once:
                observer.close(TIME_LIMIT)
                break
            time.sleep(arguments.every.total_seconds())
    if arguments.once and (
        missing := [session_id for session_id in arguments.session if session_id not in analysed_ids]
    ):
        # The client has logged the reason.
        sys.exit(f"no notes on {', '.join(missing)}. If no sidecar is running, start one with: make run")


def span(text: str) -> timedelta:
    """Parse a span such as `500ms`, `5s` or `2m`."""
    for unit, name in (("ms", "milliseconds"), ("s", "seconds"), ("m", "minutes")):
        if text.endswith(unit) and (number := float(text.removesuffix(unit))) > 0:
            return timedelta(**{name: number})
    raise ValueError(text)


if __name__ == "__main__":
    main()
