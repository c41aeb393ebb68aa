"""The store: sessions, notes, runs and transcripts in Redis or Valkey.

The only package that imports redis or builds a key.
"""

from session_notes_server.store.error_reasons import Refusals, reason
from session_notes_server.store.errors import StoreUnavailable
from session_notes_server.store.inspection import LOGS, Look, look
from session_notes_server.store.log_throttle import Repeats
from session_notes_server.store.operations import AnswerTooLarge, Refused, Store
from session_notes_server.store.records import (
    ListedRun,
    ObserverRecord,
    Place,
    RunRecord,
    SessionRecord,
    State,
    SummaryRecord,
)
from session_notes_server.store.redis.credentials import RedisSecrets
from session_notes_server.store.redis.executor import Runner
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.redis.url import InvalidRedisURL

__all__ = [
    "LOGS",
    "AnswerTooLarge",
    "InvalidRedisURL",
    "ListedRun",
    "Look",
    "ObserverRecord",
    "Place",
    "RedisSecrets",
    "RedisTarget",
    "Refusals",
    "Refused",
    "Repeats",
    "RunRecord",
    "Runner",
    "SessionRecord",
    "State",
    "Store",
    "StoreUnavailable",
    "SummaryRecord",
    "look",
    "reason",
]
