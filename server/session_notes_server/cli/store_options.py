"""Options about the store that more than one command takes, beside the URL."""

import re
from pathlib import Path
from typing import Annotated

import typer

PANEL = "Redis"

RedisPasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="SESSION_NOTES_REDIS_PASSWORD_FILE",
        rich_help_panel=PANEL,
        help="The password of Redis, in a file that is yours alone (mode 600); read again for every connection.",
        show_default="the one in the URL, if any",
    ),
]
RedisCA = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="SESSION_NOTES_REDIS_CA",
        rich_help_panel=PANEL,
        help="Over TLS (rediss://, rediss+cluster://, rediss+sentinel://), trust only certificates of this "
        "authority, a PEM file; read again for every connection.",
        show_default="the authorities this system trusts",
    ),
]
RedisCert = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="SESSION_NOTES_REDIS_CERT",
        rich_help_panel=PANEL,
        help="Our certificate, for a Redis that asks for one, a PEM file; read again for every connection.",
    ),
]
RedisKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="SESSION_NOTES_REDIS_KEY",
        rich_help_panel=PANEL,
        help="The private key of --redis-cert.",
    ),
]
MinReplicasAcked = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        envvar="SESSION_NOTES_MIN_REPLICAS_ACKED",
        help="Answer a write only once N replicas of Redis have it, so that a failover cannot lose it. Where they "
        "do not have it in time: UNAVAILABLE, and a retry is safe.",
    ),
]


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[!-z|~]{1,64}", text):
        raise typer.BadParameter("1 to 64 bytes of printable ASCII without space, '{' or '}'")
    return text


Prefix = Annotated[
    str,
    typer.Option(
        parser=_prefix,
        metavar="TEXT",
        envvar="SESSION_NOTES_PREFIX",
        help="What every key in the store starts with. Sidecars that share it share sessions.",
    ),
]
