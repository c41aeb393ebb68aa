"""Output for people: literal texts, whole ids, reasons, and warnings about environment variables."""

import json
import re
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from session_notes import Readiness, RunState, Severity
from session_notes.v1 import notes_pb2
from session_notes.v1.turn_pb2 import Turn
from session_notes_tools.cli.environment import known_variables
from session_notes_tools.cli.notes_input import _SEVERITIES
from session_notes_tools.cli.output import plain
from session_notes_tools.cli.phrases import _READINESS
from session_notes_tools.cli.views import _SEVERITY_STYLES, _STATE_STYLES, READINESS_STYLES
from session_notes_tools.command_line import app

from tests.cli.program import Cli
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, struct

OVERRIDE, ISOLATE, ZERO_WIDTH, TAG, SOFT_HYPHEN = "\u202e", "\u2066", "\u200b", "\U000e0041", "\u00ad"
ACTIVE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def test_active_and_invisible_characters_are_escaped() -> None:
    """Every control, format, surrogate, private-use and separator character is escaped, even between letters."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ACTIVE_CATEGORIES and character not in "\n\t":
            assert plain(f"a{character}b") == f"a{ascii(character)[1:-1]}b"


@pytest.mark.parametrize(
    "text", ["\ufe0f", "\u3164", "\u034f", "a\ufe0fb", "a\u200db", "\u200d\u200d", "é\u200d\u200d"]
)
def test_characters_without_a_glyph_are_escaped(text: str) -> None:
    """Selectors, fillers and joiners that join nothing are escaped too."""
    assert "\\u" in plain(text)


@pytest.mark.parametrize(
    "text",
    ["👨\u200d👩\u200d👧", "❤\ufe0f\u200d🔥", "\u0645\u06cc\u200c\u062e\u0648", "क्\u200dष", "naïve 日本", "🇩🇪"],
)
def test_joiners_within_a_glyph_stay(text: str) -> None:
    """Family emoji, Persian words and Indic words are printed as written."""
    assert plain(text) == text


def test_no_text_acts_on_a_terminal(cli: Cli, session: SessionCalls) -> None:
    """Every command escapes notes, failures, fields and turns; JSON remains the same document."""
    evil = f"pay {OVERRIDE}001{ISOLATE} {ZERO_WIDTH}{TAG}{SOFT_HYPHEN}end"
    session.append_turns([_turn(evil)])
    session.update_session(set={evil: evil})
    session.begin_run("failed", observer="other")
    session.fail_run("failed", observer="other", reason=evil)
    session.write_notes("r1", _notes(evil))
    for arguments in (
        ("notes", "get", session.id),
        ("session", "get", session.id, "--turns"),
        ("runs", "list", session.id, "--notes"),
        ("runs", "list", session.id, "--observer", "other"),
        ("notes", "get", session.id, "--json"),
        ("session", "get", session.id, "--turns", "--json"),
    ):
        _, screen = cli.on_terminal(*arguments)
        assert r"\u202e" in screen, arguments
        for character in (OVERRIDE, ISOLATE, ZERO_WIDTH, TAG, SOFT_HYPHEN):
            assert character not in screen, arguments
    assert cli("notes", "get", session.id, "--json").json["notes"] == {
        "coverage": {evil: 0.5},
        "issues": [{"text": evil, "severity": "warning", "turn": None}],
        "follow_up_suggestions": [evil],
        "summary": evil,
        "extra": {evil: evil},
    }


def _turn(text: str) -> Turn:
    return Turn(speaker=text, text=text)


def _notes(text: str) -> notes_pb2.Notes:
    return notes_pb2.Notes(
        coverage={text: 0.5},
        issues=[notes_pb2.Issue(text=text, severity=notes_pb2.SEVERITY_WARNING)],
        follow_up_suggestions=[text],
        summary=text,
        extra=struct({text: text}),
    )


def test_ids_lose_their_middle_and_are_never_wrapped(cli: Cli, session: SessionCalls) -> None:
    """At 80 columns, a row is one line with both ends of each id; in pipes and outside tables, ids are whole."""
    with new_channel(cli.env["SESSION_NOTES_TARGET"]) as channel:
        long = SessionCalls(channel, f"abcd-{new_session_id()}-{'x' * 60}-wxyz")
        run_id, observer = f"efgh-{'y' * 60}-stuv", f"ijkl-{'z' * 40}-opqr"
        long.write_notes(run_id, "a summary", observer=observer)
    ids = {"run": run_id, "session": long.id, "observer": observer}
    for arguments, shown in (
        (("runs", "list", long.id, "--observer", observer), ["run"]),
        (("session", "list"), ["session", "observer"]),
        (("top", "--once"), ["session", "observer"]),
    ):
        _, screen = cli.on_terminal(*arguments, env={"NO_COLOR": "1"})
        rows = [line for line in screen.splitlines() if re.search("(efgh|abcd)[^ ]*…", line)]
        assert len(rows) == 1, screen
        assert all(len(line) <= 80 for line in screen.splitlines()), screen
        for name in shown:
            assert re.search(f"{ids[name][:3]}[^ ]*…[^ ]*{ids[name][-3:]}", rows[0]), screen
            assert ids[name] in cli(*arguments).out
    whole: list[tuple[Sequence[str], list[str]]] = [
        (("notes", "get", long.id, "--observer", observer), ["session", "observer", "run"]),
        (("session", "get", long.id), ["session"]),
        (("runs", "list", long.id, "--observer", observer, "--notes"), ["run"]),
        (("runs", "list", long.id), ["session"]),
        (("runs", "begin", long.id, "--run-id", run_id), ["run"]),
        (("session", "set", long.id, "a=1"), ["session"]),
        (("session", "append", long.id, "user", "Hello"), ["session"]),
        (("notes", "write", long.id, "--run-id", run_id, "--summary", "x"), ["run"]),
        (("session", "delete", long.id, "--yes"), ["session"]),
    ]
    for command, shown in whole:
        _, screen = cli.on_terminal(*command, env={"NO_COLOR": "1"})
        for name in shown:
            assert ids[name] in screen, screen


def test_every_enum_value_has_a_style_and_words() -> None:
    """The tables of styles and words contain exactly the values of the contract's enums."""
    readiness = {value.value for value in Readiness} - {"unspecified", "unavailable"}
    assert READINESS_STYLES.keys() == _READINESS.keys() == readiness
    assert _STATE_STYLES.keys() == {value.value for value in RunState} - {"unspecified"}
    assert _SEVERITY_STYLES.keys() == set(_SEVERITIES) == {value.value for value in Severity} - {"unspecified"}


