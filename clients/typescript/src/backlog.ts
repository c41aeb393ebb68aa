/**
 * Backlog of a recorder: the pending turns of all sessions, within bounds, and the order in which the sessions are visited. Nothing is
 * sent here.
 */

import { randomBytes } from "node:crypto";

import { Unauthenticated, Unavailable, UsageError, SessionNotesError } from "./errors.js";
import { errorName } from "./failures.js";
import { counted, sessionDigest, warn } from "./logs.js";
import type { Storable } from "./storable.js";
import type { Turn } from "./types.js";

/** Bounds on the pending turns of all sessions together. Turns beyond either bound are dropped, the newest first. */
export const MAX_PENDING_TURNS = 10_000;
export const MAX_PENDING_BYTES = 16 * 1024 * 1024;

/** Sessions without pending turns whose turn count is remembered. For any other session, the sidecar is asked again. */
const MAX_IDLE_SESSIONS = 10_000;

// Far below the sidecar's limits of 5,000 turns and 4 MiB, because the timeout of a call does not grow with its size.
const MAX_CALL_TURNS = 250;
const MAX_CALL_BYTES = 512 * 1024;

const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 1000;
/** The longest pause on the sidecar's request. */
const MAX_RETRY_AFTER_MS = 5000;

/** A pending turn. */
interface Entry {
  turn: Turn;
  /** Serialized size in bytes. */
  size: number;
  /** Whether a run is due once the turn is stored. */
  observe: boolean;
}

/** A session: its last known number of stored turns, and its pending turns. */
export class PendingSession {
  /** Number of stored turns, as last reported; undefined: unknown. */
  stored: number | undefined;
  pending: Entry[] = [];
  /** Whether a run is due. */
  runDue = false;
  /** Number of leading turns that were sent, with `stored` as the expected count, and whose outcome is unknown. */
  uncertain = 0;
  /** Id of the append in which they were sent. */
  appendId = "";
  /** Number of leading turns to send one by one, to find the one that was rejected. */
  oneByOne = 0;
  /** Consecutive visits that failed. */
  failures = 0;
  /** When the next visit is due. */
  dueAt = 0;
  forgotten = false;
  /** Called at the end of the visit in progress. */
  readonly visitEnded: (() => void)[] = [];

  constructor(readonly id: string) {}

  /** Whether nothing is pending and no run is due. */
  get idle(): boolean {
    return this.pending.length === 0 && !this.runDue;
  }
}

/** Pending turns, in order within a session. */
export class Backlog {
  /** Whether no more turns are accepted. */
  closing = false;
  /** Class of the latest failure; empty: none yet. */
  lastError = "";
  readonly #busy = new Map<string, PendingSession>();
  readonly #idle = new Map<string, PendingSession>();
  /** The sessions to visit: those that are ready, in order, and those that wait after a failure. */
  readonly #ready = new Set<PendingSession>();
  readonly #later = new Set<PendingSession>();
  #visited: PendingSession | undefined;
  #turns = 0;
  #bytes = 0;
  #dropped = 0;
  /** Consecutive failures that are not specific to a session. During an outage, one call per pause suffices for all sessions. */
  #outageFailures = 0;
  #resumeAt = 0;

  /** Whether nothing is pending or in flight. */
  get empty(): boolean {
    return this.#busy.size === 0;
  }

  /** Appends turns up to the bounds. */
  add(sessionId: string, turns: readonly Storable[], observe: boolean): void {
    const session = this.#session(sessionId) ?? new PendingSession(sessionId);
    const before = this.#dropped;
    let accepted = 0;
    for (const { turn, size } of turns) {
      if (this.#turns === MAX_PENDING_TURNS || this.#bytes + size > MAX_PENDING_BYTES) {
        break;
      }
      session.pending.push({ turn, size, observe: false });
      this.#turns += 1;
      this.#bytes += size;
      accepted += 1;
    }
    this.#dropped += turns.length - accepted;
    if (observe && (accepted > 0 || turns.length === 0)) {
      // A run is due once the pending turns are stored.
      const last = session.pending.at(-1);
      if (last === undefined) {
        session.runDue = true;
      } else {
        last.observe = true;
      }
    }
    if (!session.idle && !this.#busy.has(sessionId)) {
      this.#idle.delete(sessionId);
      this.#busy.set(sessionId, session);
      this.#ready.add(session);
    }
    if (this.#dropped > 0 && before === 0) {
      const most = `${counted(this.#turns)} pending, the most that a recorder keeps`;
      warn(`${most}: turns are dropped (${this.#dropped} so far) until the sidecar stores turns again`);
    }
  }

