"""Sentinels: finding the master through the first Sentinel that answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from hiredis import ReplyError

from session_notes_server.store.errors import ConnectionLost, NoMaster, Unusable
from session_notes_server.store.redis.connection import pack
from session_notes_server.store.redis.target import OpenedConnection, RedisTarget
from session_notes_server.store.redis.url import Address

# The share of the time limit that asking Sentinels may take. The rest is for connecting to the master.
_ASKING_SHARE = 0.6


async def open_master(target: RedisTarget, *, timeout_seconds: float, silence_seconds: float) -> OpenedConnection:
    """Connect to the master: the first node that a Sentinel names and that is not a replica.

    All Sentinels are asked concurrently, so that one that is down or silent costs no time, and one that has not heard
    of a failover does not decide alone.

    Raises:
        OSError: If no master can be reached.
        hiredis.ReplyError: If the master refuses the user, the password or the database.
    """
    failure: OSError | ReplyError | None = None
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    async with aclosing(_masters(target, timeout_seconds * _ASKING_SHARE)) as masters:
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
            failure = Unusable("Sentinel names a master that is a read-only replica: is a failover in progress?")
    raise failure or NoMaster


async def _masters(target: RedisTarget, timeout_seconds: float) -> AsyncGenerator[Address, None]:
    """Yield the masters that Sentinels name, each once, as the answers come in.

    Raises:
        NoMaster: If no Sentinel names one.
    """
    tasks = [asyncio.create_task(_ask(target, address, timeout_seconds)) for address in target.addresses]
    masters: set[Address] = set()
    failures: list[OSError | ReplyError] = []
    try:
        for answer in asyncio.as_completed(tasks):
            try:
                address = await answer
            except (OSError, ReplyError) as error:
                failures.append(error)
                continue
            if address is not None and address not in masters:
                masters.add(address)
                yield address
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not masters:
        # Report the most informative failure: a Sentinel without the name, then an error reply, then no connection.
        failures.sort(key=lambda error: not isinstance(error, ReplyError))
        raise NoMaster from failures[0] if len(failures) == len(tasks) else None


async def _ask(target: RedisTarget, address: Address, timeout_seconds: float) -> Address | None:
    """Ask one Sentinel for the master. None: it does not know the name."""
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
            raise Unusable("a Sentinel's reply is not an address: is it a Sentinel?")
