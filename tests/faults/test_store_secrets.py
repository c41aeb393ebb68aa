"""Store passwords and certificates: errors are one log line, nothing is sent in plain text, and rotation works."""

import datetime
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import grpc
import pytest
import redis
import trustme
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_state_pb2 as state_api

from tests.access.callers import Authority, Certificate, write_secret
from tests.faults.deployments import sidecar_on
from tests.faults.proxy import Proxy
from tests.faults.tls_stores import tls_flags, tls_program, tls_store
from tests.stores import StoreServer, free_port, redis_program, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

NOT_SERVING = 2
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
PASSWORD, NEXT = "canary-old-7f30", "canary-new-51c8"
BACK_SECONDS = 2.0
OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
# Long enough for handshakes on a busy machine, short enough to give up a silent store within the test.
QUICK = ("--store-timeout", "2s")


def direct_client(store: StoreServer, authority: Authority, **login: str) -> Any:
    """Return a client of the store that bypasses the sidecar."""
    return redis.Redis(port=store.port, host="127.0.0.1", ssl=True, ssl_ca_certs=str(authority.path), **login)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the sidecar trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Certificate:
    """A certificate for the stores' address."""
    return authority.issue("store", "127.0.0.1")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """A file with the store's password."""
    return write_secret(tmp_path / "password", PASSWORD)


def lines_of(sidecar: Sidecar, part: str = "NOT_SERVING") -> list[str]:
    """Return the log lines that contain a text."""
    return [line for line in sidecar.log.splitlines() if part in line]


def assert_nothing_in_plain_text(proxy: Proxy, *, connections: int = 1) -> None:
    """Assert that connections begin with a TLS handshake and no request contains the password."""
    requests = [exchange.request for exchange in list(proxy.exchanges)]
    # A TLS 1.x handshake record with a ClientHello.
    assert len([request for request in requests if re.match(rb"\x16\x03[\x00-\x04]..\x01", request, re.DOTALL)]) >= (
        connections
    )
    # Everything is a TLS record: handshake, change of cipher, alert or data.
    assert not [request for request in requests if request[:1] not in b"\x14\x15\x16\x17" or b"AUTH" in request]
    assert not [request for request in requests if PASSWORD.encode() in request]


