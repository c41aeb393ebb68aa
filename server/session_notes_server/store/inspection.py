"""Read-only inspection of a store for its operator: version, configuration, permissions, expiry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hiredis import ReplyError

from session_notes_server.store.errors import ConnectionLost, StoreUnavailable, describe_error, error_codes
from session_notes_server.store.keys import Keys
from session_notes_server.store.redis.connection import Connection, pack
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.topology import Timeouts, open_topology
from session_notes_server.store.scripts import COMMANDS, FORBIDDEN_COMMANDS

# Everything that the command line needs from the store.
__all__ = ["COMMAND_LOGS", "RedisTarget", "StoreInspection", "StoreUnavailable", "describe_error", "inspect_store"]

ROUND_TRIPS = 10
SAMPLED_KEYS = 1000
_SCAN_STEPS, _KEYS_PER_STEP = 20, 500

COMMAND_LOGS = ("slowlog-log-slower-than", "commandlog-request-larger-than", "commandlog-reply-larger-than")
"""Settings of the logs that record command arguments. -1 disables a log. The last two exist since Valkey 8.1."""

_CONFIG = ("save", "appendfsync", "dir", "min-replicas-to-write", *COMMAND_LOGS)

# Every command that the sidecar's user must be allowed to run, as in docs/operating.md, with well-formed arguments.
NEEDED = ("info server", "scan 0", "eval return 1 KEY", "evalsha sha 1 KEY", *COMMANDS)
NEEDED_IN_A_CLUSTER = ("cluster|slots",)
NEEDED_FOR_REPLICAS = ("set KEY 1", "wait 1 1")

# KEYS[1]: a key of the sidecar. ARGV: commands.
# Reply: the commands that the user may not run, or false (nil) if the store cannot check. Only Redis 7 and Valkey can.
_FORBIDDEN = f"""{FORBIDDEN_COMMANDS}
return redis.acl_check_cmd and forbidden_commands(KEYS[1], ARGV)"""


@dataclass(slots=True)
class StoreInspection:
    """A report on one node. Anything the node does not reveal is empty or None; `refused` has the reasons."""

    info: Mapping[str, str] = field(default_factory=dict)
    """The reply to INFO."""

    config: dict[str, str] = field(default_factory=dict)
    """A selection of its settings."""

    cluster: Mapping[str, str] = field(default_factory=dict)
    """The reply to CLUSTER INFO, if it is a cluster."""

    refused: dict[str, str] = field(default_factory=dict)
    """Commands that were refused, and the reasons, in fixed texts."""

    round_trip_seconds: list[float] = field(default_factory=list)
    """Durations of some round trips."""

    clock_ahead_seconds: float | None = None
    """Its clock minus the clock of this host."""

    forbidden_commands: Sequence[str] | None = None
    """Commands that the sidecar needs and its user may not run."""

    keys_sampled: int = 0
    """Number of keys with the prefix that were checked."""

    keys_without_ttl: int = 0
    """Number of these keys that never expire."""


async def inspect_store(
    target: RedisTarget, prefix: str, *, reply_timeout: timedelta, replicas: bool = False
) -> list[StoreInspection]:
    """Inspect every node that has keys.

    Args:
        target: The store.
        prefix: Prefix of the sidecar's keys.
        reply_timeout: Limit for an attempt to connect, and for each reply.
        replicas: Whether writes wait for replicas, which requires more permissions.

    Raises:
        StoreUnavailable: If a node cannot be used. The cause is the reason.
    """
    seconds = reply_timeout.total_seconds()
    needed = NEEDED + (NEEDED_IN_A_CLUSTER if target.is_cluster else ())
    needed += (("select 1",) if target.db else ()) + (NEEDED_FOR_REPLICAS if replicas else ())
    topology = open_topology(target, Timeouts(seconds, seconds))
    try:
        return [await _inspect(await node.get(), Keys(prefix), needed, target) for node in await topology.all()]
    except (ConnectionLost, TimeoutError) as error:
        raise StoreUnavailable from error
    finally:
        await topology.aclose()


async def _inspect(connection: Connection, keys: Keys, needed: Sequence[str], target: RedisTarget) -> StoreInspection:
    inspection = StoreInspection()

    async def run(*words: str | int) -> Any:
        """Return the reply to a command, or None if it is refused."""
        (reply,) = await connection.send(pack(*words))
        if isinstance(reply, ReplyError):
            inspection.refused[str(words[0])] = _describe_refusal(str(words[0]), reply)
            return None
        return reply

    inspection.info = _parse_info(await run("INFO"))
    for name in _CONFIG:
        if pair := await run("CONFIG", "GET", name):
            inspection.config[name] = pair[1].decode()
    if target.is_cluster:
        inspection.cluster = _parse_info(await run("CLUSTER", "INFO"))
    forbidden = await run("EVAL", _FORBIDDEN, 1, keys.of("doctor")[0], *needed)
    inspection.forbidden_commands = None if forbidden is None else [command.decode() for command in forbidden]
    for _ in range(ROUND_TRIPS):
        began = time.monotonic()
        await run("TIME")
        inspection.round_trip_seconds.append(time.monotonic() - began)
    before = time.time()
    if now := await run("TIME"):
        inspection.clock_ahead_seconds = int(now[0]) + int(now[1]) / 1e6 - (before + time.time()) / 2
    await _sample_keys(inspection, connection, run, keys)
    return inspection


async def _sample_keys(inspection: StoreInspection, connection: Connection, run: Any, keys: Keys) -> None:
    """Check the expiry of some keys with the prefix. The number of scan steps is bounded, however many keys exist."""
    cursor = 0
    for _ in range(_SCAN_STEPS):
        step = await run("SCAN", cursor, "MATCH", keys.any_pattern, "COUNT", _KEYS_PER_STEP)
        if step is None:
            return
        cursor, sample = int(step[0]), step[1]
        if sample:
            for ttl_ms in await connection.send(b"".join(pack("PTTL", key) for key in sample), len(sample)):
                inspection.keys_sampled += 1
                inspection.keys_without_ttl += ttl_ms == -1
        if not cursor or inspection.keys_sampled >= SAMPLED_KEYS:
            return


def _describe_refusal(command: str, refusal: ReplyError) -> str:
    if command != "EVAL" and "NOPERM" in error_codes(refusal):
        return f"the user may not run {command}"
    if "unknown command" in str(refusal):
        return f"{command} is disabled at this store"
    return describe_error(refusal)


def _parse_info(reply: bytes | None) -> dict[str, str]:
    """Parse the lines `name:value` of a reply to INFO."""
    lines = (line.partition(":") for line in (reply or b"").decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
