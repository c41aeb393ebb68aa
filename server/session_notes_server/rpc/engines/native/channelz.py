"""channelz for the native engine: its connections and the calls on them. Requires grpcio-channelz, for the messages."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from grpc_channelz.v1 import channelz_pb2 as messages

from session_notes_server.rpc import errors
from session_notes_server.settings import EngineName

if TYPE_CHECKING:
    from session_notes_server.rpc.engines.native.connection import Connection
    from session_notes_server.rpc.engines.native.server import NativeEngine

_SERVER = messages.ServerRef(server_id=1, name=EngineName.NATIVE)


class ChannelzServicer:
    """The servicer: one server, and a socket per connection. The sidecar has no channels of its own."""

    def __init__(self, engine: NativeEngine) -> None:
        self._engine = engine

    async def GetServers(self, request: Any, context: Any) -> Any:  # noqa: D102
        servers = [self._server()] if request.start_server_id <= _SERVER.server_id else []
        return messages.GetServersResponse(server=servers, end=True)

    async def GetServer(self, request: Any, context: Any) -> Any:  # noqa: D102
        _check(request.server_id == _SERVER.server_id, "server_id")
        return messages.GetServerResponse(server=self._server())

    async def GetServerSockets(self, request: Any, context: Any) -> Any:  # noqa: D102
        _check(request.server_id == _SERVER.server_id, "server_id")
        ids = sorted(number for number in map(id, self._engine.connections) if number >= request.start_socket_id)
        page = [messages.SocketRef(socket_id=number) for number in ids[: request.max_results or None]]
        return messages.GetServerSocketsResponse(socket_ref=page, end=len(page) == len(ids))

    async def GetSocket(self, request: Any, context: Any) -> Any:  # noqa: D102
        connections = {id(connection): connection for connection in self._engine.connections}
        _check(request.socket_id in connections, "socket_id")
        connection = connections[request.socket_id]
        started, succeeded, failed = _counts(connection, len(connection.calls))
        data = messages.SocketData(streams_started=started, streams_succeeded=succeeded, streams_failed=failed)
        reference = messages.SocketRef(socket_id=request.socket_id)
        socket = messages.Socket(ref=reference, data=data, remote=_address(connection.address))
        return messages.GetSocketResponse(socket=socket)

    async def GetTopChannels(self, request: Any, context: Any) -> Any:  # noqa: D102
        return messages.GetTopChannelsResponse(end=True)

    async def GetChannel(self, request: Any, context: Any) -> Any:  # noqa: D102
        _check(False, "channel_id")

    async def GetSubchannel(self, request: Any, context: Any) -> Any:  # noqa: D102
        _check(False, "subchannel_id")

    def _server(self) -> Any:
        in_flight = sum(len(connection.calls) for connection in self._engine.connections)
        started, succeeded, failed = _counts(self._engine, in_flight)
        data = messages.ServerData(calls_started=started, calls_succeeded=succeeded, calls_failed=failed)
        return messages.Server(ref=_SERVER, data=data)


def _counts(of: Connection | NativeEngine, in_flight: int) -> tuple[int, int, int]:
    """Return how many calls have started, succeeded and failed."""
    return of.started, of.succeeded, max(of.started - of.succeeded - in_flight, 0)


def _address(address: Any) -> Any:
    if not isinstance(address, tuple):
        return messages.Address(uds_address=messages.Address.UdsAddress())
    host, port = address[:2]
    packed = ip_address(host.partition("%")[0]).packed
    return messages.Address(tcpip_address=messages.Address.TcpIpAddress(ip_address=packed, port=port))


def _check(exists: bool, field: str) -> None:
    if not exists:
        raise errors.invalid_fields([(field, "does not exist in this process")])
