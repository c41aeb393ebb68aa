"""`session-notes top` on a real terminal, with a real sidecar."""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.access.callers import token_files
from tests.integrations.terminal import Terminal
from tests.support import SessionCalls, Sidecar, free_port, new_channel, notes, program

ENTER, ESC, DOWN, CTRL_C = "\r", "\x1b", "\x1b[B", "\x03"


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    """A sidecar without other tests' sessions."""
    with Sidecar() as sidecar:
        yield sidecar


@pytest.fixture
def calls(sidecar: Sidecar) -> Iterator[Callable[[str], SessionCalls]]:
    """A function that returns the calls on a session of the sidecar."""
    with new_channel(sidecar.target) as channel:
        yield lambda session_id: SessionCalls(channel, session_id)


@pytest.fixture
def top(sidecar: Sidecar) -> Iterator[Callable[..., Terminal]]:
    """A function that starts `top` on a terminal."""
    with ExitStack() as stack:

        def start(*arguments: str, columns: int = 80, lines: int = 24, target: str = sidecar.target) -> Terminal:
            command = [*program(), "top", "--target", target, "--interval", "200ms", *arguments]
            return stack.enter_context(Terminal(command, columns=columns, lines=lines))

        yield start


def create_sessions(calls: Callable[[str], SessionCalls]) -> None:
    """Create one session with notes two turns behind, one with a run in flight, one that failed, one unobserved."""
    refund = calls("refund-1")
    refund.append_turns(4)
    refund.begin_run("r1", observer="coach", observed_turn=2)
    refund.write_notes("r1", notes("Wants a refund.", coverage={"order number": 0.5}), observer="coach")
    refund.begin_run("r2", observer="coach")
    calls("visa-2").begin_run("r1")
    trip = calls("trip-3")
    trip.begin_run("r1")
    trip.fail_run("r1", reason="the model did not answer")
    calls("quiet-4").append_turns(1)


def order(terminal: Terminal) -> list[str]:
    """Return the sessions on the screen from top to bottom."""
    matches = (re.match(r"(refund-1|visa-2|trip-3|quiet-4)\b", line) for line in terminal.lines)
    return [match[0] for match in matches if match]


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color(sidecar: Sidecar, calls: Callable[[str], SessionCalls], value: str, *, coloured: bool) -> None:
    """NO_COLOR removes colours and greys, and the selection is shown in reverse. An empty value has no effect."""
    create_sessions(calls)
    command = [*program(), "top", "--target", sidecar.target]
    with Terminal(command, env={"NO_COLOR": value}) as terminal:
        terminal.see("4 sessions, 4 rows")
        terminal.see(lambda: re.search(r"quiet-4 .*\n(.*\n)*refund-1 +coach +ready", terminal.text))
        assert bool(re.search(rb"\x1b\[[0-9;]*\b[34]8;[25];", terminal.output)) is coloured
        assert (terminal.colour_of("failed") != terminal.colour_of("ready")) is coloured
        assert terminal.is_reversed("quiet-4") is not coloured
        assert not terminal.is_reversed("trip-3")


