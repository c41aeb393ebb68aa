"""A scripted Claude on loopback, and options with which the real Claude Code talks to it and to no other address."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage

from tests.integrations.model_provider import Provider


class ScriptedClaude(Provider):
    """A model that returns its steps in order: a text, or a list of content blocks."""

    def __init__(self, *steps: str | list[dict[str, Any]]) -> None:
        super().__init__(
            *({"content": [{"type": "text", "text": step}] if isinstance(step, str) else step} for step in steps)
        )

    def encode(self, answer: dict[str, Any]) -> tuple[str, bytes]:
        """Return the events of a streamed message."""
        blocks = answer["content"]
        usage = {"input_tokens": 1, "output_tokens": 1}
        message: dict[str, Any] = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
        }
        message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
        for index, block in enumerate(blocks):
            if block["type"] == "text":
                empty, delta = block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                arguments = json.dumps(block["input"])
                empty, delta = block | {"input": {}}, {"type": "input_json_delta", "partial_json": arguments}
            events += [
                {"type": "content_block_start", "index": index, "content_block": empty},
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_stop", "index": index},
            ]
        reason = "end_turn" if blocks[-1]["type"] == "text" else "tool_use"
        delta = {"stop_reason": reason, "stop_sequence": None}
        events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
        return "text/event-stream", "".join(lines).encode()

    def options(self, home: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> ClaudeAgentOptions:
        """Return options for this model, with an empty home and without the settings of this machine."""
        for name in os.environ:
            if name.startswith(("ANTHROPIC_", "CLAUDE", "AWS_", "GOOGLE_")):
                monkeypatch.delenv(name)
        environment = {
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / "config"),
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "unused",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        defaults: dict[str, Any] = {"system_prompt": "Help.", "setting_sources": [], "tools": []}
        return ClaudeAgentOptions(cwd=home, env=environment, **defaults | options)


async def ask(options: ClaudeAgentOptions, *questions: str) -> list[str]:
    """Ask questions in one conversation, and return the answers."""
    answers: list[str] = []
    async with ClaudeSDKClient(options) as client:
        for question in questions:
            await client.query(question)
            replies = [message async for message in client.receive_response()]
            answers += [reply.result or "" for reply in replies if isinstance(reply, ResultMessage)]
    return answers
