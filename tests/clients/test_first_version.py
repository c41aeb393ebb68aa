"""The clients with a sidecar of the contract's first version: they promise nothing that it does not keep."""

from datetime import timedelta

import pytest
from session_notes import (
    AsyncObserverClient,
    AsyncPrimaryClient,
    Notes,
    NotesFeed,
    ObserverClient,
    PrimaryClient,
    Reading,
    ServerError,
    StaleReason,
    Turn,
)

from tests.clients.background_observers import Analysis, Background, logged, reached
from tests.peers import FirstVersion

KINDS = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "asyncio"])
HOUR = timedelta(hours=1)


async def read(awaited: bool, target: str, session_id: str, bound: timedelta) -> list[Reading]:
    """Read a session's notes with a bound on their snapshot's age, alone and in a batch."""
    if awaited:
        async with AsyncPrimaryClient(target) as client:
            reading = await client.get_notes(session_id, max_snapshot_age=bound)
            return [reading, *await client.batch_get_notes([session_id], max_snapshot_age=bound)]
    with PrimaryClient(target) as primary:
        reading = primary.get_notes(session_id, max_snapshot_age=bound)
        return [reading, *primary.batch_get_notes([session_id], max_snapshot_age=bound)]


@KINDS
async def test_the_bound_on_the_snapshot_holds(
    awaited: bool, first_version: FirstVersion, observer: ObserverClient, session_id: str
) -> None:
    """The sidecar ignores the bound and calls the notes fresh. The client does not."""
    observer.write_notes(session_id, Notes(summary="no snapshot"))
    for reading in await read(awaited, first_version.target, session_id, HOUR):
        assert (reading.fresh, reading.stale_because) == (False, (StaleReason.SNAPSHOT_UNKNOWN,))
    with observer.run(session_id) as run:
        run.write(Notes(summary="snapshot"))
    for reading in await read(awaited, first_version.target, session_id, timedelta()):
        assert (reading.fresh, reading.stale_because) == (False, (StaleReason.SNAPSHOT_AGE,))
    for reading in await read(awaited, first_version.target, session_id, HOUR):
        assert (reading.fresh, reading.stale_because) == (True, ())


def test_a_feed_says_that_old_notes_are_old(
    first_version: FirstVersion, observer: ObserverClient, session_id: str
) -> None:
    """A feed with bounds returns notes as text, without suggestions if a bound is not met."""
    with observer.run(session_id) as run:
        run.write(Notes(summary="So far.", follow_up_suggestions=("Ask.",)))
    with PrimaryClient(first_version.target) as primary:
        fresh = NotesFeed(primary, session_id, max_snapshot_age=HOUR).next()
        stale = NotesFeed(primary, session_id, max_age=timedelta(), max_snapshot_age=timedelta()).next()
    assert fresh is not None
    assert stale is not None
    assert ("Ask." in fresh, "may be out of date" in fresh) == (True, False)
    assert ("Ask." in stale, "may be out of date" in stale) == (False, True)


def test_a_run_gets_the_whole_transcript(first_version: FirstVersion, primary: PrimaryClient, session_id: str) -> None:
    """The sidecar ignores the window, and `first_turn` tells. The run works all the same."""
    primary.append_turns(session_id, [Turn("user", "1"), Turn("user", "2")])
    with (
        ObserverClient(first_version.target) as old,
        old.run(session_id, after_turn=1, include_current_notes=True) as run,
    ):
        assert ([turn.text for turn in run.transcript], run.first_turn, run.current) == (["1", "2"], None, None)
        run.write(Notes(summary="seen"))
    reading = primary.get_notes(session_id)
    assert (reading.notes, reading.turns_behind) == (Notes(summary="seen"), 0)


async def call_missing(awaited: bool, name: str, target: str) -> None:
    """Call a method that the first version does not have."""
    if awaited:
        async with AsyncObserverClient(target) as client:
            await (client.renew_run("s", "run") if name == "RenewRun" else anext(client.due_sessions()))
        return
    with ObserverClient(target) as observer:
        observer.renew_run("s", "run") if name == "RenewRun" else next(observer.due_sessions())


@KINDS
@pytest.mark.parametrize("name", ["RenewRun", "ListDueSessions"])
async def test_a_missing_method_is_named(awaited: bool, first_version: FirstVersion, name: str) -> None:
    """The error names the call and the sidecar, and says what to do."""
    with pytest.raises(ServerError) as caught:
        await call_missing(awaited, name, first_version.target)
    assert str(caught.value).startswith(f"{name} on {first_version.target}: UNIMPLEMENTED: ")
    assert str(caught.value).endswith("; if the sidecar is older than this client, update it")


@KINDS
async def test_a_sweep_reports_the_missing_method(
    awaited: bool, first_version: FirstVersion, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep finds nothing and logs why. Submitted sessions are analysed all the same."""
    analysis = Analysis()
    async with Background(awaited, analysis, first_version.target, brakes=False) as background:
        background.sweep(HOUR)
        background.submit(session_id)
        await reached(lambda: analysis.runs)
        await reached(lambda: logged(caplog))
        assert await background.close()
    (line,) = logged(caplog)
    assert line.startswith("sweep: the due sessions could not be listed: ServerError: the sidecar does not have this")
