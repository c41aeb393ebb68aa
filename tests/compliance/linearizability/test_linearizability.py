"""porcupine: what clients see of a session could have happened one call at a time, also during faults."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
from session_notes_server.settings import EngineName

from tests.compliance.linearizability.histories import CLIENTS, Call, Clients, History, records
from tests.compliance.tools import program
from tests.faults.proxy import Proxy
from tests.faults.recorder import Recorder
from tests.stores import StoreServer, eventually, valkey_program
from tests.support import Sidecar, new_channel, new_session_id


def verdicts(histories: Sequence[History]) -> list[str]:
    """Return porcupine's verdict on each history: `Ok`, `Illegal`, or `Unknown` if the search takes too long."""
    calls = json.dumps([[asdict(call) for call in history] for history in histories])
    command = [program("linearizability")]
    return subprocess.run(command, input=calls, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


@dataclass
class Stage:
    """The processes of the test, and the clients."""

    store: StoreServer
    proxy: Proxy
    sidecar: Sidecar
    clients: Clients

    def wait_for_loss(self) -> None:
        """Wait until a client has lost a reply."""
        eventually(lambda: self.clients.count(lost=True) > 0)


def sidecar_killed(stage: Stage) -> None:
    """Kill the sidecar, and restart it."""
    stage.sidecar.kill()
    stage.wait_for_loss()
    stage.sidecar.start()


def store_killed(stage: Stage) -> None:
    """Kill the store, and restart it on its append-only file."""
    stage.store.kill()
    stage.wait_for_loss()
    stage.store.start()


def replies_lost(stage: Stage) -> None:
    """Reset the connection to the store after a write of each kind has reached it."""
    for kind in (b"append:", b"update:", b"run:"):
        lost = stage.proxy.lost
        stage.proxy.lose_reply(kind, "reset")
        eventually(lambda: stage.proxy.lost > lost)  # noqa: B023
    stage.wait_for_loss()


FAULTS = (sidecar_killed, store_killed, replies_lost)
ROUNDS = 3


def change(history: History, call: str, **parts: Callable[[Any], Any]) -> History:
    """Return the history with another reply to the last call like `append OK`: of this kind, and with this outcome."""
    index = max(
        number
        for number, one in enumerate(history)
        if one.reply and f"{one.kind} {one.reply.get('outcome', '')}".strip() == call
    )
    reply = dict(history[index].reply or {})
    reply |= {name: part(reply[name]) for name, part in parts.items()}
    return [*history[:index], replace(history[index], reply=reply), *history[index + 1 :]]


MUTATIONS: Mapping[str, Callable[[History], History]] = {
    "a lost turn": lambda history: change(history, "get session", turns=lambda turns: turns.rpartition(" ")[0]),
    "a turn stored twice": lambda history: change(
        history, "get session", turns=lambda turns: f"{turns} {turns.split()[0]}"
    ),
    "an update lost": lambda history: change(history, "get session", number=lambda version: version - 1),
    "a stale read": lambda history: [*history[:-2], replace(history[-2], sent=0, received=1), history[-1]],
    "another turn count": lambda history: change(history, "append OK", number=lambda count: count + 1),
    "an append despite its condition": lambda history: change(history, "append MISMATCH", outcome=lambda _: "OK"),
    "another version": lambda history: change(history, "update OK", number=lambda version: version + 100),
    "a run number used twice": lambda history: change(history, "begin", run=lambda number: number - 1),
    "superseded, yet current": lambda history: change(history, "write ACCEPTED", outcome=lambda _: "SUPERSEDED"),
    "notes that disappear": lambda history: change(history, "get notes", current=lambda _: 0),
    "another drift": lambda history: change(history, "get notes", behind=lambda turns: turns + 100),
}
"""Changes that make a history impossible. Its last three calls are `get notes`, `get session` and `list runs`."""


@pytest.mark.timeout(300)
def test_histories_are_linearizable(engine: EngineName, request: pytest.FixtureRequest) -> None:
    """Histories recorded during faults are linearizable and keep the promises of replay. Changed ones are rejected."""
    program("linearizability")
    histories: list[History] = []
    with (
        StoreServer(valkey_program(), ("--appendonly", "yes", "--appendfsync", "always")) as store,
        Proxy(store.port) as proxy,
        Sidecar(proxy.url, flags=["--engine", engine]) as sidecar,
    ):
        for number, fault in enumerate(FAULTS * ROUNDS):
            recorder = Recorder(new_session_id())
            session_id = recorder.history.session_id
            with ExitStack() as stack:
                channels = [stack.enter_context(new_channel(sidecar.target)) for _ in range(CLIENTS)]
                clients = Clients(channels, session_id, request.config.option.seed + number)
                with clients.calling():
                    eventually(lambda: clients.count(lost=False) > 80, 30)  # noqa: B023
                    fault(Stage(store, proxy, sidecar, clients))
                    before = clients.count(lost=False)
                    eventually(lambda: clients.count(lost=False) > before + 80, 30)  # noqa: B023
            histories.append(clients.history)
            recorder.history.records += records(clients.history, session_id)
            sidecar.store.close()
            assert recorder.problems(sidecar.store) == []
    assert verdicts(histories) == ["Ok"] * len(histories)
    mutants = [mutate(histories[-1]) for mutate in MUTATIONS.values()]
    assert dict(zip(MUTATIONS, verdicts(mutants), strict=True)) == dict.fromkeys(MUTATIONS, "Illegal")


def call(kind: str, *names: str, expected: int | None = None, **reply: Any) -> Call:
    """Return a call. Without a reply, the reply was lost."""
    return Call(0, 0, 0, kind, names, expected, reply or None)


BEGUN = (
    call("begin", "a", run=1, latest=1, behind=-1),
    call("begin", "b", run=2, latest=2, behind=-1),
    call("write", "b", run=2, outcome="ACCEPTED"),
)


@pytest.mark.parametrize(
    ("verdict", "calls"),
    [
        ("Ok", [call("append", "a"), call("append", "b", number=2, outcome="OK"), call("get session", turns="a b")]),
        ("Ok", [call("append", "a"), call("append", "b", number=1, outcome="OK"), call("get session", turns="b")]),
        ("Illegal", [call("append", "a"), call("get session", turns="a"), call("get session", turns="")]),
        ("Illegal", [call("append", "a", number=1, outcome="OK"), call("get session", turns="")]),
        ("Illegal", [call("append", "a"), call("append", "a", number=2, outcome="OK")]),
        ("Illegal", [call("append", "a", expected=1, number=1, outcome="OK")]),
        ("Illegal", [call("update", "a", number=1, outcome="OK"), call("update", "b", number=1, outcome="OK")]),
        (
            "Ok",
            [
                *BEGUN,
                call("write", "a", run=1, outcome="SUPERSEDED"),
                call("get notes", current=2, latest=2, behind=-1),
            ],
        ),
        ("Illegal", [*BEGUN, call("write", "a", run=1, outcome="ACCEPTED")]),
        ("Illegal", [*BEGUN, call("write", "a"), call("get notes", current=1, latest=2, behind=-1)]),
    ],
    ids=[
        "lost reply, effect",
        "lost reply, no effect",
        "an effect disappears",
        "a stale read",
        "an append is done twice",
        "a condition is ignored",
        "a version is used twice",
        "an old run is superseded",
        "an old run is accepted",
        "an old run becomes current",
    ],
)
def test_possible_and_impossible_histories(verdict: str, calls: Sequence[Call]) -> None:
    """porcupine accepts a history of calls one after another if and only if the session's rules allow it."""
    history = [replace(each, sent=2 * time, received=2 * time + 1) for time, each in enumerate(calls)]
    assert verdicts([history]) == [verdict]
