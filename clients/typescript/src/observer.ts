/** The client of an observer. */

import { checked, type Checks, kindOf, milliseconds, refusal, text } from "./arguments.js";
import * as calls from "./calls.js";
import { errorName } from "./failures.js";
import * as checks from "./options.js";
import { CONNECTION, type ConnectionOptions } from "./primary.js";
import { ActiveRun, FAIL_TIMEOUT_MS } from "./runs.js";
import { Transport } from "./transport.js";
import type {
  BeginOptions,
  BeginResult,
  CallOptions,
  DueOptions,
  DueSession,
  ListOptions,
  NewNotes,
  RenewOptions,
  RenewResult,
  Run,
  RunOptions,
  WriteOptions,
  WriteResult,
} from "./types.js";

/** Default timeout of an observer's calls, retries included: no user waits for them, and a sidecar restarts faster. */
export const DEFAULT_RUN_TIMEOUT_MS = 10_000;

/** Failure of a run that ended without notes. */
export const ENDED_WITHOUT_NOTES = "ended without notes";

/** Options of an ObserverClient. */
export interface ObserverOptions extends ConnectionOptions {
  /** Name of the observer. Absent: `default`. */
  readonly observer?: string | undefined;
  /** Timeout of a call in milliseconds, retries included; each call can override it. */
  readonly timeoutMs?: number | undefined;
}

const OBSERVER: Checks<ObserverOptions> = { ...CONNECTION, observer: text, timeoutMs: milliseconds };

/**
 * Client of a process that analyses sessions. One client serves any number of concurrent runs.
 *
 * Calls are retried with the same run id while the sidecar is unavailable, until their timeout, so no run begins twice and
 * no notes are written twice.
 *
 * @example
 * using observer = new ObserverClient(undefined, { observer: "coach" });
 * await observer.run("session-1", async (run) => {
 *   await run.write({ summary: `${run.transcript.length} turns so far` });
 * });
 */
export class ObserverClient implements Disposable {
  /** Name of the observer; empty: `default`. */
  readonly observer: string;
  /** The address of the sidecar. */
  readonly target: string;
  readonly #transport: Transport;
  readonly #timeoutMs: number;

  /**
   * @param target The sidecar's address: `127.0.0.1:50051`, `unix:/run/session-notes.sock`. Absent: the environment
   *   variable `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
   * @throws InvalidArgument The target or the credentials are invalid.
   */
  constructor(target?: string, options: ObserverOptions = {}) {
    checked(options, OBSERVER);
    this.observer = options.observer ?? "";
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_RUN_TIMEOUT_MS;
    this.#transport = new Transport(target, options.token, options.tls);
    this.target = this.#transport.target;
  }