def test_a_store_with_tls_and_an_acl_user(authority: Authority, pair: Certificate, password_file: Path) -> None:
    """With a user in the URL and password, authority and client certificate in files, all traffic is encrypted."""
    client_pair = authority.issue("sidecar", "sidecar.example.org")
    files: tuple[str, ...] = ("--redis-password-file", str(password_file), "--redis-ca", str(authority.path))
    files += ("--redis-cert", str(client_pair.cert), "--redis-key", str(client_pair.key))
    user = ("--user", "app", "on", f">{PASSWORD}", "~*", "+@all", "--user", "default", "off")
    with (
        tls_store(pair, authority, *user, clients="yes") as store,
        Proxy(store.port) as proxy,
        sidecar_on(f"rediss://app@127.0.0.1:{proxy.port}", (*files, "--verbose")) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        sidecar.wait_until_serving(20)
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said")
        assert session.get_notes().notes.summary == "said"
        assert_nothing_in_plain_text(proxy)
        assert PASSWORD not in sidecar.log


def expired(home: Path) -> tuple[Authority, Certificate]:
    """Return a trusted authority and an expired certificate."""
    authority = Authority(home)
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired_pair = authority._ca.issue_cert(
        "127.0.0.1", not_before=yesterday - datetime.timedelta(1), not_after=yesterday
    )
    chain = b"".join(pem.bytes() for pem in expired_pair.cert_chain_pems)
    return authority, authority.write("expired", expired_pair.private_key_pem.bytes(), chain)


WRONG: dict[str, str] = {
    "another authority": "its certificate is not trusted: ",
    "self-signed": "its certificate is not trusted: self-signed certificate",
    "another host": "its certificate is not trusted: IP address mismatch",
    "expired": "its certificate is not trusted: certificate has expired",
    "no client certificate": "it requires a client certificate (--redis-cert)",
    "a store without TLS": "no answer to the TLS handshake in time",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_untrusted_store_gets_nothing(
    wrong: str, authority: Authority, pair: Certificate, password_file: Path, tmp_path: Path
) -> None:
    """With an untrusted store calls are UNAVAILABLE, one log line gives the reason, and no plain text is sent."""
    trusted, presented, clients = authority, pair, "no"
    if wrong == "another authority":
        trusted = Authority(tmp_path / "another")
    elif wrong == "self-signed":
        own_authority = trustme.CA()
        trusted, presented = (
            authority,
            authority.write("self-signed", own_authority.private_key_pem.bytes(), own_authority.cert_pem.bytes()),
        )
    elif wrong == "another host":
        presented = authority.issue("elsewhere", "elsewhere.example.org")
    elif wrong == "expired":
        trusted, presented = expired(tmp_path / "expired")
    elif wrong == "no client certificate":
        clients = "yes"
    flags = ("--redis-password-file", str(password_file), "--redis-ca", str(trusted.path), *QUICK)
    login = ("--requirepass", PASSWORD)
    plain = wrong == "a store without TLS"
    with (
        StoreServer(valkey_program(), login)
        if plain
        else tls_store(presented, trusted, *login, clients=clients) as store,
        Proxy(store.port) as proxy,
        sidecar_on(f"rediss://127.0.0.1:{proxy.port}", flags) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, new_session_id())
        for _ in range(3):
            with refused(UNAVAILABLE, "STORE_UNAVAILABLE") as refusal:
                session.get_notes()
            assert "TLS" not in refusal.text
            assert "certificate" not in refusal.text
        eventually(lambda: len(proxy.exchanges) >= 6, 30)
        assert sidecar.health() == NOT_SERVING
        [line] = lines_of(sidecar)
        assert WRONG[wrong] in line
        assert "Traceback" not in sidecar.log
        assert PASSWORD not in sidecar.log
        assert_nothing_in_plain_text(proxy, connections=2)


def test_a_url_without_tls_for_a_store_with_tls(authority: Authority, pair: Certificate) -> None:
    """A URL without TLS for a store that requires it is NOT_SERVING, and one log line suggests rediss://."""
    with (
        tls_store(pair, authority) as store,
        sidecar_on(f"redis://127.0.0.1:{store.port}", QUICK) as sidecar,
    ):
        eventually(lambda: lines_of(sidecar))
        assert "do both sides use TLS (rediss://)" in lines_of(sidecar)[0]


@contextmanager
def store_with_password(password_file: Path) -> Iterator[tuple[Any, Sidecar, SessionCalls, Proxy]]:
    """Yield the admin client of a store with a password, a sidecar with a password file, a session, and the proxy."""
    with (
        StoreServer(valkey_program(), ("--requirepass", PASSWORD)) as store,
        Proxy(store.port) as proxy,
        redis.Redis(port=store.port, password=PASSWORD) as admin,
        sidecar_on(proxy.url, ("--redis-password-file", str(password_file))) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        sidecar.wait_until_serving()
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said")
        yield admin, sidecar, session, proxy
        assert PASSWORD not in sidecar.log
        assert NEXT not in sidecar.log


def close_connections(admin: Any) -> None:
    """Close all connections but the admin's, as a restart would."""
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_a_password_is_rotated_without_a_restart(password_file: Path) -> None:
    """After a rotation with both passwords valid for a while, calls are OK in 2 s and no wrong password is tried."""
    with store_with_password(password_file) as (admin, sidecar, session, _):
        admin.execute_command("ACL", "SETUSER", "default", f">{NEXT}")
        close_connections(admin)
        eventually(lambda: status_of(session.get_notes) == OK, BACK_SECONDS)
        write_secret(password_file, NEXT)
        admin.execute_command("ACL", "SETUSER", "default", f"<{PASSWORD}")
        close_connections(admin)
        eventually(lambda: status_of(session.get_notes) == OK and status_of(session.append_turns) == OK, BACK_SECONDS)
        sidecar.wait_until_serving(BACK_SECONDS)
        assert session.get_notes().notes.summary == "said"
        assert not lines_of(sidecar, "WRONGPASS")
        assert lines_of(sidecar, f"reloaded: password in {password_file}")


def test_a_bad_password_file_is_logged_once(password_file: Path) -> None:
    """A bad password file is one log line and leaves the last password in use; a correct one is used within 2 s."""
    with store_with_password(password_file) as (admin, sidecar, session, proxy):
        for damage, message in (
            (lambda: write_secret(password_file), "is empty"),
            (password_file.unlink, "does not exist"),
        ):
            damage()
            close_connections(admin)
            eventually(lambda: status_of(session.get_notes) == OK, BACK_SECONDS)
            eventually(lambda message=message: lines_of(sidecar, message), BACK_SECONDS)  # type: ignore[misc]
        admin.config_set("requirepass", NEXT)
        close_connections(admin)
        before = len(proxy.times_of(b"AUTH"))
        eventually(lambda: len(proxy.times_of(b"AUTH")) >= before + 4, 20)
        assert status_of(session.get_notes) == UNAVAILABLE
        assert len(eventually(lambda: lines_of(sidecar, "WRONGPASS"))) == 1
        for message in ("is empty", "does not exist"):
            assert len(lines_of(sidecar, message)) == 1
        write_secret(password_file, NEXT)
        eventually(lambda: status_of(session.get_notes) == OK, BACK_SECONDS)
        sidecar.wait_until_serving(BACK_SECONDS)


def test_certificates_are_rotated_without_a_restart(authority: Authority, pair: Certificate, tmp_path: Path) -> None:
    """After the store's authority and the sidecar's file change, calls are OK within 2 s without a restart."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.path.read_bytes())
    other = Authority(tmp_path / "other")
    flags = ("--redis-ca", str(ca))
    with tls_store(pair, authority) as store, sidecar_on(f"rediss://127.0.0.1:{store.port}", flags) as sidecar:
        sidecar.wait_until_serving()
        with direct_client(store, authority) as admin:
            new = other.issue("store", "127.0.0.1")
            admin.config_set(
                "tls-ca-cert-file", str(other.path), "tls-cert-file", str(new.cert), "tls-key-file", str(new.key)
            )
            close_connections(admin)
            eventually(lambda: lines_of(sidecar, "its certificate is not trusted"))
            new_ca = tmp_path / "new.pem"
            new_ca.write_bytes(other.path.read_bytes())
            new_ca.replace(ca)
        with new_channel(sidecar.target) as channel:
            session = SessionCalls(channel, new_session_id())
            eventually(lambda: status_of(session.get_notes) == OK, BACK_SECONDS)
        sidecar.wait_until_serving(BACK_SECONDS)


def test_a_cluster_with_tls(authority: Authority, pair: Certificate, password_file: Path) -> None:
    """With rediss+cluster, every connection is encrypted, verified and authenticated with the password file."""
    cluster = ("--tls-cluster", "yes", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    login = ("--requirepass", PASSWORD)
    flags = ("--redis-password-file", str(password_file), "--redis-ca", str(authority.path))
    with (
        tls_store(pair, authority, *cluster, *login) as store,
        direct_client(store, authority, password=PASSWORD) as admin,
    ):
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: "cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")))
        url = f"rediss+cluster://127.0.0.1:{store.port}"
        with sidecar_on(url, flags) as sidecar, new_channel(sidecar.target) as channel:
            sidecar.wait_until_serving()
            session = SessionCalls(channel, new_session_id())
            session.write_notes("run-1", "said")
            eventually(lambda: session.get_notes().notes.summary == "said")
        other = Authority(password_file.parent / "other")
        with sidecar_on(url, (*flags, "--redis-ca", str(other.path))) as sidecar:
            eventually(lambda: lines_of(sidecar, "its certificate is not trusted"))


def test_a_sentinel_with_tls(authority: Authority, pair: Certificate, password_file: Path, tmp_path: Path) -> None:
    """With rediss+sentinel, Sentinel is asked over TLS without a login and the master with the password file."""
    flags = ("--redis-password-file", str(password_file), "--redis-ca", str(authority.path))
    master_flags = ("--requirepass", PASSWORD, "--tls-replication", "yes")
    port = free_port()
    with tls_store(pair, authority, *master_flags) as master, ExitStack() as stack:
        config = tmp_path / "sentinel.conf"
        files = tls_flags(pair, authority)
        tls = "\n".join(f"{name.removeprefix('--')} {text}" for name, text in zip(files[::2], files[1::2], strict=True))
        config.write_text(
            f"port 0\ntls-port {port}\n{tls}\ntls-replication yes\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"logfile {tmp_path}/log\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            f"sentinel auth-pass mymaster {PASSWORD}\n"
        )
        process = stack.enter_context(Popen([tls_program(), str(config), "--sentinel"], start_new_session=True))
        stack.callback(process.kill)
        url = f"rediss+sentinel://127.0.0.1:{port}/mymaster"
        sidecar = stack.enter_context(sidecar_on(url, flags))
        sidecar.wait_until_serving()
        session = SessionCalls(stack.enter_context(new_channel(sidecar.target)), new_session_id())
        session.write_notes("run-1", "said")
        assert session.get_notes().notes.summary == "said"
        other = Authority(tmp_path / "other")
        distrusting = sidecar_on(url, (*flags, "--redis-ca", str(other.path)))
        with distrusting:
            eventually(lambda: lines_of(distrusting))
            assert distrusting.health() == NOT_SERVING


def rules() -> list[str]:
    """Return the ACL rules in docs/operating.md, except the password."""
    [line] = re.findall(r"^ACL SETUSER session-notes (.*)$", OPERATING, re.MULTILINE)
    return [rule for rule in line.split() if not rule.startswith(">")]


def every_call(session: SessionCalls) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield every kind of call, through every branch of the scripts."""
    first, second, third = (f"run-{new_session_id()}" for _ in range(3))
    window: dict[str, Any] = {"include_transcript": True, "after_current_notes": True, "include_current_notes": True}
    batch = notes_api.BatchGetNotesRequest(requests=[notes_api.GetNotesRequest(session_id=session.id)])
    yield "AppendTurns", lambda: session.append_turns(2)
    yield "AppendTurns, more than the transcript keeps", lambda: session.append_turns(2000)
    yield "BeginRun", lambda: session.begin_run(first, include_transcript=True)
    yield "BeginRun, of one turn before the last", lambda: session.begin_run(second, observed_turn=1)
    yield "BeginRun, with a window and notes", lambda: session.begin_run(third, **window)
    yield "WriteNotes", lambda: session.write_notes(first, "said")
    yield "RenewRun", lambda: session.renew_run(second)
    yield "FailRun", lambda: session.fail_run(second, reason="a reason")
    yield "UpdateSession", lambda: session.update_session(set={"goal": "refund"})
    yield "UpdateSession, a field removed", lambda: session.update_session(remove=["goal"])
    yield "GetNotes", session.get_notes
    yield "BatchGetNotes", lambda: session.notes.BatchGetNotes(batch, timeout=10)
    yield "ListRuns", session.list_runs
    yield "GetSession", session.get_session
    yield "ListSessions", lambda: session.state.ListSessions(state_api.ListSessionsRequest(), timeout=10)
    yield "ListDueSessions", lambda: session.notes.ListDueSessions(notes_api.ListDueSessionsRequest(), timeout=10)
    yield "DeleteSession", session.delete
    yield (
        "WriteNotes, of a run of a deleted session",
        lambda: allow_rejection(lambda: session.write_notes(first, "said")),
    )


def allow_rejection(call: Callable[[], object]) -> None:
    """Make a call that may be rejected for a deleted session."""
    try:
        call()
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
            raise


def allow(admin: Any, *rules: str) -> None:
    """Set the ACL rules of the sidecar's user."""
    admin.execute_command("ACL", "SETUSER", "session-notes", "reset", *rules, f">{PASSWORD}")


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_the_documented_acl_rules_are_exact(kind: str, password_file: Path) -> None:
    """With the documented ACL rules every call is OK; without any one, some fail and the log names the cause."""
    program = valkey_program() if kind == "valkey" else redis_program()
    if program is None:
        pytest.skip("no redis-server on PATH")
    with StoreServer(program) as store, redis.Redis(port=store.port) as admin:
        allow(admin, *rules())
        url = f"redis://session-notes@127.0.0.1:{store.port}"
        flags = ("--redis-password-file", str(password_file))
        with sidecar_on(url, flags) as sidecar, new_channel(sidecar.target) as channel:
            sidecar.wait_until_serving()

            def statuses() -> dict[str, grpc.StatusCode]:
                session = SessionCalls(channel, new_session_id())
                return {name: status_of(call) for name, call in every_call(session)}

            assert set(statuses().values()) == {OK}
            for rule in rules():
                if rule in ("reset", "on"):
                    continue
                allow(admin, *[other for other in rules() if other != rule])
                admin.script_flush()  # EVAL is needed only for a script that the store has forgotten.
                close_connections(admin)
                codes = set(statuses().values())
                # A run that could not begin is NOT_FOUND later.
                assert codes <= {OK, UNAVAILABLE, grpc.StatusCode.NOT_FOUND}, (rule, codes)
                if UNAVAILABLE not in codes:
                    eventually(lambda: sidecar.health() == NOT_SERVING)  # Otherwise the rule would be superfluous.
            assert lines_of(sidecar, "NOPERM")
            for command in ("scan", "evalsha"):
                assert lines_of(sidecar, f"the user may not run the command {command} (NOPERM)"), command
            cause = "inside the scripts" if kind == "redis" else "the command rpushx (NOPERM)"
            eventually(lambda: lines_of(sidecar, cause))
            allow(admin, *rules())
            close_connections(admin)
            sidecar.wait_until_serving(5)
            assert set(statuses().values()) == {OK}
            assert "Traceback" not in sidecar.log
            assert PASSWORD not in sidecar.log


@pytest.mark.parametrize("command", ["hset", "time", "hgetall"])
def test_a_user_that_lacks_a_command_is_not_ready(command: str, password_file: Path) -> None:
    """The sidecar is ready only while its user may run every command in the scripts, and the log names the missing one.

    A rollout would otherwise replace all replicas by a version that needs a command which the ACL does not list yet.
    """
    with StoreServer(valkey_program()) as store, redis.Redis(port=store.port) as admin:
        allow(admin, *[rule for rule in rules() if rule != f"+{command}"])
        flags = ("--redis-password-file", str(password_file))
        with sidecar_on(f"redis://session-notes@127.0.0.1:{store.port}", flags) as sidecar:
            eventually(lambda: lines_of(sidecar, f"NOT_SERVING: the user may not run the command {command} (NOPERM)"))
            assert sidecar.health() == NOT_SERVING
            allow(admin, *rules())
            sidecar.wait_until_serving(5)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
@pytest.mark.parametrize("command", ["HSET", "UNLINK", "SCAN", "INFO", "EVAL", "EVALSHA"])
def test_a_disabled_command_is_an_outage_and_no_bug(kind: str, command: str) -> None:
    """If the store's operator has disabled a command, calls that need it are UNAVAILABLE and the log tells why."""
    program = valkey_program() if kind == "valkey" else redis_program()
    if program is None:
        pytest.skip("no redis-server on PATH")
    with (
        StoreServer(program, flags=("--rename-command", command, "")) as store,
        sidecar_on(store.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        codes = {status_of(call) for _, call in every_call(SessionCalls(channel, new_session_id()))}
        assert UNAVAILABLE in codes
        assert codes <= {OK, UNAVAILABLE, grpc.StatusCode.NOT_FOUND}
        eventually(lambda: lines_of(sidecar, "nor disable commands"))
        assert "Traceback" not in sidecar.log
        if command not in ("SCAN", "INFO"):
            eventually(lambda: sidecar.health() == NOT_SERVING)
