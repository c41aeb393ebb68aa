"""Five scenes with a sidecar, a primary and an observer: what `make demo` plays.

Nothing is made up: the sidecar and the observer are processes of their own, this one is the primary (and a slow worker
of the observer), and what is shown is what came back.
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
from primary import MAX_TURNS_BEHIND, Conversation, answer_by_rule
from session_notes import ActiveRun, ObserverClient, PrimaryClient, Reading, TurnRecorder
from stage import Stage

SESSION_ID = "demo"

# Whatever this shell is set up for: a store and a sidecar of the demo's own, and rules instead of a language model.
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}


class Demo:
    """The play: one conversation, one observer."""

    def __init__(
        self, stage: Stage, target: str, primary: PrimaryClient, recorder: TurnRecorder, observer: ObserverClient
    ) -> None:
        self._stage = stage
        self._environment = ENVIRONMENT | {"SESSION_NOTES_TARGET": target}
        self._observer = observer
        self._conversation = Conversation(primary, recorder, SESSION_ID, answer_by_rule)

    def play(self) -> None:
        """All scenes, in order."""
        self._not_ready()
        self._ready_with_age()
        with self._observer.run(SESSION_ID) as slow_run:
            self._drift(slow_run)
            newer = self._newer_run()
            self._slow_old_run(slow_run, newer)

    def _not_ready(self) -> None:
        self._stage.scene("1  Not ready", "No observer has looked at this conversation yet.")
        self._exchange("Hello! Our goal is a web shop that does not lose customers. Can we start in May?")
        self._means('"no notes" is an answer, not an error, and comes at once. The primary goes on without.')

    def _ready_with_age(self) -> None:
        self._stage.scene("2  Ready, with its age", "The observer takes a copy of the transcript and writes its notes.")
        self._observe()
        reading = self._read(whole=True)
        self._stage.pause(150)
        later = self._read()
        self._means(f"the same notes, {age(reading)} old, then {age(later)}, by the store's clock and nobody else's.")

    def _drift(self, slow_run: ActiveRun) -> None:
        self._stage.scene(
            "3  Drift grows",
            "The user talks on; the notes stay as they are. This primary goes by notes that are at most "
            f"{MAX_TURNS_BEHIND} turns behind. Meanwhile another worker of the same observer has begun run "
            f"{slow_run.number}, and is slow. More of it in scene 5.",
        )
        self._exchange("Most of them leave at the checkout.")
        self._exchange("Right, May is important to us.")
        last = self._exchange("The budget is 40,000, at a fixed price.")
        self._means(
            f"{last.turns_behind} turns behind, so fresh is {json.dumps(last.fresh)}. The notes came all the same: the "
            "sidecar says how stale they are, the primary decides what to do about it."
        )

    def _newer_run(self) -> Reading:
        self._stage.scene("4  A newer run", "The observer comes round again and sees what was said meanwhile.")
        self._observe()
        reading = self._read(whole=True)
        self._exchange("What else do you need?")
        self._means(
            f"run {run_of(reading)} has seen {reading.observed_turn} turns; the primary goes by the notes again."
        )
        return reading

    def _slow_old_run(self, slow_run: ActiveRun, newer: Reading) -> None:
        self._stage.scene(
            "5  A slow old run is refused",
            f"Run {slow_run.number} is done at last. It has seen {slow_run.observed_turn} turns; the current notes, of "
            f"run {run_of(newer)}, have seen {newer.observed_turn}. It writes.",
        )
        self._stage.line("calls", f"run.write(notes)   # run {slow_run.number}", "yellow")
        result = slow_run.write(RuleBased(TOPICS)(slow_run))
        self._stage.returns({"outcome": result.outcome, "run": result.run.number})
        reading = self._read()
        unchanged = (reading.run, reading.notes, reading.write_time) == (newer.run, newer.notes, newer.write_time)
        self._means(
            f"{result.outcome}: kept in the history, nothing more. The reading is "
            f"{'unchanged' if unchanged else 'CHANGED'}: from run {run_of(reading)}, {age(reading)} old. Had the last "
            "write won, the primary would now know less than before."
        )
        runs = [f"run {run.number} {run.state}" for run in self._observer.list_runs(SESSION_ID)]
        self._stage.line("history", ", ".join(runs))

    def _exchange(self, text: str) -> Reading:
        self._conversation.hear(text)
        self._stage.line("user", text, "bold")
        reading = self._read()
        self._stage.line("primary", self._conversation.answer(reading), "bold")
        return reading

    def _read(self, *, whole: bool = False) -> Reading:
        reading = self._conversation.read_notes()
        self._stage.line("calls", f'get_notes("{SESSION_ID}", max_turns_behind={MAX_TURNS_BEHIND})', "yellow")
        self._stage.returns(reading.as_tool_result(), whole=whole)
        return reading

    def _observe(self) -> None:
        command = ["observer.py", "--session", SESSION_ID, "--once"]
        self._stage.line("starts", " ".join(command), "yellow")
        run = subprocess.run(
            [sys.executable, *command],
            cwd=Path(__file__).parent,
            env=self._environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stage.line("prints", run.stdout.strip())

    def _means(self, text: str) -> None:
        self._stage.line("means", text, "bold cyan")


def age(reading: Reading) -> str:
    """How old its notes are."""
    return "of no age" if reading.age is None else f"{reading.age.total_seconds():.3f} s"


def run_of(reading: Reading) -> int | None:
    """The number of the run its notes are from."""
    return reading.run.number if reading.run is not None else None


@contextmanager
def _sidecar() -> Iterator[str]:
    """A sidecar on a free port with a store in a temporary folder, both gone at the end; its address."""
    with tempfile.TemporaryDirectory(prefix="session-notes-demo-") as folder:
        serve = ["-m", "session_notes_tools", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder]
        # A session of its own: Ctrl-C is for the demo, which then stops the sidecar when it needs it no more.
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
    sys.exit("the sidecar did not start:\n" + "".join(log))


def main() -> None:
    """Plays the demo."""
    parser = argparse.ArgumentParser(description="A conversation with a primary and an observer, in five scenes.")
    parser.add_argument("--fast", action="store_true", help="without pauses to read")
    stage = Stage(fast=parser.parse_args().fast)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with (
            _sidecar() as target,
            PrimaryClient(target) as primary,
            TurnRecorder(primary) as recorder,
            ObserverClient(target) as observer,
        ):
            stage.scene(
                "session-notes",
                "A primary talks to the user, an observer takes notes, each in a process of its own. Neither calls the "
                f"other: all they share is the sidecar, here on {target}.",
            )
            Demo(stage, target, primary, recorder, observer).play()
    except KeyboardInterrupt:
        sys.exit("stopped")
    stage.scene("That was it", "The sidecar and its data are gone again. Try it yourself: examples/README.md")


if __name__ == "__main__":
    main()
