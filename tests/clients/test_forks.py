"""Clients and observers in forked children, as created by gunicorn with --preload, Celery and multiprocessing."""

import os
import subprocess
import sys

from session_notes import ObserverClient, PrimaryClient, RunState

from tests.support import Sidecar

PRELUDE = """
import asyncio, multiprocessing, os, signal, sys, threading, time
from datetime import timedelta
from session_notes import *
from session_notes import _forks

TARGET, SESSION, SIDECAR = sys.argv[1:]

def in_child(work):
    '''Run work in a child; print its result, an error's class, or that it hangs.'''
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    print(os.read(reading, 10_000).decode() if status == 0 else f"ended by {status}", flush=True)
    os.close(reading)
"""


def lines(program: str, sidecar: Sidecar, session_id: str, **env: str) -> list[str]:
    """Run a program and return the lines that it prints."""
    assert sidecar.process is not None
    command = [sys.executable, "-c", PRELUDE + program, sidecar.target, session_id, str(sidecar.process.pid)]
    # Without the variables that this process sets: see conftest.
    env = {name: text for name, text in os.environ.items() if not name.startswith("GRPC_")} | env
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_client_works_in_every_child(sidecar: Sidecar, session_id: str) -> None:
    """Of 40 forks while four threads of the parent make calls, every child can make calls, and the parent continues."""
    program = """
client = PrimaryClient(TARGET, timeout=timedelta(seconds=5))
client.get_notes(SESSION)
going, errors = True, []

def call():
    while going:
        try:
            client.get_notes(SESSION)
        except Exception as error:
            errors.append(error)

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(40):
    in_child(lambda: client.get_notes(SESSION).readiness)
going = False
for thread in threads:
    thread.join()
print(errors)
"""
    assert lines(program, sidecar, session_id) == ["never_run"] * 40 + ["[]"]


def test_all_clients_work_in_children_of_multiprocessing(sidecar: Sidecar, session_id: str) -> None:
    """Inherited and new clients, blocking and asyncio, work in children and in children of children."""
    program = """
primary, observer, awaited = PrimaryClient(TARGET), ObserverClient(TARGET), AsyncPrimaryClient(TARGET)
primary.append_turns(SESSION, [Turn("user", "x")])

async def read():
    async with awaited:
        return (await awaited.get_notes(SESSION, timeout=timedelta(seconds=5))).readiness.value

asyncio.run(read())

def work(deeper):
    print(primary.get_session(SESSION).turn_count, asyncio.run(read()), end=" ")
    with ObserverClient(TARGET) as new:
        print(new.begin_run(SESSION).run.number, observer.begin_run(SESSION).run.number, flush=True)
    if deeper:
        start(False)

def start(deeper):
    process = multiprocessing.get_context("fork").Process(target=work, args=(deeper,))
    process.start()
    process.join(20)
    assert process.exitcode == 0, process.exitcode

start(True)
observer.begin_run(SESSION)
"""
    assert lines(program, sidecar, session_id) == ["1 never_run 1 2", "1 running 3 4"]


def test_calls_after_a_fork_during_calls_raise_at_once(session_id: str) -> None:
    """If gRPC cannot work in a child, each call raises UsageError with a remedy. The parent continues."""
    program = """
async def read():
    async with AsyncPrimaryClient(TARGET) as client:
        return await client.get_notes(SESSION)

client, slow = PrimaryClient(TARGET), ObserverClient(TARGET)
background = BackgroundObserver(print, brakes=False, client=slow)
client.get_notes(SESSION, timeout=timedelta(seconds=5))
os.kill(int(SIDECAR), signal.SIGSTOP)
threading.Thread(target=lambda: slow.begin_run("slow"), daemon=True).start()
while not _forks.calls.inside:
    time.sleep(0.01)

def refusals():
    for work in (
        lambda: client.get_notes(SESSION),
        lambda: PrimaryClient(TARGET).get_notes(SESSION, unavailable_ok=True),
        lambda: asyncio.run(read()),
        lambda: background.submit(SESSION),
    ):
        try:
            yield work()
        except UsageError as error:
            yield str(error)
    yield client.close()

in_child(lambda: "\\n".join(map(str, refusals())))
os.kill(int(SIDECAR), signal.SIGCONT)
print(client.get_notes(SESSION, timeout=timedelta(seconds=5)).readiness)
"""
    with Sidecar() as sidecar:
        *refused, closed, readiness = lines(program, sidecar, session_id)
    assert len(refused) == 4
    for text in refused:
        assert text.startswith("this process was forked from one in which calls were in flight")
        assert "spawn" in text
    assert (closed, readiness) == ("None", "never_run")


