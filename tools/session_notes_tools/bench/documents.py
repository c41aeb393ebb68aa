"""What a Python developer would write without the sidecar: a server that keeps sessions in Redis as JSON documents.

It has no readiness, no age and no runs, and concurrent writes to a session lose each other's changes. Arguments:
`grpc.aio` or `FastAPI`, the Redis URL, and the port.
"""

from __future__ import annotations

import json
import sys
from typing import Any

READ, WRITE = "/sessions.Sessions/Read", "/sessions.Sessions/Write"
NOTES_PATH = "/sessions/{session_id}/notes"
SESSION_TTL_SECONDS = 24 * 3600
GRPC_AIO, FASTAPI = "grpc.aio", "FastAPI"


class Documents:
    """Sessions as JSON documents in Redis.

    Args:
        url: The Redis URL.
    """

    def __init__(self, url: str) -> None:
        import redis.asyncio as redis

        self._redis: Any = redis.Redis.from_url(url)

    async def put(self, session_id: str, session: dict[str, Any]) -> None:
        """Store a session."""
        await self._redis.set(session_id, json.dumps(session), ex=SESSION_TTL_SECONDS)

    async def read(self, session_id: str) -> Any:
        """Return the notes of a session."""
        return json.loads(await self._redis.get(session_id))["notes"]

    async def write(self, session_id: str, notes: Any) -> int:
        """Replace the notes of a session, and return its new version."""
        session = json.loads(await self._redis.get(session_id))
        session["notes"] = notes
        session["version"] += 1
        await self.put(session_id, session)
        version: int = session["version"]
        return version

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


async def _serve_grpc(documents: Documents, port: int) -> None:
    import grpc

    async def read(request: dict[str, Any], context: object) -> Any:
        return await documents.read(request["session_id"])

    async def write(request: dict[str, Any], context: object) -> Any:
        return {"version": await documents.write(request["session_id"], request["notes"])}

    def to_bytes(response: Any) -> bytes:
        return json.dumps(response).encode()

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        method.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(
            behavior, request_deserializer=json.loads, response_serializer=to_bytes
        )
        for method, behavior in ((READ, read), (WRITE, write))
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("sessions.Sessions", handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def _serve_http(documents: Documents, port: int) -> None:
    import fastapi
    import uvicorn

    async def read(session_id: str) -> dict[str, Any]:
        notes: dict[str, Any] = await documents.read(session_id)
        return notes

    async def write(session_id: str, notes: dict[str, Any]) -> dict[str, int]:
        return {"version": await documents.write(session_id, notes)}

    app = fastapi.FastAPI()
    app.get(NOTES_PATH)(read)
    app.post(NOTES_PATH)(write)
    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False)).serve()


async def _main(kind: str, url: str, port: int) -> None:
    await (_serve_http if kind == FASTAPI else _serve_grpc)(Documents(url), port)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
