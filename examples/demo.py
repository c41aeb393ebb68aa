"""A demo in five scenes with a sidecar, a primary and an observer, played by `make demo`.

All printed values are real. The sidecar and the observer are separate processes. This process is the primary, and also
a slow worker of the observer.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysers import TOPICS, RuleBased
from demo_screen import Screen
from primary import MAX_TURNS_BEHIND, Conversation, answer_by_rule
from session_notes import ActiveRun, ObserverClient, PrimaryClient, Reading, TurnRecorder

SESSION_ID = "demo"

# Drop the shell's settings: the demo uses its own store and sidecar, and rules instead of a language model.
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}


class Demo:
    """The five scenes: one conversation, one observer."""

    def __init__(
        self, screen: Screen, target: str, primary: PrimaryClient, recorder: TurnRecorder, observer: ObserverClient
    ) -> None:
        self._screen = screen
        self._environment = ENVIRONMENT | {"SESSION_NOTES_TARGET": target}
        self._observer = observer
        self._conversation = Conversation(primary, recorder, SESSION_ID, answer_by_rule)

    def play(self) -> None:
        """Play all scenes in order."""
        self._not_ready()
        self._ready_with_age()
        with self._observer.run(SESSION_ID) as slow_run:
            self._drift(slow_run)
            newer = self._newer_run()
            self._slow_old_run(slow_run, newer)

    def _not_ready(self) -> None:
        self._screen.scene("1  Not ready", "No observer has analysed this conversation yet.")
        self._exchange("Hello! Our goal is a web shop that does not lose customers. Can we start in May?")
        self._explain("having no notes is an answer, not an error. It comes immediately, and the primary continues.")

    def _ready_with_age(self) -> None:
        self._screen.scene("2  Ready, with an age", "The observer takes a copy of the transcript and writes its notes.")
        self._observe()
        reading = self._read(with_notes=True)
        self._screen.pause(150)
        later = self._read()
        self._explain(f"the same notes, first {age(reading)} old, then {age(later)}. Only the store's clock counts.")

    def _drift(self, slow_run: ActiveRun) -> None:
        self._screen.scene(
            "3  Growing drift",
            "The conversation continues while the notes stay the same. This primary follows notes that are at most "
            f"{MAX_TURNS_BEHIND} turns behind. Meanwhile, a slow worker of the same observer has begun run "
            f"{slow_run.number}. It returns in scene 5.",
        )
        self._exchange("Most of them leave at the checkout.")
        self._exchange("Right, May is important to us.")
        last = self._exchange("The budget is 40,000, at a fixed price.")
        self._explain(
            f"the notes are {last.turns_behind} turns behind, so fresh is {json.dumps(last.fresh)}. They are returned "
            "anyway: the sidecar reports how stale they are, and the primary decides whether to use them."
        )

    def _newer_run(self) -> Reading:
        self._screen.scene("4  A newer run", "The observer runs again and sees the new turns.")
        self._observe()
        reading = self._read(with_notes=True)
        self._exchange("What else do you need?")
        self._explain(
            f"run {run_number(reading)} has seen {reading.observed_turn} turns. The primary follows the notes again."
        )
        return reading

    def _slow_old_run(self, slow_run: ActiveRun, newer: Reading) -> None:
        self._screen.scene(
            "5  A slow old run is superseded",
            f"Run {slow_run.number} finishes at last and writes its notes. It has seen {slow_run.observed_turn} turns. "
            f"Run {run_number(newer)}, which wrote the current notes, has seen {newer.observed_turn}.",
        )
        self._screen.line("calls", f"run.write(notes)   # run {slow_run.number}", "yellow")
        result = slow_run.write(RuleBased(TOPICS)(slow_run))
        self._screen.result({"outcome": result.outcome, "run": result.run.number})
        reading = self._read()
        unchanged = (reading.run, reading.notes, reading.write_time) == (newer.run, newer.notes, newer.write_time)
        self._explain(
            f"{result.outcome}: the notes go only to the history. The reading is "
            f"{'unchanged' if unchanged else 'CHANGED'}: from run {run_number(reading)}, {age(reading)} old. If the "
            "last write had won, the primary would now know less than before."
        )
        runs = [f"run {run.number} {run.state}" for run in self._observer.list_runs(SESSION_ID)]
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

    def _observe(self) -> None:
        command = ["observer.py", "--session", SESSION_ID, "--once"]
        self._screen.line("starts", " ".join(command), "yellow")
        run = subprocess.run(
            [sys.executable, *command],
            cwd=Path(__file__).parent,
            env=self._environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._screen.line("prints", run.stdout.strip())

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
        with (
            _sidecar() as target,
            PrimaryClient(target) as primary,
            TurnRecorder(primary) as recorder,
            ObserverClient(target) as observer,
        ):
            screen.scene(
                "session-notes",
                "A primary talks to the user. An observer takes notes in another process. Neither calls the other: "
                f"they share only the sidecar, which listens on {target}.",
            )
            Demo(screen, target, primary, recorder, observer).play()
    except KeyboardInterrupt:
        sys.exit("stopped")
    screen.scene("The end", "The sidecar and its data have been removed. To try it yourself, see examples/README.md.")


if __name__ == "__main__":
    main()
