/** The client of the primary. */

import { checked, type Checks, milliseconds } from "./arguments.js";
import * as calls from "./calls.js";
import type { TLS, Token } from "./credentials.js";
import { Unavailable } from "./errors.js";
import * as checks from "./options.js";
import { forget } from "./pending.js";
import { unavailableReading } from "./readings.js";
import { Transport } from "./transport.js";
import type {
  AppendOptions,
  BatchOptions,
  CallOptions,
  JsonObject,
  ListOptions,
  NotesBounds,
  NotesOptions,
  Reading,
  Session,
  SessionSummary,
  Turn,
  UpdateOptions,
  UpdateResult,
} from "./types.js";
import { DEFAULT_OBSERVER } from "./wire.js";

/** Default timeout of `getNotes`: short, because a user is waiting for the primary. */
export const DEFAULT_NOTES_TIMEOUT_MS = 250;

/** Default timeout of a primary's other calls. */
export const DEFAULT_STATE_TIMEOUT_MS = 2000;

/** Connection options of a client. */
export interface ConnectionOptions {
  /**
   * The token, or a function that returns it for every call, such as `tokenFile(path)`. Absent: the environment variable
   * `SESSION_NOTES_TOKEN`, else the file named by `SESSION_NOTES_TOKEN_FILE`.
   */
  readonly token?: Token | undefined;
  /**
   * TLS settings. Absent: the files named by `SESSION_NOTES_TLS_CA`, `SESSION_NOTES_TLS_CERT` and `SESSION_NOTES_TLS_KEY`, else no
   * TLS. Without TLS, a token is only sent to this machine.
   */
  readonly tls?: TLS | undefined;
}

/** Options of a PrimaryClient. */
export interface PrimaryOptions extends ConnectionOptions {
  /** Timeout of `getNotes` in milliseconds; each call can override it. */
  readonly timeoutMs?: number | undefined;
  /** Timeout of every other call in milliseconds; each call can override it. */
  readonly stateTimeoutMs?: number | undefined;
}

/** Checks of the options of a client; those of the token and of TLS are in `credentials.ts`. */
export const CONNECTION: Checks<ConnectionOptions> = { token: () => undefined, tls: () => undefined };

const PRIMARY: Checks<PrimaryOptions> = { ...CONNECTION, timeoutMs: milliseconds, stateTimeoutMs: milliseconds };

/**
 * Client of the process that talks to the user: notes, session fields and transcripts. One client serves any number of
 * concurrent calls.
 *
 * @example
 * using primary = new PrimaryClient(); // or close() it yourself
 * await primary.appendTurns("session-1", [{ speaker: "user", text: "Can we start in May?" }]);
 * const reading = await primary.getNotes("session-1", { maxAgeMs: 60_000, unavailableOk: true });
 * reading.asToolResult(); // { ready: false, reason: "never_run" }
 */
export class PrimaryClient implements Disposable {
  /** The address of the sidecar. */
  readonly target: string;
  readonly #transport: Transport;
  readonly #timeoutMs: number;
  readonly #stateTimeoutMs: number;
  /** Whether a response has shown that the sidecar supports append ids. */
  #appendIdsKnown = false;