def test_stale_notes_give_reasons(cli: Cli, session: SessionCalls) -> None:
    """Stale notes come with the exceeded bounds, or the reason for an unknown drift; fresh notes are marked as such."""
    session.append_turns(3)
    session.write_notes("r1", "a summary", observed_turn=1)
    session.write_notes("r1", "a summary", observer="other")
    old, behind, both, without_turn, fresh = cli.run_all(
        ["notes", "get", session.id, "--max-age", "0s"],
        ["notes", "get", session.id, "--max-turns-behind", "1"],
        ["notes", "get", session.id, "--max-age", "0s", "--max-turns-behind", "1"],
        ["notes", "get", session.id, "--max-turns-behind", "1", "--observer", "other"],
        ["notes", "get", session.id, "--max-turns-behind", "2", "--max-age", "1h"],
    )
    assert "stale: older than 0 s" in old.out
    assert "stale: more than 1 turn behind" in behind.out
    assert "stale: older than 0 s, and more than 1 turn behind" in both.out
    assert "stale: drift unknown, because the run did not record" in without_turn.out
    assert ", fresh\n" in fresh.out


def test_stale_notes_without_a_transcript_ask_for_the_turn(cli: Cli, session: SessionCalls) -> None:
    """Without a stored transcript, drift is unknown, and the line asks for the current turn."""
    session.write_notes("r1", "a summary", observed_turn=1)
    assert "no turn is stored; give --current-turn" in cli("notes", "get", session.id, "--max-turns-behind", "1").out