def test_rows(top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """Each session and observer has a row, most recently changed first, and changes appear without a key press."""
    create_sessions(calls)
    terminal = top()
    terminal.see("4 sessions, 4 rows")
    terminal.see(lambda: re.search(r"refund-1 +coach +ready +\d+s +2 1 busy +4 ", terminal.text))
    assert re.search(r"visa-2 +default +running +- +- 1 busy +0 +- +23h", terminal.text)
    assert re.search(r"trip-3 +default +failed +- +- failed +0 +- +23h", terminal.text)
    assert re.search(r"quiet-4 +- +never run +- +- - +1 +- +23h", terminal.text)
    assert order(terminal) == ["quiet-4", "trip-3", "visa-2", "refund-1"]
    assert terminal.colour_of("failed") != terminal.colour_of("ready") != terminal.colour_of("running")

    calls("visa-2").write_notes("r1")
    terminal.see(lambda: re.search(r"visa-2 +default +ready +\d+s +- - ", terminal.text))
    assert order(terminal)[0] == "visa-2"
    calls("trip-3").delete()
    calls("quiet-4").delete()
    terminal.see("2 sessions, 2 rows")


def test_sort_and_filter(top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """A title's underlined letter sorts by it, and reverses at the second press; / shows only rows with all words."""
    create_sessions(calls)
    terminal = top()
    terminal.see(lambda: len(order(terminal)) == 4)
    terminal.type("S")
    terminal.see(lambda: order(terminal) == ["quiet-4", "refund-1", "trip-3", "visa-2"])
    assert re.search(r"^SESSION +▲OBSERVER", terminal.text, re.MULTILINE)
    terminal.type("S")
    terminal.see(lambda: order(terminal) == ["visa-2", "trip-3", "refund-1", "quiet-4"])
    terminal.type("R")
    terminal.see(lambda: order(terminal) == ["trip-3", "quiet-4", "visa-2", "refund-1"])
    terminal.type("T")
    terminal.see(lambda: order(terminal) == ["refund-1", "quiet-4", "trip-3", "visa-2"])
    terminal.type("r")
    terminal.see(lambda: order(terminal)[-1] == "refund-1")

    terminal.type("/never")
    terminal.see(lambda: order(terminal) == ["quiet-4"])
    terminal.type(ESC)
    terminal.see(lambda: len(order(terminal)) == 4)
    terminal.type("/q/absent")
    terminal.see("no row matches")
    assert "filter: q/absent" in terminal.text
    terminal.type(ESC)
    terminal.see(lambda: len(order(terminal)) == 4)
    terminal.type("/COACH" + ENTER)
    terminal.see("1 of 4 rows")
    terminal.see("filter: coach")


def test_detail(top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """Enter shows the selected session's notes and runs and keeps them current; Esc returns to the same row."""
    create_sessions(calls)
    rich = notes(
        "They left.\n\x1b[31mNot red.",
        issues=[{"text": "no [b]date[/b]", "severity": "SEVERITY_WARNING", "turn": 3}],
        follow_up_suggestions=["Ask for it."],
    )
    calls("trip-3").write_notes("r2", rich, observer="second")
    terminal = top(lines=40)
    terminal.see("5 rows")
    terminal.type("S" + DOWN)
    terminal.see(lambda: re.search(r"refund-1 +coach +ready", terminal.text))
    terminal.type(ENTER)
    terminal.see("Wants a refund.")
    assert "order number  █████░░░░░  50%" in terminal.text
    assert "written" in terminal.text
    assert "2 turns behind" in terminal.text
    terminal.see(lambda: re.search(r"2 +running +4 turns +\d+ s ago +\d+ s so far +- +r2", terminal.text))
    assert re.search(r"1 +written +2 turns +\d+ s ago +\d+\.\d s +- +r1", terminal.text)
    calls("refund-1").fail_run("r2", observer="coach", reason="too slow")
    terminal.see(lambda: re.search(r"2 +failed +4 turns .* too slow +r2", terminal.text))

    terminal.type(ESC)
    terminal.see("5 rows")
    terminal.type(DOWN + ENTER)
    terminal.see("1. Ask for it.")
    terminal.see("observer default")
    assert r"\x1b[31mNot red." in terminal.text
    assert "warning  no [b]date[/b]  turn 3" in " ".join(terminal.text.split("\n")).replace("    ", "  ")
    assert "the model did not answer" in terminal.text
    calls("trip-3").delete()
    terminal.see("this session no longer exists")


def test_terminal_sizes(top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """A row is one line at any width: ids lose their middle, then columns are dropped, and a notice names them."""
    calls("0123456789abcdef-the-middle-fedcba9876543210").write_notes(observer="an-observer-with-a-long-name")
    terminal = top(columns=120)
    terminal.see("0123456789abcdef-the-middle-fedcba9876543210 an-obs")
    for width in (80, 50, 30):
        terminal.resize(width, 12)
        terminal.see(lambda: re.search(r"^012345.*…\w+3210 .*\bready\b", terminal.text, re.MULTILINE))
        terminal.see("EXPIRES IDLE" if width == 80 else "no room for")
    terminal.resize(120, 24)
    terminal.see("0123456789abcdef-the-middle-fedcba9876543210 an-obs")
    terminal.see(lambda: "no room for" not in terminal.text)


def test_an_outage(sidecar: Sidecar, top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """During an outage the last table stays below a banner with the start time; afterwards refreshes resume."""
    create_sessions(calls)
    terminal = top()
    terminal.see(lambda: re.search(r"refund-1 +coach +ready", terminal.text))
    colour = terminal.colour_of("ready")
    sidecar.kill()
    terminal.see(lambda: re.search(r"OUTAGE since \d\d:\d\d:\d\d \(\d+ s\): no sidecar answers at", terminal.text))
    terminal.see(lambda: re.search(r"Data is [1-9]\d* s old", " ".join(terminal.lines)))
    terminal.see(lambda: len(order(terminal)) == 4 and terminal.colour_of("ready") != colour)
    terminal.type(ENTER)
    terminal.see("reading …")
    assert "OUTAGE" in terminal.text
    terminal.type(ESC)
    sidecar.start()
    terminal.see(lambda: "OUTAGE" not in terminal.text)
    calls("later-5").append_turns(1)
    terminal.see("later-5")


def test_a_silent_sidecar(sidecar: Sidecar, top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """A slow response shows the time waited so far, and becomes an outage after the timeout."""
    create_sessions(calls)
    terminal = top("--timeout", "3s")
    terminal.see("4 rows")
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGSTOP)
    try:
        terminal.see(lambda: re.search(r"waiting for a response, [12] s", terminal.text))
        terminal.see("OUTAGE since")
        terminal.see(lambda: len(order(terminal)) == 4)
    finally:
        sidecar.process.send_signal(signal.SIGCONT)
    terminal.see(lambda: "OUTAGE" not in terminal.text)


def test_no_sidecar_is_not_an_empty_one(top: Callable[..., Terminal]) -> None:
    """Before the first response, the screen never reports that no sessions exist."""
    terminal = top(target=f"127.0.0.1:{free_port()}")
    terminal.see("Nothing has been read yet")
    assert "no sessions" not in terminal.text
    connected = top()
    connected.see("no sessions")
    assert "OUTAGE" not in connected.text


def test_pause_and_help(top: Callable[..., Terminal], calls: Callable[[str], SessionCalls]) -> None:
    """The key p freezes the table and shows its age; ? lists keys and columns."""
    create_sessions(calls)
    terminal = top()
    terminal.see("4 rows")
    terminal.type("p")
    # A refresh in flight still completes. It takes less than a second.
    terminal.see(lambda: re.search(r"PAUSED, data is [1-9] s old", terminal.text))
    line = terminal.line_of("refund-1")
    calls("later-5").append_turns(1)
    terminal.see(lambda: re.search(r"PAUSED, data is [3-9] s old", terminal.text))
    assert terminal.line_of("refund-1") == line
    assert "later-5" not in terminal.text
    terminal.type("p")
    terminal.see("later-5")
    terminal.type("?")
    terminal.see("turns appended since the snapshot of the notes' run")
    terminal.type(ESC)
    terminal.see("5 rows")


@pytest.mark.parametrize("quit_by", ["q", CTRL_C, ENTER + "q", "/" + CTRL_C, signal.SIGTERM])
def test_the_terminal_is_restored(
    top: Callable[..., Terminal], calls: Callable[[str], SessionCalls], quit_by: str | signal.Signals
) -> None:
    """Every way to quit restores the screen, cursor, mouse and settings, with exit code 0."""
    create_sessions(calls)
    terminal = top()
    terminal.see("4 rows")
    assert not terminal.is_restored()
    if isinstance(quit_by, str):
        terminal.type(quit_by)
    else:
        terminal.process.send_signal(quit_by)
    assert terminal.wait() == 0
    assert terminal.is_restored()


def test_closing_the_window_ends_the_program(top: Callable[..., Terminal]) -> None:
    """The program does not outlive its terminal."""
    terminal = top()
    terminal.see("no sessions")
    terminal.close()
    assert terminal.process.wait(20) == -signal.SIGHUP


def test_access(tmp_path: Path) -> None:
    """A token without permission to list sessions gives an error with the next step, on a restored terminal."""
    directory = token_files(tmp_path / "tokens")
    with Sidecar(flags=["--tokens-dir", str(directory)]) as sidecar:
        command = [*program(), "top", "--target", sidecar.target, "--token-file"]
        with Terminal([*command, str(directory / "observer")]) as terminal:
            assert terminal.wait() == 7
            assert terminal.is_restored()
            assert "listing all sessions requires an admin's" in "".join(terminal.lines)
        with Terminal([*command, str(directory / "admin")]) as terminal:
            terminal.see("no sessions")


def test_without_textual() -> None:
    """Without the extra, the error contains the command that installs it."""
    without = "import sys; sys.modules['textual'] = None; from session_notes_tools.__main__ import main; main()"
    with Terminal([sys.executable, "-c", without, "top"]) as terminal:
        assert terminal.wait() == 1
        assert "pip install '.[server,top]'" in "".join(terminal.lines)