  /**
   * @param target The sidecar's address: `127.0.0.1:50051`, `unix:/run/session-notes.sock`. Absent: the environment
   *   variable `SESSION_NOTES_TARGET`, else `127.0.0.1:50051`.
   * @throws InvalidArgument The target or the credentials are invalid.
   */
  constructor(target?: string, options: PrimaryOptions = {}) {
    checked(options, PRIMARY);
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_NOTES_TIMEOUT_MS;
    this.#stateTimeoutMs = options.stateTimeoutMs ?? DEFAULT_STATE_TIMEOUT_MS;
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
   * Reads the current notes of one observer, with their age. This is one short read, which never waits for an observer and is never
   * retried.
   *
   * For a session that does not exist, the reading is not ready; this is not an error. Rejects with:
   * - Unavailable: an outage, unless `unavailableOk` is set;
   * - another SessionNotesError: any other failure.
   *
   * @example
   * const reading = await primary.getNotes("session-1", { maxTurnsBehind: 3, unavailableOk: true });
   * const advice = reading.ready && reading.fresh ? reading.notes : undefined;
   */
  async getNotes(sessionId: string, options: NotesOptions = {}): Promise<Reading> {
    checked(options, checks.NOTES);
    const call = calls.getNotes(sessionId, options);
    try {
      return await this.#transport.send(call, options, this.#timeoutMs);
    } catch (error) {
      const reason = outage(error, options);
      return unavailableReading(sessionId, options.observer || DEFAULT_OBSERVER, reason);
    }
  }

  /**
   * Reads the notes of up to 1,000 sessions, in the order of `sessionIds`. The default timeout is `stateTimeoutMs`.
   *
   * @example
   * const readings = await primary.batchGetNotes(ids, { maxTurnsBehind: 5 });
   * const stale = readings.filter((reading) => !reading.fresh).map((reading) => reading.sessionId);
   */
  async batchGetNotes(sessionIds: readonly string[], options: BatchOptions = {}): Promise<readonly Reading[]> {
    checked(options, checks.BATCH);
    const call = calls.batchGetNotes(sessionIds, options);
    try {
      return await this.#transport.send(call, options, this.#stateTimeoutMs);
    } catch (error) {
      const reason = outage(error, options);
      return sessionIds.map((sessionId) => unavailableReading(sessionId, options.observer || DEFAULT_OBSERVER, reason));
    }
  }

  /**
   * Reads the notes of several observers on one session, as quickly as those of one.
   *
   * @internal
   */
  async notesOfObservers(
    sessionId: string,
    observers: readonly string[],
    bounds: NotesBounds,
  ): Promise<readonly Reading[]> {
    return this.#transport.send(calls.notesOfObservers(sessionId, observers, bounds), {}, this.#timeoutMs);
  }

  /**
   * Reads the whole session atomically. A session that does not exist is empty, at version 0.
   *
   * @example
   * const session = await primary.getSession("session-1", { includeTurns: true });
   * session.fields["language"]; // "en"
   */
  async getSession(
    sessionId: string,
    options: CallOptions & {
      /** Whether to return the transcript. */
      readonly includeTurns?: boolean | undefined;
    } = {},
  ): Promise<Session> {
    checked(options, checks.SESSION);
    return this.#state(calls.getSession(sessionId, options.includeTurns ?? false), options);
  }

  /**
   * Sets and removes fields atomically, without changing the others. Never retried. Rejects with:
   * - VersionMismatch: the session is not at `expectedVersion`;
   * - Unavailable: an outage; the outcome is unknown;
   * - another SessionNotesError: any other failure.
   *
   * @example
   * await primary.updateSession("session-1", { language: "en", goals: ["start in May"] }, { remove: ["draft"] });
   */
  async updateSession(sessionId: string, set: JsonObject, options: UpdateOptions = {}): Promise<UpdateResult> {
    checked(options, checks.UPDATE);
    return this.#state(calls.updateSession(sessionId, set, options), options);
  }

  /**
   * Appends turns to the transcript and resolves to the new turn count. The turns have an id, so that they are appended once even if
   * the call is retried. It is, until the timeout, with a sidecar that is known to support ids, or with `expectedTurnCount`. Rejects
   * with:
   * - TurnCountMismatch: the transcript does not have `expectedTurnCount` turns. After a retry, the first attempt may have succeeded;
   * - TurnsAlreadyAppended: the `appendId` has already appended other turns;
   * - SessionDeleted: the `appendId` was known when the session was deleted;
   * - Unavailable: an outage; the outcome is unknown. With `appendId`, repeating the call is safe;
   * - another SessionNotesError: any other failure.
   *
   * @example
   * let count = await primary.appendTurns("session-1", [{ speaker: "user", text: "Hello" }]);
   * count = await primary.appendTurns("session-1", [{ speaker: "user", text: "Bye" }], { expectedTurnCount: count });
   */
  async appendTurns(sessionId: string, turns: readonly Turn[], options: AppendOptions = {}): Promise<number> {
    checked(options, checks.APPEND);
    // An older sidecar ignores the id, so that a retry after an outage would append the turns twice.
    const safe = this.#appendIdsKnown || options.expectedTurnCount !== undefined;
    const call = calls.appendTurns(sessionId, turns, options, safe ? "outage" : "without effect");
    const { turnCount, duplicate } = await this.#state(call, options);
    this.#appendIdsKnown = duplicate !== undefined;
    return turnCount;
  }

  /**
   * Appends turns in a single attempt.
   *
   * @internal
   */
  async appendOnce(sessionId: string, turns: readonly Turn[], options: AppendOptions): Promise<number> {
    return (await this.#state(calls.appendTurns(sessionId, turns, options, "never"), options)).turnCount;
  }

  /**
   * Deletes the session and resolves to whether it existed. Runs in flight cannot bring it back. The pending turns and runs of
   * recorders and background observers in this process are dropped.
   */
  async deleteSession(sessionId: string, options: CallOptions = {}): Promise<boolean> {
    const { timeoutMs = this.#stateTimeoutMs, signal } = checked(options, checks.CALL);
    const call = calls.deleteSession(sessionId);
    const started = performance.now();
    await forget(this.target, sessionId, timeoutMs);
    return this.#state(call, { signal, timeoutMs: timeoutMs - (performance.now() - started) });
  }

  /**
   * Lists summaries of all sessions, fetched page by page, in no particular order. Meant for debugging and dashboards.
   *
   * @example
   * for await (const { sessionId, turnCount } of primary.listSessions()) {
   *   console.log(sessionId, turnCount);
   * }
   */
  listSessions(options: ListOptions = {}): AsyncGenerator<SessionSummary, void, undefined> {
    checked(options, checks.LIST);
    return calls.pages((token) => this.#state(calls.listSessions(options.pageSize ?? 0, token), options));
  }

  #state<T>(call: calls.Call<T>, options: CallOptions): Promise<T> {
    return this.#transport.send(call, options, this.#stateTimeoutMs);
  }
}

/** Returns the message of an outage if the caller accepts one as a reading; rethrows any other error. */
function outage(error: unknown, { unavailableOk }: BatchOptions): string {
  if (unavailableOk === true && error instanceof Unavailable) {
    return error.message;
  }
  throw error;
}
