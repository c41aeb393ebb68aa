"""The only place that creates gRPC channels: target, TLS and channel options."""

import grpc
import grpc.aio

from session_notes import _forks
from session_notes._credentials import TLS, PathLike, unreadable
from session_notes._targets import uri

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # With gRPC's own backoff a restarted sidecar goes unnoticed for seconds, and up to two minutes after a long outage.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, this limits one connection attempt. It must not be so short that it fails on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # The sidecar limits requests only. A session with its whole transcript may exceed gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # The sidecar runs nearby. A proxy configured for the internet must not get its calls.
    ("grpc.enable_http_proxy", 0),
    # Skip the DNS TXT lookup of a service config, which does not exist.
    ("grpc.service_config_disable_resolution", 1),
)


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
