"""Sentinels: who is master, by whichever of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from hiredis import ReplyError

from session_notes_server.store.errors import Unusable
from session_notes_server.store.redis.connection import ConnectionLost, pack
from session_notes_server.store.redis.target import OpenedConnection, RedisTarget
from session_notes_server.store.redis.url import Address

# Of the time there is, what asking may take; the rest is for the master.
_SHARE = 0.6


class NoMaster(ConnectionError):
    """No Sentinel names a master that can be used. The cause says why; without one, none of them knows the name."""


async def open_master(target: RedisTarget, *, timeout_seconds: float, silence_seconds: float) -> OpenedConnection:
    """Connect to the master: the first one that a Sentinel names and that says it is one.

    All Sentinels are asked at once, so that one that is down or silent costs no time, and one that has not heard of a
    failover does not have the last word.

    Raises:
        OSError: If there is none.
        hiredis.ReplyError: If the master refuses our user, our password or the database.
    """
    failure: OSError | ReplyError | None = None
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    async with aclosing(_masters(target, timeout_seconds * _SHARE)) as masters:
        async for address in masters:
            left = deadline - asyncio.get_running_loop().time()
            try:
                opened = await target.open(address, timeout_seconds=left, silence_seconds=silence_seconds)
            except (OSError, ReplyError) as error:
                failure = failure or error
                continue
            if opened.role != "replica":
                return opened
            opened.connection.abort()
            failure = Unusable("Sentinel names a master that is a read-only replica: a failover may be going on")
    raise failure or NoMaster


async def _masters(target: RedisTarget, timeout_seconds: float) -> AsyncGenerator[Address, None]:
    """The masters that the Sentinels name, each once, as the answers come in.

    Raises:
        NoMaster: If none of them names any.
    """
    asking = [asyncio.create_task(_ask(target, address, timeout_seconds)) for address in target.addresses]
    named: set[Address] = set()
    failures: list[OSError | ReplyError] = []
    try:
        for answer in asyncio.as_completed(asking):
            try:
                address = await answer
            except (OSError, ReplyError) as error:
                failures.append(error)
                continue
            if address is not None and address not in named:
                named.add(address)
                yield address
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if not named:
        # One that does not know the name tells most, and a refusal more than a Sentinel that cannot be reached.
        failures.sort(key=lambda error: not isinstance(error, ReplyError))
        raise NoMaster from failures[0] if len(failures) == len(asking) else None


async def _ask(target: RedisTarget, address: Address, timeout_seconds: float) -> Address | None:
    """Ask one Sentinel; None: it does not know the name."""
    opened = await target.open_sentinel(address, timeout_seconds=timeout_seconds)
    try:
        [reply] = await opened.connection.send(pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service))
    except ConnectionLost as error:
        raise Unusable("it closes the connection") from error
    finally:
        opened.connection.abort()
    match reply:
        case None:
            return None
        case ReplyError():
            raise reply
        case [bytes(host), bytes(port)] if host and port.isdigit() and 0 < int(port) < 65536:
            return Address(host.decode(errors="replace"), int(port))
        case _:
            raise Unusable("a Sentinel's answer is no address")
