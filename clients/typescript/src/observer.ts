/** The observer's side. */

import * as calls from "./calls.js";
import type { ConnectionOptions } from "./primary.js";
import { ActiveRun, FAIL_TIMEOUT_MS } from "./runs.js";
import { Transport } from "./transport.js";
import type {
  BeginOptions,
  BeginResult,
  CallOptions,
  ListOptions,
  NewNotes,
  Run,
  RunOptions,
  WriteOptions,
  WriteResult,
} from "./types.js";
import { kindOf, milliseconds, object, refusal, text } from "./wire.js";

/** How long a call of an observer goes on trying unless told: nobody waits for it, and a sidecar restarts in less. */
export const DEFAULT_RUN_TIMEOUT_MS = 10_000;

const ENDED_WITHOUT_NOTES = "ended without notes";

/** Who observes, how it connects, and how long it goes on trying. */
export interface ObserverOptions extends ConnectionOptions {
  /** Who observes. Absent: `default`. */
  readonly observer?: string | undefined;
  /** How long a call goes on trying, in milliseconds; those of the client itself can say otherwise. */
  readonly timeoutMs?: number | undefined;
}

/**
 * What a process that analyses sessions needs. One client serves any number of runs at once.
 *
 * Every call is tried again while the sidecar is unavailable, until its timeout, and always with the same run id: nothing is
 * begun or written twice.
 *
 * @example
 * using observer = new ObserverClient(undefined, { observer: "coach" });
 * await observer.run("session-1", async (run) => {
 *   await run.write({ summary: `${run.transcript.length} turns so far` });
 * });
 */
export class ObserverClient implements Disposable {
  /** Who observes; empty: `default`. */
  readonly observer: string;
  readonly #transport: Transport;
  readonly #timeoutMs: number;

  /**
   * @param target The sidecar's address: `127.0.0.1:50051`, `unix:/run/session-notes.sock`. Absent: the environment
   *   variable `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
   * @throws InvalidArgument The target is no address, or the credentials do not fit.
   */
  constructor(target?: string, options: ObserverOptions = {}) {
    object("options", options);
    this.observer = text("observer", options.observer ?? "");
    this.#timeoutMs = milliseconds("timeoutMs", options.timeoutMs ?? DEFAULT_RUN_TIMEOUT_MS);
    this.#transport = new Transport(target, options.token, options.tls);
  }

  /** Ends the connection. Calls under way end as Unavailable, later ones as UsageError. */
  close(): void {
    this.#transport.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * One run: begins it, hands over the transcript, and makes sure that it ends. Resolves to what `work` returns.
   *
   * Work that throws, or ends without notes, is recorded as a run that failed; its own error goes on. Where the run cannot
   * begin, `work` is not called, and this rejects with:
   * - RunAlreadyWritten: the run of this `runId` has written its notes, current ones or not: the work is done;
   * - RunAlreadyFailed: the run of this `runId` has failed; to try again is another run, with another id;
   * - RunInFlight: another run is at work, and `onlyIfIdle` was asked for;
   * - SessionDeleted: the run was known when the session was deleted;
   * - another SessionNotesError: anything else.
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
      await run.failQuietly(calls.nameOf(error));
      throw error;
    }
    await run.failQuietly(ENDED_WITHOUT_NOTES);
    return result;
  }

  /** Begins a run; where the signal gives it up meanwhile, a run that began all the same is recorded as failed. */
  async #begin(sessionId: string, options: RunOptions): Promise<BeginResult> {
    const { signal, runId: given } = object("options", options);
    const runId = calls.runIdOrNew(given);
    try {
      return await this.beginRun(sessionId, { ...options, runId });
    } catch (error) {
      // A run of the caller's own id may be at work elsewhere. Whoever gave up does not wait for this.
      if (signal?.aborted === true && error === signal.reason && given === undefined) {
        this.failRun(sessionId, runId, calls.nameOf(error), { timeoutMs: FAIL_TIMEOUT_MS }).catch(() => undefined);
      }
      throw error;
    }
  }

  /** Begins a run and nothing more: as `run`, but ending it is yours. Its state says if it has ended before. */
  async beginRun(sessionId: string, options: BeginOptions = {}): Promise<BeginResult> {
    object("options", options);
    return this.#send(calls.beginRun(sessionId, this.observer, options), options);
  }

  /**
   * Writes the notes of a run, begun or not. Rejects with:
   * - RunAlreadyWritten: the run has written other notes;
   * - RunAlreadyFailed: the run has ended without notes;
   * - SessionDeleted: the run was known when the session was deleted;
   * - Unavailable: nobody answered; whether they were written is not known. The same again is safe, with `runId`;
   * - another SessionNotesError: anything else.
   *
   * @example
   * const { outcome } = await observer.writeNotes("session-1", { summary: "Goals are clear." }, { observedTurn: 12 });
   */
  async writeNotes(sessionId: string, notes: NewNotes, options: WriteOptions = {}): Promise<WriteResult> {
    object("options", options);
    return this.#send(calls.writeNotes(sessionId, this.observer, notes, options), options);
  }

  /**
   * Records that a run ended without notes, and why, as `ActiveRun.fail`. Twice is as once. Rejects with:
   * - RunNotFound: there is no such run;
   * - RunAlreadyWritten: the run has written notes;
   * - another SessionNotesError: anything else.
   */
  async failRun(
    sessionId: string,
    runId: string,
    reason: string | Error = "",
    options: CallOptions = {},
  ): Promise<Run> {
    object("options", options);
    return this.#send(calls.failRun(sessionId, this.observer, runId, reason), options);
  }

  /**
   * The last 20 runs, newest first, fetched page by page.
   *
   * @example
   * for await (const { number, state } of observer.listRuns("session-1")) {
   *   console.log(number, state);
   * }
   */
  listRuns(
    sessionId: string,
    options: ListOptions & {
      /** Whether to get each run's notes, superseded ones too. */
      readonly includeNotes?: boolean | undefined;
    } = {},
  ): AsyncGenerator<Run, void, undefined> {
    const { includeNotes = false, pageSize = 0 } = object("options", options);
    return calls.pages((token) =>
      this.#send(calls.listRuns(sessionId, this.observer, includeNotes, pageSize, token), options),
    );
  }

  #send<T>(call: calls.Call<T>, options: CallOptions): Promise<T> {
    return this.#transport.send(call, options, this.#timeoutMs);
  }
}
