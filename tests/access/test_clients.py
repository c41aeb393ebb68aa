"""Credentials in the clients and the command line: tokens, certificates, and no plaintext token on the network."""

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from session_notes import (
    TLS,
    AsyncObserverClient,
    AsyncPrimaryClient,
    BackgroundObserver,
    InvalidArgument,
    Notes,
    ObserverClient,
    PermissionDenied,
    PrimaryClient,
    TokenFile,
    Turn,
    Unauthenticated,
    Unavailable,
)

from tests.access.callers import TOKENS, Authority, Certificate, token_files, write_secret
from tests.cli.program import ENV, Cli
from tests.support import Sidecar, eventually, new_session_id, program

SHORT = timedelta(milliseconds=300)
"""A timeout for calls that are retried until it expires."""


def test_clients_call_with_their_token(token_sidecar: Sidecar) -> None:
    """Clients send their tokens. Errors for a missing or unknown token, or a method of another role, quote none."""
    target, session_id = token_sidecar.target, new_session_id()
    with PrimaryClient(target, token=TOKENS["primary"]) as primary:
        primary.append_turns(session_id, [Turn("user", "hello")])
        with ObserverClient(target, token=TOKENS["observer"]) as observer, observer.run(session_id) as run:
            run.write(Notes(summary=f"{len(run.transcript)} turn"))
        assert primary.get_notes(session_id).ready
        with pytest.raises(PermissionDenied) as denied:
            list(primary.list_sessions())
        assert denied.value.metadata == {"method": "session_notes.v1.SessionState.ListSessions"}
    for token in (None, "canary-unknown"):
        with PrimaryClient(target, token=token) as unknown, pytest.raises(Unauthenticated) as refused:
            unknown.get_session(session_id)
        assert refused.value.reason == "UNAUTHENTICATED"
        assert "canary" not in repr(refused.value)


async def test_asyncio_clients_call_with_their_token(token_sidecar: Sidecar) -> None:
    """The asyncio clients accept the same credentials."""
    target, session_id = token_sidecar.target, new_session_id()
    async with AsyncPrimaryClient(target, token=lambda: TOKENS["primary"]) as primary:
        await primary.append_turns(session_id, [Turn("user", "hello")])
        async with AsyncObserverClient(target, token=TOKENS["observer"]) as observer:
            await observer.write_notes(session_id, Notes(summary="x"))
        assert (await primary.get_notes(session_id)).ready
        with pytest.raises(PermissionDenied):
            await primary.list_sessions().__anext__()


def test_a_background_observer_calls_with_its_token(token_sidecar: Sidecar) -> None:
    """A background observer sends its token from all threads. A token in addition to a client is an error."""
    session_id = new_session_id()

    def analyse(run: object) -> Notes:
        return Notes(summary="seen")

    with (
        PrimaryClient(token_sidecar.target, token=TOKENS["primary"]) as primary,
        BackgroundObserver(analyse, brakes=False, target=token_sidecar.target, token=TOKENS["observer"]) as observer,
    ):
        observer.submit(session_id)
        eventually(lambda: primary.get_notes(session_id).ready)
    with ObserverClient() as client, pytest.raises(InvalidArgument):
        BackgroundObserver(analyse, client=client, token="x")


