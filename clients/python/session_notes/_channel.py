"""The one place that makes channels: where to, and with which options."""

import grpc
import grpc.aio

from session_notes import _forks
from session_notes._credentials import TLS, PathLike, unreadable
from session_notes._targets import uri

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
