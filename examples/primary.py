"""The primary process: a chat in the terminal.

Before each answer it reads the observer's current notes once. It never calls the observer or waits for it.
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
"""The maximum drift, in turns, of notes that this primary follows."""

Responder = Callable[[Sequence[Turn], Reading], str]


class Conversation:
    """A conversation with a user. The sidecar stores its transcript for observers.

    Args:
        client: Reads the notes and the existing transcript.
        recorder: Stores the turns without delaying the conversation, even while the sidecar does not respond.
        session_id: The session; an existing one is continued.
        respond: Makes an answer from the transcript and the notes.
        max_turns_behind: The maximum drift of fresh notes, in turns.
    """

    def __init__(
        self,
        client: PrimaryClient,
        recorder: TurnRecorder,
        session_id: str,
        respond: Responder,
        max_turns_behind: int = MAX_TURNS_BEHIND,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._session_id = session_id
        self._respond = respond
        self._max_turns_behind = max_turns_behind
        session = client.get_session(session_id, include_turns=True)
        self._turns = list(session.turns)
        self._turn_count = session.turn_count

    def hear(self, text: str) -> None:
        """Record a turn of the user."""
        self._append(Turn("user", text))

    def read_notes(self) -> Reading:
        """Read the current notes. During an outage the reading is `unavailable`, so the user still gets an answer."""
        return self._client.get_notes(
            self._session_id,
            max_turns_behind=self._max_turns_behind,
            # The conversation's own count, which may be ahead of the stored transcript.
            current_turn=self._turn_count,
            unavailable_ok=True,
        )

    def answer(self, reading: Reading) -> str:
        """Make an answer and record it."""
        text = self._respond(self._turns, reading)
        self._append(Turn("primary", text))
        return text

    def _append(self, turn: Turn) -> None:
        self._recorder.record(self._session_id, turn)
        self._turns.append(turn)
        self._turn_count += 1


def answer_by_rule(turns: Sequence[Turn], reading: Reading) -> str:
    """Return the next suggestion from the notes. Rules do not understand the user and do not pretend to."""
    if reading.notes is None or not reading.fresh:
        # The notes are missing or too old. No advice is better than wrong advice.
        return "Noted. Please go on."
    answers = "\n".join(turn.text for turn in turns if turn.speaker == "primary")
    # Notes are always slightly behind, so their suggestions may have been used already.
    for issue in reading.notes.issues:
        if issue.text not in answers:
            return f"Noted. One thing is still open: {issue.text}."
    for suggestion in reading.notes.follow_up_suggestions:
        if suggestion not in answers:
            return f"Noted. {suggestion}"
    return "Thank you, that is all I wanted to know."


_INSTRUCTIONS = (
    "You are an assistant in a first conversation with a user who is planning a project. Answer in one or two"
    " sentences. A colleague who is listening leaves you notes. Raise their issues first, then their suggestions."
)


class OpenAIResponder:
    """Answers with a language model that has the notes at the end of its prompt. Needs the extra `openai`."""

    def __init__(self, model: str) -> None:
        self._client = connect(timeout=30)
        self._model = model

    def __call__(self, turns: Sequence[Turn], reading: Reading) -> str:
        """Return the model's answer."""
        messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": _INSTRUCTIONS}]
        for turn in turns:
            if turn.speaker == "user":
                messages.append({"role": "user", "content": turn.text})
            else:
                messages.append({"role": "assistant", "content": turn.text})
        # Last, so that new notes leave what precedes them in the provider's prompt cache.
        if notes := reading.as_prompt():
            messages.append({"role": "system", "content": notes})
        completion = self._client.chat.completions.create(model=self._model, messages=messages)
        return completion.choices[0].message.content or ""


def main() -> None:
    """Chat until the script or stdin ends."""
    parser = argparse.ArgumentParser(description="Chat in the terminal, with the sidecar at SESSION_NOTES_TARGET.")
    parser.add_argument("--session", metavar="ID", default=f"chat-{uuid.uuid4().hex[:8]}", help="default: a new one")
    parser.add_argument("--script", metavar="FILE", type=Path, help="the user's lines; default: stdin")
    parser.add_argument(
        "--pause",
        metavar="SECONDS",
        type=seconds,
        default=5.0,
        help="pause between lines of a script, for an observer to take notes; default: 5, the observer's default",
    )
    arguments = parser.parse_args()

    # OPENAI_API_KEY alone does not select a model: see analyser_from_environment.
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
        sys.exit(f"the sidecar does not respond ({error}); start one with: make run")
    except KeyboardInterrupt:
        sys.exit("stopped")


def seconds(text: str) -> float:
    """Parse a number of seconds from 0 to a day."""
    if 0 <= (number := float(text)) <= 86400:
        return number
    raise ValueError(text)


def _lines(script: Path | None, pause: float) -> Iterator[str]:
    """Yield the user's lines, except empty ones, with pauses between the lines of a script."""
    if script is None and sys.stdin.isatty():
        with suppress(EOFError, KeyboardInterrupt):
            while True:
                if line := input("   user > ").strip():
                    yield line
        print()
    else:
        first = True
        for line in script.read_text().splitlines() if script else sys.stdin:
            if line.strip():
                if script and not first:
                    time.sleep(pause)
                first = False
                print(f"   user > {line.strip()}", flush=True)
                yield line.strip()


if __name__ == "__main__":
    main()
