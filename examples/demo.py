"""A demo in five scenes with a sidecar, a primary and an observer, played by `make demo`.

All printed values are real. The sidecar is a separate process. This process is the primary, with an observer in threads
of its own, and also a slow worker of the same observer.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from analysers import TOPICS, RuleBased
from demo_screen import Screen
from primary import Conversation, answer_by_rule
from session_notes import (
    ActiveRun,
    BackgroundObserver,
    Notes,
    NotesFeed,
    ObserverClient,
    PrimaryClient,
    Reading,
    TurnRecorder,
)

SESSION_ID = "demo"

MIN_NEW_TURNS = 4
"""The observer's brake. The others depend on the time, and the demo does not."""

MAX_TURNS_BEHIND = 2
"""The maximum drift, in turns, of notes that this primary follows."""

RUN_TIMEOUT = 20
"""How long the demo waits for a run, in seconds."""

# Drop the shell's settings: the demo uses its own store and sidecar, and rules instead of a language model.
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}


class Analyser:
    """The observer's analysis, by rules. It also reports its runs to the demo."""

    def __init__(self) -> None:
        self.runs: queue.Queue[ActiveRun] = queue.Queue()
        self._rules = RuleBased(TOPICS)

    def __call__(self, run: ActiveRun) -> Notes:
        """Analyse the new turns of a run."""
        self.runs.put(run)
        return self._rules(run)


class Demo:
    """The five scenes: one conversation, one observer.

    Args:
        screen: Prints the scenes.
        primary: Reads the notes.
        recorder: Stores the turns, and then submits the session to the observer.
        worker: Makes the calls of a slow worker, which is not part of the background observer.
        runs: The runs of the background observer.
    """

    def __init__(
        self,
        screen: Screen,
        primary: PrimaryClient,
        recorder: TurnRecorder,
        worker: ObserverClient,
        runs: "queue.Queue[ActiveRun]",
    ) -> None:
        self._screen = screen
        self._worker = worker
        self._runs = runs
        self._conversation = Conversation(primary, recorder, SESSION_ID, answer_by_rule, MAX_TURNS_BEHIND)
        self._feed = NotesFeed(primary, SESSION_ID, max_turns_behind=MAX_TURNS_BEHIND)

    def play(self) -> None:
        """Play all scenes in order."""
        self._held_back()
        self._ready()
        with self._worker.run(SESSION_ID) as slow_run:
            notes = self._drift(slow_run)
            newer = self._new_turns_only()
            self._obsolete_run(slow_run, notes, newer)

    def _held_back(self) -> None:
        self._screen.scene("1  Not ready, and held back", "No observer has analysed this conversation yet.")
        self._exchange("Hello! Our goal is a web shop that does not lose customers. Can we start in May?")
        runs = self._worker.list_runs(SESSION_ID)
        self._screen.line("calls", f'list_runs("{SESSION_ID}")', "yellow")
        self._screen.line("returns", json.dumps([run.number for run in runs]))
        self._explain(
            "having no notes is an answer, not an error. The session has been submitted to the observer, whose brake "
            f"holds it back until {MIN_NEW_TURNS} turns are new. No run has begun, so nothing is paid for."
        )

    def _ready(self) -> None:
        self._screen.scene(
            "2  Ready, and in the prompt once", "With the next exchange, the brake releases the session."
        )
        self._exchange("Most of them leave at the checkout.")
        self._observed()
        reading = self._read()
        self._next_prompt(in_full=True)
        self._next_prompt()
        self._explain(
            f"the notes are {age(reading)} old by the store's clock. The feed returns them as text for the prompt of "
            "the primary's model, and then None until there is something new."
        )

    def _drift(self, slow_run: ActiveRun) -> Notes:
        self._screen.scene(
            "3  Growing drift",
            "The conversation continues while the notes stay the same. This primary follows notes that are at most "
            f"{MAX_TURNS_BEHIND} turns behind. A slow worker of the same observer has begun run {slow_run.number}.",
        )
        notes = RuleBased(TOPICS[:1])(slow_run)
        self._screen.line("worker", f"run {slow_run.number}: {len(notes.coverage)} of {len(TOPICS)} topics analysed")
        self._exchange("About half of them, to be exact.")
        last = self._exchange("The budget is 40,000, at a fixed price.")
        self._explain(
            f"the notes are {last.turns_behind} turns behind, so fresh is {json.dumps(last.fresh)}. They are returned "
            "anyway: the sidecar reports how stale they are, and the primary decides whether to use them."
        )
        return notes

    def _new_turns_only(self) -> Reading:
        self._screen.scene(
            "4  New turns only", f"Another {MIN_NEW_TURNS} turns are new, so the brake has released a run."
        )
        run = self._observed()
        reading = self._read(with_notes=True)
        self._next_prompt()
        self._exchange("What else do you need?")
        self._explain(
            f"run {run.number} was sent {len(run.transcript)} turns instead of {run.observed_turn}. Its notes cover "
            "the whole conversation, and the primary follows them again."
        )
        return reading

    def _obsolete_run(self, slow_run: ActiveRun, notes: Notes, newer: Reading) -> None:
        self._screen.scene(
            "5  An obsolete run",
            f"Run {slow_run.number} saw {slow_run.observed_turn} turns and is still running. Run {run_number(newer)}, "
            f"which wrote the current notes, saw {newer.observed_turn}.",
        )
        renewal = slow_run.renew()
        self._screen.line("calls", f"run.renew()   # run {slow_run.number}", "yellow")
        self._screen.result({"obsolete": renewal.obsolete, "turns_behind": renewal.turns_behind})
        if slow_run.obsolete:
            saved = len(TOPICS) - len(notes.coverage)
            self._screen.line(
                "worker", f"run {slow_run.number} stops: {saved} of {len(TOPICS)} topics are not paid for"
            )
        result = slow_run.write(notes)
        self._screen.line("calls", f"run.write(notes)   # run {slow_run.number}, what it has", "yellow")
        self._screen.result({"outcome": result.outcome, "run": result.run.number})
        reading = self._read()
        unchanged = (reading.run, reading.notes, reading.write_time) == (newer.run, newer.notes, newer.write_time)
        self._explain(
            f"{result.outcome}: the late notes go only to the history. The reading is "
            f"{'unchanged' if unchanged else 'CHANGED'}, from run {run_number(reading)}. If the last write had won, "
            "the primary would now know less than before."
        )
        runs = [f"run {run.number} {run.state}" for run in self._worker.list_runs(SESSION_ID)]
        self._screen.line("history", ", ".join(runs))

    def _exchange(self, text: str) -> Reading:
        self._conversation.hear(text)
        self._screen.line("user", text, "bold")
        reading = self._read()
        self._screen.line("primary", self._conversation.answer(reading), "bold")
        return reading

    def _read(self, *, with_notes: bool = False) -> Reading:
        reading = self._conversation.read_notes()
        self._screen.line("calls", f'get_notes("{SESSION_ID}", max_turns_behind={MAX_TURNS_BEHIND})', "yellow")
        self._screen.result(reading.as_tool_result(), with_notes=with_notes)
        return reading

    def _observed(self) -> ActiveRun:
        """Print which turns the observer's next run sees, and wait for its notes."""
        run = self._runs.get(timeout=RUN_TIMEOUT)
        earlier = run.current.observed_turn if run.current is not None else None
        so_far = f" and the notes on turns 1 to {earlier}" if earlier else ""
        self._screen.line("observer", f"run {run.number} sees turns {run.first_turn} to {run.observed_turn}{so_far}")
        deadline = time.monotonic() + RUN_TIMEOUT
        while run_number(self._conversation.read_notes()) != run.number:
            if time.monotonic() > deadline:
                sys.exit(f"run {run.number} has written no notes")
            time.sleep(0.01)
        return run

    def _next_prompt(self, *, in_full: bool = False) -> None:
        text = self._feed.next()
        self._screen.line("calls", "feed.next()", "yellow")
        if text is not None and not in_full:
            text = text.partition("\n")[0] + " …"
        self._screen.line("returns", str(text))

    def _explain(self, text: str) -> None:
        self._screen.line("means", text, "bold cyan")


