/** A run in flight, as passed to the work of `observer.run(...)`. */

import { inspect } from "node:util";

import { checked } from "./arguments.js";
import { RunAlreadyFailed, RunAlreadyWritten, RunNotFound, SessionDeleted, UsageError } from "./errors.js";
import { errorName, failureReason } from "./failures.js";
import { sessionDigest, warn } from "./logs.js";
import type { ObserverClient } from "./observer.js";
import { RUN_RENEW, RUN_WRITE } from "./options.js";
import type {
  BeginResult,
  NewNotes,
  Reading,
  RenewOptions,
  RenewResult,
  Run,
  RunWriteOptions,
  Turn,
  WriteResult,
} from "./types.js";

/** Timeout for recording a failure at the end of a run. After a timeout, the run ends when its lease expires. */
export const FAIL_TIMEOUT_MS = 2000;

/**
 * A run in flight.
 *
 * @example
 * await observer.run("session-1", async (run) => {
 *   const notes = await analyse(run.transcript);
 *   await run.write(notes);
 * });
 */
export class ActiveRun {
  /** The session. */
  readonly sessionId: string;
  /** The observer that the run belongs to. */
  readonly observer: string;
  /** The run's id. */
  readonly runId: string;
  /** The run's number. */
  readonly number: number;
  /** Number of turns that the run sees; undefined: unknown. */
  readonly observedTurn: number | undefined;
  /** When the snapshot was taken, by the store's clock. */
  readonly beginTime: Date | undefined;
  /** The transcript of the snapshot, or the requested part of it, oldest turn first; empty if not requested. */
  readonly transcript: readonly Turn[];
  /** Number of the first turn in `transcript`, from 1; undefined: it is empty. */
  readonly firstTurn: number | undefined;
  /** The observer's current notes as of the begin; undefined: not requested. */
  readonly current: Reading | undefined;
  /** Aborted when the run should end: the `signal` of its options, or the time limit of a background observer. Pass it to your model. */
  readonly signal: AbortSignal;

  readonly #client: ObserverClient;
  #state: "open" | "writing" | "written" | "failed" | "deleted" = "open";
  #failure = "";
  #obsolete = false;

  /** @internal */
  constructor(client: ObserverClient, sessionId: string, begun: BeginResult, signal = new AbortController().signal) {
    const { run } = begun;
    if (run.state === "written" || run.state === "superseded") {
      throw new RunAlreadyWritten(`run ${run.number} has written its notes`);
    }
    if (run.state === "failed") {
      throw new RunAlreadyFailed(`run ${run.number} has failed`);
    }
    this.sessionId = sessionId;
    this.observer = run.observer;
    this.runId = run.runId;
    this.number = run.number;
    this.observedTurn = run.observedTurn;
    this.beginTime = run.beginTime;
    this.transcript = begun.transcript;
    this.firstTurn = begun.firstTurn;
    this.current = begun.current;
    this.#client = client;
    this.signal = signal;
  }

  /** Whether the run has written its notes or failed, or its session was deleted. */
  get ended(): boolean {
    return this.#state === "written" || this.#state === "failed" || this.#state === "deleted";
  }

  /** @internal */
  get written(): boolean {
    return this.#state === "written";
  }

  /**
   * Whether the run's notes would be superseded, or its session is gone, as of the last renewal. The analysis may end early.
   */
  get obsolete(): boolean {
    return this.#obsolete;
  }

  /**
   * Gives the run a new lease from now, and updates `obsolete`. Renew a long analysis at a third of its lease. Rejects as
   * `ObserverClient.renewRun`.
   */
  async renew(options: Omit<RenewOptions, "signal"> = {}): Promise<RenewResult> {
    const { leaseMs, timeoutMs } = checked(options, RUN_RENEW);
    try {
      const { signal } = this;
      const result = await this.#client.renewRun(this.sessionId, this.runId, { leaseMs, timeoutMs, signal });
      this.#obsolete = result.obsolete;
      return result;
    } catch (error) {
      // A run that can no longer write is obsolete.
      const kinds = [RunNotFound, RunAlreadyFailed, SessionDeleted];
      this.#obsolete ||= !this.ended && kinds.some((kind) => error instanceof kind);
      throw error;
    }
  }

