"""Help, exit codes, error messages and colours."""

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
    """Every command has help: with an example unless it is a group, and with the exit codes if it is the program."""
    result = unreachable.in_process(*command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: {' '.join(['session-notes', *command])} " in result.out
    if command in ([], ["notes"], ["runs"], ["session"]):
        assert ("Exit codes:" in result.out) == (not command)
    else:
        assert f"session-notes {' '.join(command)}" in result.out.partition("Example")[2]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_follows_conventions(unreachable: Cli, command: list[str]) -> None:
    """Arguments and values are in capitals, flags have no value, and lines fit 80 columns without broken words."""
    shown = unreachable.in_process(*command, "--help").out
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
    """Wrong usage exits with 2 and a one-line error that refers to the help; --version prints the version."""
    typo, version = unreachable.run_all(["note", "get"], ["--version"])
    flag, missing, bare = (
        unreachable.in_process("notes", "get", "s", "--bogus"),
        unreachable.in_process("notes", "get"),
        unreachable.in_process("notes"),
    )
    assert "did you mean 'notes'" in typo.error.lower()
    assert "--bogus" in flag.error
    assert "session-notes notes get --help" in flag.error
    assert "SESSION" in missing.error
    assert [typo.code, flag.code, missing.code, bare.code] == [2, 2, 2, 2]
    assert "write" in bare.out + bare.err
    assert version.out.startswith("session-notes 0.")


def test_errors_name_flags(cli: Cli, tmp_path: Path) -> None:
    """An error about an argument of the clients names the flag or argument of the command line instead."""
    token = tmp_path / "token"
    token.write_text("token")
    get = ["notes", "get", "s"]
    for arguments, message in (
        ([*get, "--current-turn", "-1", "--max-turns-behind", "-1"], r"--current-turn: .*; --max-turns-behind: .*"),
        (["runs", "fail", "s", "{}"], "RUN: must be .*"),
        ([*get, "--tls-cert", "c"], "--tls-cert and --tls-key must be given together"),
        ([*get, "--token-file", str(token), "--target", "192.0.2.1:1"], ".* TLS: give --tls-ca, or set SESSION_.*"),
    ):
        result = cli.in_process(*arguments)
        assert result.code == 2, result
        assert re.fullmatch(message, result.error)


def test_error_of_several_lines(unreachable: Cli) -> None:
    """The error about a Redis URL lists the valid forms, one per line, within 80 columns."""
    result = unreachable.in_process("serve", "--redis-url", "localhost:6379")
    first, *forms, last = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert first == "error: not a Redis URL: the scheme is missing. Write one of"
    assert [form.partition("://")[0] for form in forms] == ["  redis", "  unix", "  redis+cluster", "  redis+sentinel"]
    assert "rediss://" in last
    assert max(map(len, result.err.splitlines())) <= 80


def test_health(cli: Cli, sidecar: Sidecar) -> None:
    """`health` exits with 0 if the sidecar or a service serves, and with 6 for an unknown service."""
    human, in_json, service, unknown = cli.run_all(
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
    """Commands exit with 4 if the sidecar has no store, except for a check of liveness."""
    with Sidecar(f"redis://127.0.0.1:{free_port()}/0", wait=False) as sidecar:
        cli = Cli(sidecar.target)
        health, live, notes = cli.run_all(["health"], ["health", "--service", "live"], ["notes", "get", "s"])
        in_json = cli.in_process("health", "--json")
        write = cli.in_process("notes", "write", "s", "--summary", "x", "--timeout", "400ms")
    assert (health.code, in_json.code, notes.code, write.code) == (4, 4, 4, 4)
    assert health.out.startswith("NOT_SERVING ")
    assert (live.code, live.out) == (0, f"SERVING  live at {sidecar.target}\n")
    assert in_json.json["status"] == "not_serving"
    assert notes.error == write.error == "the store is unavailable; retry later (STORE_UNAVAILABLE)"


def test_no_sidecar_is_4(unreachable: Cli) -> None:
    """Without a sidecar, commands exit with 4 and name the address; retries end within the timeout."""
    target = unreachable.env["SESSION_NOTES_TARGET"]
    other = f"127.0.0.1:{free_port()}"
    results = [
        unreachable("notes", "get", "s"),
        unreachable.in_process("health"),
        unreachable.in_process("runs", "list", "s", "--timeout", "300ms"),
        unreachable.in_process("session", "set", "s", "a=1"),
        unreachable.in_process("session", "list", "--timeout", "300ms", "--target", other),
    ]
    for result in results:
        assert result.code == 4
        assert result.error.startswith(f"no sidecar answers at {other if result is results[-1] else target}: ")


def test_statuses_map_to_exit_codes(sidecar: Sidecar) -> None:
    """Each status has its exit code, and the server's text is escaped and printed on one line."""
    codes = {
        "unauthenticated": (grpc.StatusCode.UNAUTHENTICATED, 7),
        "permission": (grpc.StatusCode.PERMISSION_DENIED, 7),
        "internal": (grpc.StatusCode.INTERNAL, 1),
        "invalid": (grpc.StatusCode.INVALID_ARGUMENT, 2),
        "silent": (None, 4),
    }
    with answering({name: code for name, (code, _) in codes.items()}) as target:
        results = Cli(target).run_all(*(["session", "get", name, "--timeout", "2s"] for name in codes))
        health = Cli(target).in_process("health")
    for (_, expected), result in zip(codes.values(), results, strict=True):
        assert result.code == expected, result
        assert result.error
    assert "who [bold]are[/bold] you" in results[0].error
    assert "\\x1b[31m" in results[0].error
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
    """Colours appear only on a terminal and without NO_COLOR; user data cannot cause any."""
    session.write_notes("r1", "[bold red]not[/bold red] :smile: \x1b[31mmine\x1b[0m \x9b2J")
    piped, piped_json = cli.run_all(["notes", "get", session.id], ["notes", "get", session.id, "--json"])
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
    assert document.count("\n") > 10, "JSON is not indented on a terminal"


def test_closed_pipe(cli: Cli) -> None:
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


def test_encoding_that_lacks_characters(cli: Cli, session: SessionCalls) -> None:
    """A character that the encoding lacks becomes an escape, and the command succeeds."""
    session.write_notes("r1", "é → e")
    human = cli("notes", "get", session.id, env={"PYTHONIOENCODING": "latin-1"}, encoding="latin-1")
    assert (human.code, human.err) == (0, "")
    assert "é \\u2192 e" in human.out
    in_json = cli("notes", "get", session.id, "--json", env={"PYTHONIOENCODING": "latin-1"})
    assert in_json.json["notes"]["summary"] == "é → e"


def test_imports_of_help(unreachable: Cli) -> None:
    """--help does not import gRPC, redis or the clients."""
    result = unreachable("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert (result.code, "Usage: session-notes " in result.out) == (0, True)
    modules = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "click" in modules
    assert not modules & {"grpc", "redis", "google.protobuf", "session_notes"}
