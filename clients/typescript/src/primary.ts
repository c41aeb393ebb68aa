/** The primary's side. */

import * as calls from "./calls.js";
import type { TLS, Token } from "./credentials.js";
import { Unavailable } from "./errors.js";
import { unavailableReading } from "./readings.js";
import { Transport } from "./transport.js";
import type {
  AppendOptions,
  BatchOptions,
  CallOptions,
  JsonObject,
  ListOptions,
  NotesOptions,
  Reading,
  Session,
  SessionSummary,
  Turn,
  UpdateOptions,
  UpdateResult,
} from "./types.js";
import { DEFAULT_OBSERVER, milliseconds, object } from "./wire.js";

/** How long `getNotes` waits unless told: short, because a user is waiting for the primary meanwhile. */
export const DEFAULT_NOTES_TIMEOUT_MS = 250;

/** How long every other call of a primary waits unless told. */
export const DEFAULT_STATE_TIMEOUT_MS = 2000;

/** How a client connects. */
export interface ConnectionOptions {
  /**
   * What the sidecar knows this caller by, or a function that gives it at every call, such as `tokenFile(path)`. Absent: the
   * environment variable `SESSION_NOTES_TOKEN`, else the file that `SESSION_NOTES_TOKEN_FILE` names.
   */
  readonly token?: Token | undefined;
  /**
   * How to encrypt the connection. Absent: with what `SESSION_NOTES_TLS_CA`, `SESSION_NOTES_TLS_CERT` and
   * `SESSION_NOTES_TLS_KEY` name, else not at all. Without it a token is sent to this machine only.
   */
  readonly tls?: TLS | undefined;
}

/** How a primary connects, and how long it waits. */
export interface PrimaryOptions extends ConnectionOptions {
  /** How long `getNotes` waits for an answer, in milliseconds; each call can say otherwise. */
  readonly timeoutMs?: number | undefined;
  /** How long every other call waits; each call can say otherwise. */
  readonly stateTimeoutMs?: number | undefined;
}

/**
 * What the process that talks to the user needs: notes, and the session's state. One client serves any number of calls at
 * once.
 *
 * @example
 * using primary = new PrimaryClient(); // or close() it yourself
 * await primary.appendTurns("session-1", [{ speaker: "user", text: "Can we start in May?" }]);
 * const reading = await primary.getNotes("session-1", { maxAgeMs: 60_000, unavailableOk: true });
 * reading.asToolResult(); // { ready: false, reason: "never_run" }
 */
export class PrimaryClient implements Disposable {
  readonly #transport: Transport;
  readonly #timeoutMs: number;
  readonly #stateTimeoutMs: number;

