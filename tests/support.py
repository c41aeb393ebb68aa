"""Support for all tests: a real sidecar, calls on one session, and decoded errors."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_notes_pb2_grpc, session_state_pb2_grpc
from session_notes.v1 import session_state_pb2 as state_api
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store, eventually, free_port, is_alive

__all__ = [
    "CANARY",
    "DEFAULT_PREFIX",
    "SERVICES",
    "Refusal",
    "SessionCalls",
    "Sidecar",
    "eventually",
    "free_port",
    "leaks",
    "new_channel",
    "new_session_id",
    "notes",
    "program",
    "refused",
    "status_of",
    "struct",
    "turns",
    "value",
]

DEFAULT_PREFIX = "session-notes"
SERVICES = ("session_notes.v1.SessionNotes", "session_notes.v1.SessionState")

CANARY = "canary-5e0d"
"""Part of all test data, session ids and secrets: it must never appear in a log or an error."""


def leaks(text: str) -> list[str]:
    """Return the lines of a log or an error that contain a canary of any test. Each of them is a bug."""
    return [line for line in text.splitlines() if "canary" in line]


# Reconnect quickly, use no proxy, and never share a connection between channels.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Also the time that a connection may take: on a loaded machine, more than 50 ms.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


def new_channel(target: str) -> grpc.Channel:
    """Return a channel to a sidecar with a separate connection."""
    return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)


def program() -> list[str]:
    """Return the command line of `session-notes`, without arguments."""
    script = Path(sys.executable).with_name("session-notes")
    return [str(script)] if script.exists() else [sys.executable, "-m", "session_notes_tools"]


def _parent_of(pid: int) -> int | None:
    """Return the parent of a process; None if the process has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


