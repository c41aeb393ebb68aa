"""The process that talks to the user: a chat in the terminal.

Before each answer it reads the observer's notes, once, and takes what is there. It waits for no observer, calls none.
"""

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from language_model import connect
from session_notes import PrimaryClient, Reading, Turn, TurnRecorder, Unavailable

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

MAX_TURNS_BEHIND = 4
"""How far the conversation may have moved on since the notes before this primary stops going by them."""

Responder = Callable[[Sequence[Turn], Reading], str]


class Conversation:
    """One conversation with a user. Its transcript is in the sidecar, where observers find it.

    Args:
        client: The connection to the sidecar.
        recorder: Stores what is said. It holds up nothing, even while the sidecar does not answer.
        session_id: The conversation's name; an existing one goes on.
        respond: Makes an answer of the transcript and the notes.
    """

    def __init__(self, client: PrimaryClient, recorder: TurnRecorder, session_id: str, respond: Responder) -> None:
        self._client = client
        self._recorder = recorder
        self._session_id = session_id
        self._respond = respond
        session = client.get_session(session_id, include_turns=True)
        self._turns = list(session.turns)
        self._turn_count = session.turn_count

    def hear(self, text: str) -> None:
        """Record what the user said."""
        self._append(Turn("user", text))

    def read_notes(self) -> Reading:
        """Return the notes: the tool call. If the sidecar does not answer, the user still gets an answer."""
        return self._client.get_notes(
            self._session_id,
            max_turns_behind=MAX_TURNS_BEHIND,
            # As the conversation is, not as far as it is stored.
            current_turn=self._turn_count,
            unavailable_ok=True,
        )

    def answer(self, reading: Reading) -> str:
        """Say something, and record it."""
        text = self._respond(self._turns, reading)
        self._append(Turn("primary", text))
        return text

    def _append(self, turn: Turn) -> None:
        self._recorder.record(self._session_id, turn)
        self._turns.append(turn)
        self._turn_count += 1


def answer_by_rule(turns: Sequence[Turn], reading: Reading) -> str:
    """Passes on what the notes suggest. It understands nothing of what the user says, and does not pretend to."""
    if reading.notes is None or not reading.fresh:
        # No notes, or notes on a conversation that has moved on: better no advice than wrong advice.
        return "Noted. Please go on."
    said = "\n".join(turn.text for turn in turns if turn.speaker == "primary")
    # Notes are always a little behind: what they suggest may have been said since.
    for issue in reading.notes.issues:
        if issue.text not in said:
            return f"Noted. One thing is still open: {issue.text}."
    for suggestion in reading.notes.follow_up_suggestions:
        if suggestion not in said:
            return f"Noted. {suggestion}"
    return "Thank you, that is all I wanted to know."


class OpenAIResponder:
    """Has a language model answer, with the notes in its instructions. Needs the extra `openai`."""

    def __init__(self, model: str) -> None:
        self._client = connect(timeout=30)
        self._model = model

    def __call__(self, turns: Sequence[Turn], reading: Reading) -> str:
        """Asks the model what to say next."""
        instructions = (
            "You are an assistant in a first talk with somebody who has a project in mind. Answer in a sentence or two."
            " A colleague who listens has left you these notes: issues come first, then follow-ups, and the further the"
            f" notes are behind, the less you rely on them. {json.dumps(reading.as_tool_result())}"
        )
        messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": instructions}]
        for turn in turns:
            if turn.speaker == "user":
                messages.append({"role": "user", "content": turn.text})
            else:
                messages.append({"role": "assistant", "content": turn.text})
        completion = self._client.chat.completions.create(model=self._model, messages=messages)
        return completion.choices[0].message.content or ""


def main() -> None:
    """Chats until the script, or stdin, ends."""
    parser = argparse.ArgumentParser(description="Chat in the terminal; the sidecar is that of SESSION_NOTES_TARGET.")
    parser.add_argument("--session", metavar="ID", default=f"chat-{uuid.uuid4().hex[:8]}", help="default: a new one")
    parser.add_argument("--script", metavar="FILE", type=Path, help="what the user says, line by line; default: stdin")
    parser.add_argument(
        "--pause",
        metavar="SECONDS",
        type=seconds,
        default=5.0,
        help="between two lines of a script, for an observer to take notes; default: 5, as often as it looks",
    )
    arguments = parser.parse_args()

    # Not already where there is an OPENAI_API_KEY: see analyser_from_environment.
    model = os.environ.get("SESSION_NOTES_MODEL")
    print(f"session {arguments.session}; answers come from {model or 'rules, not from a language model'}", flush=True)
    try:
        with PrimaryClient() as client, TurnRecorder(client) as recorder:
            respond = OpenAIResponder(model) if model else answer_by_rule
            conversation = Conversation(client, recorder, arguments.session, respond)
            for line in _lines(arguments.script, arguments.pause):
                conversation.hear(line)
                reading = conversation.read_notes()
                print(f"  notes > {json.dumps(reading.as_tool_result())}")
                print(f"primary > {conversation.answer(reading)}", flush=True)
    except Unavailable as error:
        sys.exit(f"no answer from the sidecar ({error}); start one with: make run")
    except KeyboardInterrupt:
        sys.exit("stopped")


def seconds(text: str) -> float:
    """A number of seconds, at most a day."""
    if 0 <= (number := float(text)) <= 86400:
        return number
    raise ValueError(text)


def _lines(script: Path | None, pause: float) -> Iterator[str]:
    """What the user says, without empty lines; with pauses where it is from a script."""
    if script is None and sys.stdin.isatty():
        with suppress(EOFError, KeyboardInterrupt):
            while True:
                if line := input("   user > ").strip():
                    yield line
        print()
    else:
        said = False
        for line in script.read_text().splitlines() if script else sys.stdin:
            if line.strip():
                if script and said:
                    time.sleep(pause)
                said = True
                print(f"   user > {line.strip()}", flush=True)
                yield line.strip()


if __name__ == "__main__":
    main()
