"""A bare gRPC server, which returns a response of the sidecar's size and does nothing else, on either engine.

Arguments: `native` for the sidecar's own engine or `grpc.aio` with gRPC's defaults, the size of the responses, and the
addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import grpc

METHOD = "/echo.Echo/Echo"
NATIVE, GRPC_AIO = "native", "grpc.aio"


async def _serve(engine: str, response_bytes: int, addresses: list[str]) -> None:
    response = bytes(response_bytes)

    async def echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return response

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    generic = grpc.method_handlers_generic_handler("echo.Echo", handlers)
    with contextlib.ExitStack() as stack:
        server: Any
        if engine == NATIVE:
            from session_notes_server.rpc.engines import open_engine
            from session_notes_server.settings import EngineName, Settings

            server = open_engine(Settings(engine=EngineName.NATIVE), None)
            for address in addresses:
                stack.enter_context(server.listening(address))
        else:
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            for address in addresses:
                server.add_insecure_port(address)
        server.add_generic_rpc_handlers([generic])
        await server.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop  # The sidecar's event loop.

    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
