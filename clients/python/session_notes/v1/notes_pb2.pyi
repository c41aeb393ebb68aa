import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_WARNING: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_WRITTEN: _ClassVar[RunState]
    RUN_STATE_SUPERSEDED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_ABANDONED: _ClassVar[RunState]
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_WARNING: Severity
SEVERITY_CRITICAL: Severity
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_WRITTEN: RunState
RUN_STATE_SUPERSEDED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_ABANDONED: RunState

class Notes(_message.Message):
    __slots__ = ("coverage", "issues", "follow_up_suggestions", "summary", "extra")
    class CoverageEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    ISSUES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_UP_SUGGESTIONS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    coverage: _containers.ScalarMap[str, float]
    issues: _containers.RepeatedCompositeFieldContainer[Issue]
    follow_up_suggestions: _containers.RepeatedScalarFieldContainer[str]
    summary: str
    extra: _struct_pb2.Struct
    def __init__(self, coverage: _Optional[_Mapping[str, float]] = ..., issues: _Optional[_Iterable[_Union[Issue, _Mapping]]] = ..., follow_up_suggestions: _Optional[_Iterable[str]] = ..., summary: _Optional[str] = ..., extra: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Issue(_message.Message):
    __slots__ = ("text", "severity", "turn")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    text: str
    severity: Severity
    turn: int
    def __init__(self, text: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., turn: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "number", "observer", "state", "observed_turn", "begin_time", "end_time", "failure", "notes")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_TURN_FIELD_NUMBER: _ClassVar[int]
    BEGIN_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    number: int
    observer: str
    state: RunState
    observed_turn: int
    begin_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    failure: str
    notes: Notes
    def __init__(self, run_id: _Optional[str] = ..., number: _Optional[int] = ..., observer: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., observed_turn: _Optional[int] = ..., begin_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., failure: _Optional[str] = ..., notes: _Optional[_Union[Notes, _Mapping]] = ...) -> None: ...