  /** Returns the length of the conversation, pending turns included; undefined: unknown. */
  turns(sessionId: string): number | undefined {
    const session = this.#session(sessionId);
    return session?.stored === undefined ? undefined : session.stored + session.pending.length;
  }

  #session(sessionId: string): PendingSession | undefined {
    return this.#busy.get(sessionId) ?? this.#idle.get(sessionId);
  }

  /** Drops a session. Resolves at the end of the visit in progress. */
  async forget(sessionId: string): Promise<void> {
    const session = this.#session(sessionId);
    if (session !== undefined) {
      this.#remove(session);
      if (session === this.#visited) {
        await new Promise<void>((resolve) => {
          session.visitEnded.push(resolve);
        });
      }
    }
  }

  #remove(session: PendingSession): void {
    session.forgotten = true;
    this.clear(session);
    this.#busy.delete(session.id);
    this.#idle.delete(session.id);
    this.#ready.delete(session);
    this.#later.delete(session);
  }

  /** Drops the pending turns and the run of a session, and returns the number of turns. */
  clear(session: PendingSession): number {
    const dropped = session.pending.length;
    this.#take(session, dropped);
    session.runDue = false;
    session.stored = undefined;
    session.uncertain = session.oneByOne = 0;
    return dropped;
  }

  /** Removes leading turns. */
  #take(session: PendingSession, count: number): Entry[] {
    const taken = session.pending.splice(0, count);
    this.#turns -= taken.length;
    this.#bytes -= taken.reduce((sum, { size }) => sum + size, 0);
    return taken;
  }

  /** Accepts no more turns, and makes all sessions ready at once. */
  close(): void {
    this.closing = true;
    this.#resumeAt = this.#outageFailures = 0;
    for (const session of this.#later) {
      session.failures = 0;
      this.#ready.add(session);
    }
    this.#later.clear();
  }

  /** Drops all pending turns, and logs their number. */
  end(): void {
    this.closing = true;
    const turns = counted(this.#turns);
    const sessions = Array.from(this.#busy.values());
    const affected = sessions.filter(({ pending }) => pending.length > 0).length;
    const dropped = this.#dropped;
    this.#dropped = 0;
    for (const session of sessions) {
      this.#remove(session);
    }
    if (affected > 0 || dropped > 0) {
      const cause = this.lastError === "" ? "" : ` (${this.lastError})`;
      const before = dropped > 0 ? `; ${dropped} more were dropped before` : "";
      const of = counted(affected, "session");
      warn(`${turns} of ${of} not recorded: the recorder ended before they could be stored${cause}${before}`);
    }
  }

  /** Returns the session to visit now; undefined: none. */
  next(): PendingSession | undefined {
    const now = performance.now();
    for (const session of this.#later) {
      if (session.dueAt <= now) {
        this.#later.delete(session);
        this.#ready.add(session);
      }
    }
    const [session] = now < this.#resumeAt ? [] : this.#ready;
    if (session !== undefined) {
      this.#ready.delete(session);
      this.#visited = session;
    }
    return session;
  }

  /** Returns the milliseconds until a visit is due; undefined: no session waits. */
  msToNext(): number | undefined {
    const dueAt = this.#ready.size > 0 ? 0 : Math.min(...Array.from(this.#later, (session) => session.dueAt));
    return Number.isFinite(dueAt) ? Math.max(0, Math.max(dueAt, this.#resumeAt) - performance.now()) : undefined;
  }

  /** Returns the turns for the next call, and marks them as uncertain until their outcome is known. */
  batch(session: PendingSession): readonly Turn[] {
    if (session.uncertain === 0) {
      session.appendId = randomBytes(16).toString("hex");
      session.uncertain = batchSize(session);
    }
    // After an unknown outcome, the same turns are sent again with the same id. The response to any others would not reveal whether
    // these are stored.
    return session.pending.slice(0, session.uncertain).map(({ turn }) => turn);
  }

  /** Removes the leading turns that were appended, and sets the number of stored turns. */
  confirm(session: PendingSession, appended: number, stored: number): void {
    session.uncertain = 0;
    session.oneByOne = Math.max(0, session.oneByOne - appended);
    if (!session.forgotten) {
      session.stored = stored;
      session.runDue ||= this.#take(session, appended).some(({ observe }) => observe);
    }
    // Only once the backlog is half empty. Otherwise, each turn would log a line while turns arrive too fast.
    if (this.#dropped > 0 && this.#turns <= MAX_PENDING_TURNS / 2 && this.#bytes <= MAX_PENDING_BYTES / 2) {
      warn(`turns are stored again; ${this.#dropped} were dropped`);
      this.#dropped = 0;
    }
  }

  /** Replaces a pending turn with a smaller version. */
  replace(session: PendingSession, index: number, { turn, size }: Storable): void {
    const entry = session.pending[index];
    if (entry !== undefined) {
      this.#bytes += size - entry.size;
      Object.assign(entry, { turn, size });
    }
  }

  /** Removes a pending turn. Its run becomes due after the previous turn. */
  remove(session: PendingSession, index: number): void {
    const [entry] = session.pending.splice(index, 1);
    if (entry !== undefined) {
      session.oneByOne = Math.max(0, session.oneByOne - 1);
      this.#turns -= 1;
      this.#bytes -= entry.size;
      const previous = session.pending[index - 1];
      if (previous === undefined) {
        session.runDue ||= entry.observe;
      } else {
        previous.observe ||= entry.observe;
      }
    }
  }

  /** Ends a visit, and schedules the next one if the session has work left. */
  leave(session: PendingSession, failure: unknown): void {
    this.#visited = undefined;
    const worthLogging = this.#record(session, failure) && !session.forgotten;
    if (!session.forgotten) {
      if (session.idle) {
        this.#busy.delete(session.id);
        this.#idle.set(session.id, session);
        const [oldest] = this.#idle.keys();
        if (this.#idle.size > MAX_IDLE_SESSIONS && oldest !== undefined) {
          this.#idle.delete(oldest);
        }
      } else if (session.failures > 0) {
        session.dueAt = performance.now() + pause(session.failures);
        this.#later.add(session);
      } else {
        this.#ready.add(session);
      }
    }
    for (const ended of session.visitEnded.splice(0)) {
      ended();
    }
    if (worthLogging) {
      const reason = failure instanceof SessionNotesError ? ` ${failure.reason}`.trimEnd() : "";
      const cause = `turns cannot be stored now and stay pending (${this.#turns}): ${errorName(failure)}${reason}`;
      warn(`session ${sessionDigest(session.id)}: ${cause}`);
    }
  }

  /** Records the outcome of a visit, and returns whether to log it: the second consecutive failure is logged. */
  #record(session: PendingSession, failure: unknown): boolean {
    if (failure === undefined) {
      session.failures = this.#outageFailures = this.#resumeAt = 0;
      return false;
    }
    session.failures += 1;
    this.lastError = errorName(failure);
    if (failure instanceof Unavailable || failure instanceof Unauthenticated || failure instanceof UsageError) {
      this.#outageFailures += 1;
      const requested = Math.min(failure.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
      this.#resumeAt = performance.now() + Math.max(pause(this.#outageFailures), requested);
      return this.#outageFailures === 2 || (this.#outageFailures === 1 && session.failures === 2);
    }
    return session.failures === 2;
  }
}

function batchSize({ pending, oneByOne }: PendingSession): number {
  let turns = 0;
  let bytes = 0;
  for (const { size } of pending.slice(0, oneByOne > 0 ? 1 : MAX_CALL_TURNS)) {
    bytes += size;
    if (turns > 0 && bytes > MAX_CALL_BYTES) {
      break;
    }
    turns += 1;
  }
  return turns;
}

/** Returns the pause in milliseconds after consecutive failures. */
function pause(failures: number): number {
  // With jitter, so that recorders of one sidecar do not all retry at the same moment.
  return Math.min(FIRST_PAUSE_MS * 2 ** Math.min(failures - 1, 10), MAX_PAUSE_MS) * (0.5 + Math.random() / 2);
}
