import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from session_notes.v1 import notes_pb2 as _notes_pb2
from session_notes.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Readiness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    READINESS_UNSPECIFIED: _ClassVar[Readiness]
    READINESS_NEVER_RUN: _ClassVar[Readiness]
    READINESS_RUNNING: _ClassVar[Readiness]
    READINESS_READY: _ClassVar[Readiness]
    READINESS_FAILED: _ClassVar[Readiness]
    READINESS_EXPIRED: _ClassVar[Readiness]

class WriteOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_OUTCOME_UNSPECIFIED: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_ACCEPTED: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_DUPLICATE: _ClassVar[WriteOutcome]
    WRITE_OUTCOME_SUPERSEDED: _ClassVar[WriteOutcome]
READINESS_UNSPECIFIED: Readiness
READINESS_NEVER_RUN: Readiness
READINESS_RUNNING: Readiness
READINESS_READY: Readiness
READINESS_FAILED: Readiness
READINESS_EXPIRED: Readiness
WRITE_OUTCOME_UNSPECIFIED: WriteOutcome
WRITE_OUTCOME_ACCEPTED: WriteOutcome
WRITE_OUTCOME_DUPLICATE: WriteOutcome
WRITE_OUTCOME_SUPERSEDED: WriteOutcome

class GetNotesRequest(_message.Message):
    __slots__ = ("session_id", "observer", "max_age", "current_turn", "max_turns_behind")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_TURN_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_BEHIND_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    observer: str
    max_age: _duration_pb2.Duration
    current_turn: int
    max_turns_behind: int
    def __init__(self, session_id: _Optional[str] = ..., observer: _Optional[str] = ..., max_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., current_turn: _Optional[int] = ..., max_turns_behind: _Optional[int] = ...) -> None: ...

class GetNotesResponse(_message.Message):
    __slots__ = ("ready", "readiness", "notes", "age", "snapshot_age", "write_time", "observed_turn", "turns_behind", "fresh", "run", "latest_run", "expires_in")
    READY_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_AGE_FIELD_NUMBER: _ClassVar[int]
    WRITE_TIME_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_TURN_FIELD_NUMBER: _ClassVar[int]
    TURNS_BEHIND_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    LATEST_RUN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    readiness: Readiness
    notes: _notes_pb2.Notes
    age: _duration_pb2.Duration
    snapshot_age: _duration_pb2.Duration
    write_time: _timestamp_pb2.Timestamp
    observed_turn: int
    turns_behind: int
    fresh: bool
    run: _notes_pb2.Run
    latest_run: _notes_pb2.Run
    expires_in: _duration_pb2.Duration
    def __init__(self, ready: bool = ..., readiness: _Optional[_Union[Readiness, str]] = ..., notes: _Optional[_Union[_notes_pb2.Notes, _Mapping]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., snapshot_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., write_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., observed_turn: _Optional[int] = ..., turns_behind: _Optional[int] = ..., fresh: bool = ..., run: _Optional[_Union[_notes_pb2.Run, _Mapping]] = ..., latest_run: _Optional[_Union[_notes_pb2.Run, _Mapping]] = ..., expires_in: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BatchGetNotesRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[GetNotesRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[GetNotesRequest, _Mapping]]] = ...) -> None: ...

class BatchGetNotesResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[GetNotesResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[GetNotesResponse, _Mapping]]] = ...) -> None: ...

class BeginRunRequest(_message.Message):
    __slots__ = ("session_id", "observer", "run_id", "observed_turn", "lease", "only_if_idle", "include_transcript")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_TURN_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ONLY_IF_IDLE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    observer: str
    run_id: str
    observed_turn: int
    lease: _duration_pb2.Duration
    only_if_idle: bool
    include_transcript: bool
    def __init__(self, session_id: _Optional[str] = ..., observer: _Optional[str] = ..., run_id: _Optional[str] = ..., observed_turn: _Optional[int] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., only_if_idle: bool = ..., include_transcript: bool = ...) -> None: ...

class BeginRunResponse(_message.Message):
    __slots__ = ("started", "run", "transcript")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    started: bool
    run: _notes_pb2.Run
    transcript: _containers.RepeatedCompositeFieldContainer[_turn_pb2.Turn]
    def __init__(self, started: bool = ..., run: _Optional[_Union[_notes_pb2.Run, _Mapping]] = ..., transcript: _Optional[_Iterable[_Union[_turn_pb2.Turn, _Mapping]]] = ...) -> None: ...

class WriteNotesRequest(_message.Message):
    __slots__ = ("session_id", "observer", "run_id", "notes", "observed_turn", "ttl")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_TURN_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    observer: str
    run_id: str
    notes: _notes_pb2.Notes
    observed_turn: int
    ttl: _duration_pb2.Duration
    def __init__(self, session_id: _Optional[str] = ..., observer: _Optional[str] = ..., run_id: _Optional[str] = ..., notes: _Optional[_Union[_notes_pb2.Notes, _Mapping]] = ..., observed_turn: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WriteNotesResponse(_message.Message):
    __slots__ = ("outcome", "run", "write_time")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WRITE_TIME_FIELD_NUMBER: _ClassVar[int]
    outcome: WriteOutcome
    run: _notes_pb2.Run
    write_time: _timestamp_pb2.Timestamp
    def __init__(self, outcome: _Optional[_Union[WriteOutcome, str]] = ..., run: _Optional[_Union[_notes_pb2.Run, _Mapping]] = ..., write_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FailRunRequest(_message.Message):
    __slots__ = ("session_id", "observer", "run_id", "reason")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    observer: str
    run_id: str
    reason: str
    def __init__(self, session_id: _Optional[str] = ..., observer: _Optional[str] = ..., run_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class FailRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _notes_pb2.Run
    def __init__(self, run: _Optional[_Union[_notes_pb2.Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("session_id", "observer", "page_size", "page_token", "include_notes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_NOTES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    observer: str
    page_size: int
    page_token: str
    include_notes: bool
    def __init__(self, session_id: _Optional[str] = ..., observer: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., include_notes: bool = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[_notes_pb2.Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[_notes_pb2.Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