def test_credentials_come_from_the_environment(
    token_sidecar: Sidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SESSION_NOTES_TOKEN takes precedence over SESSION_NOTES_TOKEN_FILE, and an argument over both."""
    file = write_secret(tmp_path / "token", "# a comment", TOKENS["observer"])
    monkeypatch.setenv("SESSION_NOTES_TOKEN_FILE", str(file))
    with ObserverClient(token_sidecar.target) as observer:
        assert observer.begin_run(new_session_id()).run.number == 1
    monkeypatch.setenv("SESSION_NOTES_TOKEN", TOKENS["admin"])
    with PrimaryClient(token_sidecar.target) as admin:
        list(admin.list_sessions())
    with PrimaryClient(token_sidecar.target, token=TOKENS["primary"]) as primary, pytest.raises(PermissionDenied):
        list(primary.list_sessions())


def test_a_token_file_is_reloaded(token_sidecar: Sidecar, tmp_path: Path) -> None:
    """A client uses a new token as soon as the file has it. Without a token in the file, the last one stays in use."""
    file = write_secret(tmp_path / "token", "an-unknown-token")
    with PrimaryClient(token_sidecar.target, token=TokenFile(file)) as primary:
        with pytest.raises(Unauthenticated):
            primary.get_session("s")
        write_secret(file, TOKENS["primary"])
        primary.get_session("s")
        write_secret(file)
        primary.get_session("s")
        file.unlink()
        primary.get_session("s")


def test_tls_with_a_client_certificate(
    mtls_sidecar: Sidecar, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client takes authority and certificate from `tls` or from the environment."""
    client = authority.issue("client", "primary.example.org")
    tls = TLS(authority.path, client.cert, client.key)
    with PrimaryClient(mtls_sidecar.target, tls=tls) as primary:
        primary.get_session("s")
        with pytest.raises(PermissionDenied):
            list(primary.list_sessions())
    with PrimaryClient(mtls_sidecar.target, tls=tls, token=TOKENS["admin"]) as admin:
        list(admin.list_sessions())
    with PrimaryClient(mtls_sidecar.target) as plain, pytest.raises(Unavailable):
        plain.get_session("s", timeout=SHORT)
    monkeypatch.setenv("SESSION_NOTES_TLS_CA", str(authority.path))
    monkeypatch.setenv("SESSION_NOTES_TLS_CERT", str(client.cert))
    monkeypatch.setenv("SESSION_NOTES_TLS_KEY", str(client.key))
    with PrimaryClient(mtls_sidecar.target) as primary:
        primary.get_session("s")


async def test_asyncio_clients_use_tls(mtls_sidecar: Sidecar, authority: Authority, tmp_path: Path) -> None:
    """The asyncio clients use TLS too, and reject a sidecar of another authority."""
    client = authority.issue("client", "primary.example.org")
    async with AsyncPrimaryClient(mtls_sidecar.target, tls=TLS(authority.path, client.cert, client.key)) as primary:
        await primary.get_session("s")
    other = Authority(tmp_path / "other").path
    async with AsyncPrimaryClient(mtls_sidecar.target, tls=TLS(other, client.cert, client.key)) as primary:
        with pytest.raises(Unavailable):
            await primary.get_session("s", timeout=SHORT)


REMOTE = (
    "192.0.2.1:50051",
    "notes.example.org:50051",
    "dns:///notes.example.org:50051",
    "ipv4:127.0.0.1:1,192.0.2.1:1",
    "localhost.example.org:50051",
    "[2001:db8::1]:50051",
)


@pytest.mark.parametrize("target", REMOTE)
@pytest.mark.parametrize("client", [PrimaryClient, ObserverClient, AsyncPrimaryClient, AsyncObserverClient])
def test_a_token_is_sent_to_other_machines_only_with_tls(client: Callable[..., object], target: str) -> None:
    """Creating a client with a token for another machine, but without TLS, raises an error that quotes no token."""
    with pytest.raises(InvalidArgument, match="TLS") as refused:
        client(target, token=TOKENS["admin"])
    assert "canary" not in repr(refused.value)
    client(target)
    client(target, token=TOKENS["admin"], tls=TLS())


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/s", "dns:///localhost:1", "ipv4:127.0.0.1:1"]
)
def test_a_local_target_needs_no_tls(target: str) -> None:
    """On loopback and unix sockets, a token needs no TLS."""
    PrimaryClient(target, token=TOKENS["primary"]).close()


def test_unusable_credentials_are_refused(tmp_path: Path) -> None:
    """Unusable credentials are rejected when the client is created or a function returns them, and are never quoted."""
    for token in ("", "canary two", "canary\n", "canary-\u00fc"):
        with pytest.raises(InvalidArgument) as refused:
            PrimaryClient("127.0.0.1:1", token=token)
        assert "canary" not in repr(refused.value)
    with pytest.raises(InvalidArgument):
        TokenFile(tmp_path / "none")
    with pytest.raises(InvalidArgument):
        TLS(cert=tmp_path / "cert")
    with pytest.raises(InvalidArgument):
        PrimaryClient("localhost:1", tls=TLS(ca=tmp_path / "none"))
    with pytest.raises(InvalidArgument):
        PrimaryClient("unix:/run/s", tls=TLS())
    with PrimaryClient("127.0.0.1:1", token=lambda: "canary two") as client:
        with pytest.raises(InvalidArgument) as refused:
            client.get_session("s")
        assert "canary" not in repr(refused.value)


