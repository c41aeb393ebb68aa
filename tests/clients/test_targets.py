"""Targets: valid and invalid addresses, the environment variable, and misspelt variables."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
from session_notes import (
    AsyncObserverClient,
    AsyncPrimaryClient,
    BackgroundObserver,
    InvalidArgument,
    ObserverClient,
    PrimaryClient,
    ServerError,
    unknown_variables,
)
from session_notes._environment import _NAMES, _nearest
from session_notes_server.settings import Settings

INVALID = [
    "127.0.0.1",
    "localhost",
    "notes.example.org",
    ":50051",
    "127.0.0.1:",
    "127.0.0.1:0",
    "127.0.0.1:99999",
    "127.0.0.1:https",
    "http://127.0.0.1:50051",
    "https://notes.example.org",
    "grpc://127.0.0.1:50051",
    "tcp://127.0.0.1:50051",
    "127.0.0.1:50051/",
    "user@127.0.0.1:50051",
    " 127.0.0.1:50051",
    "127.0.0.1:50051\n",
    "local host:50051",
    " ",
    "::1",
    "::1:50051",
    "[::1]",
    "[::1:50051",
    "[localhost]:50051",
    "dns:///localhost",
    "dns:",
    "ipv4:127.0.0.1",
    "ipv4:localhost:50051",
    "ipv4:127.0.0.1:1,127.0.0.2",
    "ipv6:[::1]",
    "127.0.0.1:50051,127.0.0.2:50051",
    "unix:",
    "unix://",
    "unix: ",
    "unix:///",
    "unix://run/sidecar.sock",
    "unix:/" + "x" * 107,
    "unix-abstract:",
    "vsock:2:50051",
]

VALID = [
    "127.0.0.1:50051",
    "localhost:50051",
    "session_notes:50051",
    "notes.example.org.:50051",
    "[::1]:50051",
    "[fe80::1%25eth0]:50051",
    "dns:notes.example.org:50051",
    "dns:///notes.example.org:50051",
    "dns://192.0.2.1/notes.example.org:50051",
    "ipv4:127.0.0.1:50051",
    "ipv4:127.0.0.1:50051,127.0.0.2:50051",
    "ipv6:[::1]:50051,[::2]:50051",
    "unix:/run/sidecar.sock",
    "unix:///run/sidecar.sock",
    "unix:sidecar.sock",
    "unix:/run/my notes/sidecar.sock",
    "unix-abstract:sidecar",
    "xds:///session-notes",
]

CLIENTS: list[Callable[[Any], object]] = [PrimaryClient, ObserverClient, AsyncPrimaryClient, AsyncObserverClient]


@pytest.mark.parametrize("target", INVALID)
def test_an_invalid_address_is_rejected(target: str) -> None:
    """An invalid address is rejected on creation. As an outage, it would be hidden by `unavailable_ok`."""
    for client in CLIENTS:
        with pytest.raises(InvalidArgument, match=r" is not an address: use host:port or unix:/path$") as caught:
            client(target)
        assert target.strip() in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidArgument, match="is not an address"):
        BackgroundObserver(lambda _: None, target=target)


@pytest.mark.parametrize("target", VALID)
def test_every_address_that_grpc_knows_is_accepted(target: str) -> None:
    """Every form of address that gRPC supports is accepted."""
    for client in CLIENTS:
        client(target)


def test_a_target_of_another_type_is_rejected() -> None:
    """A pair of host and port is rejected by its type."""
    for client in CLIENTS:
        with pytest.raises(InvalidArgument, match=r"^target must be a str, not tuple$"):
            client(("127.0.0.1", 50051))


def test_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the environment variable if it provides the target. A given target does not depend on it."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", "http://127.0.0.1:50051")
    for client in CLIENTS:
        with pytest.raises(InvalidArgument, match=r"^SESSION_NOTES_TARGET: http://127\.0\.0\.1:50051 is not an addr"):
            client(None)
        client("127.0.0.1:1")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a path short enough for unix sockets."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("name", ["a#b", "a?b=c", "a%41", "a%", "a b", "ü", "a[1]", 'a"<\\>`{|}^', "a+b&c;d"])
@pytest.mark.parametrize("form", ["unix:", "unix://"])
def test_the_path_of_a_unix_socket_is_literal(directory: Path, name: str, form: str) -> None:
    """The path of a unix socket is not a URL: it has no fragments and no escapes."""
    server = grpc.server(ThreadPoolExecutor(1))
    path = directory / name
    server.add_insecure_port(f"unix:{directory}/plain")
    server.start()
    try:
        (directory / "plain").rename(path)
        with PrimaryClient(f"{form}{path}") as primary, pytest.raises(ServerError, match="UNIMPLEMENTED"):
            primary.get_session("s")

        async def read() -> None:
            async with AsyncPrimaryClient(f"{form}{path}") as client:
                with pytest.raises(ServerError, match="UNIMPLEMENTED"):
                    await client.get_session("s")

        asyncio.run(read())
    finally:
        server.stop(None).wait()


def run(variables: dict[str, str]) -> str:
    """Create clients in a process with these variables, and return its log."""
    program = "from session_notes import *; [kind('127.0.0.1:1') for kind in (PrimaryClient, ObserverClient) * 2]"
    env = {"PATH": "/usr/bin:/bin", **variables}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_misspelt_variable_is_logged_once() -> None:
    """A name similar to a client variable is logged once, with the probable name and without the value."""
    slips = {
        "SESSION_NOTES_TARGT": "SESSION_NOTES_TARGET",
        "SESSION_NOTES_TRAGET": "SESSION_NOTES_TARGET",
        "SESSION_NOTES_TLS_CERTIFICATE": "SESSION_NOTES_TLS_CERT",
        "SESSION_NOTES_TLS_KEYFILE": "SESSION_NOTES_TLS_KEY",
        "SESSION_NOTES_CA": "SESSION_NOTES_TLS_CA",
        "SESSION_NOTE_TARGET": "SESSION_NOTES_TARGET",
        "session_notes_token": "SESSION_NOTES_TOKEN",
        "SESSION_NOTES_TOKENFILE": "SESSION_NOTES_TOKEN_FILE",
        "SESSION_NOTES_TLS_CA_FILE": "SESSION_NOTES_TLS_CA",
    }
    lines = run(dict.fromkeys(slips, "canary")).splitlines()
    assert sorted(lines) == sorted(
        f"the environment variable {name} is unknown and has no effect; is it {meant}?" for name, meant in slips.items()
    )


def test_other_variables_are_not_logged() -> None:
    """Variables of the clients, of the sidecar and of Kubernetes are not logged."""
    settings = [f"SESSION_NOTES_{name.upper()}" for name in Settings.__dataclass_fields__]
    kubernetes = ["SESSION_NOTES_PORT", "SESSION_NOTES_SERVICE_HOST", "SESSION_NOTES_PORT_50051_TCP_ADDR"]
    for name in (*settings, *kubernetes, "SESSION", "SESSION_MANAGER", "SESSION_NOTES"):
        assert _nearest(name) in (None, name), name
    variables = dict.fromkeys(kubernetes, "1") | {"SESSION_NOTES_TARGET": "127.0.0.1:1", "SESSION_NOTES_TOKEN": "x"}
    assert run(variables) == ""
    assert len(_NAMES) == len(set(_NAMES))
    assert logging.getLogger("session_notes").isEnabledFor(logging.WARNING)


def test_warnings_of_a_program_with_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that lists all of its variables gets a warning for every other one, with a hint if one is similar."""
    variables = {"SESSION_NOTES_TARGET", "SESSION_NOTES_REDIS_URL"}
    for name in list(os.environ):
        if name.upper().startswith("SESSION"):
            monkeypatch.delenv(name)
    for name in ("TARGET", "REDIS_URI", "COLOUR", "SERVICE_HOST", "PORT_50051_TCP_ADDR"):
        monkeypatch.setenv(f"SESSION_NOTES_{name}", "canary")
    monkeypatch.setenv("SESSION_MANAGER", "canary")
    colour = "the environment variable SESSION_NOTES_COLOUR is unknown and has no effect"
    assert unknown_variables(variables, complete=True) == {
        "SESSION_NOTES_COLOUR": colour,
        "SESSION_NOTES_REDIS_URI": f"{colour.replace('COLOUR', 'REDIS_URI')}; is it SESSION_NOTES_REDIS_URL?",
    }
    assert unknown_variables(variables).keys() == {"SESSION_NOTES_REDIS_URI"}
    assert unknown_variables() == {}
