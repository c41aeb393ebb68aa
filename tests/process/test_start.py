"""Start: without Redis, within 2 s, and with settings from flags and from the environment."""

import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from session_notes import DEFAULT_TARGET
from session_notes_server.settings import Settings

from tests.stores import StoreServer, valkey_program
from tests.support import SERVICES, SessionCalls, Sidecar, eventually, free_port, new_channel, refused

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_start_without_redis(session_id: str) -> None:
    """Without Redis, the sidecar starts, is NOT_SERVING and answers UNAVAILABLE at once. Later it reconnects."""
    port = free_port()
    with Sidecar(f"redis://127.0.0.1:{port}", wait=False) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        for service in ("", *SERVICES):
            assert sidecar.health(service) == NOT_SERVING
        for call in (session.get_notes, session.write_notes, session.get_session, session.append_turns):
            before = time.monotonic()
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") as error:
                call()
            assert time.monotonic() - before < 1
            assert error.retry_delay_seconds
        with StoreServer(valkey_program(), port=port):
            sidecar.wait_until_serving(timeout=10)
            for service in SERVICES:
                eventually(lambda service=service: sidecar.health(service) == SERVING, 5)  # type: ignore[misc]
            session.write_notes("run-1", "said")
            assert session.get_notes().notes.summary == "said"


def test_health_follows_the_store(session_id: str) -> None:
    """`grpc.health.v1` follows Redis down and up for "" and both services; calls succeed once it is SERVING."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        for _ in range(2):
            store.kill()
            for service in ("", *SERVICES):
                eventually(lambda service=service: sidecar.health(service) == NOT_SERVING, 5)  # type: ignore[misc]
            store.start()
            for service in ("", *SERVICES):
                eventually(lambda service=service: sidecar.health(service) == SERVING, 5)  # type: ignore[misc]
            session.append_turns(1)


def test_health_of_an_unknown_service(sidecar: Sidecar) -> None:
    """Health reports "" and both services, and NOT_FOUND for any other."""
    assert [sidecar.health(service) for service in ("", *SERVICES)] == [SERVING] * 3
    with new_channel(sidecar.target) as channel, refused(grpc.StatusCode.NOT_FOUND):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)


def test_reflection_describes_the_contract(sidecar: Sidecar) -> None:
    """Through reflection, a caller without the protos finds both services, their methods and messages."""
    with new_channel(sidecar.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {*SERVICES, "grpc.health.v1.Health"} <= set(database.get_services())
        pool = DescriptorPool(database)
        for name in SERVICES:
            for method in pool.FindServiceByName(name).methods:
                assert method.input_type.full_name == f"session_notes.v1.{method.name}Request"
                assert not method.client_streaming
                assert not method.server_streaming


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
def test_both_versions_of_reflection(sidecar: Sidecar, version: str) -> None:
    """Both versions of reflection are served, list each other, and answer several requests of one stream."""
    requests = (
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="session_notes.v1.GetNotesResponse"),
    )
    with new_channel(sidecar.target) as channel:
        method: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed, described = method(iter(requests), timeout=10)
    names = {service.name for service in listed.list_services_response.service}
    assert {*SERVICES, *(f"grpc.reflection.{each}.ServerReflection" for each in ("v1alpha", "v1"))} <= names
    assert described.file_descriptor_response.file_descriptor_proto


def test_the_first_call_is_answered_quickly(session_id: str) -> None:
    """The first call is answered within 2 s of the start, including the start of the embedded store."""
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)  # With other tests in parallel.
    before = time.monotonic()
    with Sidecar(wait=False) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        eventually(lambda: _is_answered(session))
        assert time.monotonic() - before < (8 if busy else 2)


def _is_answered(session: SessionCalls) -> bool:
    try:
        return session.get_notes(timeout=2).ready is False
    except grpc.RpcError:
        return False


def test_a_unix_socket_besides_a_port(session_id: str, tmp_path: Path) -> None:
    """`--listen unix:/path` listens on a socket with mode 600, and `--listen` can be repeated."""
    sidecar = Sidecar(flags=["--listen", f"unix:{tmp_path}/s"])
    if len(f"{tmp_path}/s") > 100:
        pytest.skip("the temporary directory's path is too long for a unix socket")
    with sidecar:
        eventually(lambda: f"listening on unix:{tmp_path}/s" in sidecar.log)
        for target in (f"unix:{tmp_path}/s", sidecar.target):
            with new_channel(target) as channel:
                assert SessionCalls(channel, session_id).append_turns(1) >= 1
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) & 0o077 == 0


def test_a_unix_socket_alone(session_id: str, sidecar: Sidecar) -> None:
    """A unix socket can be the only address, and one left behind by a kill is replaced."""
    path = sidecar.data_dir.with_name("only")
    with Sidecar(listen=f"unix:{path}") as other:
        assert "127.0.0.1" not in other.log
        other.kill()
        assert path.exists()
        other.start()
        with new_channel(other.target) as channel:
            assert SessionCalls(channel, session_id).get_notes().ready is False


def test_an_ipv6_address(session_id: str) -> None:
    """An IPv6 address is served, and the log shows it in brackets."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            port = probe.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with Sidecar(listen=f"[::1]:{port}") as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: f"listening on [::1]:{port}" in sidecar.log)
        assert SessionCalls(channel, session_id).append_turns(1) == 1


