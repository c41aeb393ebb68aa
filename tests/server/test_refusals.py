"""Refusals of the store: one table maps each to its status."""

import logging

import grpc
import pytest
from session_notes_server.rpc import errors
from session_notes_server.store import Refused, scripts


def test_every_refusal_of_the_scripts_has_a_status() -> None:
    """Every refusal named in the scripts has a status other than INTERNAL."""
    names = scripts.refusals()
    assert {"SESSION_DELETED", "VERSION_MISMATCH", "RUN_NOT_FOUND", "FIELDS_TOO_LARGE", "RUNS_TOO_LARGE"} <= names
    assert {name for name in names if errors.refused(Refused(name, {})).code is grpc.StatusCode.INTERNAL} == set()


def test_an_unknown_refusal_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown refusal is INTERNAL, and the log has its name and the error's id."""
    with caplog.at_level(logging.ERROR):
        status = errors.refused(Refused("A_NEW_RULE", {}))
    assert (status.code, status.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    error_id = status.details[0].metadata["error_id"]
    assert error_id in status.message
    assert error_id in caplog.text
    assert "A_NEW_RULE" in caplog.text


def test_a_mismatch_has_both_values() -> None:
    """The details of a refusal become the metadata of the status."""
    status = errors.refused(Refused("VERSION_MISMATCH", {"expected": "4", "actual": "6"}))
    assert (status.code, status.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
    assert dict(status.details[0].metadata) == {"expected": "4", "actual": "6"}
