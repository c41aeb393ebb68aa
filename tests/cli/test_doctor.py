"""`session-notes doctor` recognizes faulty sidecars and other servers within its timeout, and gives advice."""

import datetime
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from session_notes_server.settings import EngineName
from session_notes_tools.doctor.contract import CONTRACT, FEATURES

from tests.access.callers import TOKENS, Authority, Certificate, token_files, write_secret
from tests.cli.diagnosis import SIDECAR_CHECKS, Diagnosis
from tests.cli.program import Cli
from tests.peers import FIRST_CONTRACT
from tests.stores import StoreServer, valkey_program
from tests.support import SERVICES, Sidecar, free_port

PARTS = ("sidecar", "redis")
QUICK = ("--timeout", "400ms")


def doctor(target: str, *arguments: str, about: str = "sidecar") -> Diagnosis:
    """Run the doctor against a target."""
    return Diagnosis(Cli(target).in_process("doctor", "--json", *arguments), about)


def test_healthy_sidecar(cli: Cli, sidecar: Sidecar, engine: EngineName) -> None:
    """Each check prints a line and the exit code is 0; --write leaves no notes behind."""
    text, written = cli.run_all(["doctor"], ["doctor", "--write", "--json"])
    assert (text.code, text.err) == (0, "")
    lines = text.out.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [["ok", check] for check in SIDECAR_CHECKS]
    assert (lines[0], lines[-1]) == ("sidecar", "0 problems, 0 warnings")
    diagnosis = Diagnosis(written)
    assert diagnosis.checks == [*SIDECAR_CHECKS, "writes", "clock"]
    assert {diagnosis.verdict(check) for check in diagnosis.checks} == {"ok"}
    assert diagnosis.says("engine") == engine
    assert "every caller may call every method" in diagnosis.says("credentials")
    assert "no age depends on" in diagnosis.says("clock")
    assert sidecar.target in diagnosis.says("address")
    keys = sidecar.store.keys()
    assert not [key for key in keys if b"doctor" in key and not key.endswith(b":deleted")]


def test_nothing_is_written_without_write(cli: Cli, sidecar: Sidecar) -> None:
    """Without --write, the keys in the store remain unchanged."""
    before = sidecar.store.keys()
    diagnosis = Diagnosis(cli.in_process("doctor", "--json", "--redis-url", sidecar.store.url))
    assert diagnosis.code == 0
    assert sidecar.store.keys() == before


def test_unreachable_addresses() -> None:
    """There is advice for an address without a server, a missing socket, an unknown host and a malformed address."""
    port, unix = doctor(f"127.0.0.1:{free_port()}"), doctor("unix:/no/such/socket")
    assert port.checks == unix.checks == ["address"]
    assert "nothing listens at this address" in port.problem
    assert "the socket does not exist" in unix.problem
    assert "session-notes serve" in port.advice("address")
    name = doctor("nowhere.invalid:50051")
    assert "cannot be resolved" in name.problem
    for nonsense in ("nonsense", "127.0.0.1:0", "127.0.0.1:99999", "http://localhost"):
        assert "host:port" in doctor(nonsense).advice("address")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems queue more connections")
def test_dropped_packets_do_not_exceed_the_timeout() -> None:
    """An address that never accepts, as behind a firewall, is reported after the timeout."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        # A full backlog drops further connections.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        target = f"127.0.0.1:{full.getsockname()[1]}"
        began = time.monotonic()
        diagnosis, store = (doctor(target, *QUICK, "--redis-url", f"redis://{target}", about=about) for about in PARTS)
        assert time.monotonic() - began < 6
    assert diagnosis.problem == f"address: no response from {target}"
    assert "no answer in time" in store.problem


def test_a_silent_server_does_not_exceed_the_timeout() -> None:
    """A server that accepts connections but never replies is reported soon after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        diagnosis = doctor(target, *QUICK)
        store = doctor(target, *QUICK, "--redis-url", f"redis://{target}", about="redis")
        assert time.monotonic() - began < 4
    assert diagnosis.problem == "protocol: it accepts connections but does not respond"
    assert "no answer in time" in store.problem


