"""Channels to a sidecar. Every channel of this package is opened by this module, with the same options."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio

from session_notes import _forks
from session_notes._credentials import TLS, Credentials, PathLike, Token, unreadable
from session_notes._targets import target_or_default, uri

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # With gRPC's own backoff a restarted sidecar goes unnoticed for seconds, and up to two minutes after a long outage.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, this is the timeout of one connection attempt. A shorter one fails on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # The sidecar limits requests only. A session with its whole transcript may exceed gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # The sidecar runs nearby. A proxy configured for the internet must not get its calls.
    ("grpc.enable_http_proxy", 0),
    # Skip the DNS TXT lookup of a service config, which does not exist.
    ("grpc.service_config_disable_resolution", 1),
    # A host that loses power, or a firewall that forgets a connection, closes nothing. Without pings, calls would time
    # out until TCP gives up, after 15 minutes. The sidecar accepts a ping every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # gRPC's other pings, which replace those above while they are unanswered, have a timeout of a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
)


class Endpoint:
    """The address and credentials of a sidecar, for gRPC stubs such as health checks and reflection.

        >>> endpoint = Endpoint("notes.example.org:50051", tls=TLS(ca="ca.pem"), token=TokenFile("token"))
        >>> with endpoint.open_channel() as channel:
        ...     HealthStub(channel).Check(HealthCheckRequest(), metadata=endpoint.metadata(), timeout=1.0)

    A stub raises `grpc.RpcError`; `SessionNotesError.from_rpc_error` translates it.

    Args:
        target: The sidecar's address, as for `PrimaryClient`.
        token: The token of each call, as for `PrimaryClient`.
        tls: TLS for the connection, as for `PrimaryClient`.
        anonymous: Whether to send no token, regardless of the environment. Health checks need none.

    Raises:
        InvalidArgument: If the target is not an address, or a token would be sent unencrypted to another machine.
    """

    __slots__ = ("_credentials", "target")

    def __init__(
        self,
        target: str | None = None,
        *,
        token: Token | None = None,
        tls: TLS | None = None,
        anonymous: bool = False,
    ) -> None:
        self.target = target_or_default(target)
        self._credentials = Credentials(self.target, token, tls, anonymous=anonymous)

    @property
    def tls(self) -> TLS | None:
        """TLS of the connection. None: it is not encrypted."""
        return self._credentials.tls

    def metadata(self) -> Sequence[tuple[str, str]]:
        """Return the metadata that authenticates one call. Empty without a token.

        Raises:
            InvalidArgument: If the token function returned something other than a token.
            Unauthenticated: If the token function raised an exception.
        """
        return self._credentials.metadata()

    def open_channel(self) -> grpc.Channel:
        """Return a channel with the same options as the clients'. It connects at the first call.

        Raises:
            InvalidArgument: If a TLS file cannot be read.
        """
        return open_channel(self.target, self.tls)

    def open_async_channel(self) -> grpc.aio.Channel:
        """Return an asyncio channel with the same options as the clients'. It belongs to the running event loop.

        Raises:
            InvalidArgument: If a TLS file cannot be read.
        """
        return open_async_channel(self.target, self.tls)


def open_channel(target: str, tls: TLS | None) -> grpc.Channel:
    """Return a blocking channel. It connects at the first call."""
    options = (*_OPTIONS, *_forks.channel_options())
    if tls is None:
        return grpc.insecure_channel(uri(target), options=options)
    return grpc.secure_channel(uri(target), _channel_credentials(tls), options=options)


def open_async_channel(target: str, tls: TLS | None) -> grpc.aio.Channel:
    """Return an asyncio channel. It belongs to the event loop in which it is opened."""
    options = (*_OPTIONS, *_forks.channel_options())
    if tls is None:
        return grpc.aio.insecure_channel(uri(target), options=options)
    return grpc.aio.secure_channel(uri(target), _channel_credentials(tls), options=options)


def _channel_credentials(tls: TLS) -> grpc.ChannelCredentials:
    ca, key, cert = (_read(path) for path in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _read(path: PathLike | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
