"""Handwritten correct session histories, for tests to tamper with."""

from dataclasses import replace

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.history import (
    History,
    ListedRun,
    ReadBack,
    SessionHistory,
)
from session_notes_tools.replay.plan import PlannedSession, plan_sessions
from session_notes_tools.replay.records import (
    FeedText,
    NotesRead,
    NotesWrite,
    Renewal,
    Repeat,
    RunWithoutNotes,
    Submit,
    Window,
    Write,
    WriteKind,
    notes_json,
)
from session_notes_tools.replay.transcripts import Dialogue, SpokenTurn

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND

DIALOGUE = Dialogue(
    "trains",
    (
        SpokenTurn("user", "A train to Oslo, please.", {"Trains.to": "Oslo"}),
        SpokenTurn("primary", "From where?", {"Trains.to": "Oslo"}),
        SpokenTurn("user", "Bergen. And is there a hotel?", {"Trains.to": "Oslo", "Trains.from": "Bergen"}),
        SpokenTurn("primary", "There is.", {"Trains.to": "Oslo", "Trains.from": "Bergen", "Hotels.city": "Oslo"}),
    ),
)


def played_session() -> SessionHistory:
    """Return a history that checks every promise and breaks none.

    It has four turns and five runs: 1 writes, 2 is renewed twice and overtaken by 3, which writes twice, 4 fails, and
    another process abandons 5.
    """
    plan, _ = plan_sessions([DIALOGUE], 2, "test")
    first, overtaken, third = (_notes_write(plan, number, second) for number, second in ((1, 2.0), (2, 5.0), (3, 4.0)))
    overtaken = replace(overtaken, outcome="superseded")
    repeated = replace(third, outcome="duplicate", repeated=True, sent=5.2, received=5.3)
    reads = [
        _read(plan, 1, 1.0, None),
        _read(plan, 2, 2.5, first),
        _read(plan, 3, 3.5, first),
        _read(plan, 4, 4.5, third),
    ]
    last_read = replace(_read(plan, 4, 9.0, third), max_turns_behind=None, latest_number=5)
    return SessionHistory(
        session_id=plan.session_id,
        plan=plan,
        records=[
            *(write for turn in range(1, 5) for write in _turn_writes(plan, turn)),
            *(run_begin(plan.session_id, number) for number in range(1, 6)),
            *(Submit(plan.session_id, turn - 0.05) for turn in range(1, 5)),
            *(_window(plan, number, write) for number, write in enumerate([None, first, first, third, third], start=1)),
            Repeat(plan.session_id, "2", 2),
            _renewal(plan, 3.5, obsolete=False, turns_behind=1),
            _renewal(plan, 4.6, obsolete=True, turns_behind=2),
            _feed_text(plan, 2, 2.6, first, fresh=True),
            _feed_text(plan, 3, 3.6, first, fresh=False),
            _feed_text(plan, 4, 4.7, third, fresh=True),
            *reads,
            *(first, third, overtaken, repeated),
            RunWithoutNotes(plan.session_id, "run-4", 4, True),
            RunWithoutNotes(plan.session_id, "run-5", 5, False),
        ],
        read_back=ReadBack(
            fields=dict(DIALOGUE.turns[-1].slots),
            version=4,
            turn_count=4,
            turns=[[turn.speaker, turn.text, dict(turn.extra)] for turn in plan.transcript],
            current=last_read,
            runs=[
                ListedRun("run-5", 5, "abandoned", 4, None),
                ListedRun("run-4", 4, "failed", 4, None),
                ListedRun("run-3", 3, "written", 3, third.notes),
                ListedRun("run-2", 2, "superseded", 2, overtaken.notes),
                ListedRun("run-1", 1, "written", 1, first.notes),
            ],
        ),
        remains="",
    )


def history_of(session: SessionHistory) -> History:
    """Return the history of a replay of one session."""
    history = History([])
    history.sessions[session.session_id] = session
    return history


def foreign_notes(session: SessionHistory, run: int, turns: int) -> dict[str, object]:
    """Return the notes that another session's observer would have written."""
    other = plan_sessions([DIALOGUE], 2, "test")[1]
    assert other.session_id != session.session_id
    return notes_json(analyse(other.session_id, f"run-{run}", other.transcript[:turns]))


