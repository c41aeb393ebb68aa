"""The one place that makes channels: where to, and with which options."""

from collections.abc import Sequence

import grpc
import grpc.aio

from session_notes import _forks
from session_notes._credentials import TLS, Credentials, PathLike, Token, unreadable
from session_notes._targets import target_or_default, uri

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # gRPC's own would leave a sidecar that is back unnoticed for seconds, up to two minutes after a long outage.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name, how long one attempt to connect may take: not so short that a busy machine is given up.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # The sidecar bounds what is sent to it; a whole session with its transcript may be larger than gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # A sidecar is next door; a proxy for the outside world, set for everybody, has no business in between.
    ("grpc.enable_http_proxy", 0),
    # No TXT look-up for a service config that is not there.
    ("grpc.service_config_disable_resolution", 1),
)


class Endpoint:
    """A sidecar's address and the credentials to call it with, for gRPC stubs: health checks, reflection, your own.

        >>> endpoint = Endpoint("notes.example.org:50051", tls=TLS(ca="ca.pem"), token=TokenFile("token"))
        >>> with endpoint.open_channel() as channel:
        ...     HealthStub(channel).Check(HealthCheckRequest(), metadata=endpoint.metadata(), timeout=1.0)

    A stub raises `grpc.RpcError`; `SessionNotesError.from_rpc_error` translates it.

    Args:
        target: The sidecar's address; None: `SESSION_NOTES_TARGET`, else the default.
        token: The token of each call; None: the token that the environment names, if any.
        tls: Certificates; None: those that the environment names, if any. A unix socket has no TLS.
        anonymous: Whether to send no token, whatever the environment says. Health checks need none.

    Raises:
        InvalidArgument: The target is not an address, the credentials do not fit together, or the token would cross the
            network unencrypted.
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
        """The certificates in use; None: the connection is not encrypted."""
        return self._credentials.tls

    def metadata(self) -> Sequence[tuple[str, str]]:
        """Return the metadata for one call: the current token, if there is one.

        Raises:
            InvalidArgument: The token function returned no token.
            Unauthenticated: The token function raised.
        """
        return self._credentials.metadata()

    def open_channel(self) -> grpc.Channel:
        """Return a channel with the clients' options; it connects at the first call.

        Raises:
            InvalidArgument: A file of the TLS settings cannot be read.
        """
        return open_channel(self.target, self.tls)

    def open_async_channel(self) -> grpc.aio.Channel:
        """Return an asyncio channel with the clients' options; it belongs to the running event loop.

        Raises:
            InvalidArgument: A file of the TLS settings cannot be read.
        """
        return open_async_channel(self.target, self.tls)


def open_channel(target: str, tls: TLS | None) -> grpc.Channel:
    """Return a blocking channel; it connects at the first call."""
    if tls is None:
        return grpc.insecure_channel(uri(target), options=(*_OPTIONS, *_forks.channel_options()))
    return grpc.secure_channel(uri(target), _encrypted(tls), options=(*_OPTIONS, *_forks.channel_options()))


def open_async_channel(target: str, tls: TLS | None) -> grpc.aio.Channel:
    """Return an asyncio channel; it belongs to the loop it is opened in."""
    if tls is None:
        return grpc.aio.insecure_channel(uri(target), options=(*_OPTIONS, *_forks.channel_options()))
    return grpc.aio.secure_channel(uri(target), _encrypted(tls), options=(*_OPTIONS, *_forks.channel_options()))


def _encrypted(tls: TLS) -> grpc.ChannelCredentials:
    ca, key, cert = (_content(path) for path in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _content(path: PathLike | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
