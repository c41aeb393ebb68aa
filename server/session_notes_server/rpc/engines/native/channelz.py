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

_SERVER_ID = 1
_SERVER = messages.ServerRef(server_id=_SERVER_ID, name=EngineName.NATIVE)
_PAGE = 100


class ChannelzServicer:
    """The servicer: one server, and a socket per connection. The sidecar has no channels of its own."""

    def __init__(self, engine: NativeEngine) -> None:
        self._engine = engine

    async def GetServers(self, request: Any, context: Any) -> Any:  # noqa: D102
        return messages.GetServersResponse(
            server=[] if request.start_server_id > _SERVER_ID else [self._server()], end=True
        )

    async def GetServer(self, request: Any, context: Any) -> Any:  # noqa: D102
        if request.server_id != _SERVER_ID:
            raise _does_not_exist("server_id")
        return messages.GetServerResponse(server=self._server())

    async def GetServerSockets(self, request: Any, context: Any) -> Any:  # noqa: D102
        if request.server_id != _SERVER_ID:
            raise _does_not_exist("server_id")
        ids = sorted(id(connection) for connection in self._engine.connections)
        page = [number for number in ids if number >= request.start_socket_id]
        size = request.max_results or _PAGE
        return messages.GetServerSocketsResponse(
            socket_ref=[messages.SocketRef(socket_id=number) for number in page[:size]], end=len(page) <= size
        )

    async def GetSocket(self, request: Any, context: Any) -> Any:  # noqa: D102
        for connection in self._engine.connections:
            if id(connection) == request.socket_id:
                return messages.GetSocketResponse(socket=_socket(connection))
        raise _does_not_exist("socket_id")

    async def GetTopChannels(self, request: Any, context: Any) -> Any:  # noqa: D102
        return messages.GetTopChannelsResponse(end=True)

    async def GetChannel(self, request: Any, context: Any) -> Any:  # noqa: D102
        raise _does_not_exist("channel_id")

    async def GetSubchannel(self, request: Any, context: Any) -> Any:  # noqa: D102
        raise _does_not_exist("subchannel_id")

    def _server(self) -> Any:
        engine = self._engine
        in_flight = sum(len(connection.calls) for connection in engine.connections)
        data = messages.ServerData(
            calls_started=engine.started,
            calls_succeeded=engine.succeeded,
            calls_failed=max(engine.started - engine.succeeded - in_flight, 0),
        )
        return messages.Server(ref=_SERVER, data=data)


def _socket(connection: Connection) -> Any:
    data = messages.SocketData(
        streams_started=connection.started,
        streams_succeeded=connection.succeeded,
        streams_failed=max(connection.started - connection.succeeded - len(connection.calls), 0),
    )
    return messages.Socket(
        ref=messages.SocketRef(socket_id=id(connection)), data=data, remote=_address(connection.peer)
    )


def _address(peer: str) -> Any:
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return messages.Address(uds_address=messages.Address.UdsAddress(filename=rest))
    host, _, port = rest.rpartition(":")
    packed = ip_address(host.strip("[]").partition("%")[0]).packed
    return messages.Address(tcpip_address=messages.Address.TcpIpAddress(ip_address=packed, port=int(port)))


def _does_not_exist(field: str) -> errors.StatusError:
    return errors.invalid_fields([(field, "does not exist in this process")])
