"""Checks of a store's durability: eviction, memory, persistence and disk."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta

from session_notes_server.store.inspection import RedisTarget, StoreInspection

from session_notes_tools.cli.phrases import ago, count
from session_notes_tools.doctor.findings import Finding, ok, problem, skipped, warning
from session_notes_tools.doctor.store_info import needs_info, number

NEARLY_FULL, FULL = 0.8, 0.95
"""Shares of memory at which the doctor warns and reports a problem."""


@needs_info
def eviction(node: StoreInspection) -> Finding:
    """Return whether the store evicts sessions before they expire."""
    policy, limit = node.info.get("maxmemory_policy", ""), number(node.info, "maxmemory")
    evicted = number(node.info, "evicted_keys")
    says = f"{policy}; {count(evicted, 'key')} evicted since it started" if evicted else policy
    advice = "set maxmemory-policy noeviction, with CONFIG SET and in its configuration file"
    loss = (
        "when memory runs short, it evicts sessions before they expire, in whole or in part (fields, transcript, runs)"
    )
    if policy == "noeviction":
        return ok("eviction", says)
    if not limit:
        return warning("eviction", f"{says}; without maxmemory it evicts nothing, but with maxmemory it would", advice)
    if policy.startswith("volatile-"):
        return warning("eviction", f"{says}; as every session has a TTL, {loss}", advice)
    return problem("eviction", f"{says}; {loss}", advice)


@needs_info
def memory(node: StoreInspection) -> Finding:
    """Return how close the store is to its memory limit."""
    used, limit = number(node.info, "used_memory"), number(node.info, "maxmemory")
    if not limit:
        return ok("memory", f"{_size(used)} used, no limit (maxmemory 0)")
    says = f"{_size(used)} used of {_size(limit)}"
    if used >= limit * FULL:
        return problem("memory", f"{says}; it refuses writes, or soon will", "raise maxmemory, or free memory")
    if used >= limit * NEARLY_FULL:
        return warning("memory", f"{says}; once full, it refuses writes", "raise maxmemory, or free memory")
    return ok("memory", says)


@needs_info
def persistence(node: StoreInspection) -> Finding:
    """Return what a crash of the store would lose."""
    if "err" in (node.info.get("aof_last_write_status"), node.info.get("rdb_last_bgsave_status")):
        return problem("persistence", "its last write to disk failed", "see its log; the disk may be full or read-only")
    if node.info.get("aof_enabled") == "1":
        return _append_only_file(node.config.get("appendfsync", ""))
    advice = "set appendonly yes, with CONFIG SET and in its configuration file, unless notes may be lost"
    if node.config.get("save"):
        age = timedelta(seconds=max(0.0, time.time() - number(node.info, "rdb_last_save_time")))
        changes = count(number(node.info, "rdb_changes_since_last_save"), "change")
        return warning(
            "persistence",
            f"snapshots only, the last one {ago(age)}; a crash loses all later changes ({changes} so far)",
            advice,
        )
    if "save" in node.config:
        return warning("persistence", "none; a crash or a restart loses every session", advice)
    return warning(
        "persistence",
        f"no append-only file; whether it takes snapshots is unknown ({node.refused.get('CONFIG')})",
        advice,
    )


def _append_only_file(fsync_policy: str) -> Finding:
    loss = {
        "always": "a crash loses no acknowledged write",
        "everysec": "a power failure can lose the last second or two",
        "no": "a power failure can lose the last half minute",
    }.get(fsync_policy)
    says = f"append-only file, appendfsync {fsync_policy}; {loss}" if loss else "append-only file"
    if fsync_policy == "no":
        return warning("persistence", says, "set appendfsync everysec, with CONFIG SET and in its configuration file")
    return ok("persistence", says)


def disk(target: RedisTarget, node: StoreInspection) -> Finding:
    """Return how full the store's disk is, if it is on this machine."""
    directory = node.config.get("dir")
    # Only a store behind a unix socket is certain to be on this machine.
    if target.addresses[0].port or not directory:
        return skipped("disk", "not visible from here")
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return skipped("disk", "not visible from here")
    says = f"{_size(usage.free)} free in its directory"
    if usage.free < usage.total * (1 - FULL):
        return warning("disk", f"{says}; once the disk is full, it refuses writes", "free disk space")
    return ok("disk", says)


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 10 * 2**30 else f"{size / 2**30:.0f} GiB"
