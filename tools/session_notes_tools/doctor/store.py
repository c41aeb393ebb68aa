"""All checks of Redis or Valkey, in order. Those of its durability are in `durability`."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial

from session_notes_server.settings import Settings
from session_notes_server.store.inspection import (
    COMMAND_LOGS,
    RedisTarget,
    StoreInspection,
    StoreUnavailable,
    describe_error,
    inspect_store,
)

from session_notes_tools.cli.phrases import count
from session_notes_tools.doctor import durability, probe
from session_notes_tools.doctor.findings import Finding, Verdict, clock, ms, ok, problem, skipped, warning
from session_notes_tools.doctor.store_info import USE_ADMIN, needs_info, number, unknown

# A quarter of the time that GetNotes waits for the store by default.
SLOW_SECONDS = 0.02
_SEVERITY = list(Verdict)


def check_store(target: RedisTarget, prefix: str, *, timeout: timedelta, min_replicas: int) -> Iterator[Finding]:
    """Check a store without changing it.

    Args:
        target: The store.
        prefix: The prefix of the sidecar's keys.
        timeout: The limit for each step.
        min_replicas: The number of replicas that writes wait for.
    """
    unresolved: list[OSError] = []
    for address in target.addresses:
        try:
            if address.port:
                # Before asyncio does: on exit, it would wait for lookups for as long as name servers do not respond.
                probe.resolve(address.host, address.port, timeout.total_seconds())
        except OSError as error:
            unresolved.append(error)
    if len(unresolved) == len(target.addresses):
        yield problem(
            "connection", f"cannot use {target.name} ({describe_error(unresolved[0])})", "check the host name"
        )
        return
    try:
        nodes = asyncio.run(inspect_store(target, prefix, reply_timeout=timeout, replicas=min_replicas > 0))
    except StoreUnavailable as error:
        yield problem(
            "connection",
            f"cannot use {target.name} ({describe_error(error.__cause__)})",
            "check that it is running, and that --redis-url and the options for Redis are correct",
        )
        return
    checks = (
        _connection,
        _version,
        partial(_role, target),
        durability.eviction,
        durability.memory,
        durability.persistence,
        partial(durability.disk, target),
        partial(_replicas, min_replicas),
        _log,
        _permissions,
        _expiry,
        _clock,
    )
    for check in checks:
        yield _worst([check(node) for node in nodes])


def _worst(findings: list[Finding]) -> Finding:
    """Return the worst of the nodes' findings, with the number of nodes that share its verdict."""
    worst = max(findings, key=lambda finding: _SEVERITY.index(finding.verdict))
    if len(findings) == 1:
        return worst
    same = sum(finding.verdict is worst.verdict for finding in findings)
    return replace(worst, says=f"{worst.says} ({same} of {len(findings)} nodes)")


def _connection(node: StoreInspection) -> Finding:
    median, longest = statistics.median(node.round_trip_seconds), max(node.round_trip_seconds)
    says = f"a round trip takes {ms(median)} (median of {len(node.round_trip_seconds)}, maximum {ms(longest)})"
    if median > SLOW_SECONDS:
        limit = Settings().notes_timeout // timedelta(milliseconds=1)
        return warning(
            "connection", f"{says}; by default, GetNotes waits at most {limit} ms", "run the sidecar closer to it"
        )
    return ok("connection", says)


