"""What the log says of a store that cannot be used: words to act on, and never those of the error itself."""

import errno
import logging
import socket
import ssl

import pytest
from hiredis import ReplyError
from session_notes_server.store import RefusalLog, StoreUnavailable, describe_error, log_throttle
from session_notes_server.store.errors import CODES, codes, is_outdated, raised
from session_notes_server.store.redis.connection import ConnectionLost
from session_notes_server.store.redis.sentinels import NoMaster

SECRET = "canary-91be"


def tls_fault(text: str) -> ssl.SSLError:
    """An error of OpenSSL's."""
    error = ssl.SSLError(1, SECRET)
    error.reason = text
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ReplyError(f"WRONGPASS {SECRET}"), "wrong user or password"),
        (ReplyError(f"NOAUTH {SECRET}"), "we have none"),
        (ReplyError(f"ERR AUTH <password> called without any password {SECRET}"), "has no password for our user"),
        (ReplyError(f"LOADING {SECRET}"), "loading"),
        (ReplyError(f"MOVED 1 {SECRET}"), "redis+cluster://"),
        (ReplyError(f"OOM {SECRET}"), "out of memory"),
        (ReplyError(f"MISCONF {SECRET}"), "cannot write to its disk"),
        (ReplyError(f"NOPERM {SECRET} run the 'client|setname' command"), "client|setname"),
        (ReplyError(f"NOPERM {SECRET} run the '{SECRET}' command"), "inside our scripts"),
        (ReplyError(f"ERR Error running script {SECRET}: -READONLY x"), "read-only"),
        (ConnectionRefusedError(111, SECRET), "connection refused"),
        (OSError(f"[Errno {errno.ECONNREFUSED}] {SECRET}"), "refused"),
        (socket.gaierror(-2, SECRET), "not found"),
        (tls_fault("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "--redis-cert"),
        (tls_fault("WRONG_VERSION_NUMBER"), "does not speak TLS"),
        (tls_fault("A_FAULT"), "TLS failed (A_FAULT)"),
        (ConnectionLost(), "closes the connection"),
        (NoMaster(SECRET), "no Sentinel"),
        (ReplyError("ERR This instance has cluster support disabled"), "it is no cluster"),
        (ReplyError("NOPERM no permissions to run the 'cluster|slots' command"), "cluster|slots"),
        (TimeoutError(SECRET), "no answer in time"),
        (ReplyError(f"ERR {SECRET}"), "unexpected answer (ReplyError)"),
        (None, "unexpected answer"),
    ],
)
def test_a_reason_is_in_words_of_ours(error: Exception | None, said: str) -> None:
    """Each kind of error has its words, taken from its class and its code; of its own text nothing comes through."""
    why = describe_error(error)
    assert said in why
    assert SECRET not in why


def test_silence_of_a_store_that_has_answered() -> None:
    """A store that has answered is where we think, and TLS is as it is to be: of its silence no more is said."""
    assert describe_error(TimeoutError(), has_answered=True) == "no answer in time"
    assert "TLS" in describe_error(TimeoutError())
    assert "TLS" in describe_error(ConnectionLost(), has_answered=True), (
        "a store that was started again may speak another protocol"
    )


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
def test_no_permission_is_known_inside_a_script(text: str) -> None:
    """What a user may not do is NOPERM, though Redis 7 and Valkey call it ERR inside a script."""
    assert "NOPERM" in codes(ReplyError(text))


def test_what_is_refused_is_told_of_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many calls the store refuses, the log has one line a minute for each reason, and none for an outage."""
    refusals = RefusalLog()
    for _ in range(3):
        refusals.record(ReplyError("READONLY x"))
        refusals.record(ReplyError("OOM x"))
        refusals.record(TimeoutError())
    assert len(caplog.records) == 2
    monkeypatch.setattr(log_throttle, "LAST_PAUSE_SECONDS", 0)
    again = RefusalLog()
    again.record(ReplyError("READONLY x"))
    again.record(ReplyError("READONLY x"))
    assert len(caplog.records) == 4
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", ["{} x", "ERR Error running script (call to f_6): @user_script:1: -{} x"])
def test_every_code_of_the_table_means_one_thing(code: str, form: str) -> None:
    """By itself, or inside a script as Redis 6 has it: its words name it, and what follows from it is the table's."""
    refusal = ReplyError(form.format(code))
    assert f"({code})" in describe_error(refusal)
    assert isinstance(raised(refusal), StoreUnavailable if CODES[code].passing else ReplyError)
    assert is_outdated(refusal) == CODES[code].outdated


def test_a_code_that_is_not_in_the_table_is_a_bug_of_ours() -> None:
    """What no store should answer is raised as it is, and its text is not in the reason."""
    refusal = ReplyError(f"WHATEVER {SECRET}")
    assert raised(refusal) is refusal
    assert SECRET not in describe_error(refusal)
