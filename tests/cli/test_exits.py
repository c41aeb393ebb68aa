"""Help, exit codes and error messages; colour for terminals only, and never a traceback."""

import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_notes_tools.cli.exits import EXIT_CODES_HELP, ExitCode

from tests.cli.program import Cli
from tests.support import SERVICES, SessionCalls, Sidecar, free_port, program

COMMANDS = [
    [], ["serve"], ["replay"], ["health"], ["notes"], ["notes", "get"], ["notes", "write"], ["runs"], ["runs", "begin"],
    ["runs", "fail"], ["runs", "list"], ["session"], ["session", "get"], ["session", "set"], ["session", "append"],
    ["session", "delete"], ["session", "list"], ["doctor"], ["completion"],
]  # fmt: skip


@pytest.fixture(scope="module")
def unreachable() -> Cli:
    """Return the program, configured for an address without a sidecar."""
    return Cli(f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(unreachable: Cli, command: list[str]) -> None:
    """Every command has help, with an example unless it is a group; that of the program lists the exit codes."""
    ended = unreachable.here(*command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: {' '.join(['session-notes', *command])} " in ended.out
    if command in ([], ["notes"], ["runs"], ["session"]):
        assert ("Exit codes:" in ended.out) == (not command)
    else:
        assert f"session-notes {' '.join(command)}" in ended.out.partition("Example")[2]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_follows_conventions(unreachable: Cli, command: list[str]) -> None:
    """Arguments and values are in capitals, flags have none, and lines fit 80 columns with nothing cut or broken."""
    shown = unreachable.here(*command, "--help").out
    assert max(map(len, shown.splitlines())) <= 80
    assert not re.search(r"[<>…]", shown.partition("Example")[0])
    assert "{" not in shown.partition("\n\n")[0]
    assert not re.search(r"\w-$", shown, re.MULTILINE)
    for flag in re.findall(r"^  (?:-\w, )?--[a-z-]+( \S+)?(?:  |$)", shown, re.MULTILINE):
        assert flag == flag.upper()
    if "SESSION  " in shown:
        assert re.search(r"Usage: .* \[OPTIONS\] SESSION\b", shown)


def test_every_exit_code_is_listed() -> None:
    """Help and docs/command-line.md list every exit code, in order."""
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    for pattern, text in ((r"^  (\d+)  ", EXIT_CODES_HELP), (r"^\| (\d+) \|", page)):
        assert [int(code) for code in re.findall(pattern, text, re.MULTILINE)] == [*ExitCode]


def test_usage_errors(unreachable: Cli) -> None:
    """Wrong usage exits with 2 and one line, with a suggestion and the help to read; --version prints the version."""
    typo, version = unreachable.together(["note", "get"], ["--version"])
    flag, missing, bare = (
        unreachable.here("notes", "get", "s", "--bogus"),
        unreachable.here("notes", "get"),
        unreachable.here("notes"),
    )
    assert "did you mean 'notes'" in typo.error.lower()
    assert "--bogus" in flag.error
    assert "session-notes notes get --help" in flag.error
    assert "SESSION" in missing.error
    assert [typo.code, flag.code, missing.code, bare.code] == [2, 2, 2, 2]
    assert "write" in bare.out + bare.err
    assert version.out.startswith("session-notes 0.")


def test_an_error_may_have_several_lines(unreachable: Cli) -> None:
    """The error about a Redis URL lists the valid forms, one per line, within 80 columns."""
    ended = unreachable.here("serve", "--redis-url", "localhost:6379")
    first, *forms, last = ended.err.splitlines()
    assert (ended.code, ended.out) == (2, "")
    assert first == "error: not a Redis URL: the scheme is missing. Write one of"
    assert [form.partition("://")[0] for form in forms] == ["  redis", "  unix", "  redis+cluster", "  redis+sentinel"]
    assert "rediss://" in last
    assert max(map(len, ended.err.splitlines())) <= 80


def test_health(cli: Cli, sidecar: Sidecar) -> None:
    """The exit code of `health` is 0 only if the sidecar serves, and 6 for an unknown service."""
    human, in_json, service, unknown = cli.together(
        ["health"],
        ["health", "--json"],
        ["health", "--service", SERVICES[0]],
        ["health", "--service", "no.such.Service"],
    )
    assert (human.code, human.out) == (0, f"SERVING  the sidecar at {sidecar.target}\n")
    assert in_json.json == {"target": sidecar.target, "service": "", "status": "serving"}
    assert service.code == 0
    assert unknown.code == 6
    assert "no.such.Service" in unknown.error


def test_no_store_is_4() -> None:
    """A sidecar without its store exits with 4, unlike a session without notes."""
    with Sidecar(f"redis://127.0.0.1:{free_port()}/0", wait=False) as sidecar:
        cli = Cli(sidecar.target)
        health, live, notes = cli.together(["health"], ["health", "--service", "live"], ["notes", "get", "s"])
        in_json = cli.here("health", "--json")
        write = cli.here("notes", "write", "s", "--summary", "x", "--timeout", "400ms")
    assert (health.code, in_json.code, notes.code, write.code) == (4, 4, 4, 4)
    assert health.out.startswith("NOT_SERVING ")
    assert (live.code, live.out) == (0, f"SERVING  live at {sidecar.target}\n")
    assert in_json.json["status"] == "not_serving"
    assert notes.error == write.error == "the store is unavailable; retry later (STORE_UNAVAILABLE)"


def test_no_sidecar_is_4(unreachable: Cli) -> None:
    """An address without a sidecar exits with 4 and is named: at once by reads, within the timeout by retried calls."""
    target = unreachable.env["SESSION_NOTES_TARGET"]
    other = f"127.0.0.1:{free_port()}"
    ends = [
        unreachable("notes", "get", "s"),
        unreachable.here("health"),
        unreachable.here("runs", "list", "s", "--timeout", "300ms"),
        unreachable.here("session", "set", "s", "a=1"),
        unreachable.here("session", "list", "--timeout", "300ms", "--target", other),
    ]
    for ended in ends:
        assert ended.code == 4
        assert ended.error.startswith(f"no sidecar answers at {other if ended is ends[-1] else target}: ")


def test_statuses_map_to_exit_codes(sidecar: Sidecar) -> None:
    """Permission denied exits with 7, no response with 4, any other status with 1; the server's text is one line."""
    codes = {
        "unauthenticated": (grpc.StatusCode.UNAUTHENTICATED, 7),
        "permission": (grpc.StatusCode.PERMISSION_DENIED, 7),
        "internal": (grpc.StatusCode.INTERNAL, 1),
        "invalid": (grpc.StatusCode.INVALID_ARGUMENT, 2),
        "silent": (None, 4),
    }
    with answering({name: code for name, (code, _) in codes.items()}) as target:
        ends = Cli(target).together(*(["session", "get", name, "--timeout", "2s"] for name in codes))
        health = Cli(target).here("health")
    for (_, expected), ended in zip(codes.values(), ends, strict=True):
        assert ended.code == expected, ended
        assert ended.error
    assert "who [bold]are[/bold] you" in ends[0].error
    assert "\\x1b[31m" in ends[0].error
    assert health.code == 1
    assert "UNIMPLEMENTED" in health.error


@contextmanager
def answering(codes: dict[str, grpc.StatusCode | None]) -> Iterator[str]:
    """Run a server that answers GetSession of each session with the given status, or never."""
    done = threading.Event()

    def answer(request: bytes, context: Any) -> bytes:
        name = next(name for name in codes if name.encode() in request)
        code = codes[name]
        if code is None:
            done.wait(30)
            return b""
        context.abort(code, "who [bold]are[/bold] you\nand \x1b[31mwhy?")
        return b""

    server = grpc.server(ThreadPoolExecutor(8))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICES[1], {"GetSession": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        done.set()
        server.stop(None).wait(5)


def test_colour_is_for_terminals(cli: Cli, session: SessionCalls) -> None:
    """Colours appear on a terminal only, and not with NO_COLOR; texts of users cause none."""
    session.write_notes("r1", "[bold red]not[/bold red] :smile: \x1b[31mmine\x1b[0m \x9b2J")
    piped, piped_json = cli.together(["notes", "get", session.id], ["notes", "get", session.id, "--json"])
    _, colourful = cli.on_terminal("notes", "get", session.id)
    _, plain = cli.on_terminal("notes", "get", session.id, env={"NO_COLOR": "1"})
    _, document = cli.on_terminal("notes", "get", session.id, "--json")
    literal = r"[bold red]not[/bold red] :smile: \x1b[31mmine\x1b[0m \x9b2J"
    for shown in (piped.out, plain, colourful):
        assert literal in shown
    assert "\x1b" in colourful
    assert "\x1b[31mmine" not in colourful
    for shown in (piped.out, plain, piped_json.out, document):
        assert "\x1b" not in shown
        assert "\x9b" not in shown
    assert piped_json.json["notes"]["summary"].endswith("\x1b[0m \x9b2J")
    assert piped_json.out.count("\n") == 1
    assert document.count("\n") > 10, "on a terminal JSON is laid out for reading"


def test_a_closed_pipe_is_quiet(cli: Cli) -> None:
    """A reader that closes the pipe early causes no error message."""
    running = subprocess.Popen(
        [*program(), "session", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.env
    )
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    message = running.stderr.read()
    running.stderr.close()
    assert (running.wait(30), message) == (1, b"")


def test_a_terminal_that_lacks_characters(cli: Cli, session: SessionCalls) -> None:
    """A character that the encoding lacks becomes an escape, and the command succeeds."""
    session.write_notes("r1", "é → e")
    human = cli("notes", "get", session.id, env={"PYTHONIOENCODING": "latin-1"}, encoding="latin-1")
    assert (human.code, human.err) == (0, "")
    assert "é \\u2192 e" in human.out
    in_json = cli("notes", "get", session.id, "--json", env={"PYTHONIOENCODING": "latin-1"})
    assert in_json.json["notes"]["summary"] == "é → e"


def test_help_is_quick(unreachable: Cli) -> None:
    """--help imports neither gRPC, redis nor the clients."""
    ended = unreachable("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert (ended.code, "Usage: session-notes " in ended.out) == (0, True)
    modules = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    assert "click" in modules
    assert not modules & {"grpc", "redis", "google.protobuf", "session_notes"}
