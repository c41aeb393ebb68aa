"""Limits of a session: how much of it the store keeps, for how long, and how large it may grow.

Python imports these numbers, and `scripts` defines each of them as a Lua local in every script. The limits in bytes
exist because the store runs one command at a time, and reading a large session would delay all other calls.
"""

HISTORY_RUNS = 20
"""Number of newest runs of an observer whose notes are kept."""

REMEMBERED_RUNS = 1000
"""Number of newest runs of an observer whose ids and digests are kept, so that a late retry is recognized."""

MAX_RUNS_IN_FLIGHT = 100
"""Number of runs of an observer that can be in flight. Beyond this, the oldest count as abandoned."""

MAX_LATE_RUNS = 100
"""Number of runs also remembered, because more than REMEMBERED_RUNS newer ones began while they were in flight."""

REMEMBERED_APPENDS = 200
"""Number of newest appends with an id that are remembered, so that a retry is recognized: 35 KB for ids of 32 bytes."""

TRANSCRIPT_TURNS = 2000
"""Number of newest turns that are kept."""

TRANSCRIPT_BYTES = 8 * 1024 * 1024
"""Total size of the turns that are kept. The newest turn is always kept."""

FIELDS_BYTES = 8 * 1024 * 1024
"""Total size of a session's fields: names, values, and FIELD_COST_BYTES for each."""

FIELD_COST_BYTES = 256
"""Estimated overhead of a field in the store."""

RUNS_BYTES = 16 * 1024 * 1024
"""Total size of a session's remembered runs with their notes, and OBSERVER_COST_BYTES for each observer."""

OBSERVER_COST_BYTES = 8 * 1024
"""Estimated overhead of an observer in the store."""

RUN_COST_BYTES = 1024
"""Space that a new run needs in addition to its notes."""

US_PER_SECOND, US_PER_MS = 1_000_000, 1000
"""Microseconds in a second and in a millisecond."""

TOMBSTONE_US = 3600 * US_PER_SECOND
"""How long the runs and appends of a deleted session are refused, in microseconds."""