def run_begin(session_id: str, number: int) -> Write:
    """Return the write that begins a run, on a snapshot of as many turns as its number, at most four."""
    names, sent = [f"run-{number}"], float(number)
    return Write(session_id, "run", names, sent, sent + 0.1, "acknowledged", number, min(number, 4))


def _window(plan: PlannedSession, number: int, current: NotesWrite | None) -> Window:
    seen, last = current.observed_turn or 0 if current else 0, min(number, 4)
    return Window(
        session_id=plan.session_id,
        run_id=f"run-{number}",
        number=number,
        submitted=number < 5,
        sent=float(number),
        received=number + 0.1,
        min_interval_us=SECOND,
        begin_time_us=NOW + number * SECOND,
        observed_turn=last,
        first_turn=seen + 1,
        names=[str(turn) for turn in range(seen + 1, last + 1)],
        seen=current.observed_turn if current else None,
        current_run_id=current.run_id if current else None,
    )


def _renewal(plan: PlannedSession, second: float, *, obsolete: bool, turns_behind: int) -> Renewal:
    """Return a renewal of run 2."""
    return Renewal(plan.session_id, "run-2", 2, 2, obsolete, turns_behind, second, second + 0.1)


def _feed_text(plan: PlannedSession, turn: int, second: float, write: NotesWrite, *, fresh: bool) -> FeedText:
    text = f'<session-notes fresh="{str(fresh).lower()}">\nSummary: {write.notes["summary"]}\n</session-notes>'
    return FeedText(plan.session_id, turn, 1, second, second + 0.1, text)


def _turn_writes(plan: PlannedSession, turn: int) -> list[Write]:
    """Return the writes of the primary at a turn."""
    content: list[tuple[WriteKind, list[str]]] = [("turn", [str(turn)]), ("field", [])]
    return [
        Write(plan.session_id, kind, names, turn - 0.3, turn - 0.1, "acknowledged", turn) for kind, names in content
    ]


def _notes_write(plan: PlannedSession, number: int, second: float) -> NotesWrite:
    run_id = f"run-{number}"
    return NotesWrite(
        session_id=plan.session_id,
        run_id=run_id,
        number=number,
        observed_turn=number,
        outcome="accepted",
        write_time_us=NOW + int(second * SECOND),
        sent=second - 0.01,
        received=second + 0.01,
        repeated=False,
        notes=notes_json(analyse(plan.session_id, run_id, plan.transcript[:number])),
    )


def _read(plan: PlannedSession, turn: int, second: float, write: NotesWrite | None) -> NotesRead:
    age_us = NOW + int(second * SECOND) - write.write_time_us if write else None
    behind = turn - (write.observed_turn or 0) if write else None
    return NotesRead(
        session_id=plan.session_id,
        current_turn=turn,
        max_turns_behind=1,
        sent=second,
        readiness="ready" if write else "never_run",
        fresh=behind is not None and behind <= 1,
        age_us=age_us,
        snapshot_age_us=None if age_us is None else age_us + SECOND,
        write_time_us=write.write_time_us if write else None,
        observed_turn=write.observed_turn if write else None,
        turns_behind=behind,
        run_id=write.run_id if write else None,
        number=write.number if write else None,
        state="written" if write else None,
        latest_number=write.number if write else None,
        notes=write.notes if write else None,
    )


def concurrent_session() -> SessionHistory:
    """Return a correct history of concurrent writers: three turns, two runs and a field."""
    turns = [_write("turn", f"t{number}", number) for number in (1, 2, 3)]
    runs = [_write("run", f"r{number}", number) for number in (1, 2)]
    return SessionHistory(
        "session",
        records=[*turns, *runs, _write("field", "f1", 1)],
        read_back=ReadBack(
            fields={"f1": ""},
            version=1,
            turn_count=3,
            turns=turn_rows("t1", "t2", "t3"),
            runs=[ListedRun("r2", 2), ListedRun("r1", 1)],
        ),
    )


def turn_rows(*texts: str) -> list[list[object]]:
    """Return stored turns with these texts."""
    return [["user", text, {}] for text in texts]


def _write(kind: WriteKind, name: str, number: int) -> Write:
    return Write("session", kind, [name], 2.0 * number, 2.0 * number + 1, "acknowledged", number)