class Web(BaseHTTPRequestHandler):
    """A web server."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def test_other_servers() -> None:
    """A web server, a Redis and another gRPC server are each identified."""
    with HTTPServer(("127.0.0.1", 0), Web) as web, StoreServer(valkey_program()) as redis, a_server() as other:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            assert "web server" in doctor(f"127.0.0.1:{web.server_port}").problem
        finally:
            web.shutdown()
            thread.join()
        assert "Redis or Valkey" in doctor(f"127.0.0.1:{redis.port}").problem
        assert "a gRPC server, but not a sidecar" in doctor(other).problem


@contextmanager
def a_server(
    services: Sequence[grpc.GenericRpcHandler] = (), credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    """Run a gRPC server with these services, and return its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(services)
    port = (
        server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    )
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority that the sidecar's clients trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run a sidecar with TLS that requires tokens."""
    certificate = authority.issue("sidecar", "localhost", "127.0.0.1")
    tokens = token_files(tmp_path_factory.mktemp("access") / "tokens")
    flags = ["--tls-cert", str(certificate.cert), "--tls-key", str(certificate.key), "--tokens-dir", str(tokens)]
    with Sidecar(flags=flags, wait=False) as sidecar:
        yield sidecar


def test_credentials(guarded: Sidecar, authority: Authority, tmp_path: Path) -> None:
    """A missing token, an unknown one and a token of each role are distinguished, and no token is printed."""
    encrypted = ("--tls-ca", str(authority.path))
    assert "it requires a token" in doctor(guarded.target, *encrypted).problem
    wrong = write_secret(tmp_path / "wrong", "canary-wrong")
    diagnosis = doctor(guarded.target, *encrypted, "--token-file", str(wrong))
    assert "does not know the token" in diagnosis.problem
    for role, token in TOKENS.items():
        path = write_secret(tmp_path / role, token)
        admitted = doctor(guarded.target, *encrypted, "--token-file", str(path))
        assert admitted.code == 0
        assert admitted.says("credentials") == f"the token has the role {role}"
        assert admitted.checks == ["address", "certificate", *SIDECAR_CHECKS[1:]]
        writing = doctor(guarded.target, *encrypted, "--token-file", str(path), "--write")
        assert writing.verdict("writes") == ("ok" if role == "admin" else "problem")
    assert "cannot be read" in doctor(guarded.target, *encrypted, "--token-file", "/no/such").problem
    assert "no certificate" in doctor(guarded.target, "--tls-ca", str(wrong), "--token-file", str(path)).problem


def test_tls_on_one_side_only(guarded: Sidecar, sidecar: Sidecar, authority: Authority) -> None:
    """If only one side uses TLS, the advice names the option to add or to omit."""
    plain = doctor(guarded.target)
    assert plain.problem == "protocol: it requires TLS"
    assert "--tls-ca" in plain.advice("protocol")
    encrypted = doctor(sidecar.target, "--tls-ca", str(authority.path))
    assert encrypted.problem == "protocol: it does not speak TLS"


def test_certificates(authority: Authority, tmp_path: Path) -> None:
    """Expired, not yet valid, soon expiring, misnamed and untrusted certificates are distinguished."""

    def check(shown: Certificate, trusted: Authority = authority) -> Diagnosis:
        with a_server(credentials=grpc.ssl_server_credentials([shown.pems])) as target:
            return doctor(target, "--tls-ca", str(trusted.path))

    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
    expired = check(issued(authority, "expired", now - 9 * day, now - 3 * day))
    assert "expired 3 days ago" in expired.problem
    assert f"{now - 3 * day:%Y-%m-%d}" in expired.problem
    assert "valid only from" in check(issued(authority, "early", now + day, now + 9 * day)).problem
    elsewhere = check(authority.issue("elsewhere", "notes.example.org"))
    assert "it is for notes.example.org, not for 127.0.0.1" in elsewhere.problem
    assert "not trusted" in check(authority.issue("certificate", "127.0.0.1"), Authority(tmp_path / "other")).problem
    soon = check(issued(authority, "soon", now - day, now + 3 * day))
    assert soon.verdict("certificate") == "warning"
    assert "not a sidecar" in soon.problem


def issued(authority: Authority, name: str, begins: datetime.datetime, ends: datetime.datetime) -> Certificate:
    """Issue a certificate with these dates."""
    made = authority._ca.issue_cert("127.0.0.1", not_before=begins, not_after=ends)
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    return authority.write(name, made.private_key_pem.bytes(), chain)


def test_client_certificates(authority: Authority, tmp_path: Path) -> None:
    """Missing, untrusted, roleless and valid client certificates are distinguished."""
    certificate, caller = authority.issue("sidecar", "127.0.0.1"), authority.issue("caller", "coach.example.org")
    without_role, stranger = (
        authority.issue("without-role", "x.example.org"),
        Authority(tmp_path / "o").issue("stranger", "coach"),
    )
    roles = write_secret(tmp_path / "roles", "observer coach.example.org")
    flags = [
        "--tls-cert",
        str(certificate.cert),
        "--tls-key",
        str(certificate.key),
        "--tls-client-ca",
        str(authority.path),
    ]
    with Sidecar(flags=[*flags, "--tls-roles", str(roles)], wait=False) as sidecar:

        def check(shown: Certificate | None) -> Diagnosis:
            files = ["--tls-cert", str(shown.cert), "--tls-key", str(shown.key)] if shown else []
            return doctor(sidecar.target, "--tls-ca", str(authority.path), *files)

        assert check(None).problem == "protocol: it requires a client certificate"
        assert "rejects your certificate" in check(stranger).problem
        assert "no name in your certificate has a role" in check(without_role).problem
        assert check(caller).says("credentials") == "your certificate has the role observer"


