"""Checks of what is large: they must not keep the loop, and so everybody's calls, to themselves."""

import asyncio

import pytest
from google.protobuf.struct_pb2 import ListValue, Value
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.rpc.validation import Check


@pytest.mark.parametrize("large", ["values", "levels", "turns"])
async def test_others_have_their_turns(large: str) -> None:
    """60,000 values in a document, or turns, are looked at in some dozens of steps."""
    check, steps = Check(), 0
    if large == "turns":
        looking = check.turns([Turn()] * 60_000, 100)
    elif large == "values":
        looking = check.json("x", Value(list_value=ListValue(values=[Value(bool_value=True)] * 60_000)))
    else:
        pair = Value(list_value=ListValue(values=[Value(bool_value=True)] * 4))
        looking = check.json("x", Value(list_value=ListValue(values=[pair] * 12_000)))
    done = asyncio.create_task(looking)
    while not done.done():
        await asyncio.sleep(0)
        steps += 1
    await done
    check.done()
    assert steps >= 60