def test_settings_come_from_the_environment(session_id: str) -> None:
    """Flags take precedence over `SESSION_NOTES_*`, which take precedence over defaults."""
    with StoreServer(valkey_program()) as store:
        port = free_port()
        env = {
            "SESSION_NOTES_LISTEN": f"127.0.0.1:{port}",
            "SESSION_NOTES_REDIS_URL": store.url,
            "SESSION_NOTES_PREFIX": "from-env",
            "SESSION_NOTES_SESSION_TTL": "90s",
        }
        # The flags override the address and the ttl. The store and the prefix come from the environment.
        with (
            Sidecar(flags=["--session-ttl", "1h"], env=env) as sidecar,
            Sidecar(store.url, prefix="from-env") as other,
            new_channel(sidecar.target) as channel,
            new_channel(other.target) as other_channel,
        ):
            assert str(port) not in sidecar.log
            assert not (sidecar.data_dir / "valkey.sock").exists()
            SessionCalls(channel, session_id).append_turns(1)
            session = SessionCalls(other_channel, session_id).get_session()
            assert session.turn_count == 1
            assert 3500 < session.expires_in.seconds <= 3600
            assert other.store.keys(session_id) != []


def test_sidecar_and_clients_share_the_default_address() -> None:
    """The default address of the sidecar is that of both clients, and no other module of server or tools repeats it."""
    assert Settings().listen == (DEFAULT_TARGET,)
    assert f'DEFAULT_TARGET = "{DEFAULT_TARGET}"' in (ROOT / "clients/typescript/src/targets.ts").read_text()
    modules = [path for folder in ("server", "tools") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in modules if DEFAULT_TARGET in path.read_text()] == ["settings.py"]


def test_the_environment_alone_is_enough() -> None:
    """Without flags, `SESSION_NOTES_LISTEN` and `SESSION_NOTES_DATA_DIR` apply."""
    with Sidecar(only_env=True) as sidecar:
        assert sidecar.health() == SERVING
        assert (sidecar.data_dir / "valkey.sock").exists()


def test_the_data_directory_has_mode_700() -> None:
    """The data directory is created with mode 700, so that no other user can read sessions or reach the store."""
    with Sidecar() as sidecar:
        assert stat.S_IMODE(sidecar.data_dir.stat().st_mode) == 0o700


def test_sidecars_share_sessions_through_a_prefix(session_id: str) -> None:
    """Sidecars on one Redis share sessions if they share a prefix, and only then."""
    with (
        StoreServer(valkey_program()) as store,
        Sidecar(store.url) as first,
        Sidecar(store.url) as second,
        Sidecar(store.url, prefix="other") as other,
        new_channel(first.target) as first_channel,
        new_channel(second.target) as second_channel,
        new_channel(other.target) as other_channel,
    ):
        SessionCalls(first_channel, session_id).write_notes("run-1", "said")
        assert SessionCalls(second_channel, session_id).get_notes().notes.summary == "said"
        assert SessionCalls(other_channel, session_id).get_notes().ready is False
        assert SessionCalls(second_channel, session_id).begin_run("run-2").run.number == 2
        assert other.store.keys() == []
        assert {key.partition(b":")[0] for key in first.store.client.scan_iter()} == {b"session-notes"}
