/** A run at work: what `observer.run(...)` hands out. */

import { createHash } from "node:crypto";
import { inspect } from "node:util";

import { nameOf, storable } from "./calls.js";
import { RunAlreadyFailed, RunAlreadyWritten, SessionDeleted, UsageError } from "./errors.js";
import type { ObserverClient } from "./observer.js";
import type { BeginResult, NewNotes, Run, RunWriteOptions, Turn, WriteResult } from "./types.js";
import { object } from "./wire.js";

/** How long a run that is lost anyway may hold up its process to say so; its lease says it otherwise. */
export const FAIL_TIMEOUT_MS = 2000;

/**
 * A run at work.
 *
 * @example
 * await observer.run("session-1", async (run) => {
 *   const notes = await analyse(run.transcript);
 *   await run.write(notes);
 * });
 */
export class ActiveRun {
  /** The session it is about. */
  readonly sessionId: string;
  /** Whose run. */
  readonly observer: string;
  /** Its id. */
  readonly runId: string;
  /** Its number. */
  readonly number: number;
  /** How many turns it sees; undefined: not known. */
  readonly observedTurn: number | undefined;
  /** When it took its snapshot, by the store's clock. */
  readonly beginTime: Date | undefined;
  /** The conversation as of then, oldest turn first; empty where not asked for. */
  readonly transcript: readonly Turn[];

  readonly #client: ObserverClient;
  readonly #signal: AbortSignal | undefined;
  #state: "open" | "writing" | "written" | "failed" = "open";
  #failure = "";

  /** @internal */
  constructor(client: ObserverClient, sessionId: string, { run, transcript }: BeginResult, signal?: AbortSignal) {
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
    this.transcript = transcript;
    this.#client = client;
    this.#signal = signal;
  }

  /** Whether its notes are written, or it has failed. */
  get ended(): boolean {
    return this.#state === "written" || this.#state === "failed";
  }

  /**
   * Writes the notes, once. A newer run's notes stay: the outcome says whether these are current. Rejects with:
   * - UsageError: the run has ended;
   * - SessionDeleted: the session was deleted meanwhile: give up;
   * - Unavailable: nobody answered; whether they were written is not known. Writing the same again is safe;
   * - another SessionNotesError: anything else; nothing was written.
   */
  async write(notes: NewNotes, options: RunWriteOptions = {}): Promise<WriteResult> {
    if (this.#state === "failed") {
      throw new UsageError(`the run has failed: ${this.#failure}`);
    }
    if (this.#state !== "open") {
      throw new UsageError("a run writes its notes once");
    }
    // After a write that was refused or not answered, another one may follow: the run id makes it safe.
    this.#state = "writing";
    try {
      const { observedTurn, ttlMs } = object("options", options);
      const { runId } = this;
      const signal = this.#signal;
      const result = await this.#client.writeNotes(this.sessionId, notes, { runId, observedTurn, ttlMs, signal });
      this.#state = "written";
      return result;
    } finally {
      if (!this.ended) {
        this.#state = "open";
      }
    }
  }

  /**
   * Records that the run ends without notes, and why, also once the run's `signal` is aborted. People will read the reason:
   * nothing of what the user said. An error is recorded as `Name: message`; what is longer than 4 KiB is cut. Rejects with a
   * UsageError where the run has written its notes.
   */
  async fail(reason: string | Error): Promise<Run> {
    const recorded = storable(reason);
    // Once failed, failing again is harmless: the first reason stays, as it does in the sidecar.
    if (!this.#startFailing(recorded) && this.#state !== "failed") {
      throw new UsageError("a run that writes its notes cannot fail");
    }
    return this.#client.failRun(this.sessionId, this.runId, recorded);
  }

  /**
   * Ends the run without throwing, unless it has ended.
   *
   * @internal
   */
  async failQuietly(reason: string): Promise<void> {
    if (!this.#startFailing(reason)) {
      return;
    }
    try {
      await this.#client.failRun(this.sessionId, this.runId, reason, { timeoutMs: FAIL_TIMEOUT_MS });
    } catch (error) {
      if (error instanceof SessionDeleted || error instanceof RunAlreadyWritten) {
        // There is no failure to be recorded: the run is gone with its session, or has written.
        return;
      }
      // Its lease runs out instead. Names of errors alone: their texts may hold what the user said.
      const session = logName(this.sessionId);
      process.emitWarning(
        `session ${session}, run ${this.number}: its failure could not be recorded: ${nameOf(error)}`,
        "SessionNotesWarning",
      );
    }
  }

  #startFailing(reason: string): boolean {
    if (this.#state !== "open") {
      return false;
    }
    this.#state = "failed";
    this.#failure = reason;
    return true;
  }

  /** For logs, so without the session's id: see `logName`. */
  toString(): string {
    return `<ActiveRun: run ${this.number} of observer '${this.observer}' on session ${logName(this.sessionId)}>`;
  }

  /** @internal */
  [inspect.custom](): string {
    return this.toString();
  }
}

/**
 * What a session is called in logs: ids are chosen by callers, and may say who the user is. The start of its SHA-256, as
 * `printf %s ID | sha256sum | cut -c1-8` prints it too.
 */
function logName(sessionId: string): string {
  return createHash("sha256").update(sessionId).digest("hex").slice(0, 8);
}
