"""The store: sessions, notes, runs and transcripts in Redis or Valkey.

The only package that imports redis or builds a key.
"""

from session_notes_server.store.connection import InvalidRedisURL, RedisTarget
from session_notes_server.store.records import (
    ListedRun,
    ObserverRecord,
    RunRecord,
    SessionRecord,
    State,
    SummaryRecord,
)
from session_notes_server.store.runner import Runner, StoreUnavailable
from session_notes_server.store.store import Refused, Store

__all__ = [
    "InvalidRedisURL",
    "ListedRun",
    "ObserverRecord",
    "RedisTarget",
    "Refused",
    "RunRecord",
    "Runner",
    "SessionRecord",
    "State",
    "Store",
    "StoreUnavailable",
    "SummaryRecord",
]
