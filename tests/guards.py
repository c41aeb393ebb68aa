"""Takes each guard out of a copy of the sidecar, and sees the test that should notice go red.

A test that cannot fail proves nothing. Run it with `make guards`; it takes some minutes. A guard that is no longer found in
the code, or a test that stays green, fails the run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LUA = "store/lua/"


@dataclass(frozen=True)
class Guard:
    """One guard: where it is, what is left without it, and a test that must then fail."""

    promise: str
    file: str
    code: str
    without: str
    test: str


GUARDS = [
    # 1. Readiness is data.
    Guard("expired only after running and failed", "servicers/translate.py", "if record.latest is not None:\n        if record.latest.state is State.RUNNING", "if record.latest is not None and record.current is None:\n        if record.latest.state is State.RUNNING", "wins_over_expired"),
    Guard("abandoned is failed", "servicers/translate.py", "{State.FAILED, State.ABANDONED}", "{State.FAILED}", "test_failed_after_an_abandoned_run"),
    Guard("a plain false is sent", "servicers/translate.py", "GetNotesResponse(ready=False, fresh=False, ", "GetNotesResponse(", "test_false_is_present"),
    Guard("an outage is no readiness", "servicers/boundary.py", "            except StoreUnavailable:\n                status = errors.store_unavailable()", "            except StoreUnavailable:\n                return b''", "test_an_unreachable_store_is_unavailable"),
    # 2. One clock.
    Guard("age counts from the write", "servicers/translate.py", "record.now_us - current.end_us)", "record.now_us - (current.begin_us or current.end_us))", "test_age_counts_from_the_write"),
    Guard("the store's clock", LUA + "common.lua", "local NOW = clock[1] * 1e6 + clock[2]", "local NOW = clock[1] * 1e6 + clock[2] - 7200e6", "test_the_write_time_is_the_stores"),
    Guard("ages are never negative", "servicers/translate.py", "age_us = max(0, record.now_us - current.end_us)", "age_us = record.now_us - current.end_us - 3_600_000_000", "test_an_age_is_never_negative"),
    # 3. Drift is a number.
    Guard("not below 0", "servicers/translate.py", "max(0, known_turn - current.observed_turn)", "known_turn - current.observed_turn", "test_not_below_zero"),
    Guard("what cannot be checked is not fresh", "servicers/translate.py", '(response.HasField("turns_behind") and response.turns_behind <= max_turns_behind)', "response.turns_behind <= max_turns_behind", "test_an_unknown_observed_turn_cannot_be_checked"),
    Guard("the request's turn wins", "servicers/translate.py", "current_turn if current_turn is not None else record.turn_count", "record.turn_count or current_turn", "test_the_requests_turn_wins_over_the_transcript"),
    Guard("max_age decides fresh", "servicers/translate.py", "response.fresh = recent and close", "response.fresh = close", "test_max_age_is_measured_against_the_age"),
    # 4. Written once per run.
    Guard("a retry is known", LUA + "write_notes.lua", "if run and run.digest then", "if false then", "test_the_same_notes_again_are_a_duplicate"),
    Guard("other notes are refused", LUA + "write_notes.lua", "if run.digest ~= digest then", "if false then", "test_other_notes_already_exist"),
    Guard("the order of a map does not count", "servicers/notes.py", "SerializeToString(deterministic=True)", "SerializeToString()", "test_the_order_of_a"),
    Guard("no write after a failure", LUA + "write_notes.lua", "if run and run.state == FAILED then", "if false then", "test_no_write_after_a_failure"),
    Guard("no failure after a write", LUA + "fail_run.lua", "if run.digest then", "if false then", "test_no_failure_after"),
    Guard("failing twice is as once", LUA + "fail_run.lua", "if run.state ~= FAILED then", "if true then", "test_failing_twice_is_as_once"),
    Guard("a thousand runs are remembered", LUA + "common.lua", "local REMEMBERED = 1000", "local REMEMBERED = 900", "test_a_thousand_runs_are_remembered"),
    # 5. A slow old run never overwrites a newer one.
    Guard("by number", LUA + "write_notes.lua", "run.number < previous or", "false or", "test_an_older_number_is_superseded or test_a_slow_old_run_never_wins"),
    Guard("by turns seen", LUA + "write_notes.lua", "(mark and mark.observed and run.observed and run.observed < mark.observed)", "false", "test_fewer_observed_turns_are_superseded"),
    Guard("the mark outlives the ttl", LUA + "write_notes.lua", "local previous = state.current\n", "local previous = state.current\nlocal kept = previous and load_run(observer, previous)\nif kept and expired(kept) then previous = nil end\n", "test_the_mark_outlives_the_notes"),
    Guard("a superseded run is no mark to beat", LUA + "write_notes.lua", "run.state = SUPERSEDED\n", "run.state = SUPERSEDED\n  state.current = run.number\n", "test_a_superseded_run_is_no_mark_to_beat or test_superseded_notes_are_kept"),
    Guard("observed_turn at WriteNotes wins", LUA + "write_notes.lua", "run.observed = observed or run.observed", "run.observed = run.observed or observed", "test_observed_turn_at_write_wins"),
    Guard("superseded notes are kept", LUA + "common.lua", "if run.number == state.current or run.number > state.seq - HISTORY then", "if run.number == state.current then", "test_superseded_notes_are_kept_in_the_history"),
    # 6. BeginRun.
    Guard("begun again it is the same run", LUA + "begin_run.lua", "local run = find_run(observer, run_id)", "local run = nil", "test_begun_again_it_is_the_same_run"),
    Guard("only if idle", LUA + "begin_run.lua", "if only_if_idle and in_flight then", "if false then", "test_only_if_idle_with_another_run_in_flight"),
    Guard("an abandoned run is not in flight", LUA + "common.lua", "if entry[1] ~= number and entry[2] > NOW then", "if entry[1] ~= number then", "test_only_if_idle_ignores_an_abandoned_run"),
    Guard("a retry gets the first snapshot", LUA + "begin_run.lua", "(run.turns or turns) - turns - 1", "-1", "test_a_retry_gets_the_same_transcript"),
    Guard("a lease runs out", LUA + "common.lua", "if state == RUNNING and run.lease <= NOW then", "if false then", "test_a_lease_that_runs_out_abandons_the_run"),
    Guard("observed_turn defaults to the transcript", LUA + "begin_run.lua", "observed or (turns > 0 and turns or nil)", "observed", "test_observed_turn_defaults_to_the_transcript"),
    # 7. Atomic.
    Guard("the expected version", LUA + "update_session.lua", "if expected ~= '' and expected ~= version then", "if false then", "test_another_version_aborts or test_of_two_that_expect"),
    Guard("the expected turn count", LUA + "append_turns.lua", "if expected ~= '' and expected ~= count then", "if false then", "test_another_turn_count_aborts"),
    Guard("the version counts UpdateSession alone", LUA + "common.lua", "  redis.call('HSETNX', SESSION, 'id', session_id)", "  redis.call('HSETNX', SESSION, 'id', session_id)\n  redis.call('HINCRBY', SESSION, 'version', 1)", "test_the_version_counts_update_session_alone"),
    Guard("a reply belongs to its call", "store/runner.py", "tag = str(next(self._tags))\n        keys", "tag = '1'\n        keys", "test_a_storm_of_cancellations or test_notes_come_back"),
    # 8. Everything expires.
    *(
        Guard(f"the TTL of {key}", LUA + "common.lua", f"  redis.call('PEXPIREAT', {key}, at)", "", "test_08")
        for key in ("SESSION", "TURNS", "RUNS")
    ),
    Guard("the session's own ttl", LUA + "common.lua", "redis.call('HGET', SESSION, 'ttl') or default_ttl", "default_ttl", "test_a_sessions_own_ttl_holds_from_then_on"),
    Guard("the history keeps 20 runs", LUA + "common.lua", "local HISTORY = 20", "local HISTORY = 21", "test_the_history_keeps_20_runs"),
    Guard("current notes outlive the history", LUA + "common.lua", "if number < 1 or number == state.current then return end", "if number < 1 then return end", "test_current_notes_outlive_the_history"),
    Guard("the transcript keeps 2,000 turns", LUA + "append_turns.lua", "redis.call('LTRIM', TURNS, -TRANSCRIPT, -1)", "", "test_the_transcript_keeps_2000_turns"),
    Guard("expires_in is the lesser", "servicers/translate.py", "min(us for us in (record.notes_expire_us, record.session_expires_us)", "max(us for us in (record.notes_expire_us, record.session_expires_us)", "test_expires_in_of_notes_is_the_lesser"),
    # 9. Deleted stays deleted.
    *(
        Guard(f"{script} is refused", f"{LUA}{script}.lua", "if known_at_deletion(observer, run_id) then", "if false then", "test_a_run_known_at_the_deletion_is_refused")
        for script in ("begin_run", "write_notes", "fail_run")
    ),
    *(
        Guard(f"{key} is deleted", LUA + "delete_session.lua", "redis.call('DEL', SESSION, TURNS, RUNS)", f"redis.call('DEL', {rest})", "test_only_the_run_ids_stay or test_a_deleted_session_is_unknown")
        for key, rest in (("SESSION", "TURNS, RUNS"), ("TURNS", "SESSION, RUNS"), ("RUNS", "SESSION, TURNS"))
    ),
    Guard("the run ids stay for an hour", LUA + "delete_session.lua", "if met > 0 then redis.call('PEXPIREAT'", "if false then redis.call('PEXPIREAT'", "test_the_run_ids_stay_for_an_hour"),
    # Errors.
    Guard("ids", "servicers/validate.py", "elif not _ID.fullmatch(value):", "elif False:", "test_an_id_is_printable_ascii"),
    Guard("coverage", "servicers/validate.py", "if not all(0 <= share <= 1", "if False and not all(0 <= share <= 1", "test_a_bad_input_is_an_invalid_argument"),
    Guard("depth", "servicers/validate.py", "MAX_DEPTH = 16", "MAX_DEPTH = 17", "test_a_bad_input_is_an_invalid_argument"),
    Guard("NaN and infinity", "servicers/validate.py", "if not math.isfinite(value.number_value):", "if False:", "test_a_bad_input_is_an_invalid_argument"),
    Guard("numbers JSON would change", "servicers/validate.py", "if abs(value.number_value) > MAX_EXACT:", "if False:", "test_a_bad_input_is_an_invalid_argument"),
    Guard("negative turns", "servicers/validate.py", "if not 0 <= value <= MAX_EXACT:", "if not value <= MAX_EXACT:", "test_a_bad_input_is_an_invalid_argument"),
    Guard("spans", "servicers/validate.py", "if seconds < 0 or nanos < 0:", "if False:", "test_a_bad_input_is_an_invalid_argument"),
    Guard("both set and removed", "servicers/state.py", "if not request.set.keys().isdisjoint(request.remove):", "if False:", "test_a_bad_input_is_an_invalid_argument"),
    Guard("a foreign page token", "servicers/paging.py", "if mark != _mark(scope):", "if False:", "test_errors_tokens"),
    Guard("notes of 256 KiB", "servicers/notes.py", 'check.size("notes", request.notes, self._limits.notes_bytes)', "pass", "test_notes_of_256_kib"),
    Guard("a turn of 64 KiB", "servicers/state.py", 'check.size(f"turns[{index}]", turn, self._limits.turn_bytes)', "pass", "test_a_turn_of_64_kib"),
    Guard("a batch of 1,000", "servicers/notes.py", "> (limit := self._limits.batch_requests):", "> (limit := 10**9):", "test_a_batch_of_1000"),
    Guard("malformed bytes", "servicers/boundary.py", "    except DecodeError:\n        raise errors.malformed_message() from None", "    except ZeroDivisionError:\n        raise errors.malformed_message() from None", "test_bytes_that_are_no_message"),
    Guard("no text of an exception", "servicers/boundary.py", "status = errors.internal(error_id)", "status = errors.internal(repr(error))", "test_a_bug_is_internal_with_an_id or test_no_user_data_in_an_error"),
]  # fmt: skip


def red(guard: Guard | None) -> str:
    """Run a guard's test without the guard (or all of them, with all guards) → what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="session-notes-guard-") as folder:
        copy = Path(folder)
        for part in ("server", "clients"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        if guard is not None:
            file = copy / "server" / "session_notes_server" / guard.file
            text = file.read_text()
            if text.count(guard.code) < 1:
                return "the guard is no longer in the code"
            file.write_text(text.replace(guard.code, guard.without, 1))
        selection = " or ".join(f"({one.test})" for one in ([guard] if guard else GUARDS))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{copy / 'server'}:{copy / 'clients' / 'python'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "tests/fundamentals",
            "-k",
            f"({selection}) and not redis and not cluster",
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode == (1 if guard else 0):
            return ""
        return f"pytest answered {done.returncode}: {' '.join(done.stdout.strip().splitlines()[-3:])}"


def main() -> int:
    """Try all guards, or those whose promise or file holds the word given."""
    wanted = [guard for guard in GUARDS if any(word in guard.promise + guard.file for word in sys.argv[1:] or [""])]
    wrong = 0
    if fault := red(None):
        print(f"with all guards in place: {fault}", flush=True)
        return 1
    with ThreadPoolExecutor(2) as pool:
        for guard, fault in zip(wanted, pool.map(red, wanted), strict=True):
            print(f"{fault or 'red'}: {guard.promise} ({guard.file}) ← {guard.test}", flush=True)
            wrong += bool(fault)
    print(f"{len(wanted) - wrong} of {len(wanted)} guards are guarded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
