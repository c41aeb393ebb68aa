"""The store: sessions, notes, runs and transcripts in Redis or Valkey.

The only package that imports redis or builds a key.
"""

from session_notes_server.store.connection import RedisTarget
from session_notes_server.store.failures import StoreUnavailable
from session_notes_server.store.looks import LOGS, Look, look
from session_notes_server.store.reasons import Refusals, reason
from session_notes_server.store.records import (
    ListedRun,
    ObserverRecord,
    Place,
    RunRecord,
    SessionRecord,
    State,
    SummaryRecord,
)
from session_notes_server.store.repeats import Repeats
from session_notes_server.store.runner import Runner
from session_notes_server.store.secrets import RedisSecrets
from session_notes_server.store.store import AnswerTooLarge, Refused, Store
from session_notes_server.store.url import InvalidRedisURL

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
