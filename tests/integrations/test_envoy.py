"""Envoy with the configuration in deploy/envoy: JSON, Connect, gRPC-Web and gRPC, in front of a real sidecar."""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.session_notes_pb2 import (
    BatchGetNotesRequest,
    GetNotesRequest,
    GetNotesResponse,
    RenewRunRequest,
)
from session_notes.v1.session_state_pb2 import AppendTurnsRequest, GetSessionRequest
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.settings import Limits

from tests.access.callers import TOKENS, token_files
from tests.integrations.base_image import ROOT
from tests.support import (
    CANARY,
    SessionCalls,
    Sidecar,
    eventually,
    free_port,
    leaks,
    new_channel,
    new_session_id,
    notes,
    refused,
)

FOLDER = ROOT / "deploy" / "envoy"
CONFIG = yaml.safe_load((FOLDER / "envoy.yaml").read_text())
PAGE = (ROOT / "docs" / "http.md").read_text()
PROGRAM = Path(sys.executable).with_name("envoy")

pytestmark = [
    pytest.mark.skipif(find_spec("envoy") is None, reason="no Envoy from PyPI for this platform"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH"),
]

JSON = ("-H", "content-type: application/json")
CONNECT = ("-H", "content-type: application/proto", "-H", "connect-protocol-version: 1")
GRPC_WEB = ("-H", "content-type: application/grpc-web+proto")


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


class Envoy:
    """A running Envoy.

    Args:
        sidecar: The address of the sidecar, as in its `--listen`.
    """

    def __init__(self, sidecar: str) -> None:
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        config = json.loads(json.dumps(CONFIG))
        (listener,), (cluster,) = (config["static_resources"][kind] for kind in ("listeners", "clusters"))
        listener["address"]["socket_address"]["port_value"] = self.port
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        if sidecar.startswith("unix:"):
            endpoint["endpoint"]["address"] = {"pipe": {"path": sidecar.removeprefix("unix:")}}
        else:
            endpoint["endpoint"]["address"]["socket_address"]["port_value"] = int(sidecar.rpartition(":")[2])
        self._config = json.dumps(config)

    @contextmanager
    def running(self) -> Iterator["Envoy"]:
        """Run it, and check that its log contains no user data."""
        with tempfile.TemporaryFile("w+") as log:
            command = [str(PROGRAM), "--config-yaml", self._config, "--disable-hot-restart", "--concurrency", "2"]
            process = subprocess.Popen(command, cwd=FOLDER, stdout=log, stderr=log)
            try:
                eventually(lambda: self._listens(process), 30)
                yield self
            finally:
                process.terminate()
                process.wait(20)
                log.seek(0)
                # Envoy logs the header x-envoy-upstream-canary, which it knows.
                assert "canary-" not in log.read()

    def _listens(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, "Envoy exited"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def curl(self, path: str, *arguments: str, body: bytes | None = None) -> Response:
        """Send a request with curl, a POST if there is a body."""
        command = ["curl", "--silent", "--include", "--max-time", "40", "-H", "expect:", *arguments]
        command += ["--data-binary", "@-"] if body is not None else []
        command.append(f"http://{self.target}{path}")
        output = subprocess.run(command, check=True, input=body or b"", capture_output=True, timeout=60).stdout
        head, _, content = output.partition(b"\r\n\r\n")
        first, *lines = head.decode().splitlines()
        return Response(int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), content)

    def post(self, rpc: str, body: Any, *arguments: str) -> Response:
        """Call an RPC, such as `SessionNotes/GetNotes`, with JSON, or with other content given as bytes."""
        arguments = arguments if isinstance(body, bytes) else (*JSON, *arguments)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.curl(f"/session_notes.v1.{rpc}", *arguments, body=content)


@pytest.fixture(scope="module")
def unix_socket() -> Iterator[str]:
    """The address of the sidecar's unix socket."""
    with tempfile.TemporaryDirectory() as home:
        yield f"unix:{home}/grpc.sock"


@pytest.fixture(scope="module")
def sidecar(unix_socket: str) -> Iterator[Sidecar]:
    """A sidecar that listens on TCP and on a unix socket."""
    with Sidecar(flags=["--listen", unix_socket]) as sidecar:
        yield sidecar


@pytest.fixture(scope="module", params=["tcp", "unix"])
def envoy(sidecar: Sidecar, unix_socket: str, request: pytest.FixtureRequest) -> Iterator[Envoy]:
    """Envoy in front of the sidecar, over TCP or its unix socket."""
    with Envoy(sidecar.target if request.param == "tcp" else unix_socket).running() as envoy:
        yield envoy


@pytest.fixture
def session(sidecar: Sidecar) -> Iterator[SessionCalls]:
    """Direct calls of the sidecar, on a session of their own."""
    with new_channel(sidecar.target) as channel:
        yield SessionCalls(channel, new_session_id())


def frame(message: Message) -> bytes:
    """Return a message as gRPC-Web sends it."""
    content = message.SerializeToString()
    return struct.pack(">BI", 0, len(content)) + content


def info(response: Response) -> dict[str, Any]:
    """Return the ErrorInfo of an error in JSON, which contains no user data."""
    assert not leaks(response.body.decode())
    (detail,) = (d for d in response.json["details"] if d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo")
    assert detail["domain"] == "session-notes"
    return dict(detail)


def test_json(envoy: Envoy, session: SessionCalls) -> None:
    """A conversation in JSON: turns, notes and readings, with the names and values that docs/http.md describes."""
    by_id = {"session_id": session.id}
    added = {**by_id, "append_id": "a1", "turns": [{"speaker": "user", "text": f"hello {CANARY}"}]}
    assert envoy.post("SessionState/AppendTurns", added).json == {"turn_count": "1", "duplicate": False}
    assert envoy.post("SessionState/AppendTurns", added).json == {"turn_count": "1", "duplicate": True}
    begun = envoy.post("SessionNotes/BeginRun", {**by_id, "runId": "r1", "include_transcript": True}).json
    assert begun["transcript"] == added["turns"]
    written = {
        **by_id,
        "run_id": "r1",
        "notes": {"summary": "calm", "extra": {"score": 0.5, "by": CANARY}},
        "ttl": "60s",
    }
    outcome = envoy.post("SessionNotes/WriteNotes", written).json
    assert (outcome["outcome"], outcome["run"]["number"]) == ("WRITE_OUTCOME_ACCEPTED", "1")

    bounds = {"max_age": "12.5s", "max_turns_behind": "0", "current_turn": 3}
    reading = envoy.post("SessionNotes/GetNotes", {**by_id, **bounds}).json
    assert reading["notes"] == written["notes"]
    assert (reading["fresh"], reading["stale_because"]) == (False, ["STALE_REASON_TURNS_BEHIND"])
    assert (reading["observed_turn"], reading["turns_behind"]) == ("1", "2")
    assert re.fullmatch(r"\d+\.\d+s", reading["age"])

    batch = envoy.post("SessionNotes/BatchGetNotes", {"requests": [by_id, {"session_id": "nothing-yet"}]}).json[
        "responses"
    ]
    assert batch[0]["notes"] == written["notes"]
    assert batch[1] == {"ready": False, "readiness": "READINESS_NEVER_RUN", "fresh": False}

    whole = MessageToDict(session.get_session(include_turns=True), preserving_proto_field_name=True)
    returned = envoy.post("SessionState/GetSession", {**by_id, "include_turns": True}).json["session"]
    for session_document in (whole, returned):
        del session_document["expires_in"]
        for varying in ("age", "snapshot_age", "expires_in"):
            del session_document["notes"]["default"][varying]
    assert returned == whole


def test_every_rpc_accepts_json(envoy: Envoy) -> None:
    """Every RPC of both services is a POST. An empty request is valid only for listings."""
    services = [module.DESCRIPTOR.services_by_name.values() for module in (session_notes_pb2, session_state_pb2)]
    methods = {f"{service.name}/{rpc.name}" for module in services for service in module for rpc in service.methods}
    assert len(methods) == 13
    statuses = {method: envoy.post(method, {}).status for method in methods}
    valid = {"SessionNotes/BatchGetNotes", "SessionNotes/ListDueSessions", "SessionState/ListSessions"}
    assert statuses == {method: 200 if method in valid else 400 for method in methods}


def test_errors_in_json(envoy: Envoy, session: SessionCalls) -> None:
    """The sidecar's errors have the HTTP status of their code, and all their details."""
    by_id = {"session_id": session.id}
    invalid = envoy.post("SessionNotes/GetNotes", {**by_id, "current_turn": -1, "observer": f"{CANARY} "})
    assert (invalid.status, invalid.json["code"], info(invalid)["reason"]) == (400, 3, "INVALID_FIELD")
    assert [v["field"] for v in invalid.json["details"][1]["field_violations"]] == ["observer", "current_turn"]
    unknown = envoy.post("SessionNotes/RenewRun", {**by_id, "run_id": "r1"})
    assert (unknown.status, unknown.json["code"], info(unknown)["reason"]) == (404, 5, "RUN_NOT_FOUND")
    late = envoy.post("SessionState/AppendTurns", {**by_id, "turns": [{}], "expected_turn_count": 7})
    assert (late.status, late.json["code"]) == (409, 10)
    assert info(late)["metadata"] == {"expected": "7", "actual": "0"}


def test_json_that_is_wrong(envoy: Envoy, session: SessionCalls) -> None:
    """A request that Envoy cannot convert is an error in JSON, without user data. Unknown fields are ignored."""
    wrong_number, cut = f'{{"session_id": "s", "current_turn": "{CANARY}"}}', f'{{"observer": "{CANARY}", "session_id"'
    for wrong in (wrong_number.encode(), cut.encode(), f'["{CANARY}"]'.encode(), b'{"session_id": "\xff"}'):
        response = envoy.post("SessionNotes/GetNotes", wrong, *JSON)
        assert (response.status, response.json["code"]) == (400, 3), wrong
        assert not leaks(response.body.decode())
    assert envoy.post("SessionNotes/GetNotes", {"session_id": session.id, "max_turn_behind": "0"}).status == 200
    no_method = envoy.post("SessionNotes/GetNote", {})
    assert (no_method.status, no_method.json["code"]) == (404, 12)
    assert envoy.curl("/").status == envoy.curl("/session_notes.v1.SessionNotes/GetNotes").status == 404


def test_a_web_page_cannot_call(envoy: Envoy) -> None:
    """What browsers send for foreign pages reaches no method: simple requests, preflights, rebound host names."""
    path, body = "/session_notes.v1.SessionNotes/GetNotes", b'{"session_id": "s"}'
    assert envoy.curl(path, *JSON, "-H", f"host: localhost:{envoy.port}", body=body).status == 200
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert envoy.curl(path, "-H", f"content-type: {content_type}", body=body).status == 415
    assert envoy.curl(path, *JSON, "-H", "host: a.example", body=body).status == 404
    preflight = ("-H", "origin: http://a.example", "-H", "access-control-request-method: POST")
    response = envoy.curl(path, "-X", "OPTIONS", *preflight, "-H", "access-control-request-headers: content-type")
    assert response.status == 404
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_ids_are_not_accepted_in_urls(envoy: Envoy) -> None:
    """Query parameters are rejected, although the transcoder could read fields from them."""
    response = envoy.post("SessionNotes/GetNotes?session_id=s", {})
    assert (response.status, response.json["code"]) == (400, 3)
    assert "query parameters" in response.json["message"]


def test_connect(envoy: Envoy, session: SessionCalls) -> None:
    """Connect's unary calls: responses, errors with details, and deadlines. JSON of Connect clients is transcoded."""
    session.write_notes("r1")
    request = GetNotesRequest(session_id=session.id)
    response = envoy.post("SessionNotes/GetNotes", request.SerializeToString(), *CONNECT)
    assert (response.status, response.headers["content-type"]) == (200, "application/proto")
    assert GetNotesResponse.FromString(response.body).run.run_id == "r1"
    wrong = RenewRunRequest(session_id=session.id, run_id="r2").SerializeToString()
    response = envoy.post("SessionNotes/RenewRun", wrong, *CONNECT)
    assert (response.status, response.json["code"]) == (404, "not_found")
    (detail,) = response.json["details"]
    value = base64.b64decode(detail["value"] + "==")
    assert error_details_pb2.ErrorInfo.FromString(value).reason == "RUN_NOT_FOUND"
    response = envoy.post("SessionNotes/GetNotes", request.SerializeToString(), *CONNECT, "-H", "connect-timeout-ms: 0")
    assert (response.status, response.json["code"]) == (408, "deadline_exceeded")
    in_json = envoy.post("SessionNotes/GetNotes", {"session_id": session.id}, "-H", "connect-protocol-version: 1")
    assert in_json.json["run"]["run_id"] == "r1"


def test_grpc_web(envoy: Envoy, session: SessionCalls) -> None:
    """gRPC-Web, binary and as text: a response is followed by its status, and errors have their details."""
    session.write_notes("r1")
    request = frame(GetNotesRequest(session_id=session.id))
    binary = envoy.post("SessionNotes/GetNotes", request, *GRPC_WEB)
    text = envoy.post(
        "SessionNotes/GetNotes",
        base64.b64encode(request),
        "-H",
        "content-type: application/grpc-web-text",
        "-H",
        "accept: application/grpc-web-text",
    )
    # Each frame is encoded separately, with its own padding.
    decoded = b"".join(base64.b64decode(part) for part in re.findall(rb"[^=]+=*", text.body))
    for response in (binary.body, decoded):
        flag, size = struct.unpack(">BI", response[:5])
        assert flag == 0
        assert GetNotesResponse.FromString(response[5 : 5 + size]).run.run_id == "r1"
        assert response[5 + size] == 0x80
        assert b"grpc-status:0" in response[5 + size :]
    error = envoy.post("SessionNotes/GetNotes", frame(GetNotesRequest()), *GRPC_WEB)
    assert (error.status, error.headers["grpc-status"]) == (200, "3")
    assert error.headers["grpc-status-details-bin"]


def test_grpc(envoy: Envoy, session: SessionCalls) -> None:
    """gRPC is passed on with its errors and deadlines. Only the contract's services and health are."""
    with new_channel(envoy.target) as channel:
        through = SessionCalls(channel, session.id)
        through.write_notes("r1")
        assert through.get_notes(timeout=5).run.run_id == "r1"
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            through.get_notes(current_turn=-1)
        assert refusal.fields == ["current_turn"]
        health: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health(b"", timeout=10) == b"\x08\x01"
        reflection: Any = channel.unary_unary("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            reflection(b"", timeout=10)


def test_sizes(envoy: Envoy, session: SessionCalls) -> None:
    """Requests above the sidecar's limit are rejected in every protocol. The largest transcript fits in a response."""
    full = [Turn(text="x" * 65_000)] * 43
    for _ in range(3):
        session.append_turns(full)
    wanted = GetSessionRequest(session_id=session.id, include_turns=True)
    assert len(envoy.post("SessionState/GetSession", MessageToDict(wanted)).body) > 8_000_000
    assert len(envoy.post("SessionState/GetSession", wanted.SerializeToString(), *CONNECT).body) > 8_000_000
    large = AppendTurnsRequest(session_id=session.id, turns=full * 2)
    in_json = envoy.post("SessionState/AppendTurns", MessageToDict(large))
    assert (in_json.status, in_json.json["code"]) == (413, 8)
    connect = envoy.post("SessionState/AppendTurns", large.SerializeToString(), *CONNECT)
    assert (connect.status, connect.json["code"]) == (429, "resource_exhausted")
    assert envoy.post("SessionState/AppendTurns", frame(large), *GRPC_WEB).headers["grpc-status"] == "8"
    with new_channel(envoy.target) as channel, refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"):
        SessionCalls(channel, session.id).append_turns(large.turns)


def test_tokens(tmp_path: Path) -> None:
    """The authorization header reaches the sidecar, and its refusals reach the caller."""
    tokens = token_files(tmp_path / "tokens")
    with Sidecar(flags=["--tokens-dir", str(tokens)]) as sidecar, Envoy(sidecar.target).running() as envoy:
        request, bearer = {"session_id": "s"}, f"authorization: Bearer {TOKENS['primary']}"
        without = envoy.post("SessionNotes/GetNotes", request)
        assert (without.status, info(without)["reason"]) == (401, "UNAUTHENTICATED")
        assert envoy.post("SessionNotes/GetNotes", request, "-H", bearer).status == 200
        denied = envoy.post("SessionState/ListSessions", {}, "-H", bearer)
        assert (denied.status, info(denied)["reason"]) == (403, "PERMISSION_DENIED")
        assert envoy.curl("/readyz").status == 200


def test_a_sidecar_that_is_away() -> None:
    """Deadlines hold while the sidecar hangs. While it does not run, calls are UNAVAILABLE. Afterwards they succeed."""
    request = {"session_id": "s"}
    with Sidecar() as sidecar, Envoy(sidecar.target).running() as envoy, new_channel(envoy.target) as channel:
        eventually(lambda: envoy.curl("/readyz").status == 200)
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGSTOP)
        hanging = envoy.post("SessionNotes/GetNotes", request, "-H", "grpc-timeout: 300m", "--max-time", "10")
        sidecar.process.send_signal(signal.SIGCONT)
        assert (hanging.status, hanging.json["code"]) == (504, 4)
        sidecar.terminate()
        away = envoy.post("SessionNotes/GetNotes", request)
        assert (away.status, away.json["code"]) == (503, 14)
        with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
            SessionCalls(channel, "s").get_notes()
        assert not refusal.message.startswith("{")
        eventually(lambda: envoy.curl("/readyz").status == 503)
        sidecar.start()
        assert envoy.post("SessionNotes/GetNotes", request).status == 200
        eventually(lambda: envoy.curl("/readyz").status == 200)


def test_a_store_that_is_away(sidecar: Sidecar, envoy: Envoy, session: SessionCalls) -> None:
    """While the sidecar is not ready, its own errors still reach callers, with the delay before a retry."""
    (store,) = sidecar.store_pids()
    os.kill(store, signal.SIGSTOP)
    try:
        eventually(lambda: envoy.curl("/readyz").status == 503, 20)
        response = envoy.post("SessionNotes/GetNotes", {"session_id": session.id})
        assert (response.status, info(response)["reason"]) == (503, "STORE_UNAVAILABLE")
        assert response.json["details"][1]["retry_delay"].endswith("s")
    finally:
        os.kill(store, signal.SIGCONT)
        sidecar.wait_until_serving()
    eventually(lambda: envoy.curl("/readyz").status == 200, 20)


def test_callers_have_limits_of_their_own(sidecar: Sidecar, session: SessionCalls) -> None:
    """A caller that does not read its responses uses up its own share of the sidecar's memory, not that of others."""
    session.write_notes("r1", notes("x" * 250_000))
    batch = frame(BatchGetNotesRequest(requests=[GetNotesRequest(session_id=session.id)] * 220))
    head = "POST /session_notes.v1.SessionNotes/BatchGetNotes HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/grpc-web+proto\r\ncontent-length: {len(batch)}\r\n\r\n"
    with Envoy(sidecar.target).running() as envoy, ExitStack() as stack:
        for _ in range(2):
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", envoy.port)))
            caller.sendall(head.encode() + batch)
            assert caller.recv(12) == b"HTTP/1.1 200"
        for _ in range(10):
            assert envoy.post("SessionNotes/GetNotes", {"session_id": session.id}).status == 200


def test_the_limit_of_json_is_the_sidecars() -> None:
    """A request in JSON may be as large as the sidecar's largest message."""
    limits = {int(limit) for limit in re.findall(r'"max_request_bytes": (\d+)', json.dumps(CONFIG))}
    assert limits == {Limits().message_bytes}


def test_nothing_else_listens() -> None:
    """There is no admin listener and no access log, and the only listener is on loopback."""
    assert "admin" not in CONFIG
    (listener,) = CONFIG["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["address"] == "127.0.0.1"
    assert "access_log" not in json.dumps(CONFIG)


def test_the_commands_print_what_the_page_shows(envoy: Envoy) -> None:
    """Each curl command in docs/http.md prints the JSON shown below it, if any. Ages vary."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    shown = 0
    for (language, commands), (below, document) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language != "sh" or "curl" not in commands:
            continue
        for command in commands.replace("\\\n", "").splitlines():
            words = shlex.split(command.replace("localhost:8080", envoy.target))
            printed = subprocess.run([*words, "-s"], check=True, capture_output=True, timeout=20).stdout
            assert "code" not in json.loads(printed) or below == "json"
        if below == "json":
            expected, actual = json.loads(document), json.loads(printed)
            assert expected.keys() <= actual.keys()
            assert {name: actual[name] for name in expected if name != "age"} == {
                name: value for name, value in expected.items() if name != "age"
            }
            shown += 1
    assert shown == 2
