"""A look at a store as its operator sees it: what it is, how it is set up, what we may do there. It changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hiredis import ReplyError

from session_notes_server.store.error_reasons import describe_error
from session_notes_server.store.errors import StoreUnavailable, codes
from session_notes_server.store.keys import Keys
from session_notes_server.store.redis.connection import Connection, ConnectionLost, pack
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.topology import Limits, nodes

ROUND_TRIPS = 10
SAMPLED_KEYS = 1000
_STEPS, _STEP_KEYS = 20, 500

# What keeps the start of commands' arguments, or all of them; -1: nothing. The last two are Valkey's, from 8.1 on.
COMMAND_LOGS = ("slowlog-log-slower-than", "commandlog-request-larger-than", "commandlog-reply-larger-than")
_CONFIG = ("save", "appendfsync", "dir", "min-replicas-to-write", *COMMAND_LOGS)

# All that a user of ours must be allowed, as in docs/operating.md, each with arguments that it could have.
NEEDED = (
    *("time", "info server", "scan 0", "eval return 1 KEY", "evalsha sha 1 KEY"),
    *("exists KEY", "unlink KEY", "rename KEY KEY", "pttl KEY", "pexpireat KEY 1"),
    *("hget KEY field", "hgetall KEY", "hmget KEY field", "hstrlen KEY field"),
    *("hset KEY field 1", "hsetnx KEY field 1", "hdel KEY field", "hincrby KEY field 1"),
    *("lrange KEY 0 1", "lpop KEY", "rpush KEY 1", "rpushx KEY 1"),
)
NEEDED_IN_A_CLUSTER = ("cluster|slots",)
NEEDED_FOR_REPLICAS = ("set KEY 1", "wait 1 1")

# Which of the commands named we may not run. Only Redis 7 and Valkey tell; false: this store does not.
_MAY_NOT = """
if not redis.acl_check_cmd then return false end
local refused = {}
for _, command in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(command, '%S+') do
    words[#words + 1] = word == 'KEY' and KEYS[1] or word
  end
  if not redis.acl_check_cmd(unpack(words)) then refused[#refused + 1] = words[1] end
end
return refused
"""


@dataclass(slots=True)
class StoreInspection:
    """What one node tells of itself, and of us. What it does not tell is empty, or None; `refused` says why."""

    info: Mapping[str, str] = field(default_factory=dict)
    """What INFO says, all sections."""

    config: dict[str, str] = field(default_factory=dict)
    """Some of its settings."""

    cluster: Mapping[str, str] = field(default_factory=dict)
    """What CLUSTER INFO says, where it is a cluster."""

    refused: dict[str, str] = field(default_factory=dict)
    """Command → why it was not answered, in fixed words."""

    round_trip_seconds: list[float] = field(default_factory=list)
    """How long some round trips took."""

    clock_ahead_seconds: float | None = None
    """Its clock, less ours."""

    forbidden_commands: Sequence[str] | None = None
    """Commands that we need and may not run."""

    keys_sampled: int = 0
    """How many keys with our prefix were looked at."""

    keys_without_ttl: int = 0
    """How many of these never expire."""


async def inspect_store(
    target: RedisTarget, prefix: str, *, reply_timeout: timedelta, replicas: bool = False
) -> list[StoreInspection]:
    """Inspect every node that has keys. Each reply is awaited for at most `reply_timeout`.

    Args:
        target: Where Redis is.
        prefix: What our keys start with.
        reply_timeout: How long an attempt to connect, or an answer, may take.
        replicas: Whether writes wait for replicas, which takes more permissions.

    Raises:
        StoreUnavailable: a node cannot be used; the cause says why.
    """
    seconds = reply_timeout.total_seconds()
    needed = NEEDED + (NEEDED_IN_A_CLUSTER if target.is_cluster else ())
    needed += (("select 1",) if target.db else ()) + (NEEDED_FOR_REPLICAS if replicas else ())
    found = nodes(target, Limits(seconds, seconds))
    try:
        return [await _look(await node.get(), Keys(prefix), needed, target) for node in await found.all()]
    except (ConnectionLost, TimeoutError) as error:
        raise StoreUnavailable from error
    finally:
        await found.aclose()


async def _look(connection: Connection, keys: Keys, needed: Sequence[str], target: RedisTarget) -> StoreInspection:
    seen = StoreInspection()

    async def ask(*words: str | int) -> Any:
        """A command's answer; None where it is refused."""
        (reply,) = await connection.send(pack(*words))
        if isinstance(reply, ReplyError):
            seen.refused[str(words[0])] = _why(str(words[0]), reply)
            return None
        return reply

    seen.info = _pairs(await ask("INFO"))
    for name in _CONFIG:
        if pair := await ask("CONFIG", "GET", name):
            seen.config[name] = pair[1].decode()
    if target.is_cluster:
        seen.cluster = _pairs(await ask("CLUSTER", "INFO"))
    refused = await ask("EVAL", _MAY_NOT, 1, keys.of("doctor")[0], *needed)
    seen.forbidden_commands = None if refused is None else [command.decode() for command in refused]
    for _ in range(ROUND_TRIPS):
        began = time.monotonic()
        await ask("TIME")
        seen.round_trip_seconds.append(time.monotonic() - began)
    before = time.time()
    if now := await ask("TIME"):
        seen.clock_ahead_seconds = int(now[0]) + int(now[1]) / 1e6 - (before + time.time()) / 2
    await _sample(seen, connection, ask, keys)
    return seen


async def _sample(seen: StoreInspection, connection: Connection, ask: Any, keys: Keys) -> None:
    """StoreInspection at some keys of ours, or of as many of others' as may be."""
    cursor = 0
    for _ in range(_STEPS):
        step = await ask("SCAN", cursor, "MATCH", keys.any_pattern, "COUNT", _STEP_KEYS)
        if step is None:
            return
        cursor, some = int(step[0]), step[1]
        if some:
            for left in await connection.send(b"".join(pack("PTTL", key) for key in some), len(some)):
                seen.keys_sampled += 1
                seen.keys_without_ttl += left == -1
        if not cursor or seen.keys_sampled >= SAMPLED_KEYS:
            return


def _why(command: str, refusal: ReplyError) -> str:
    if command != "EVAL" and "NOPERM" in codes(refusal):
        return f"our user may not run {command}"
    if "unknown command" in str(refusal):
        return f"{command} is switched off there"
    return describe_error(refusal)


def _pairs(said: bytes | None) -> dict[str, str]:
    return dict(_lines((said or b"").decode(errors="replace")))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, content = line.partition(":")
        if colon:
            yield name, content