def test_calls_after_a_fork_with_an_open_asyncio_client_raise(sidecar: Sidecar, session_id: str) -> None:
    """With an open asyncio client, calls raise as well. After it is closed, children can make calls again."""
    program = """
client = PrimaryClient(TARGET, timeout=timedelta(seconds=5))

async def main():
    async with AsyncPrimaryClient(TARGET) as awaited:
        await awaited.get_notes(SESSION)
        in_child(lambda: client.get_notes(SESSION))
    for _ in range(5):
        in_child(lambda: client.get_notes(SESSION).readiness)

asyncio.run(main())
"""
    refused, *worked = lines(program, sidecar, session_id)
    assert refused.startswith("UsageError: this process was forked from one in which an asyncio client was open")
    assert worked == ["never_run"] * 5


def test_an_observer_starts_empty_in_a_child(
    sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """Queued sessions remain with the parent. The child's observer is empty, closes at once, and accepts new sessions.

    Its lock may be held by another thread of the parent at the moment of the fork.
    """
    program = """
begun, released, held, parent = threading.Event(), threading.Event(), threading.Event(), os.getpid()

def analyse(run):
    begun.set()
    if os.getpid() == parent:
        released.wait(30)
    return Notes(summary=run.session_id[:5])

background = BackgroundObserver(analyse, brakes=False, target=TARGET, max_workers=1)
background.submit(SESSION)
background.submit("waiting-" + SESSION)
begun.wait(30)

def hold():
    with background._lock:
        held.set()
        time.sleep(60)

def close():
    start = time.monotonic()
    return background.close(), time.monotonic() - start < 1

def work():
    background.submit("child-" + SESSION)
    return background.close()

in_child(close)
threading.Thread(target=hold, daemon=True).start()
held.wait(30)
in_child(work)
os._exit(0)
"""
    assert lines(program, sidecar, session_id) == ["(True, True)", "True"]
    assert primary.get_notes(f"child-{session_id}").notes.summary == "child"  # type: ignore[union-attr]
    assert [run.state for run in observer.list_runs(session_id)] == [RunState.RUNNING]
    assert list(observer.list_runs(f"waiting-{session_id}")) == []


def test_an_asyncio_observer_works_in_a_child(sidecar: Sidecar, session_id: str) -> None:
    """An observer created and not opened before the fork works after it."""
    program = """
async def analyse(run):
    return Notes(summary="x")

background = AsyncBackgroundObserver(analyse, brakes=False, target=TARGET)

async def observe():
    async with background:
        background.submit(SESSION)
    async with AsyncPrimaryClient(TARGET) as primary:
        return (await primary.get_notes(SESSION, timeout=timedelta(seconds=5))).notes.summary

in_child(lambda: asyncio.run(observe()))
"""
    assert lines(program, sidecar, session_id) == ["x"]


def test_a_child_does_not_end_its_parents_run(sidecar: Sidecar, session_id: str) -> None:
    """A child that leaves the block of a run does not end the run of its parent."""
    program = """
with ObserverClient(TARGET) as observer:
    try:
        with observer.run(SESSION) as run:
            child = os.fork()
            if child == 0:
                raise SystemExit
            os.waitpid(child, 0)
            print(next(observer.list_runs(SESSION)).state)
            run.write(Notes(summary="x"))
    except SystemExit:
        os._exit(0)
    print(next(observer.list_runs(SESSION)).state)
"""
    assert lines(program, sidecar, session_id) == ["running", "written"]


def test_calls_in_a_child_without_grpcs_fork_support_raise(sidecar: Sidecar, session_id: str) -> None:
    """With gRPC's fork support off, every call in a child raises UsageError."""
    program = "client = PrimaryClient(TARGET)\nin_child(lambda: client.get_notes(SESSION))"
    (text,) = lines(program, sidecar, session_id, GRPC_ENABLE_FORK_SUPPORT="0")
    assert text.startswith("UsageError: this process was forked from one in which GRPC_ENABLE_FORK_SUPPORT was off")
