"""Promises about background observers: windows, renewals, brakes, and the texts of feeds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise

from session_notes_tools.replay.case import Case
from session_notes_tools.replay.durability import Checks, unless
from session_notes_tools.replay.records import FeedText, Renewal, Repeat, Submit, Window

_CLOCK_STEP = 1000
"""How far the store's clock and the observer's may drift apart between two runs, in microseconds."""


def appends_are_done_once(case: Case) -> Checks:
    """A repeated append returns the count of the first one."""
    counts = {write.names[0]: write.number for write in case.writes["turn"] if write.names}
    for repeat in case.history.of(Repeat):
        first = counts.get(repeat.name)
        yield unless(
            repeat.number == first, f"turn {repeat.name} was counted as {first}, and repeated as {repeat.number}"
        )


def windows_are_what_is_new(case: Case) -> Checks:
    """A run gets exactly the turns between what the current notes have seen and its snapshot."""
    for window in case.history.of(Window):
        seen, last = window.seen or 0, window.observed_turn or 0
        expected = [str(number) for number in range(seen + 1, last + 1)]
        yield unless(
            list(window.names) == expected, f"{window.run_id} saw turns {list(window.names)}, not {seen + 1} to {last}"
        )
        yield unless(
            window.first_turn == (seen + 1 if expected else None), f"first turn {window.first_turn} after {seen}"
        )
        if write := case.first_writes.get(window.current_run_id or ""):
            yield unless(
                window.seen == write.observed_turn and write.sent <= window.received and write.outcome != "superseded",
                f"{window.run_id} began with the notes of {write.run_id}, which were not current",
            )


def obsolete_predicts_the_outcome(case: Case) -> Checks:
    """A renewed run is obsolete if and only if a newer run has written, and then its write is superseded."""
    writes = list(case.first_writes.values())
    turns = [write for write in case.writes["turn"] if write.outcome == "acknowledged"]
    for renewal in case.history.of(Renewal):
        newer = [write for write in writes if write.number > renewal.number]
        if any(write.received < renewal.sent for write in newer):
            yield unless(renewal.obsolete, f"{renewal.run_id} was overtaken, and not obsolete")
        elif not any(write.sent < renewal.received for write in newer):
            yield unless(not renewal.obsolete, f"{renewal.run_id} was the newest, and obsolete")
        own = case.first_writes.get(renewal.run_id)
        if own and renewal.obsolete:
            yield unless(own.outcome != "accepted", f"{renewal.run_id} was obsolete, and {own.outcome}")
        least = sum(write.received < renewal.sent for write in turns) - renewal.observed_turn
        most = sum(write.sent < renewal.received for write in turns) - renewal.observed_turn
        behind = renewal.turns_behind
        yield unless(
            behind is not None and least <= behind <= most, f"{behind} turns behind, and not {least} to {most}"
        )


def submits_lead_to_one_run(case: Case) -> Checks:
    """A submitted turn is seen by a run, or by the notes of another process, and each run needs its own submission."""
    runs = [window for window in case.history.of(Window) if window.submitted]
    submits = case.history.of(Submit)
    counts = [run.observed_turn for run in runs] + [write.observed_turn for write in case.first_writes.values()]
    seen = max((count or 0 for count in counts), default=0)
    for turn, _ in enumerate(submits, start=1):
        yield unless(turn <= seen, f"turn {turn} was submitted, and no run has seen it")
    times = [submit.sent for submit in submits]
    for count, run in enumerate(sorted(runs, key=lambda run: run.number), start=1):
        submitted = bisect_right(times, run.received)
        yield unless(submitted >= count, f"run {count} after {submitted} submissions")


def brakes_hold(case: Case) -> Checks:
    """Braked runs keep their distance, and each has new turns to see."""
    runs = sorted((window for window in case.history.of(Window) if window.submitted), key=lambda run: run.number)
    for earlier, later in pairwise(runs):
        if later.min_interval_us is not None:
            apart = later.begin_time_us - earlier.begin_time_us
            yield unless(
                apart >= later.min_interval_us - _CLOCK_STEP,
                f"{later.run_id} began {apart} µs after the run before, not {later.min_interval_us}",
            )
    for run in runs:
        if run.min_interval_us is not None:
            yield unless(bool(run.names), f"{run.run_id} had no new turn")


def feed_texts_are_new(case: Case) -> Checks:
    """A feed has a text only if there is a newer run or its freshness has changed, and then that of the current run."""
    if any(write.outcome == "duplicate" for write in case.first_writes.values()):
        return  # A lost response. Which notes were current, and when, is not certain.
    accepted = sorted(case.writes["notes"], key=lambda write: write.number)
    sent, received = sorted(write.sent for write in accepted), sorted(write.received for write in accepted)
    numbers = [write.number for write in accepted]
    observed = {write.number: write.observed_turn or 0 for write in case.first_writes.values()}

    def state(text: FeedText) -> tuple[int, bool] | None:
        """Return the current run and its freshness when the text was read. None: uncertain."""
        first, last = bisect_left(received, text.sent), bisect_right(sent, text.received)
        if first != last or not last:
            return None
        number = numbers[last - 1]
        return number, text.current_turn - observed[number] <= text.max_turns_behind

    texts = case.history.of(FeedText)
    for earlier, later in pairwise(texts):
        yield unless(earlier.text != later.text, "the same text twice")
        yield unless(state(earlier) is None or state(earlier) != state(later), "a text without a newer run")
    for text in texts:
        if (current := state(text)) and case.history.plan:
            number, fresh = current
            summary = f"{case.history.plan.marker}: {observed[number]} turns"
            yield unless(
                summary in text.text and (f'fresh="{str(fresh).lower()}"' in text.text),
                f"a text that is not that of run {number}, which is {'fresh' if fresh else 'stale'}",
            )