def age(reading: Reading) -> str:
    """Return the age of a reading's notes for display."""
    return "of no age" if reading.age is None else f"{reading.age.total_seconds():.3f} s"


def run_number(reading: Reading) -> int | None:
    """Return the number of the run that wrote a reading's notes."""
    return reading.run.number if reading.run is not None else None


@contextmanager
def _sidecar() -> Iterator[str]:
    """Run a sidecar on a free port, with a store in a temporary folder. Yield its address; remove both at the end."""
    with tempfile.TemporaryDirectory(prefix="session-notes-demo-") as folder:
        serve = ["-m", "session_notes_tools", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder]
        # In a new session, so that Ctrl-C reaches only the demo, which stops the sidecar last.
        process = subprocess.Popen(
            [sys.executable, *serve], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    log = []
    for line in process.stderr or ():
        log.append(line)
        if "listening on " in line:
            return line.rpartition(" ")[2].strip()
    sys.exit("the sidecar did not start; its log:\n" + "".join(log))


def main() -> None:
    """Play the demo."""
    parser = argparse.ArgumentParser(description="A conversation with a primary and an observer, in five scenes.")
    parser.add_argument("--fast", action="store_true", help="print without pauses for reading")
    screen = Screen(fast=parser.parse_args().fast)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        analyse = Analyser()
        with (
            _sidecar() as target,
            PrimaryClient(target) as primary,
            BackgroundObserver(
                analyse, target=target, transcript="new", brakes=False, min_new_turns=MIN_NEW_TURNS
            ) as observer,
            TurnRecorder(primary, observer) as recorder,
            ObserverClient(target) as worker,
        ):
            screen.scene(
                "session-notes",
                "A primary talks to the user. An observer takes notes in the background. Neither waits for the other. "
                f"Between them is the sidecar, which listens on {target}.",
            )
            Demo(screen, primary, recorder, worker, analyse.runs).play()
    except KeyboardInterrupt:
        sys.exit("stopped")
    screen.scene("The end", "The sidecar and its data have been removed. To try it yourself, see examples/README.md.")


if __name__ == "__main__":
    main()