  /**
   * Writes the notes, at most once. They never replace those of a newer run; the outcome shows whether they became current. Rejects
   * with:
   * - UsageError: the run has ended;
   * - SessionDeleted: the session was deleted in the meantime; do not retry;
   * - Unavailable: an outage; the outcome is unknown. Writing the same notes again is safe;
   * - another SessionNotesError: any other failure; nothing was written.
   */
  async write(notes: NewNotes, options: RunWriteOptions = {}): Promise<WriteResult> {
    if (this.#state === "deleted") {
      throw new SessionDeleted("the session was deleted");
    }
    if (this.#state === "failed") {
      throw new UsageError(`the run has failed: ${this.#failure}`);
    }
    if (this.#state !== "open") {
      throw new UsageError("a run writes its notes once");
    }
    // Another write may follow a failed one, which is safe with the same run id.
    this.#state = "writing";
    try {
      const { observedTurn, ttlMs } = checked(options, RUN_WRITE);
      const { runId, signal } = this;
      const result = await this.#client.writeNotes(this.sessionId, notes, { runId, observedTurn, ttlMs, signal });
      this.#state = "written";
      return result;
    } finally {
      if (this.#isWriting()) {
        this.#state = "open";
      }
    }
  }

  /**
   * Ends the run without notes and records the reason, even after the run's `signal` is aborted. The reason is for people, so leave
   * out user data. An error is recorded as `Name: message`; text beyond 4 KiB is cut. Rejects with UsageError if the run has written
   * its notes.
   */
  async fail(reason: string | Error): Promise<Run> {
    const recorded = failureReason(reason);
    // Failing again is harmless: the first reason stays, as in the sidecar.
    if (!this.#startFailing(recorded) && this.#state !== "failed") {
      if (this.#state === "deleted") {
        throw new SessionDeleted("the session was deleted");
      }
      throw new UsageError("a run that writes its notes cannot fail");
    }
    return this.#client.failRun(this.sessionId, this.runId, recorded);
  }

  /**
   * Ends the run without a call, because its session is about to be deleted: no later write reaches the session.
   *
   * @internal
   */
  sessionDeleted(): void {
    this.#obsolete = true;
    if (!this.ended) {
      this.#state = "deleted";
    }
  }

  /**
   * Fails the run unless it has ended, and returns whether it had not. Never throws.
   *
   * @internal
   */
  async failQuietly(reason: string): Promise<boolean> {
    if (!this.#startFailing(reason)) {
      return false;
    }
    try {
      await this.#client.failRun(this.sessionId, this.runId, reason, { timeoutMs: FAIL_TIMEOUT_MS });
    } catch (error) {
      if (error instanceof SessionDeleted || error instanceof RunAlreadyWritten) {
        // There is no failure to record: the run was deleted with its session, or has written its notes.
        return true;
      }
      // The run ends when its lease expires. Log only the error's class: its message may contain user data.
      const session = sessionDigest(this.sessionId);
      warn(`session ${session}, run ${this.number}: its failure could not be recorded: ${errorName(error)}`);
    }
    return true;
  }

  /** A function, because the state changes while a call waits. */
  #isWriting(): boolean {
    return this.#state === "writing";
  }

  #startFailing(reason: string): boolean {
    if (this.#state !== "open") {
      return false;
    }
    this.#state = "failed";
    this.#failure = reason;
    return true;
  }

  /** Text for logs, without the session's id; see `sessionDigest`. */
  toString(): string {
    return `<ActiveRun: run ${this.number} of observer '${this.observer}' on session ${sessionDigest(this.sessionId)}>`;
  }

  /** @internal */
  [inspect.custom](): string {
    return this.toString();
  }
}
