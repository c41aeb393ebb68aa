"""The floor: a bare grpc.aio server that returns a response of the sidecar's size and does nothing else.

The program prints its ports once it serves, and exits when its stdin is closed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

METHOD = "/floor.Floor/Echo"


async def _serve(addresses: list[str], response_bytes: int) -> None:
    response = bytes(response_bytes)

    async def echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return response

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("floor.Floor", handlers)])
    ports = [server.add_insecure_port(address) for address in addresses]
    await server.start()
    print(*ports, flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    import uvloop  # The sidecar's event loop.

    uvloop.run(_serve(sys.argv[2:], int(sys.argv[1])))
