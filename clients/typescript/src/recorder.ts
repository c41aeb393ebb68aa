/** Recorder: stores turns in the background, and submits runs for them. */

import { AsyncResource } from "node:async_hooks";
import { isDeepStrictEqual } from "node:util";

import { checked, type Checks, flag, isSessionId, kindOf, milliseconds, positive, refusal } from "./arguments.js";
import { Backlog, type PendingSession } from "./backlog.js";
import {
  InvalidArgument,
  Overloaded,
  PermissionDenied,
  SessionDeleted,
  TooLarge,
  TurnCountMismatch,
  Unauthenticated,
  UsageError,
} from "./errors.js";
import { errorName, forLogs } from "./failures.js";
import { counted, sessionDigest, warn } from "./logs.js";
import { type Holder, MAX_TIMER_MS, register, unregister, within } from "./pending.js";
import { PrimaryClient } from "./primary.js";
import { MAX_TURN_BYTES, smaller, type Storable, storable } from "./storable.js";
import type { Session, Turn } from "./types.js";
import { turnMessages } from "./wire.js";

/** Default timeout of each call of a recorder. */
const DEFAULT_TIMEOUT_MS = 1000;

/** Default timeout of a recorder's `close`. */
const DEFAULT_CLOSE_TIMEOUT_MS = 5000;

/** Timeout for reading a whole transcript, which can be large. */
const COMPARE_TIMEOUT_MS = 10_000;

/** How long pending turns may delay the end of the process. */
const EXIT_TIMEOUT_MS = 2000;

/** Errors of calls that had no effect. */
const NO_EFFECT = [Overloaded, InvalidArgument, TooLarge, Unauthenticated, PermissionDenied, UsageError];

/** Options of a TurnRecorder. */
export interface RecorderOptions {
  /** Receives a session once its turns are stored, such as a `BackgroundObserver`. Absent: another process may observe. */
  readonly observer?: { submit(sessionId: string): void } | undefined;
  /** Timeout of each call in milliseconds. Absent: 1 s. */
  readonly timeoutMs?: number | undefined;
}

const RECORDER: Checks<RecorderOptions> = {
  observer: (name, content) => {
    if (typeof (content as { submit?: unknown } | null)?.submit !== "function") {
      throw refusal(name, `must be a BackgroundObserver, not ${kindOf(content)}`);
    }
  },
  timeoutMs: positive,
};
const RECORD: Checks<{ readonly observe?: boolean | undefined }> = { observe: flag };
const CLOSE: Checks<{ readonly timeoutMs?: number | undefined }> = { timeoutMs: milliseconds };

/**
 * Stores turns in the background, in order within a session, and then submits runs.
 *
 * `record` returns immediately and never throws, so that it can be called during a conversation. A run begins after its turns are
 * stored, and therefore sees them.
 *
 * During an outage, turns stay pending. When the sidecar is back, they are stored once each, in order. At most 10,000 turns or 16 MiB
 * are pending in total. Beyond that, turns are dropped, and a process warning has their number.
 *
 * Pending turns delay the end of the process by at most 2 s. `process.exit`, and a SIGTERM or SIGINT without a listener, lose them:
 * `close` the recorder first.
 * `PrimaryClient.deleteSession` in this process drops the pending turns of the session.
 *
 * @example
 * const recorder = new TurnRecorder(primary, { observer });
 * recorder.record("session-1", { speaker: "user", text: "Can we start in May?" });
 * await recorder.close();
 */
export class TurnRecorder implements AsyncDisposable {
  readonly #client: PrimaryClient;
  readonly #timeoutMs: number;
  readonly #backlog = new Backlog();
  readonly #holder: Holder;
  /** Runs the work outside of the caller's asynchronous context: a call does not belong to the request that recorded a turn. */
  readonly #context = new AsyncResource("SessionNotesRecorder");
  #observer: RecorderOptions["observer"];
  /** The largest turn that the sidecar is known to accept, in bytes. */
  #turnLimit = MAX_TURN_BYTES;
  #working: Promise<void> | undefined;
  #wake: (() => void) | undefined;