def _replace(old: Certificate, new: Certificate) -> None:
    """Replace the files of a certificate, the key first."""
    new.key.replace(old.key)
    new.cert.replace(old.cert)


def test_replaced_tls_files_take_effect(mtls_sidecar: Sidecar, authority: Authority) -> None:
    """An open client uses a new certificate once both files are replaced and match."""
    certificate = authority.issue("rotated", "primary.example.org")
    with PrimaryClient(mtls_sidecar.target, tls=TLS(authority.path, certificate.cert, certificate.key)) as client:
        with pytest.raises(PermissionDenied):
            list(client.list_sessions())
        new = authority.issue("rotated-new", "the-admin", common_name="the-admin")
        new.cert.replace(certificate.cert)
        client._transport._files.check_soon()  # type: ignore[union-attr]
        client.get_session("s", timeout=SHORT)
        with pytest.raises(PermissionDenied):
            list(client.list_sessions())
        new.key.replace(certificate.key)

        def is_admin() -> bool:
            with suppress(PermissionDenied):
                return bool(list(client.list_sessions()) or True)
            return False

        eventually(is_admin)


async def test_replaced_tls_files_take_effect_for_asyncio(mtls_sidecar: Sidecar, authority: Authority) -> None:
    """An asyncio client also uses a new certificate, and calls in flight finish on the old connection."""
    certificate = authority.issue("async-rotated", "primary.example.org")
    async with AsyncPrimaryClient(
        mtls_sidecar.target, tls=TLS(authority.path, certificate.cert, certificate.key)
    ) as client:
        await client.get_session("s")
        earlier = client._transport._channel
        _replace(certificate, authority.issue("async-rotated-new", "the-admin", common_name="the-admin"))
        ended: list[type] = []

        async def call() -> None:
            try:
                await client.get_session("s", timeout=timedelta(seconds=10))
            except PermissionDenied as error:
                ended.append(type(error))

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            while client._transport._channel is earlier:
                group.create_task(call())
                await asyncio.sleep(0.01)
        assert ended == []
        async for _ in client.list_sessions():
            break


def test_a_client_recovers_once_its_authority_is_corrected(
    mtls_sidecar: Sidecar, authority: Authority, tmp_path: Path
) -> None:
    """A client that does not trust the sidecar's authority recovers once its file contains that authority."""
    certificate, ca = authority.issue("early", "primary.example.org"), tmp_path / "ca.pem"
    ca.write_bytes(Authority(tmp_path / "other").path.read_bytes())
    with PrimaryClient(mtls_sidecar.target, tls=TLS(ca, certificate.cert, certificate.key)) as client:
        with pytest.raises(Unavailable):
            client.get_notes("s", timeout=SHORT)
        ca.write_text("no certificate yet")
        with pytest.raises(Unavailable):
            client.get_notes("s", timeout=SHORT)
        ca.write_bytes(authority.path.read_bytes())
        client.get_notes("s", timeout=timedelta(seconds=5))


class Vault:
    """A token function that can raise an exception with a secret in its text."""

    def __init__(self) -> None:
        self.broken = True

    def __call__(self) -> str:
        if self.broken:
            raise LookupError("canary: no lease for primary")
        return TOKENS["primary"]


async def test_a_token_function_that_raises(token_sidecar: Sidecar) -> None:
    """The exception is the cause of an Unauthenticated that does not quote it. The next call retries the function."""
    vault = Vault()
    async with AsyncPrimaryClient(token_sidecar.target, token=vault) as client:
        with PrimaryClient(token_sidecar.target, token=vault) as primary:
            for _ in range(2):
                with pytest.raises(Unauthenticated) as caught:
                    primary.get_notes("s", unavailable_ok=True)
                assert str(caught.value) == "the token function raised LookupError"
                assert isinstance(caught.value.__cause__, LookupError)
                with pytest.raises(Unauthenticated, match=r"^the token function raised LookupError$"):
                    await client.get_notes("s", unavailable_ok=True)
            vault.broken = False
            primary.get_session("s")
            await client.get_session("s")


