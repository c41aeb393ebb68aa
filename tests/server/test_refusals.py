"""RefusalLog of the store: each has its status, in one table."""

import logging

import grpc
import pytest
from session_notes_server.rpc import errors
from session_notes_server.store import Refused, scripts


def test_each_word_of_the_scripts_has_a_status() -> None:
    """The scripts' words are found, and none is answered as a bug."""
    words = scripts.refusals()
    assert {"SESSION_DELETED", "VERSION_MISMATCH", "RUN_NOT_FOUND", "FIELDS_TOO_LARGE", "RUNS_TOO_LARGE"} <= words
    assert {word for word in words if errors.refused(Refused(word, {})).code is grpc.StatusCode.INTERNAL} == set()


def test_an_unknown_refusal_is_a_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """INTERNAL, with an id that is in the log next to the word: never a reason to give up an analysis."""
    with caplog.at_level(logging.ERROR):
        status = errors.refused(Refused("A_NEW_RULE", {}))
    assert (status.code, status.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    error_id = status.details[0].metadata["error_id"]
    assert error_id in status.message
    assert error_id in caplog.text
    assert "A_NEW_RULE" in caplog.text


def test_a_mismatch_says_what_it_met() -> None:
    """What the script tells besides goes into the details."""
    status = errors.refused(Refused("VERSION_MISMATCH", {"expected": "4", "actual": "6"}))
    assert (status.code, status.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
    assert dict(status.details[0].metadata) == {"expected": "4", "actual": "6"}
