"""The tests that all frameworks share, for Google ADK."""

from typing import Any

import pytest
from google.adk.agents import Agent
from session_notes import AsyncPrimaryClient, PrimaryClient
from session_notes.integrations._recording import Recorder
from session_notes.integrations.google_adk import NotesPlugin, ObserverPlugin, notes_tool

from tests.integrations.frameworks.arguments import Reader, test_wrong_client, test_wrong_recorder
from tests.integrations.frameworks.docs import Example, Extra, test_framework_code, test_missing_package_names_the_extra
from tests.integrations.frameworks.failures import Exchange, test_a_failing_sidecar_changes_nothing
from tests.integrations.frameworks.google_adk.models import Conversation, ScriptedModel
from tests.integrations.frameworks.support import QUESTION

__all__ = [
    "test_a_failing_sidecar_changes_nothing",
    "test_framework_code",
    "test_missing_package_names_the_extra",
    "test_wrong_client",
    "test_wrong_recorder",
]


@pytest.fixture
def exchange() -> Exchange:
    """Runs an agent with both plugins."""

    async def run(primary: AsyncPrimaryClient, recorder: Recorder, session_id: str) -> Any:
        model = ScriptedModel("Certainly.")
        plugins = [ObserverPlugin(recorder), NotesPlugin(primary)]
        conversation = Conversation(Agent(name="support", model=model), *plugins, session_id=session_id)
        return await conversation.say(QUESTION), await conversation.stored(), model.requests

    return run


@pytest.fixture(params=[notes_tool, NotesPlugin])
def reader(request: pytest.FixtureRequest) -> Reader:
    """The tool and the plugin that read notes."""
    return request.param, PrimaryClient, "AsyncPrimaryClient"


@pytest.fixture
def hook() -> type[ObserverPlugin]:
    """The plugin that records."""
    return ObserverPlugin


@pytest.fixture
def example() -> Example:
    """The code of the section."""
    return "Google ADK", 0, ScriptedModel("Certainly.")


@pytest.fixture
def extra() -> Extra:
    """The extra."""
    return "google_adk", "google.adk.agents", "google-adk"
