"""The floor: a bare grpc.aio server that answers with as many bytes as a sidecar would. Nothing of ours is in it.

A program: it says its first line on stdout when it serves, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

METHOD = "/floor.Floor/Echo"


async def _serve(addresses: list[str], answer_bytes: int) -> None:
    answer = bytes(answer_bytes)

    async def echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return answer

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("floor.Floor", handlers)])
    ports = [server.add_insecure_port(address) for address in addresses]
    await server.start()
    print(*ports, flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    import uvloop  # As the sidecar has it.

    uvloop.run(_serve(sys.argv[2:], int(sys.argv[1])))