def test_an_unknown_session_differs_from_one_without_runs(cli: Cli, session: SessionCalls) -> None:
    """`notes get` and `runs list` state when the store has no data of the session."""
    session.append_turns(1)
    existing, unknown, no_runs, unknown_runs = cli.run_all(
        ["notes", "get", session.id],
        ["notes", "get", new_session_id()],
        ["runs", "list", session.id],
        ["runs", "list", new_session_id()],
    )
    assert (existing.code, unknown.code) == (3, 3)
    assert "this observer has not run on this session yet" in existing.out
    assert "has not run" not in unknown.out
    assert "no data for this session" in unknown.out
    assert no_runs.out == f"no runs on {session.id}\n"
    assert "no data for this session" in unknown_runs.out


@pytest.mark.parametrize(
    ("issue", "severity"), [("warn:x", "warning"), ("Crit: x", "critical"), ("warnign:x", "warning")]
)
def test_misspelt_severity(cli: Cli, session: SessionCalls, issue: str, severity: str) -> None:
    """A misspelt severity is not taken for text; the error suggests the correct word."""
    result = cli("notes", "write", session.id, "--issue", issue)
    assert result.code == 2
    assert f"write {severity}:TEXT" in result.error
    assert session.get_notes().ready is False


@pytest.mark.parametrize("issue", ["no budget: none at all", "ok: x", "x"])
def test_issue_text_with_a_colon(cli: Cli, session: SessionCalls, issue: str) -> None:
    """A prefix that resembles no severity is part of the text."""
    assert cli("notes", "write", session.id, "--issue", issue).code == 0
    assert session.get_notes().notes.issues[0].text == issue


def test_count_of_one(cli: Cli, session: SessionCalls) -> None:
    """One turn is printed as `1 turn`, in the singular."""
    session.append_turns(1)
    result = cli("session", "append", session.id, "user", "x", "--expected-turn-count", "5")
    assert result.error.startswith("the transcript has 1 turn, not 5")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SESSION_NOTES_TARGTE", "; is it SESSION_NOTES_TARGET?"),
        ("SESSION_NOTES_REDIS_URI", "; is it SESSION_NOTES_REDIS_URL?"),
        ("SESSION_NOTES_COLOUR_OF_MY_HOUSE", "\n"),
        ("SESSIONNOTES_TARGET", "; is it SESSION_NOTES_TARGET?"),
    ],
)
def test_misspelt_variable(cli: Cli, session: SessionCalls, name: str, hint: str) -> None:
    """A misspelt variable causes one warning with its name, never its value, and the command runs."""
    result = cli("session", "list", env={name: "canary-value"})
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert f"warning: the environment variable {name} is unknown and has no effect{hint}" in result.err


def test_misspelt_variable_of_a_sidecar() -> None:
    """A sidecar with workers logs a single warning about a misspelt variable, in the configured format."""
    env = {"SESSION_NOTES_LISTN": "canary", "SESSION_NOTES_LOG_FORMAT": "json", "SESSION_NOTES_WORKERS": "2"}
    with Sidecar(env=env) as sidecar:
        lines = [json.loads(line) for line in sidecar.log.splitlines() if "LISTN" in line]
    assert [(line["level"], line["message"]) for line in lines] == [
        (
            "warning",
            "the environment variable SESSION_NOTES_LISTN is unknown and has no effect; is it SESSION_NOTES_LISTEN?",
        )
    ]


def test_known_and_foreign_variables_cause_no_warning(cli: Cli) -> None:
    """Variables of options, of other programs, and of Kubernetes for a service of this name cause no warning."""
    kubernetes = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP_ADDR"]
    others = {f"SESSION_NOTES_{name}": "x" for name in kubernetes} | {"SESSION_MANAGER": "x"}
    assert cli("session", "list", env=others).err == ""
    assert {"SESSION_NOTES_LISTEN", "SESSION_NOTES_TARGET", "SESSION_NOTES_TLS_CA"} < known_variables(app)


def test_json_on_a_terminal_is_json(cli: Cli, session: SessionCalls) -> None:
    """JSON on a terminal is indented, and its escapes parse to the original text."""
    session.write_notes("r1", f"a{TAG}{OVERRIDE}\x85b")
    _, screen = cli.on_terminal("notes", "get", session.id, "--json")
    assert json.loads(screen)["notes"]["summary"] == f"a{TAG}{OVERRIDE}\x85b"