class Sidecar:
    """A real sidecar process on a free loopback port, SERVING inside the `with` block and stopped after it.

    Args:
        redis_url: The store. None: the embedded store in `data_dir`.
        data_dir: The data directory. None: a new one, removed at the end.
        flags: Further arguments of `serve`. Store timeouts are longer than by default unless set here: tests share a
            few cores.
        env: Further environment variables.
        prefix: `--prefix`; not passed on if it is the default.
        listen: The address to listen on. None: a free loopback port.
        wait: Whether to wait for SERVING. False: only until the sidecar listens.
        only_env: Whether to pass the address and the data directory in the environment instead of flags.
        inside: The network namespace to run in. None: that of the tests.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        data_dir: Path | None = None,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        listen: str | None = None,
        wait: bool = True,
        only_env: bool = False,
        inside: str | None = None,
    ) -> None:
        self.target = listen or f"127.0.0.1:{free_port()}"
        # The path of a unix socket has at most 107 bytes, too few for pytest's long paths.
        self._home = Path(tempfile.mkdtemp(prefix="session-notes-"))
        self.data_dir = data_dir or self._home / "data"
        self.store = Store(redis_url or f"unix://{self.data_dir / 'valkey.sock'}", prefix)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = self._home / "log"
        self._log_before = 0
        self._embedded = redis_url is None
        self._wait = wait
        excluded = ("SESSION_NOTES_", "OTEL_")
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(excluded)}
        inherited["SESSION_NOTES_ENGINE"] = os.environ["SESSION_NOTES_ENGINE"]  # Set by the option --engine.
        self._env = inherited | dict(env or {})
        self._command = [*program(), "serve", "--listen", self.target]
        self._command += ["--redis-url", redis_url] if redis_url else ["--data-dir", str(self.data_dir)]
        if only_env:
            self._command = [*program(), "serve"]
            self._env |= {"SESSION_NOTES_LISTEN": self.target, "SESSION_NOTES_DATA_DIR": str(self.data_dir)}
        self._command += ["--prefix", prefix] if prefix != DEFAULT_PREFIX else []
        self._command += ["--notes-timeout", "5s", "--store-timeout", "5s", *flags]
        self._command[:0] = ["ip", "netns", "exec", inside] if inside else []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.running and self.store.process_id() is not None:
                assert self.store.without_ttl() == [], "these keys never expire"
        finally:
            self.close()

    def start(self) -> None:
        """Start the process, or restart it with the same port and data."""
        self._log_before = len(self.log)
        with self._log.open("ab") as log:
            command = self._command
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._env, start_new_session=True)
        eventually(self._listens, 30)
        if self._wait:
            self.wait_until_serving()

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the sidecar exited with {self.process.returncode}:\n{self.log}"
        return f"listening on {self.target}" in self.log[self._log_before :] or self.health() is not None

    def wait_until_serving(self, timeout: float = 30) -> None:
        """Return as soon as health reports SERVING."""
        eventually(lambda: self.health() == health_pb2.HealthCheckResponse.SERVING, timeout)

    def health(self, service: str = "") -> int | None:
        """Return the status of a service from grpc.health.v1; None without a response."""
        with new_channel(self.target) as channel, suppress(grpc.RpcError):
            request = health_pb2.HealthCheckRequest(service=service)
            return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=2).status)
        return None

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """All output so far, to stdout and stderr."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """Send SIGKILL to the sidecar only, which leaves its embedded store behind, as in production."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.store.close()

    def terminate(self, timeout: float = 30) -> int:
        """Send SIGTERM and return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop within {timeout} s:\n{self.log}") from None
        finally:
            self.store.close()

    def restart(self) -> None:
        """Stop the process if it runs, then start it with the same port and data."""
        if self.running:
            self.terminate()
        self.start()

    def store_pids(self) -> list[int]:
        """Return the store processes in the data directory, without forks that rewrite the append-only file."""
        pids = {pid} if self._embedded and (pid := self.store.process_id()) else set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (process / "cmdline").read_bytes()
                at_home = str(self.data_dir).encode() in command or (process / "cwd").readlink() == self.data_dir
                if at_home and b"valkey-server" in command.split(b"\0")[0]:
                    pids.add(int(process.name))
        return sorted(pid for pid in pids if is_alive(pid) and _parent_of(pid) not in pids)

    def close(self) -> None:
        """End the process and its embedded store in any state, and remove the test's files.

        Raises:
            AssertionError: If a log contains a canary, so that every test also checks for leaks.
        """
        if self.running:
            with suppress(AssertionError):
                self.terminate(10)
        self.kill()
        for pid in self.store_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.store.close()
        stores_log = self.data_dir / "valkey.log"
        leaked = leaks(self.log + (stores_log.read_text(errors="replace") if stores_log.exists() else ""))
        shutil.rmtree(self._home, ignore_errors=True)
        assert not leaked, f"a log holds user data, an id or a secret: {leaked[:3]}"


@dataclass
class Refusal:
    """An error as the caller receives it."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    """The fields in BadRequest."""
    retry_delay_seconds: float | None = None
    text: str = ""
    """Everything that reached the caller, to search for leaks."""

    def read(self, error: Any) -> None:
        """Decode an error, and assert that it contains no canary."""
        self.code, self.message = error.code(), error.details() or ""
        self.text = f"{self.message} {error.trailing_metadata()} {error.initial_metadata()}"
        status = rpc_status.from_call(error)
        self.text += str(status or "")
        assert not leaks(self.text), f"an error holds user data, an id or a secret: {self.text}"
        if status is None:
            return
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            bad_request = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                assert info.domain == "session-notes"
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad_request):
                self.fields = [violation.field for violation in bad_request.field_violations]
                assert all(violation.description for violation in bad_request.field_violations)
            elif detail.Unpack(retry):
                self.retry_delay_seconds = retry.retry_delay.ToTimedelta().total_seconds()


@contextmanager
def refused(code: grpc.StatusCode | None = None, reason: str | None = None) -> Iterator[Refusal]:
    """Assert that the call in the block fails, with this status and ErrorReason if given."""
    refusal = Refusal()
    try:
        yield refusal
    except grpc.RpcError as error:
        refusal.read(error)
    assert refusal.code != grpc.StatusCode.OK, "the call was not refused"
    assert refusal.code == (code or refusal.code), refusal.text
    assert refusal.reason == (reason or refusal.reason), refusal.text
    assert refusal.message or reason is None, "an error without a message"


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    """Return the status code of a call."""
    try:
        call()
    except grpc.RpcError as error:
        refusal = Refusal()
        refusal.read(error)
        return refusal.code
    return grpc.StatusCode.OK


def value(content: Any) -> Value:
    """Return a Python value as a protobuf Value."""
    message = Value()
    if content is None:
        message.null_value = 0  # type: ignore[assignment]
    elif isinstance(content, bool):
        message.bool_value = content
    elif isinstance(content, int | float):
        message.number_value = content
    elif isinstance(content, str):
        message.string_value = content
    elif isinstance(content, Mapping):
        message.struct_value.SetInParent()
        message.struct_value.update(content)
    else:
        message.list_value.SetInParent()
        message.list_value.extend(content)
    return message


def struct(content: Mapping[str, Any]) -> Struct:
    """Return a Python dict as a protobuf Struct."""
    return value(content).struct_value


def notes(summary: str = "a summary", **more: Any) -> Notes:
    """Return notes with a canary."""
    return Notes(summary=summary, **{"extra": struct({"by": CANARY}), **more})


def turns(count: int, start: int = 1) -> list[Turn]:
    """Return numbered turns with a canary."""
    by = struct({"by": CANARY})
    return [Turn(speaker="user", text=f"turn {number}", extra=by) for number in range(start, start + count)]


class SessionCalls:
    """Calls of both services on one session. Keywords are request fields; `timeout` is the deadline in seconds."""

    def __init__(self, channel: grpc.Channel, session_id: str) -> None:
        self.id = session_id
        self.channel = channel
        self.notes = session_notes_pb2_grpc.SessionNotesStub(channel)
        self.state = session_state_pb2_grpc.SessionStateStub(channel)

    def get_notes(self, timeout: float = 10, **fields: Any) -> notes_api.GetNotesResponse:
        return self.notes.GetNotes(notes_api.GetNotesRequest(session_id=self.id, **fields), timeout=timeout)

    def begin_run(self, run_id: str = "", timeout: float = 10, **fields: Any) -> notes_api.BeginRunResponse:
        request = notes_api.BeginRunRequest(session_id=self.id, run_id=run_id, **fields)
        return self.notes.BeginRun(request, timeout=timeout)

    def write_notes(
        self, run_id: str = "", content: Notes | str = "a summary", timeout: float = 10, **fields: Any
    ) -> notes_api.WriteNotesResponse:
        content = notes(content) if isinstance(content, str) else content
        request = notes_api.WriteNotesRequest(session_id=self.id, run_id=run_id, notes=content, **fields)
        return self.notes.WriteNotes(request, timeout=timeout)

    def fail_run(self, run_id: str, timeout: float = 10, **fields: Any) -> notes_api.FailRunResponse:
        fields.setdefault("reason", f"a reason with a {CANARY}")
        request = notes_api.FailRunRequest(session_id=self.id, run_id=run_id, **fields)
        return self.notes.FailRun(request, timeout=timeout)

    def renew_run(self, run_id: str, timeout: float = 10, **fields: Any) -> notes_api.RenewRunResponse:
        request = notes_api.RenewRunRequest(session_id=self.id, run_id=run_id, **fields)
        return self.notes.RenewRun(request, timeout=timeout)

    def list_runs(self, timeout: float = 10, **fields: Any) -> notes_api.ListRunsResponse:
        return self.notes.ListRuns(notes_api.ListRunsRequest(session_id=self.id, **fields), timeout=timeout)

    def get_session(self, timeout: float = 10, **fields: Any) -> state_api.Session:
        request = state_api.GetSessionRequest(session_id=self.id, **fields)
        return self.state.GetSession(request, timeout=timeout).session

    def update_session(self, timeout: float = 10, **fields: Any) -> state_api.UpdateSessionResponse:
        if "set" in fields:
            fields["set"] = {name: value(content) for name, content in fields["set"].items()}
        return self.state.UpdateSession(state_api.UpdateSessionRequest(session_id=self.id, **fields), timeout=timeout)

    def append_turns(self, added: int | Sequence[Turn] = 1, timeout: float = 10, **fields: Any) -> int:
        return self.append(added, timeout=timeout, **fields).turn_count

    def append(
        self, added: int | Sequence[Turn] = 1, append_id: str = "", timeout: float = 10, **fields: Any
    ) -> state_api.AppendTurnsResponse:
        added = turns(added) if isinstance(added, int) else added
        request = state_api.AppendTurnsRequest(session_id=self.id, turns=added, append_id=append_id, **fields)
        return self.state.AppendTurns(request, timeout=timeout)

    def delete(self, timeout: float = 10) -> state_api.DeleteSessionResponse:
        return self.state.DeleteSession(state_api.DeleteSessionRequest(session_id=self.id), timeout=timeout)

    def call(self, rpc: str, request: Message | bytes, timeout: float = 10) -> Any:
        """Call any RPC by name, such as `SessionNotes/GetNotes`; `bytes` are sent unchanged."""
        stub = self.notes if rpc.startswith("SessionNotes/") else self.state
        if isinstance(request, Message):
            return getattr(stub, rpc.partition("/")[2])(request, timeout=timeout)
        raw: Any = self.channel.unary_unary(f"/session_notes.v1.{rpc}")
        return raw(request, timeout=timeout)


def answers(channel: grpc.Channel) -> bool:
    """Return whether calls of every kind succeed. Health may lag behind an outage or its end."""
    session = SessionCalls(channel, new_session_id())
    calls = (session.get_notes, session.get_session, session.delete)
    return {status_of(call) for call in calls} == {grpc.StatusCode.OK}


def new_session_id() -> str:
    """Return a new session id with a canary."""
    return f"session-{CANARY}-{uuid.uuid4().hex}"
