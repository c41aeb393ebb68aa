"""The promises that a replay checks.

Each check takes the case of one session and yields a result per check of its promise: None if the promise was
kept, else the problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from session_notes_tools.replay import durability, readings, runs, windows
from session_notes_tools.replay.case import Case

PROMISES: Mapping[str, Callable[[Case], durability.Checks]] = {
    "no call is rejected": runs.no_call_is_rejected,
    "nothing lost: the transcript": durability.no_turn_is_lost,
    "nothing lost: the fields": durability.no_field_is_lost,
    "nothing lost: the notes": durability.no_note_is_lost,
    "nothing lost: reads show acknowledged writes": durability.writes_are_seen,
    "writes are stored whole and once": durability.writes_are_stored_once,
    "an append is done once per id": windows.appends_are_done_once,
    "writes keep real-time order": durability.writes_keep_real_time_order,
    "nothing foreign, nothing torn": durability.nothing_is_foreign,
    "a run's outcome stands": durability.outcomes_stand,
    "ages never negative, never above the snapshot's": readings.ages_are_true,
    "run numbers never fall": readings.run_numbers_never_fall,
    "write times never fall": readings.write_times_never_fall,
    "write times are those of the responses": readings.write_times_match_responses,
    "runs are numbered 1, 2, 3, … and end once": runs.run_numbers_have_no_gaps,
    "turn counts and versions grow by one": durability.counts_grow_by_one,
    "superseded exactly when a newer run wrote": runs.slow_runs_do_not_overwrite,
    "superseded notes are never current": runs.superseded_notes_are_never_current,
    "the newest run that wrote is current": runs.newest_written_run_is_current,
    "duplicates change nothing": runs.duplicates_change_nothing,
    "a run sees exactly the turns that are new": windows.windows_are_what_is_new,
    "obsolete exactly when a newer run wrote": windows.obsolete_predicts_the_outcome,
    "a submission leads to one run": windows.submits_lead_to_one_run,
    "brakes hold": windows.brakes_hold,
    "a feed's text is new": windows.feed_texts_are_new,
    "drift is right, never negative": readings.drift_is_right,
    "fresh follows from the bound": readings.fresh_is_right,
    "no run has seen future turns": readings.no_run_sees_future_turns,
    "ready stays ready": readings.ready_stays_ready,
    "deleted is gone": durability.deleted_session_is_gone,
}