  /** Closes the connection. Calls in flight reject with Unavailable, later ones with UsageError. */
  close(): void {
    this.#transport.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Performs one run: begins it, calls `work` with the run and its transcript, and ensures that the run ends. Resolves to the result
   * of `work`.
   *
   * If `work` throws or writes no notes, the run fails; errors from `work` are rethrown. If the run cannot begin, `work` is not
   * called, and the promise rejects with:
   * - RunAlreadyWritten: the run with this `runId` has written its notes, so the work is done;
   * - RunAlreadyFailed: the run with this `runId` has failed; retry with another id;
   * - RunInFlight: `onlyIfIdle` was set, and another run is in flight;
   * - SessionDeleted: the run existed when the session was deleted;
   * - another SessionNotesError: any other failure.
   *
   * @example
   * await observer.run("session-1", async (run) => {
   *   await run.write(await analyse(run.transcript));
   * });
   */
  async run<T>(sessionId: string, work: (run: ActiveRun) => T | Promise<T>, options: RunOptions = {}): Promise<T> {
    if (typeof work !== "function") {
      throw refusal("work", `must be a function, not ${kindOf(work)}`);
    }
    const run = new ActiveRun(this, sessionId, await this.#begin(sessionId, options), options.signal);
    let result: T;
    try {
      result = await work(run);
    } catch (error) {
      await run.failQuietly(errorName(error));
      throw error;
    }
    await run.failQuietly(ENDED_WITHOUT_NOTES);
    return result;
  }

  /** Begins a run. If the signal aborts the call, a run that began anyway is recorded as failed. */
  async #begin(sessionId: string, options: RunOptions): Promise<BeginResult> {
    const { signal, runId: requestedId } = checked(options, checks.RUN);
    const runId = calls.idOrNew("runId", requestedId);
    try {
      return await this.beginRun(sessionId, { ...options, runId });
    } catch (error) {
      // Do not fail a run with the caller's own id, which may be in flight elsewhere. The caller does not wait for this call.
      if (signal?.aborted === true && error === signal.reason && requestedId === undefined) {
        this.failRun(sessionId, runId, errorName(error), { timeoutMs: FAIL_TIMEOUT_MS }).catch(() => undefined);
      }
      throw error;
    }
  }

  /** Begins a run that, unlike with `run`, the caller must end. Its state shows whether it has already ended. */
  async beginRun(sessionId: string, options: BeginOptions = {}): Promise<BeginResult> {
    checked(options, checks.BEGIN);
    return this.#send(calls.beginRun(sessionId, this.observer, options), options);
  }

  /**
   * Writes the notes of a run, with or without BeginRun. Rejects with:
   * - RunAlreadyWritten: the run has already written different notes;
   * - RunAlreadyFailed: the run has ended without notes;
   * - SessionDeleted: the run existed when the session was deleted;
   * - Unavailable: an outage; the outcome is unknown. With `runId`, a retry is safe;
   * - another SessionNotesError: any other failure.
   *
   * @example
   * const { outcome } = await observer.writeNotes("session-1", { summary: "Goals are clear." }, { observedTurn: 12 });
   */
  async writeNotes(sessionId: string, notes: NewNotes, options: WriteOptions = {}): Promise<WriteResult> {
    checked(options, checks.WRITE);
    return this.#send(calls.writeNotes(sessionId, this.observer, notes, options), options);
  }

  /**
   * Ends a run without notes and records the reason, like `ActiveRun.fail`. Idempotent. Rejects with:
   * - RunNotFound: the run does not exist;
   * - RunAlreadyWritten: the run has already written its notes;
   * - another SessionNotesError: any other failure.
   */
  async failRun(
    sessionId: string,
    runId: string,
    reason: string | Error = "",
    options: CallOptions = {},
  ): Promise<Run> {
    checked(options, checks.CALL);
    return this.#send(calls.failRun(sessionId, this.observer, runId, reason), options);
  }

  /**
   * Gives a run in flight a new lease from now, and reports whether the run is still worth its cost, like `ActiveRun.renew`. Rejects
   * with:
   * - RunNotFound: the run does not exist;
   * - RunAlreadyWritten, RunAlreadyFailed: the run has ended;
   * - SessionDeleted: the run existed when the session was deleted;
   * - another SessionNotesError: any other failure.
   */
  async renewRun(sessionId: string, runId: string, options: RenewOptions = {}): Promise<RenewResult> {
    checked(options, checks.RENEW);
    return this.#send(calls.renewRun(sessionId, this.observer, runId, options.leaseMs), options);
  }

  /**
   * Lists the sessions on which this observer has work to do, fetched page by page, in no particular order: those with new turns and
   * without a run of this observer in flight. It scans the whole store, so call it every few seconds at most. Begin runs with
   * `onlyIfIdle`, so that several processes can share the work.
   *
   * @example
   * for await (const { sessionId } of observer.dueSessions({ minQuietMs: 2000 })) {
   *   await observer.run(sessionId, work, { onlyIfIdle: true });
   * }
   */
  dueSessions(options: DueOptions = {}): AsyncGenerator<DueSession, void, undefined> {
    checked(options, checks.DUE);
    return calls.pages((token) => this.#send(calls.dueSessions(this.observer, options, token), options));
  }

  /**
   * Lists the last 20 runs, newest first, fetched page by page.
   *
   * @example
   * for await (const { number, state } of observer.listRuns("session-1")) {
   *   console.log(number, state);
   * }
   */
  listRuns(
    sessionId: string,
    options: ListOptions & {
      /** Whether to return the notes of each run, including superseded runs. */
      readonly includeNotes?: boolean | undefined;
    } = {},
  ): AsyncGenerator<Run, void, undefined> {
    const { includeNotes = false, pageSize = 0 } = checked(options, checks.RUNS);
    return calls.pages((token) =>
      this.#send(calls.listRuns(sessionId, this.observer, includeNotes, pageSize, token), options),
    );
  }

  /**
   * Sends a call, which is not retried once `stop` is aborted.
   *
   * @internal
   */
  send<T>(call: calls.Call<T>, stop: AbortSignal): Promise<T> {
    return this.#transport.send(call, {}, this.#timeoutMs, stop);
  }

  #send<T>(call: calls.Call<T>, options: CallOptions): Promise<T> {
    return this.#transport.send(call, options, this.#timeoutMs);
  }
}
