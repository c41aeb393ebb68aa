"""The process that watches: goes over sessions on a schedule of its own, and leaves notes for whoever reads them."""

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
"""How long one analysis may take."""


def main() -> None:
    """Observes until Ctrl-C or SIGTERM; what is at work then is finished first."""
    parser = argparse.ArgumentParser(description="Observe sessions; the sidecar is that of SESSION_NOTES_TARGET.")
    parser.add_argument("--session", metavar="ID", action="append", required=True, help="can be given several times")
    parser.add_argument("--every", metavar="SPAN", type=span, default="5s", help="500ms, 5s, 2m; default: 5s")
    parser.add_argument("--once", action="store_true", help="go over the sessions once, then exit")
    arguments = parser.parse_args()

    # A run that fails is logged by the client, and recorded in the sidecar, where the primary sees it.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    analyse = analyser_from_environment()

    noted = set()

    def analyse_aloud(run: ActiveRun) -> Notes:
        notes = analyse(run)
        noted.add(run.session_id)
        print(f"run {run.number} over {run.observed_turn or 0} turns of {run.session_id}: {notes.summary}", flush=True)
        return notes

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), BackgroundObserver(analyse_aloud, time_limit=TIME_LIMIT) as observer:
        while True:
            for session_id in arguments.session:
                observer.submit(session_id)
            if arguments.once:
                observer.close(TIME_LIMIT)
                break
            time.sleep(arguments.every.total_seconds())
    if arguments.once and (missing := [session_id for session_id in arguments.session if session_id not in noted]):
        # The client's log, above, has the reason.
        sys.exit(f"no notes on {', '.join(missing)}. If no sidecar is running, start one with: make run")


def span(text: str) -> timedelta:
    """A span of time as people write it."""
    for unit, name in (("ms", "milliseconds"), ("s", "seconds"), ("m", "minutes")):
        if text.endswith(unit) and (number := float(text.removesuffix(unit))) > 0:
            return timedelta(**{name: number})
    raise ValueError(text)


if __name__ == "__main__":
    main()
