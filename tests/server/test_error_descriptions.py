"""Descriptions of store errors for logs, which help an operator and never quote the error's text."""

import errno
import logging
import socket
import ssl

import pytest
from hiredis import ReplyError
from session_notes_server.store import RefusalLog, StoreUnavailable, describe_error, log_throttle
from session_notes_server.store.errors import (
    CODES,
    ConnectionLost,
    NoMaster,
    error_codes,
    exception_for,
    topology_is_outdated,
)

SECRET = "canary-91be"


def tls_fault(name: str) -> ssl.SSLError:
    """Return an OpenSSL error."""
    error = ssl.SSLError(1, SECRET)
    error.reason = name
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ReplyError(f"WRONGPASS {SECRET}"), "wrong user or password"),
        (ReplyError(f"NOAUTH {SECRET}"), "none is configured"),
        (ReplyError(f"ERR AUTH <password> called without any password {SECRET}"), "but this user has none"),
        (ReplyError(f"LOADING {SECRET}"), "loading"),
        (ReplyError(f"MOVED 1 {SECRET}"), "redis+cluster://"),
        (ReplyError(f"OOM {SECRET}"), "out of memory"),
        (ReplyError(f"MISCONF {SECRET}"), "cannot write to its disk"),
        (ReplyError(f"NOPERM {SECRET} run the 'client|setname' command"), "client|setname"),
        (ReplyError(f"NOPERM {SECRET} run the '{SECRET}' command"), "inside the scripts"),
        (ReplyError(f"ERR Error running script {SECRET}: -READONLY x"), "read-only"),
        (ConnectionRefusedError(111, SECRET), "connection refused"),
        (OSError(f"[Errno {errno.ECONNREFUSED}] {SECRET}"), "refused"),
        (socket.gaierror(-2, SECRET), "cannot be resolved"),
        (tls_fault("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "--redis-cert"),
        (tls_fault("WRONG_VERSION_NUMBER"), "does not speak TLS"),
        (tls_fault("A_FAULT"), "TLS failed (A_FAULT)"),
        (ConnectionLost(), "closes the connection"),
        (NoMaster(SECRET), "no Sentinel"),
        (ReplyError("ERR This instance has cluster support disabled"), "it is not a cluster"),
        (ReplyError("NOPERM no permissions to run the 'cluster|slots' command"), "cluster|slots"),
        (ReplyError(f"ERR unknown command 'EVAL', with args beginning with: '{SECRET}'"), "lacks a command"),
        (ReplyError("ERR Unknown Redis command called from script script: 08, on @user_script:1."), "lacks a command"),
        (ReplyError("ERR Unknown command called from script script: on @user_script:1."), "lacks a command"),
        (
            ReplyError(
                "ERR Error running script (call to f_62): @user_script: 1: Unknown Redis command called from Lua"
            ),
            "lacks a command",
        ),
        (TimeoutError(SECRET), "no answer in time"),
        (ReplyError(f"ERR {SECRET}"), "unexpected reply (ReplyError)"),
        (None, "unexpected reply"),
    ],
)
def test_a_description_is_a_fixed_text(error: Exception | None, expected: str) -> None:
    """The description depends on the error's class and code, and contains none of its text."""
    description = describe_error(error)
    assert expected in description
    assert SECRET not in description


def test_silence_of_a_store_that_has_answered_before() -> None:
    """Once a store has answered, a timeout no longer casts doubt on the address or on TLS."""
    assert describe_error(TimeoutError(), has_answered=True) == "no answer in time"
    assert "TLS" in describe_error(TimeoutError())
    lost = describe_error(ConnectionLost(), has_answered=True)
    assert "TLS" in lost, "after a restart, the store may speak another protocol"


@pytest.mark.parametrize(
    "text",
    [
        "The user executing the script can't run this command or subcommand script: 62, on @user_script:1.",
        "ERR The user executing the script can't access at least one of the keys mentioned script: 62",
        "ERR ACL failure in script: User u has no permissions to run the 'get' command script: on @user_script:1.",
        "NOPERM this user has no permissions to run the 'scan' command",
        "ERR Error running script (call to f_62): @user_script:1: -NOPERM The user executing the script can't run",
    ],
)
def test_a_missing_permission_is_recognized_inside_a_script(text: str) -> None:
    """A forbidden command is NOPERM, although Redis 7 and Valkey reply ERR inside a script."""
    assert "NOPERM" in error_codes(ReplyError(text))


def test_refused_calls_are_throttled_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many calls are refused, the log has one line per reason and pause, and none for an outage."""
    refusals = RefusalLog()
    for _ in range(3):
        refusals.record(ReplyError("READONLY x"))
        refusals.record(ReplyError("OOM x"))
        refusals.record(TimeoutError())
    assert len(caplog.records) == 2
    monkeypatch.setattr(log_throttle, "LAST_PAUSE_SECONDS", 0)
    unthrottled = RefusalLog()
    unthrottled.record(ReplyError("READONLY x"))
    unthrottled.record(ReplyError("READONLY x"))
    assert len(caplog.records) == 4
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", ["{} x", "ERR Error running script (call to f_6): @user_script:1: -{} x"])
def test_a_code_has_one_meaning(code: str, form: str) -> None:
    """A code has the meaning in the table, by itself and as Redis 6 quotes it from inside a script."""
    refusal = ReplyError(form.format(code))
    assert f"({code})" in describe_error(refusal)
    assert isinstance(exception_for(refusal), StoreUnavailable if CODES[code].transient else ReplyError)
    assert topology_is_outdated(refusal) == CODES[code].outdated


def test_an_unknown_code_is_a_bug() -> None:
    """An error reply whose code is not in the table is raised unchanged, and its text is not in the description."""
    refusal = ReplyError(f"WHATEVER {SECRET}")
    assert exception_for(refusal) is refusal
    assert SECRET not in describe_error(refusal)
