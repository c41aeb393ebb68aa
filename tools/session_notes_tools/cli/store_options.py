"""Store options shared by `serve` and `doctor`, except the URL."""

import re
from collections.abc import Callable
from typing import TypeVar

import click
from session_notes_server.settings import Settings

from session_notes_tools.cli.parameters import option, path_option

T = TypeVar("T")

PANEL = "Redis"
_DEFAULTS = Settings()

_password_file_option = path_option(
    "--redis-password-file",
    envvar="SESSION_NOTES_REDIS_PASSWORD_FILE",
    panel=PANEL,
    help="A file with the password of Redis, readable only by its owner (mode 600). Reloaded for every connection.",
    show_default="the password in the URL, if any",
)
_ca_option = path_option(
    "--redis-ca",
    envvar="SESSION_NOTES_REDIS_CA",
    panel=PANEL,
    help="With TLS (rediss://, rediss+cluster://, rediss+sentinel://), trust only certificates from "
    "this authority (a PEM file). Reloaded for every connection.",
    show_default="the authorities trusted by this system",
)
_cert_option = path_option(
    "--redis-cert",
    envvar="SESSION_NOTES_REDIS_CERT",
    panel=PANEL,
    help="The sidecar's client certificate (a PEM file), if Redis requires one. Reloaded for every connection.",
)
_key_option = path_option(
    "--redis-key",
    envvar="SESSION_NOTES_REDIS_KEY",
    panel=PANEL,
    help="The private key of --redis-cert (a PEM file).",
)
_sentinel_user_option = option(
    "--sentinel-user",
    metavar="NAME",
    envvar="SESSION_NOTES_SENTINEL_USER",
    panel=PANEL,
    help="The user name for the Sentinels (redis+sentinel://), which have users of their own.",
    default=_DEFAULTS.sentinel_user,
    show_default="their default user",
)
_sentinel_password_file_option = path_option(
    "--sentinel-password-file",
    envvar="SESSION_NOTES_SENTINEL_PASSWORD_FILE",
    panel=PANEL,
    help="A file with the password of the Sentinels, readable only by its owner (mode 600). Reloaded for every "
    "connection. The passwords in the URL and in --redis-password-file are for Redis only.",
    show_default="no password",
)


def redis_secrets_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options for a Redis with access control: passwords, certificates and the login to Sentinels."""
    for add in (
        _sentinel_password_file_option,
        _sentinel_user_option,
        _key_option,
        _cert_option,
        _ca_option,
        _password_file_option,
    ):
        command = add(command)
    return command


min_replicas_acked_option = option(
    "--min-replicas-acked",
    type=click.IntRange(min=0),
    metavar="N",
    envvar="SESSION_NOTES_MIN_REPLICAS_ACKED",
    help="Acknowledge a write only after N replicas of Redis have received it, so that a failover cannot lose it. If "
    "they do not receive it in time, the call fails with UNAVAILABLE and is safe to retry.",
    default=_DEFAULTS.min_replicas_acked,
)


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[!-z|~]{1,64}", text):
        raise click.BadParameter("must be 1 to 64 bytes of printable ASCII without space, '{' or '}'")
    return text


prefix_option = option(
    "--prefix",
    type=_prefix,
    metavar="TEXT",
    envvar="SESSION_NOTES_PREFIX",
    help="The prefix of every key in the store. Sidecars with the same prefix share sessions.",
    default=_DEFAULTS.prefix,
)