@needs_info
def _version(node: StoreInspection) -> Finding:
    valkey, redis = node.info.get("valkey_version"), node.info.get("redis_version", "")
    name, number, oldest = ("Valkey", valkey, (7, 2)) if valkey else ("Redis", redis, (6, 2))
    says = f"{name} {number}"
    if _version_numbers(number) < oldest:
        return problem("version", f"{says} is too old", f"use {name} {'.'.join(map(str, oldest))} or newer")
    return ok("version", says)


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _role(target: RedisTarget, node: StoreInspection) -> Finding:
    if not node.info:
        return unknown("role", node, "INFO")
    if node.info.get("role") != "master":
        return problem(
            "role",
            "a read-only replica",
            "give the address of the master, or of the Sentinels: redis+sentinel://host:port,host:port/service",
        )
    in_cluster = node.info.get("cluster_enabled") == "1"
    if in_cluster and not target.is_cluster:
        return problem("role", "a node of a cluster", "use a URL with redis+cluster:// or rediss+cluster://")
    if not in_cluster:
        return ok("role", "a master" + (", according to Sentinel" if target.service else ""))
    state, slots = node.cluster.get("cluster_state"), node.cluster.get("cluster_slots_assigned")
    if state is None:
        return skipped("role", f"a master in a cluster of unknown state: {node.refused.get('CLUSTER')}", USE_ADMIN)
    if state != "ok" or slots != "16384":
        return problem(
            "role", f"a master in a cluster that is down; {slots} of 16384 slots are assigned", "see CLUSTER NODES"
        )
    return ok("role", "a master in a complete cluster")


def _replicas(min_replicas: int, node: StoreInspection) -> Finding:
    if not node.info:
        return unknown("replicas", node, "INFO")
    connected = number(node.info, "connected_slaves")
    needed = max(min_replicas, int(node.config.get("min-replicas-to-write") or 0))
    if connected < needed:
        return problem(
            "replicas",
            f"{connected} connected, but writes need {needed}; every write fails with UNAVAILABLE",
            "connect more replicas, or lower --min-replicas-acked and min-replicas-to-write",
        )
    if connected and not min_replicas:
        return ok("replicas", f"{connected} connected; a failover can lose the last writes (--min-replicas-acked 0)")
    return ok(
        "replicas", f"{connected} connected, writes wait for {min_replicas}" if connected else "none, so no failover"
    )


def _log(node: StoreInspection) -> Finding:
    if "CONFIG" in node.refused:
        return unknown("log", node, "CONFIG")
    enabled = [name for name in COMMAND_LOGS if node.config.get(name, "-1") != "-1"]
    if not enabled:
        return ok("log", "it does not log slow or large commands, which contain user data")
    return warning(
        "log",
        "its log of slow or large commands contains user data, even after the session has expired",
        f"{', '.join(f'CONFIG SET {name} -1' for name in enabled)}; see docs/operating.md, Privacy and erasure",
    )


def _permissions(node: StoreInspection) -> Finding:
    advice = "permit it; docs/operating.md lists the user's ACL, under Redis with TLS and ACL"
    if "EVAL" in node.refused:
        return problem("permissions", f"scripts cannot run: {node.refused['EVAL']}", advice)
    if node.forbidden_commands is None:
        return skipped(
            "permissions",
            "scripts can run; Redis before 7 does not report the permissions of the commands in them",
            "try --write",
        )
    if node.forbidden_commands:
        commands = ", ".join(node.forbidden_commands)
        return problem("permissions", f"the user may not run {commands} on the sidecar's keys", advice)
    return ok("permissions", "scripts can run, and the user may run all commands in them")


def _expiry(node: StoreInspection) -> Finding:
    if "SCAN" in node.refused:
        return skipped("expiry", f"unknown: {node.refused['SCAN']}")
    if not node.keys_sampled:
        return ok("expiry", "no key with the prefix yet")
    checked = f"checked {count(node.keys_sampled, 'key')} with the prefix"
    if node.keys_without_ttl:
        return warning(
            "expiry",
            f"{checked}, {node.keys_without_ttl} without a TTL",
            "all keys of a sidecar expire, so another program writes keys with this prefix; choose another --prefix",
        )
    return ok("expiry", f"{checked}, all with a TTL")


def _clock(node: StoreInspection) -> Finding:
    if node.clock_ahead_seconds is None:
        return skipped("clock", f"unknown: {node.refused.get('TIME')}")
    return clock("its clock", node.clock_ahead_seconds)
