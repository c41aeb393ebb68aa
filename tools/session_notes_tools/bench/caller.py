"""The caller program of the bench, which makes calls and reports their latencies.

It calls as a Python application does: with grpc.aio and generated messages, with redis-py and JSON, or with a client
library. Several of these processes run at the same time, because a single one would be the bottleneck.

Parent and program exchange JSON lines. The first line on stdin lists the targets, each as [protocol, address, method,
[base64 body, …], authenticated]. Each later line requests a slice, [index of the target, calls in flight, seconds]. The
program responds with one line on stdout, [latencies in µs, elapsed seconds, CPU seconds], or with an error text, after
which it exits. It also exits at the end of stdin.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from session_notes_tools.bench.documents import SESSION_TTL_SECONDS

REDIS_READ, REDIS_UPDATE = "read", "read, modify, write"
PRIMARY_CLIENT, DAPR_CLIENT = "PrimaryClient.get_notes", "DaprClient.get_state"
DEADLINE_SECONDS = 30

Call = Callable[[bytes], Awaitable[object]]


async def _main() -> None:
    loop = asyncio.get_running_loop()

    async def read_line() -> Any:
        text = await loop.run_in_executor(None, sys.stdin.readline)
        return json.loads(text) if text else None

    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for protocol, address, method, bodies, authenticated in await read_line():
            if protocol == "redis":
                call = await _redis_call(address, method, stack)
            elif protocol == "client":
                call = _primary_client(address, stack) if method == PRIMARY_CLIENT else _dapr_client(address, stack)
            else:
                call = await _grpc_call(address, method, authenticated, stack)
            calls.append((call, [base64.b64decode(body) for body in bodies]))
        while slice_request := await read_line():
            index, in_flight, seconds = slice_request
            call, bodies = calls[index]
            cpu, began = time.process_time(), time.perf_counter()
            try:
                latencies_us = await _call_until(began + seconds, call, bodies, in_flight)
            except Exception as error:
                print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)  # noqa: T201
                return
            result = latencies_us, time.perf_counter() - began, time.process_time() - cpu
            print(json.dumps(result), flush=True)  # noqa: T201


async def _call_until(deadline: float, call: Call, bodies: Sequence[bytes], in_flight: int) -> list[float]:
    """Keep a constant number of calls in flight until the deadline, and return their latencies in µs."""
    latencies_us: list[float] = []
    body = itertools.cycle(bodies)

    async def call_in_sequence() -> None:
        while (began := time.perf_counter()) < deadline:
            await call(next(body))
            latencies_us.append(round((time.perf_counter() - began) * 1e6, 1))

    await asyncio.gather(*(call_in_sequence() for _ in range(in_flight)))
    return latencies_us


async def _grpc_call(address: str, method: str, authenticated: bool, stack: contextlib.AsyncExitStack) -> Call:
    import grpc.aio
    from google.protobuf.message_factory import GetMessageClass
    from session_notes import Endpoint
    from session_notes.v1 import session_notes_pb2, session_state_pb2

    # The token and the certificates come from the environment, as for any client.
    endpoint = Endpoint(address, anonymous=not authenticated)
    channel = await stack.enter_async_context(endpoint.open_async_channel())
    parsers = {
        f"/{service.full_name}/{rpc.name}": GetMessageClass(rpc.output_type).FromString
        for module in (session_notes_pb2, session_state_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
    }
    stub: grpc.aio.UnaryUnaryMultiCallable[bytes, object] = channel.unary_unary(
        method, response_deserializer=parsers.get(method)
    )

    async def call(body: bytes) -> object:
        return await stub(body, timeout=DEADLINE_SECONDS, metadata=endpoint.metadata())

    return call


async def _redis_call(url: str, method: str, stack: contextlib.AsyncExitStack) -> Call:
    import redis.asyncio as redis

    client: Any = redis.Redis.from_url(url)
    stack.push_async_callback(client.aclose)

    async def read(key: bytes) -> object:
        return json.loads(await client.get(key))

    async def update(key: bytes) -> None:
        # Concurrent updates lose each other's fields. A correct update costs more.
        session = json.loads(await client.get(key))
        session["version"] += 1
        await client.set(key, json.dumps(session), ex=SESSION_TTL_SECONDS)

    return read if method == REDIS_READ else update


def _primary_client(address: str, stack: contextlib.AsyncExitStack) -> Call:
    from session_notes import PrimaryClient

    client = stack.enter_context(PrimaryClient(address))

    async def call(key: bytes) -> object:
        return client.get_notes(key.decode())

    return call


def _dapr_client(addresses: str, stack: contextlib.AsyncExitStack) -> Call:
    address, http_url = addresses.split()
    # The client checks the sidecar's health over HTTP, and prints failures to stdout.
    os.environ["DAPR_HTTP_ENDPOINT"] = http_url
    with contextlib.redirect_stdout(sys.stderr):
        from dapr.clients import DaprClient

        client: Any = stack.enter_context(DaprClient(address))

    async def call(key: bytes) -> object:
        return client.get_state("store", key.decode()).json()

    return call


if __name__ == "__main__":
    asyncio.run(_main())
