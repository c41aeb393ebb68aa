"""Feeds and tools: notes of several observers reach a model when there is something new, and cost little otherwise."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from session_notes import (
    AsyncNotesFeed,
    AsyncPrimaryClient,
    InvalidArgument,
    Issue,
    Notes,
    NotesFeed,
    ObserverClient,
    PrimaryClient,
    Severity,
    Turn,
    UsageError,
)
from session_notes.integrations.tools import DESCRIPTION, AsyncNotesTool, NotesTool

from tests.peers import Proxy, RejectingServer
from tests.support import Sidecar, eventually


@pytest.fixture
def write(sidecar: Sidecar, session_id: str) -> Callable[..., None]:
    """Return a function that writes notes of an observer on the session."""

    def write(name: str, notes: Notes | str, **options: Any) -> None:
        with ObserverClient(sidecar.target, observer=name) as observer, observer.run(session_id) as run:
            run.write(Notes(summary=notes) if isinstance(notes, str) else notes, **options)

    return write


class TestFeed:
    """A feed returns a text when it differs from the last one, and None otherwise."""

    def test_a_text_only_if_there_is_something_new(
        self, primary: PrimaryClient, session_id: str, write: Callable[..., None]
    ) -> None:
        """A newer run, or notes that are no longer fresh, give a text, once. So do notes that are gone."""
        primary.append_turns(session_id, [Turn("user", "w")])
        feed = NotesFeed(primary, session_id, max_turns_behind=0)
        assert feed.next() is None
        write("", "first")
        text = feed.next()
        assert text is not None
        assert "Summary: first" in text
        assert text == primary.get_notes(session_id).as_prompt()
        assert feed.next() is None
        primary.append_turns(session_id, [Turn("user", "x")])
        assert "out of date" in (feed.next() or "")
        primary.append_turns(session_id, [Turn("user", "y")])
        assert feed.next() is None, "older notes are not news"
        write("", "second")
        assert "second" in (feed.next() or "")
        write("", "second")
        assert feed.next() is None, "the model has this text already"
        primary.delete_session(session_id)
        assert feed.next() == "", "the notes must leave the prompt"
        assert feed.next() is None
        write("", "second")
        assert "second" in (feed.next() or ""), "a session that starts anew"

    def test_expired_notes_leave_the_prompt(
        self, primary: PrimaryClient, session_id: str, write: Callable[..., None]
    ) -> None:
        """When the notes' time to live has passed, the text becomes empty."""
        write("", "x", ttl=timedelta(seconds=2))
        feed = NotesFeed(primary, session_id)
        assert feed.next()
        assert eventually(lambda: [text for text in [feed.next()] if text is not None]) == [""]

    def test_several_observers_are_read_in_one_call(
        self, primary: PrimaryClient, session_id: str, write: Callable[..., None]
    ) -> None:
        """The text has the block of each observer with notes, in order, within its length. A block changes alone."""
        feed = NotesFeed(primary, session_id, observers=["coach", "critic", ""], max_chars=1000)
        write("", "from the default observer")
        write("coach", "from the coach")
        before = feed.next() or ""
        assert [line for line in before.splitlines() if line.startswith(("<session", "Summary"))] == [
            '<session-notes observer="coach" fresh="true">',
            "Summary: from the coach",
            '<session-notes observer="default" fresh="true">',
            "Summary: from the default observer",
        ]
        write("", Notes(issues=[Issue(f"{number}" * 100) for number in range(9)]))
        write("critic", Notes(issues=[Issue("x" * 60) for _ in range(9)]))
        after = feed.next() or ""
        coach, _, _ = before.partition('<session-notes observer="default"')
        assert after.startswith(coach), "blocks before the first one that changed stay in the prompt cache"
        assert after.count("</session-notes>") == 3
        assert len(after) <= 1000

    def test_the_length_holds_for_several_observers(
        self, primary: PrimaryClient, session_id: str, write: Callable[..., None]
    ) -> None:
        """However the length divides, the text never exceeds it."""
        names = ["a", "b", "c"]
        for name in names:
            write(name, Notes(issues=[Issue("x" * size) for size in range(1, 60)]))
        for max_chars in range(900, 960):
            text = NotesFeed(primary, session_id, observers=names, max_chars=max_chars).next() or ""
            assert text.count("<session-notes ") == 3
            assert len(text) <= max_chars

    def test_a_severity_filters(self, primary: PrimaryClient, session_id: str, write: Callable[..., None]) -> None:
        """Less severe issues are left out of the text."""
        write("", Notes(issues=[Issue("urgent", Severity.CRITICAL), Issue("later", Severity.INFO)]))
        text = NotesFeed(primary, session_id, min_severity=Severity.WARNING).next() or ""
        assert "urgent" in text
        assert "later" not in text

    def test_an_outage_gives_none(
        self, proxy: Proxy, session_id: str, write: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        """While the sidecar is unavailable, there is nothing new. The next call tries again."""
        write("", "x")
        with PrimaryClient(proxy.target) as client:
            client.get_session(session_id)
            feed = NotesFeed(client, session_id)
            proxy.drop_replies()
            assert feed.next() is None
            proxy.reset()
            assert eventually(feed.next)
            proxy.drop_replies()
            assert feed.next() is None
            assert feed.next() is None
        assert not caplog.records

    def test_another_error_is_logged(self, rejecting: RejectingServer, caplog: pytest.LogCaptureFixture) -> None:
        """An error other than an outage, such as a rejected token, is logged and gives None."""
        with PrimaryClient(rejecting.target) as client:
            assert NotesFeed(client, "session").next() is None
        assert "no notes for the prompt: ServerError" in caplog.text

    async def test_asyncio(
        self, async_primary: AsyncPrimaryClient, session_id: str, write: Callable[..., None], unreachable: str
    ) -> None:
        """The asyncio feed does the same."""
        feed = AsyncNotesFeed(async_primary, session_id, observers=["coach"])
        write("coach", "x")
        assert "Summary: x" in (await feed.next() or "")
        assert await feed.next() is None
        async with AsyncPrimaryClient(unreachable) as client:
            assert await AsyncNotesFeed(client, session_id).next() is None

    @pytest.mark.parametrize(
        ("options", "argument"),
        [
            ({"observers": "coach"}, "observers"),
            ({"observers": []}, "observers"),
            ({"observers": [1]}, "observers"),
            ({"max_chars": -1}, "max_chars"),
            ({"min_severity": "urgent"}, "min_severity"),
            ({"max_age": 5}, "max_age"),
            ({"max_turns_behind": "2"}, "max_turns_behind"),
        ],
    )
    def test_an_invalid_argument_is_named(self, primary: PrimaryClient, options: dict[str, Any], argument: str) -> None:
        """An argument of the wrong type raises when the feed is made, and names it."""
        with pytest.raises(InvalidArgument, match=argument):
            NotesFeed(primary, "session", **options)

    def test_the_wrong_client_is_rejected(self, primary: PrimaryClient) -> None:
        """A feed needs the client of its kind, so that `next` cannot fail or return a coroutine in the conversation."""
        wrong: Any
        for feed, wrong in ((NotesFeed, AsyncPrimaryClient()), (AsyncNotesFeed, primary), (NotesFeed, None)):
            with pytest.raises(InvalidArgument, match=r"primary must be a session_notes\.(Async)?PrimaryClient, not "):
                feed(wrong, "session")

    def test_a_mistake_in_the_program_raises(self, sidecar: Sidecar) -> None:
        """A value that the sidecar rejects, and a closed client, raise: the feed would never return a text."""
        with PrimaryClient(sidecar.target) as client:
            with pytest.raises(InvalidArgument):
                NotesFeed(client, "with a space").next()
            feed = NotesFeed(client, "session")
        with pytest.raises(UsageError):
            feed.next()


class TestTool:
    """A tool for several observers."""

    async def test_several_observers(
        self,
        primary: PrimaryClient,
        async_primary: AsyncPrimaryClient,
        session_id: str,
        write: Callable[..., None],
    ) -> None:
        """The result has the notes of each observer by name, with issues of at least the given severity."""
        write("coach", Notes(issues=[Issue("urgent", Severity.CRITICAL), Issue("later", Severity.INFO)]))
        options: Any = {"observers": ["", "coach"], "min_severity": Severity.WARNING, "max_turns_behind": 0}
        tool = NotesTool(primary, session_id, current_turn=lambda: 3, **options)
        result = tool.call()
        assert result["observers"]["default"] == {"ready": False, "reason": "never_run"}
        coach = result["observers"]["coach"]
        assert coach["notes"] == {"issues": [{"text": "urgent", "severity": "critical"}]}
        assert coach["fresh"] is False
        assert (await AsyncNotesTool(async_primary, session_id, **options).call()).keys() == {"observers"}
        assert "`observers` has a result for each observer" in tool.description
        assert NotesTool(primary, session_id).description == DESCRIPTION
        assert NotesTool(primary, session_id, observer="coach", min_severity=Severity.CRITICAL).call()["notes"] == {
            "issues": [{"text": "urgent", "severity": "critical"}]
        }

    async def test_an_outage(self, unreachable: str) -> None:
        """During an outage, the result as a whole is unavailable."""
        unavailable = {"ready": False, "reason": "unavailable"}
        with PrimaryClient(unreachable) as client:
            assert NotesTool(client, "session", observers=["a", "b"]).call() == unavailable
        async with AsyncPrimaryClient(unreachable) as client_async:
            assert await AsyncNotesTool(client_async, "session", observers=["a"]).call() == unavailable

    def test_an_invalid_option_is_named(self, primary: PrimaryClient) -> None:
        """Contradictory and invalid options raise when the tool is made."""
        for options in ({"observer": "a", "observers": ["b"]}, {"observers": "a"}, {"min_severity": "urgent"}):
            wrong: Any = options
            with pytest.raises(InvalidArgument, match=r"observers|min_severity"):
                NotesTool(primary, "session", **wrong)
