"""A process that makes calls and says how long each took: one of several, since one is a bottleneck by itself.

A program. Its first line on stdin is a JSON list of what there is to call: [target, method, [body in base64, …],
whether we have to say who we are]. Each further line is an order, [which of them, how many in flight, seconds], and has
an answer, a line on stdout: how long each call took, or in words why one failed. The end of stdin is its own. It calls
as an application in Python does: by grpc.aio and generated messages, or by redis-py and JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

REDIS_READ, REDIS_UPDATE = "redis: read", "redis: read, modify, write"
SESSION_TTL_SECONDS = 24 * 3600
DEADLINE_SECONDS = 30

Call = Callable[[bytes], Awaitable[object]]


async def _main() -> None:
    loop = asyncio.get_running_loop()

    async def line() -> Any:
        text = await loop.run_in_executor(None, sys.stdin.readline)
        return json.loads(text) if text else None

    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for target, method, bodies, identified in await line():
            if method in {REDIS_READ, REDIS_UPDATE}:
                call = await _redis(target, method, stack)
            else:
                call = await _grpc(target, method, identified, stack)
            calls.append((call, [base64.b64decode(body) for body in bodies]))
        while order := await line():
            which, in_flight, seconds = order
            call, bodies = calls[which]
            cpu, began = time.process_time(), time.perf_counter()
            try:
                taken_us = await _made(call, bodies, in_flight, began + seconds)
            except Exception as error:
                print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)  # noqa: T201
                return
            answer = taken_us, time.perf_counter() - began, time.process_time() - cpu
            print(json.dumps(answer), flush=True)  # noqa: T201


async def _made(call: Call, bodies: Sequence[bytes], in_flight: int, until: float) -> list[float]:
    """Make calls, so many at a time, until it is time → how long each took, in µs."""
    taken_us: list[float] = []
    turn = itertools.cycle(bodies)

    async def one_after_another() -> None:
        while (began := time.perf_counter()) < until:
            await call(next(turn))
            taken_us.append(round((time.perf_counter() - began) * 1e6, 1))

    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return taken_us


async def _grpc(target: str, method: str, identified: bool, stack: contextlib.AsyncExitStack) -> Call:
    import grpc.aio
    from google.protobuf.message_factory import GetMessageClass
    from session_notes import Endpoint
    from session_notes.v1 import session_notes_pb2, session_state_pb2

    # A token and certificates are in the environment, as for any client.
    endpoint = Endpoint(target, anonymous=not identified)
    channel = await stack.enter_async_context(endpoint.open_async_channel())
    answers = {
        f"/{service.full_name}/{one.name}": GetMessageClass(one.output_type).FromString
        for module in (session_notes_pb2, session_state_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for one in service.methods
    }
    stub: grpc.aio.UnaryUnaryMultiCallable[bytes, object] = channel.unary_unary(
        method, response_deserializer=answers.get(method)
    )

    async def call(body: bytes) -> object:
        return await stub(body, timeout=DEADLINE_SECONDS, metadata=endpoint.metadata())

    return call


async def _redis(target: str, method: str, stack: contextlib.AsyncExitStack) -> Call:
    import redis.asyncio as redis

    client: Any = redis.Redis.from_url(target)
    stack.push_async_callback(client.aclose)

    async def read(key: bytes) -> object:
        return json.loads(await client.get(key))

    async def update(key: bytes) -> None:
        # The way in which two writers lose each other's fields; a correct one costs more.
        session = json.loads(await client.get(key))
        session["version"] += 1
        await client.set(key, json.dumps(session), ex=SESSION_TTL_SECONDS)

    return read if method == REDIS_READ else update


if __name__ == "__main__":
    asyncio.run(_main())