def test_a_token_function_that_returns_no_token() -> None:
    """The error names the type of the returned value, and not the value. An async function is refused immediately."""

    async def token() -> str:
        return TOKENS["primary"]

    for value in (None, TOKENS["primary"].encode()):
        with PrimaryClient("127.0.0.1:1", token=lambda value=value: value) as primary:
            with pytest.raises(InvalidArgument) as caught:
                primary.get_notes("s", unavailable_ok=True)
            assert str(caught.value) == f"the token function must return a str, not {type(value).__name__}"
    for client in (PrimaryClient, AsyncPrimaryClient):
        with pytest.raises(InvalidArgument, match="token must not be an async function"):
            client("127.0.0.1:1", token=token)  # type: ignore[arg-type]


def test_credentials_of_a_wrong_type_are_refused() -> None:
    """Creating a client with such a credential raises an error that names the argument."""
    for client in (PrimaryClient, AsyncObserverClient):
        with pytest.raises(InvalidArgument, match=r"^token must be a str, or a function that returns one, not int$"):
            client("127.0.0.1:1", token=42)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match=r"^tls must be a session_notes\.TLS, not bool$"):
            client("127.0.0.1:1", tls=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"^tls\.ca must be a path, not int$"):
        TLS(ca=0)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"must be a str or a path, not int$"):
        TokenFile(0)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        TokenFile("a\0b")
    with PrimaryClient("127.0.0.1:1", tls=TLS()) as primary, pytest.raises(Unavailable):
        primary.get_notes("s")


def test_the_command_line_accepts_a_token_file(token_sidecar: Sidecar, tmp_path: Path) -> None:
    """`--token-file` or its variable names the file. No flag takes the token itself, which other users could read."""
    cli = Cli(token_sidecar.target)
    file = str(token_files(tmp_path / "tokens") / "primary")
    session_id = new_session_id()
    assert cli("session", "append", session_id, "user", "hello", "--token-file", file).code == 0
    assert cli("session", "get", session_id, env={"SESSION_NOTES_TOKEN_FILE": file}).code == 0
    denied = cli("session", "list", "--token-file", file)
    assert (denied.code, "PERMISSION_DENIED" in denied.error) == (7, True)
    unknown = cli("notes", "get", session_id)
    assert (unknown.code, "UNAUTHENTICATED" in unknown.error) == (7, True)
    missing = cli("runs", "list", session_id, "--token-file", f"{file}.gone")
    assert (missing.code, f"{file}.gone" in missing.error) == (2, True)
    assert cli("notes", "get", session_id, "--token", "x").code == 2
    assert cli("health").code == 0


def test_the_command_line_accepts_certificates(mtls_sidecar: Sidecar, authority: Authority) -> None:
    """`--tls-ca`, `--tls-cert` and `--tls-key` work with every command, including health."""
    client = authority.issue("by-hand", "primary.example.org")
    tls = ("--tls-ca", str(authority.path), "--tls-cert", str(client.cert), "--tls-key", str(client.key))
    cli = Cli(mtls_sidecar.target)
    assert cli("session", "set", new_session_id(), "a=1", *tls).code == 0
    assert cli("health", *tls).code == 0
    assert cli("health").code == 4
    assert cli("health", *tls[:4]).code == 2
    untrusted = cli("health", "--tls-ca", str(client.cert))
    assert (untrusted.code, "certificate" in untrusted.error) == (4, True), untrusted.error


def test_help_shows_no_secret() -> None:
    """`--help` names the variables, not their values."""
    variables = {"SESSION_NOTES_TOKEN": TOKENS["admin"], "SESSION_NOTES_TOKEN_FILE": "/canary/token"}
    for command in ("session", "list"), ("serve",):
        done = subprocess.run(
            [*program(), *command, "--help"], env=ENV | variables, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0
        assert "canary" not in done.stdout + done.stderr


def test_no_secret_in_any_log(token_sidecar: Sidecar, mtls_sidecar: Sidecar) -> None:
    """Logs and command lines contain no token, whether it was accepted or not."""
    with PrimaryClient(token_sidecar.target, token="canary-unknown") as unknown, pytest.raises(Unauthenticated):
        unknown.get_session("s")
    with PrimaryClient(token_sidecar.target, token=TOKENS["primary"]) as primary:
        primary.get_session("s")
    for sidecar in (token_sidecar, mtls_sidecar):
        assert "listening" in sidecar.log
        assert "canary" not in sidecar.log
        assert "PRIVATE KEY" not in sidecar.log
        assert sidecar.process is not None
        assert "canary" not in Path(f"/proc/{sidecar.process.pid}/cmdline").read_text()
