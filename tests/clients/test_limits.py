"""Limits and defaults that the client and the sidecar must agree on."""

from session_notes import _limits
from session_notes_server.rpc import validation
from session_notes_server.settings import Limits


def test_limits_are_those_of_the_sidecar() -> None:
    """The client's limits are those of a sidecar with default settings."""
    assert Limits().turn_bytes == _limits.MAX_TURN_BYTES
    assert validation.MAX_REASON_BYTES == _limits.MAX_FAILURE_BYTES
    assert validation.MAX_DEPTH == _limits.MAX_JSON_DEPTH
    assert validation.MAX_EXACT == _limits.MAX_EXACT_NUMBER
