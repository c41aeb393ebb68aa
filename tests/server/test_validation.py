"""Validation of large requests, which yields to other calls."""

import asyncio

import pytest
from google.protobuf.struct_pb2 import ListValue, Value
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.rpc.validation import Check


@pytest.mark.parametrize("large", ["values", "levels", "turns"])
async def test_other_calls_run_meanwhile(large: str) -> None:
    """60,000 values of a document, or 60,000 turns, are validated in at least 60 steps of the event loop."""
    check, steps = Check(), 0
    if large == "turns":
        checking = check.turns([Turn()] * 60_000, 100)
    elif large == "values":
        checking = check.json("x", Value(list_value=ListValue(values=[Value(bool_value=True)] * 60_000)))
    else:
        pair = Value(list_value=ListValue(values=[Value(bool_value=True)] * 4))
        checking = check.json("x", Value(list_value=ListValue(values=[pair] * 12_000)))
    done = asyncio.create_task(checking)
    while not done.done():
        await asyncio.sleep(0)
        steps += 1
    await done
    check.done()
    assert steps >= 60