  /**
   * @param target The sidecar's address: `127.0.0.1:50051`, `unix:/run/session-notes.sock`. Absent: the environment
   *   variable `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
   * @throws InvalidArgument The target is no address, or the credentials do not fit.
   */
  constructor(target?: string, options: PrimaryOptions = {}) {
    object("options", options);
    this.#timeoutMs = milliseconds("timeoutMs", options.timeoutMs ?? DEFAULT_NOTES_TIMEOUT_MS);
    this.#stateTimeoutMs = milliseconds("stateTimeoutMs", options.stateTimeoutMs ?? DEFAULT_STATE_TIMEOUT_MS);
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
   * The current notes of one observer, with their age. One short read that waits for no observer, tried once.
   *
   * A session that nobody wrote to is not ready, never an error. Rejects with:
   * - Unavailable: nobody answered in time, unless `unavailableOk`;
   * - another SessionNotesError: anything else.
   *
   * @example
   * const reading = await primary.getNotes("session-1", { maxTurnsBehind: 3, unavailableOk: true });
   * const advice = reading.ready && reading.fresh ? reading.notes : undefined;
   */
  async getNotes(sessionId: string, options: NotesOptions = {}): Promise<Reading> {
    object("options", options);
    const call = calls.getNotes(sessionId, options);
    try {
      return await this.#transport.send(call, options, this.#timeoutMs);
    } catch (error) {
      const reason = outage(error, options);
      return unavailableReading(sessionId, options.observer || DEFAULT_OBSERVER, reason);
    }
  }

  /**
   * `getNotes` for up to 1,000 sessions at once, in their order; waits as long as calls for session state do.
   *
   * @example
   * const readings = await primary.batchGetNotes(ids, { maxTurnsBehind: 5 });
   * const stale = readings.filter((reading) => !reading.fresh).map((reading) => reading.sessionId);
   */
  async batchGetNotes(sessionIds: readonly string[], options: BatchOptions = {}): Promise<readonly Reading[]> {
    object("options", options);
    const call = calls.batchGetNotes(sessionIds, options);
    try {
      return await this.#transport.send(call, options, this.#stateTimeoutMs);
    } catch (error) {
      const reason = outage(error, options);
      return sessionIds.map((sessionId) => unavailableReading(sessionId, options.observer || DEFAULT_OBSERVER, reason));
    }
  }

  /**
   * The whole session in one atomic read; one that nobody wrote to is empty, at version 0.
   *
   * @example
   * const session = await primary.getSession("session-1", { includeTurns: true });
   * session.fields["language"]; // "en"
   */
  async getSession(
    sessionId: string,
    options: CallOptions & {
      /** Whether to get the transcript too. */
      readonly includeTurns?: boolean | undefined;
    } = {},
  ): Promise<Session> {
    object("options", options);
    return this.#state(calls.getSession(sessionId, options.includeTurns ?? false), options);
  }

  /**
   * Sets and removes fields, atomically, without touching the others. Never tried again by itself. Rejects with:
   * - VersionMismatch: the session is not at `expectedVersion`;
   * - Unavailable: nobody answered in time; whether the change was made is not known;
   * - another SessionNotesError: anything else.
   *
   * @example
   * await primary.updateSession("session-1", { language: "en", goals: ["start in May"] }, { remove: ["draft"] });
   */
  async updateSession(sessionId: string, set: JsonObject, options: UpdateOptions = {}): Promise<UpdateResult> {
    object("options", options);
    return this.#state(calls.updateSession(sessionId, set, options), options);
  }

  /**
   * Appends to the transcript; how many turns it has now. Never tried again by itself. Rejects with:
   * - TurnCountMismatch: the transcript has not `expectedTurnCount` turns;
   * - Unavailable: nobody answered in time; whether they were appended is not known;
   * - another SessionNotesError: anything else.
   *
   * @example
   * let count = await primary.appendTurns("session-1", [{ speaker: "user", text: "Hello" }]);
   * count = await primary.appendTurns("session-1", [{ speaker: "user", text: "Bye" }], { expectedTurnCount: count });
   */
  async appendTurns(sessionId: string, turns: readonly Turn[], options: AppendOptions = {}): Promise<number> {
    object("options", options);
    return this.#state(calls.appendTurns(sessionId, turns, options.expectedTurnCount), options);
  }

  /** Removes every trace of the session; whether there was one. Observers still at work cannot bring it back. */
  async deleteSession(sessionId: string, options: CallOptions = {}): Promise<boolean> {
    object("options", options);
    return this.#state(calls.deleteSession(sessionId), options);
  }

  /**
   * Summaries of all sessions, in no order, fetched page by page. For people.
   *
   * @example
   * for await (const { sessionId, turnCount } of primary.listSessions()) {
   *   console.log(sessionId, turnCount);
   * }
   */
  listSessions(options: ListOptions = {}): AsyncGenerator<SessionSummary, void, undefined> {
    object("options", options);
    return calls.pages((token) => this.#state(calls.listSessions(options.pageSize ?? 0, token), options));
  }

  #state<T>(call: calls.Call<T>, options: CallOptions): Promise<T> {
    return this.#transport.send(call, options, this.#stateTimeoutMs);
  }
}

/** Why nobody answered, where the caller wants a reading instead; anything else goes on as an error. */
function outage(error: unknown, { unavailableOk }: BatchOptions): string {
  if (unavailableOk === true && error instanceof Unavailable) {
    return error.message;
  }
  throw error;
}