  /**
   * @param client Appends the turns. It is not closed; close it after the recorder.
   * @throws InvalidArgument The client or an option is invalid.
   */
  constructor(client: PrimaryClient, options: RecorderOptions = {}) {
    const given: unknown = client;
    if (!(given instanceof PrimaryClient)) {
      throw refusal("client", `must be a PrimaryClient, not ${kindOf(given)}`);
    }
    const { observer, timeoutMs = DEFAULT_TIMEOUT_MS } = checked(options, RECORDER);
    this.#client = client;
    this.#observer = observer;
    this.#timeoutMs = timeoutMs;
    this.#holder = {
      target: client.target,
      forget: (sessionId) => this.#backlog.forget(sessionId),
      finish: () => {
        // A run that begins now would never end.
        this.#observer = undefined;
        void this.close({ timeoutMs: EXIT_TIMEOUT_MS });
      },
    };
  }

  /**
   * Queues turns for the session's transcript, and a run after them. Returns immediately and never throws.
   *
   * Turns that cannot be stored unchanged are adapted. Lone surrogates (half characters) become U+FFFD. A text beyond 64 KiB is cut
   * and ends with ` […]`. An invalid `time`, an `extra` that is not JSON and anything that is not a turn are left out. A process warning
   * reports each change.
   *
   * Notes are not speech: the text of `asPrompt` is removed from a turn's text, and a turn without any other text is left out.
   *
   * @param turns A turn, or several in order. Without turns, only a run is submitted, once the pending turns are stored.
   * @param options.observe Whether to submit a run. False: the next turn's run covers these turns.
   */
  record(
    sessionId: string,
    turns: Turn | readonly Turn[],
    options: { readonly observe?: boolean | undefined } = {},
  ): void {
    let observe = true;
    try {
      observe = checked(options, RECORD).observe ?? true;
    } catch (error) {
      // Such as a second turn, which belongs into an array with the first.
      warn(`the third argument of record has no effect: ${forLogs(error)}`);
    }
    try {
      const given: readonly unknown[] = Array.isArray(turns) ? turns : [turns];
      this.#record(sessionId, given, observe);
    } catch (error) {
      warn(`turns may not be recorded: ${errorName(error)}`);
    }
  }

  #record(sessionId: unknown, given: readonly unknown[], observe: boolean): void {
    if (typeof sessionId !== "string" || !isSessionId(sessionId)) {
      const kind = typeof sessionId === "string" ? "" : `, but ${kindOf(sessionId)}`;
      warn(`${counted(given.length)} not recorded: the session id is not 1 to 256 printable ASCII characters${kind}`);
      return;
    }
    const changes: string[] = [];
    const turns: Storable[] = [];
    for (const item of given) {
      const turn = storable(item, this.#turnLimit);
      if (typeof turn === "string") {
        changes.push(turn);
      } else if (turn !== undefined) {
        turns.push(turn);
        changes.push(...turn.changes);
      }
    }
    if (this.#backlog.closing) {
      changes.push(`${counted(turns.length)} not recorded: the recorder is closed`);
    } else {
      // If nothing of the turns is left, there is nothing new to observe.
      const observed = observe && this.#observer !== undefined && (turns.length > 0 || given.length === 0);
      this.#backlog.add(sessionId, turns, observed);
      this.#start();
    }
    if (changes.length > 0) {
      warn(`session ${sessionDigest(sessionId)}: ${summary(changes)}`);
    }
  }

  /**
   * Returns the length of the conversation, pending turns included, as far as this recorder knows: turns of other writers since its
   * latest append are missing. `getNotes` takes it as `currentTurn`. Undefined: the sidecar has not yet answered for this session.
   */
  turns(sessionId: string): number | undefined {
    return this.#backlog.turns(sessionId);
  }

  /** Stops accepting turns, stores the pending ones, and resolves to whether all were stored within the timeout, 5 s by default. */
  async close(options: { readonly timeoutMs?: number | undefined } = {}): Promise<boolean> {
    const { timeoutMs = DEFAULT_CLOSE_TIMEOUT_MS } = checked(options, CLOSE);
    this.#backlog.close();
    this.#start();
    const finished = await within(timeoutMs, this.#working ?? Promise.resolve());
    this.#backlog.end();
    this.#wake?.();
    unregister(this.#holder);
    return finished;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #start(): void {
    this.#wake?.();
    if (this.#working === undefined && !this.#backlog.empty) {
      register(this.#holder);
      this.#working = this.#context.runInAsyncScope(() => this.#work());
    }
  }

  /** Visits sessions until nothing is pending. */
  async #work(): Promise<void> {
    // After the caller's code, so that turns recorded together are sent together.
    await Promise.resolve();
    while (!this.#backlog.empty) {
      const session = this.#backlog.next();
      if (session === undefined) {
        await this.#pause(this.#backlog.msToNext());
      } else {
        await this.#visit(session);
      }
    }
    this.#working = undefined;
    unregister(this.#holder);
  }

  /** Waits until a visit is due, or something changes. Only `close` keeps the process alive meanwhile. */
  #pause(ms = MAX_TIMER_MS): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms).unref();
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Appends some of a session's pending turns, and submits a run if one is due. Ends at the first failure. */
  async #visit(session: PendingSession): Promise<void> {
    let failure: unknown;
    try {
      if (session.pending.length > 0) {
        await this.#append(session);
      }
      this.#submit(session);
    } catch (error) {
      failure = error;
    }
    this.#backlog.leave(session, failure);
  }

  async #append(session: PendingSession): Promise<void> {
    const backlog = this.#backlog;
    const uncertainBefore = session.uncertain;
    const expected = session.stored ?? 0;
    const turns = backlog.batch(session);
    try {
      const { appendId } = session;
      const options = { appendId, expectedTurnCount: expected, timeoutMs: this.#timeoutMs };
      // One attempt per visit, so that no session delays the others and no attempt follows a deletion.
      backlog.confirm(session, turns.length, await this.#client.appendOnce(session.id, turns, options));
    } catch (error) {
      if (error instanceof TurnCountMismatch && error.actual !== undefined) {
        await this.#countAgain(session, turns, expected, error.actual, uncertainBefore > 0);
      } else if (error instanceof SessionDeleted) {
        // An earlier attempt succeeded, and then the session was deleted, with the turns recorded so far.
        const dropped = counted(backlog.clear(session));
        warn(`session ${sessionDigest(session.id)}: ${dropped} dropped: the session was deleted`);
      } else if (isRejection(error)) {
        session.uncertain = 0;
        this.#reject(session, turns.length, error);
      } else {
        if (NO_EFFECT.some((kind) => error instanceof kind)) {
          session.uncertain = uncertainBefore;
        }
        throw error;
      }
    }
  }

  /**
   * Another writer appended, the session was deleted, or an earlier attempt succeeded. In the last case, most sidecars recognize the
   * append's id and return its turn count. Those of the contract's first version do not.
   */
  async #countAgain(
    session: PendingSession,
    turns: readonly Turn[],
    expected: number,
    actual: number,
    sentBefore: boolean,
  ): Promise<void> {
    if (!sentBefore) {
      this.#backlog.confirm(session, 0, actual);
      return;
    }
    const current = await this.#client.getSession(session.id, { includeTurns: true, timeoutMs: COMPARE_TIMEOUT_MS });
    this.#backlog.confirm(session, contains(current, expected, turns) ? turns.length : 0, current.turnCount);
  }

  /** Finds the turn that the sidecar will never accept, and shortens it or leaves it out. */
  #reject(session: PendingSession, sent: number, error: InvalidArgument | TooLarge): void {
    if (session.forgotten) {
      return;
    }
    const violated = error instanceof InvalidArgument ? error.violations.map(({ field }) => field) : [];
    const position = [error.metadata["field"] ?? "", ...violated]
      .map((field) => /^turns\[(\d+)\]/.exec(field)?.[1])
      .find((found) => found !== undefined);
    if (position === undefined && sent > 1) {
      session.oneByOne = sent;
      return;
    }
    const index = Math.min(Number(position ?? 0), sent - 1);
    const entry = session.pending[index];
    if (entry === undefined) {
      return;
    }
    const limit = error instanceof TooLarge ? error.limit : undefined;
    const shorter = limit === undefined ? undefined : smaller(entry.turn, limit);
    let change = "a turn not recorded";
    if (limit !== undefined && shorter !== undefined && shorter.size < entry.size && shorter.size <= limit) {
      this.#turnLimit = Math.min(this.#turnLimit, limit);
      change = shorter.turn.text.length < entry.turn.text.length ? "text cut" : "extra left out";
      this.#backlog.replace(session, index, shorter);
    } else {
      this.#backlog.remove(session, index);
    }
    warn(`session ${sessionDigest(session.id)}: ${change}: ${error.name} ${error.reason}`);
  }

  #submit(session: PendingSession): void {
    if (!session.runDue) {
      return;
    }
    session.runDue = false;
    try {
      this.#observer?.submit(session.id);
    } catch (error) {
      warn(`session ${sessionDigest(session.id)}: no run was submitted: ${errorName(error)}`);
    }
  }
}

/** Whether an error is about the turns. An invalid token, an error without a reason, is not. */
function isRejection(error: unknown): error is InvalidArgument | TooLarge {
  return (error instanceof InvalidArgument || error instanceof TooLarge) && error.reason !== "";
}

/** Whether these turns follow the first `before` ones. The transcript may no longer contain the oldest. */
function contains({ turnCount, turns }: Session, before: number, sent: readonly Turn[]): boolean {
  const end = before + sent.length;
  if (turnCount < end) {
    return false;
  }
  const first = turnCount - turns.length;
  const stored = turns.slice(Math.max(0, before - first), Math.max(0, end - first));
  return isDeepStrictEqual(turnMessages(stored), turnMessages(sent.slice(sent.length - stored.length)));
}

/** Returns changes with their numbers. */
function summary(changes: readonly string[]): string {
  const times = new Map<string, number>();
  for (const change of changes) {
    times.set(change, (times.get(change) ?? 0) + 1);
  }
  return Array.from(times, ([change, count]) => (count > 1 ? `${change} (${count} times)` : change)).join(", ");
}
