"""What is checked of Redis or Valkey: can it be used, and does it keep what it is given, as long as it should?"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial

from session_notes_server.store import (
    COMMAND_LOGS,
    RedisTarget,
    StoreInspection,
    StoreUnavailable,
    describe_error,
    inspect_store,
)

from session_notes_tools.cli.phrases import ago, count
from session_notes_tools.doctor import probe
from session_notes_tools.doctor.findings import Finding, Verdict, clock, ms, ok, problem, skipped, warning

# What a GetNotes waits for a store that answers nobody is 80 ms by default.
SLOW_SECONDS = 0.02
NEARLY_FULL, FULL = 0.8, 0.95
_SEVERITY = list(Verdict)
_AN_ADMIN = "to have this checked, give --redis-url once with the user of an admin"


def checked(target: RedisTarget, prefix: str, *, timeout: timedelta, min_replicas: int) -> Iterator[Finding]:
    """Check a store, as far as one gets; nothing is changed there.

    Args:
        target: Where it is.
        prefix: What our keys start with.
        timeout: How long each step may take.
        min_replicas: How many replicas writes wait for.
    """
    unresolved: list[OSError] = []
    for address in target.addresses:
        try:
            if address.port:
                # Before asyncio looks for it: that would wait in the end for as long as the name servers make it.
                probe.resolved(address.host, address.port, timeout.total_seconds())
        except OSError as error:
            unresolved.append(error)
    if len(unresolved) == len(target.addresses):
        yield problem(
            "connection", f"{target.name}: {describe_error(unresolved[0])}", "see whether the host's name is right"
        )
        return
    try:
        looks = asyncio.run(inspect_store(target, prefix, reply_timeout=timeout, replicas=min_replicas > 0))
    except StoreUnavailable as error:
        yield problem(
            "connection",
            f"{target.name} cannot be used: {describe_error(error.__cause__)}",
            "see whether it runs, and whether --redis-url and the like say what they should",
        )
        return
    checks = (
        _connection,
        _version,
        partial(_role, target),
        _eviction,
        _memory,
        _persistence,
        partial(_disk, target),
        partial(_replicas, min_replicas),
        _log,
        _permissions,
        _expiry,
        _clock,
    )
    for check in checks:
        yield _together([check(one) for one in looks])


def _together(same: list[Finding]) -> Finding:
    """One finding for all nodes: the worst."""
    worst = max(same, key=lambda finding: _SEVERITY.index(finding.verdict))
    if len(same) == 1:
        return worst
    alike = sum(finding.verdict is worst.verdict for finding in same)
    return replace(worst, says=f"{worst.says} ({alike} of {len(same)} nodes)")


def _needs_info(judge: Callable[[StoreInspection], Finding]) -> Callable[[StoreInspection], Finding]:
    """A check that needs INFO, and says so where there is none."""
    name = judge.__name__.removeprefix("_")

    def check(seen: StoreInspection) -> Finding:
        return judge(seen) if seen.info else skipped(name, f"not known: {seen.refused.get('INFO')}", _AN_ADMIN)

    return check


def _connection(seen: StoreInspection) -> Finding:
    median, longest = statistics.median(seen.round_trip_seconds), max(seen.round_trip_seconds)
    says = f"a round trip takes {ms(median)} (median of {len(seen.round_trip_seconds)}, the longest {ms(longest)})"
    if median > SLOW_SECONDS:
        return warning("connection", f"{says}: GetNotes may wait 80 ms in all", "run the sidecar nearer to it")
    return ok("connection", says)


@_needs_info
def _version(seen: StoreInspection) -> Finding:
    valkey, redis = seen.info.get("valkey_version"), seen.info.get("redis_version", "")
    name, number, least = ("Valkey", valkey, (7, 2)) if valkey else ("Redis", redis, (6, 2))
    says = f"{name} {number}"
    if _numbers(number) < least:
        wanted = ".".join(map(str, least))
        return problem("version", f"{says} is too old", f"use {name} {wanted} or newer")
    return ok("version", says)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _role(target: RedisTarget, seen: StoreInspection) -> Finding:
    if not seen.info:
        return skipped("role", f"not known: {seen.refused.get('INFO')}", _AN_ADMIN)
    if seen.info.get("role") != "master":
        return problem(
            "role",
            "a read-only replica",
            "name the master, or let Sentinel say who it is: redis+sentinel://host:port,host:port/service",
        )
    in_a_cluster = seen.info.get("cluster_enabled") == "1"
    if in_a_cluster and not target.is_cluster:
        return problem("role", "a node of a cluster", "write redis+cluster:// or rediss+cluster://")
    if not in_a_cluster:
        return ok("role", "a master" + (", as Sentinel says" if target.service else ""))
    state, slots = seen.cluster.get("cluster_state"), seen.cluster.get("cluster_slots_assigned")
    if state is None:
        return skipped("role", f"in a cluster; its state is not known: {seen.refused.get('CLUSTER')}", _AN_ADMIN)
    if state != "ok" or slots != "16384":
        return problem("role", f"in a cluster that is down: {slots} of 16384 slots are served", "see CLUSTER NODES")
    return ok("role", "in a cluster that is whole")


@_needs_info
def _eviction(seen: StoreInspection) -> Finding:
    policy, limit = seen.info.get("maxmemory_policy", ""), _number(seen.info, "maxmemory")
    evicted = _number(seen.info, "evicted_keys")
    so_far = f"; {count(evicted, 'key')} gone that way since its start" if evicted else ""
    says = f"{policy}{so_far}"
    advice = "CONFIG SET maxmemory-policy noeviction, and in its configuration"
    if policy == "noeviction":
        return ok("eviction", says)
    if not limit:
        return warning("eviction", f"{says}: without a maxmemory it evicts nothing, with one it would", advice)
    if policy.startswith("volatile-"):
        return warning(
            "eviction", f"{says}: all sessions expire, so when memory is short it is they that go, {_IN_PART}", advice
        )
    return problem("eviction", f"{says}: when memory is short, sessions are lost before their time, {_IN_PART}", advice)


_IN_PART = "whole or in part (fields, transcript, runs)"


@_needs_info
def _memory(seen: StoreInspection) -> Finding:
    used, limit = _number(seen.info, "used_memory"), _number(seen.info, "maxmemory")
    if not limit:
        return ok("memory", f"{_mib(used)} used, no limit (maxmemory 0)")
    says = f"{_mib(used)} used of {_mib(limit)}"
    if used >= limit * FULL:
        return problem("memory", f"{says}: writes are refused, or soon will be", "raise maxmemory, or make room")
    if used >= limit * NEARLY_FULL:
        return warning("memory", f"{says}: when it is full, writes are refused", "raise maxmemory, or make room")
    return ok("memory", says)


@_needs_info
def _persistence(seen: StoreInspection) -> Finding:
    if "err" in (seen.info.get("aof_last_write_status"), seen.info.get("rdb_last_bgsave_status")):
        return problem("persistence", "its last write to disk failed", "see its log; is the disk full, or read-only?")
    if seen.info.get("aof_enabled") == "1":
        policy = seen.config.get("appendfsync", "")
        lost = {
            "always": "a crash loses nothing that was answered",
            "everysec": "a power cut can lose the last second or two",
        }.get(policy)
        if policy == "no":
            return warning(
                "persistence",
                "append-only file, appendfsync no: a power cut can lose half a minute",
                "CONFIG SET appendfsync everysec",
            )
        return ok("persistence", f"append-only file, appendfsync {policy}: {lost}" if lost else "append-only file")
    advice = "CONFIG SET appendonly yes, and in its configuration, unless notes are nothing to keep"
    if seen.config.get("save"):
        since = timedelta(seconds=max(0.0, time.time() - _number(seen.info, "rdb_last_save_time")))
        lost = count(_number(seen.info, "rdb_changes_since_last_save"), "change")
        return warning(
            "persistence",
            f"snapshots alone, the last one {ago(since)}: a crash loses what came after ({lost} by now)",
            advice,
        )
    if "save" in seen.config:
        return warning("persistence", "none: a crash or a restart loses every session", advice)
    return warning(
        "persistence",
        f"no append-only file; whether it makes snapshots is not known ({seen.refused.get('CONFIG')})",
        advice,
    )


def _disk(target: RedisTarget, seen: StoreInspection) -> Finding:
    directory = seen.config.get("dir")
    if target.addresses[0].port or not directory:
        return skipped("disk", "not to be seen from here")
    # Behind a unix socket it is on this machine.
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return skipped("disk", "not to be seen from here")
    says = f"{_mib(usage.free)} free where it keeps its files"
    if usage.free < usage.total * (1 - FULL):
        return warning("disk", f"{says}: when it is full, writes are refused", "make room")
    return ok("disk", says)


def _replicas(wanted: int, seen: StoreInspection) -> Finding:
    if not seen.info:
        return skipped("replicas", f"not known: {seen.refused.get('INFO')}", _AN_ADMIN)
    there = _number(seen.info, "connected_slaves")
    its_own = int(seen.config.get("min-replicas-to-write") or 0)
    if there < max(wanted, its_own):
        return problem(
            "replicas",
            f"{there} connected, and writes wait for {max(wanted, its_own)}: each is UNAVAILABLE",
            "connect more, or lower --min-replicas-acked and min-replicas-to-write",
        )
    if there and not wanted:
        return ok("replicas", f"{there} connected; a failover can lose the last writes (--min-replicas-acked 0)")
    return ok("replicas", f"{there} connected, writes wait for {wanted}" if there else "none: nothing to fail over to")


def _log(seen: StoreInspection) -> Finding:
    if "CONFIG" in seen.refused:
        return skipped("log", f"not known: {seen.refused['CONFIG']}", _AN_ADMIN)
    keeping = [name for name in COMMAND_LOGS if seen.config.get(name, "-1") != "-1"]
    if not keeping:
        return ok("log", "what users said is in no log of slow or large commands")
    return warning(
        "log",
        "its log of slow or large commands keeps the start of what they were given: what users said, beyond its time",
        f"{', '.join(f'CONFIG SET {name} -1' for name in keeping)}; see docs/operating.md, Privacy and erasure",
    )


def _permissions(seen: StoreInspection) -> Finding:
    if "EVAL" in seen.refused:
        return problem("permissions", f"no script can be run: {seen.refused['EVAL']}", _ALLOW)
    if seen.forbidden_commands is None:
        return skipped("permissions", "scripts can be run; what they may do only Redis 7 or newer tells", "try --write")
    if seen.forbidden_commands:
        return problem("permissions", f"our user may not run {', '.join(seen.forbidden_commands)} on our keys", _ALLOW)
    return ok("permissions", "scripts can be run, and our user may do all that they do")


_ALLOW = "allow it: docs/operating.md has the ACL of the user, under Redis with TLS and ACL"


def _expiry(seen: StoreInspection) -> Finding:
    if "SCAN" in seen.refused:
        return skipped("expiry", f"not known: {seen.refused['SCAN']}")
    looked_at = f"{count(seen.keys_sampled, 'key')} with our prefix"
    if seen.keys_without_ttl:
        return warning(
            "expiry",
            f"{looked_at} looked at, {seen.keys_without_ttl} never expire",
            "none of ours is like that: something else writes keys with our prefix; choose another with --prefix",
        )
    return ok("expiry", f"{looked_at} looked at, all expire" if seen.keys_sampled else "no key with our prefix yet")


def _clock(seen: StoreInspection) -> Finding:
    if seen.clock_ahead_seconds is None:
        return skipped("clock", f"not known: {seen.refused.get('TIME')}")
    return clock("its clock", seen.clock_ahead_seconds)


def _number(info: Mapping[str, str], name: str) -> int:
    text = info.get(name, "")
    return int(text) if text.isdecimal() else 0


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 10 * 2**30 else f"{size / 2**30:.0f} GiB"