def test_sidecar_of_another_version() -> None:
    """A missing or additional RPC in the sidecar's contract causes a warning that names it. The engine is unknown."""
    with (
        a_server([*sidecar_with(this_version(lacks="ListRuns"))]) as older,
        a_server([*sidecar_with(this_version(has="Later"))]) as newer,
    ):
        old, new = doctor(older), doctor(newer)
    assert (old.verdict("contract"), new.verdict("contract")) == ("warning", "warning")
    assert "older, and lacks SessionNotes.ListRuns" in old.says("contract")
    assert old.verdict("engine") == "skipped"
    assert "newer, and has SessionNotes.Later too" in new.says("contract")


def test_sidecar_of_the_first_version() -> None:
    """For a sidecar of the contract's first version, the warning names each feature that does not work there."""
    with a_server([*sidecar_with(FIRST_CONTRACT.file)]) as target:
        diagnosis = doctor(target)
    assert diagnosis.verdict("contract") == "warning"
    assert diagnosis.says("contract").endswith(f"; the sidecar is older, and lacks {', '.join(FEATURES.values())}")
    assert "update the sidecar" in diagnosis.advice("contract")


def test_every_addition_to_the_contract_is_a_feature() -> None:
    """Each RPC that the first version does not have, and each request with new fields, belongs to a named feature."""
    first = {file.name: file for file in FIRST_CONTRACT.file}
    added = set[str]()
    for file in this_version():
        former = {message.name: {field.name for field in message.field} for message in first[file.name].message_type}
        for message in file.message_type:
            if message.name in former and message.name.endswith("Request"):
                added |= {message.name for field in message.field if field.name not in former[message.name]}
        methods = {method.name for service in first[file.name].service for method in service.method}
        added |= {
            f"{service.name}.{method.name}"
            for service in file.service
            for method in service.method
            if method.name not in methods
        }
    assert added
    assert added <= {name for feature in FEATURES for name in (feature, feature.partition(".")[0])}


def this_version(lacks: str = "", has: str = "") -> list[FileDescriptorProto]:
    """Return the files of this version's contract, without the RPC `lacks`, or with the RPC `has`."""
    files = []
    for module in CONTRACT:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for service in file.service:
            kept = [method for method in service.method if method.name != lacks]
            del service.method[:]
            service.method.extend(kept)
            if has and service.name == "SessionNotes":
                service.method.add(name=has)
        files.append(file)
    return files


def sidecar_with(contract: Iterable[FileDescriptorProto]) -> Iterator[grpc.GenericRpcHandler]:
    """Yield the handlers of a server that describes a contract of these files."""
    files = {file.name: file.SerializeToString() for file in contract}

    def reflect(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        for request in requests:
            file_response = reflection_pb2.FileDescriptorResponse(
                file_descriptor_proto=[files[request.file_by_filename]]
            )
            yield reflection_pb2.ServerReflectionResponse(file_descriptor_response=file_response)

    def refuse(_: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return b""

    def check(_: Any, __: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    for name in SERVICES:
        methods = ("GetNotes", "BeginRun", "UpdateSession", "ListSessions")
        handlers: Any = {method: grpc.unary_unary_rpc_method_handler(refuse) for method in methods}
        yield grpc.method_handlers_generic_handler(name, handlers)
    yield grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                check,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            )
        },
    )
    yield grpc.method_handlers_generic_handler(
        "grpc.reflection.v1alpha.ServerReflection",
        {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                reflect,
                reflection_pb2.ServerReflectionRequest.FromString,
                reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        },
    )


def test_unavailable_store() -> None:
    """A sidecar that is live but not ready is a problem, and --redis-url reveals its cause in the store."""
    url = f"redis://:canary@127.0.0.1:{free_port()}/0"
    with Sidecar(url, wait=False) as sidecar:
        result = Cli(sidecar.target).in_process("doctor", "--json", "--redis-url", url)
    diagnosis, store = Diagnosis(result), Diagnosis(result, "redis")
    assert "not ready" in diagnosis.says("health")
    assert "--redis-url" in diagnosis.advice("health")
    assert diagnosis.verdict("reads") == "skipped"
    assert "connection refused" in store.problem
