"""The store: sessions, notes, runs and transcripts in Redis or Valkey.

No other package talks to Redis or builds keys.
"""

from session_notes_server.store.base import OPERATIONS
from session_notes_server.store.errors import Refused, ReplyTooLarge, StoreUnavailable, describe_error
from session_notes_server.store.inspection import COMMAND_LOGS, StoreInspection, inspect_store
from session_notes_server.store.instrumentation import Instrumentation
from session_notes_server.store.log_throttle import LogThrottle, RefusalLog
from session_notes_server.store.operations import Store
from session_notes_server.store.records import (
    SCAN_START,
    BegunRun,
    DueRecord,
    ListedRun,
    ObserverRecord,
    RenewedRun,
    RunRecord,
    ScanPosition,
    SessionRecord,
    State,
    SummaryRecord,
)
from session_notes_server.store.redis.credentials import RedisSecrets
from session_notes_server.store.redis.executor import Executor
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.url import InvalidRedisURL

__all__ = [
    "COMMAND_LOGS",
    "OPERATIONS",
    "SCAN_START",
    "BegunRun",
    "DueRecord",
    "Executor",
    "Instrumentation",
    "InvalidRedisURL",
    "ListedRun",
    "LogThrottle",
    "ObserverRecord",
    "RedisSecrets",
    "RedisTarget",
    "RefusalLog",
    "Refused",
    "RenewedRun",
    "ReplyTooLarge",
    "RunRecord",
    "ScanPosition",
    "SessionRecord",
    "State",
    "Store",
    "StoreInspection",
    "StoreUnavailable",
    "SummaryRecord",
    "describe_error",
    "inspect_store",
]
