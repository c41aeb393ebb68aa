/**
 * What goes in and comes out: plain, readonly, and without protobuf or gRPC.
 *
 * Times are `Date`s by the store's clock, cut to the millisecond. Spans are numbers of milliseconds, named so (`ageMs`), and
 * may have a fraction. Counts are plain numbers: the contract keeps them below 2^53.
 */

/** What JSON can say. A property that is undefined is left out, as by `JSON.stringify`. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;

/** A JSON object. */
export interface JsonObject {
  readonly [name: string]: JsonValue | undefined;
}

/**
 * Whether there are notes, and if not, why.
 *
 * - `never_run`: no notes, and no run that would explain it.
 * - `running`: no notes yet; the latest run is at work.
 * - `ready`: there are notes, even while a newer run is at work or has failed.
 * - `failed`: no notes; the latest run failed or was abandoned.
 * - `expired`: there were notes, and their time to live has passed.
 * - `unavailable`: nobody answered. Made by the client, where `unavailableOk` asks for it; a sidecar never says so.
 * - `unspecified`: something this client is too old to know.
 */
export type Readiness = "never_run" | "running" | "ready" | "failed" | "expired" | "unavailable" | "unspecified";

/**
 * What became of a run.
 *
 * - `superseded`: it wrote after a newer run had, or saw fewer turns than the current notes: they went to the history alone.
 * - `abandoned`: its lease ran out before it wrote or failed.
 * - `unspecified`: something this client is too old to know.
 */
export type RunState = "running" | "written" | "superseded" | "failed" | "abandoned" | "unspecified";

/** How much an issue matters: good to know, to be dealt with in this conversation, or in the next turn. */
export type Severity = "info" | "warning" | "critical";

/**
 * What became of notes that were written.
 *
 * - `accepted`: they are the current notes now.
 * - `duplicate`: the run had written the same notes before; nothing changed.
 * - `superseded`: a newer run wrote before them, or one that saw more turns: they went to the history alone.
 * - `unspecified`: something this client is too old to know.
 */
export type WriteOutcome = "accepted" | "duplicate" | "superseded" | "unspecified";

/** One finding of an observer. */
export interface Issue {
  /** What is the matter, for the primary to read. */
  readonly text: string;
  /** How much it matters. Absent: the observer does not say, or says something this client is too old to know. */
  readonly severity?: Severity | undefined;
  /** The turn it is about, counted from 1. Absent: no turn in particular. */
  readonly turn?: number | undefined;
}

/** What one run of an observer concluded. */
export interface Notes {
  /** Topic → share of it that the conversation has covered, 0 to 1. */
  readonly coverage: Readonly<Record<string, number>>;
  /** What is worth raising, in the order to be read. */
  readonly issues: readonly Issue[];
  /** What to say or ask next, best first. */
  readonly followUpSuggestions: readonly string[];
  /** A few sentences on where the conversation stands. */
  readonly summary: string;
  /** Anything else, as JSON: at most 16 levels deep, numbers up to ±(2^53 − 1). */
  readonly extra: JsonObject;
}

/** Notes to be written: what is absent is empty. */
export type NewNotes = { readonly [Part in keyof Notes]?: Notes[Part] | undefined };

/** One utterance of the conversation. */
export interface Turn {
  /** Who spoke: `user`, `primary`, a name. */
  readonly speaker: string;
  /** What was said. */
  readonly text: string;
  /** When, by the caller's own clock; kept as given. */
  readonly time?: Date | undefined;
  /** Anything else worth keeping, as JSON. Absent: nothing. */
  readonly extra?: JsonObject | undefined;
}

/** One execution of an observer. */
export interface Run {
  /** Its id, unique within session and observer. */
  readonly runId: string;
  /** 1, 2, 3, …; a higher number is a newer run. */
  readonly number: number;
  /** Whose run. */
  readonly observer: string;
  /** What became of it. */
  readonly state: RunState;
  /** How many turns it had seen; undefined: not known. */
  readonly observedTurn: number | undefined;
  /** When it took its snapshot; undefined: it was written without being begun. */
  readonly beginTime: Date | undefined;
  /** When it was written, failed or abandoned; undefined: still at work. */
  readonly endTime: Date | undefined;
  /** Why it ended without notes, as its observer said. */
  readonly failure: string;
  /** Its notes, where `listRuns` was asked for them. */
  readonly notes: Notes | undefined;
}

/** What every reading says. */
export interface ReadingBase {
  /** The session read. */
  readonly sessionId: string;
  /** Whose notes. */
  readonly observer: string;
  /** The newest run, whatever became of it; undefined: there was never one. */
  readonly latestRun: Run | undefined;
  /**
   * What a primary hands to its model as the result of a tool call: plain JSON, short, nothing empty in it, and the same
   * as the Python client's.
   *
   * @example
   * JSON.stringify(reading.asToolResult()); // {"ready":false,"reason":"never_run"}
   */
  asToolResult(): ToolResult;
}

/** The current notes, and all one needs to decide whether to trust them. */
export interface ReadyReading extends ReadingBase {
  readonly ready: true;
  readonly readiness: "ready";
  readonly notes: Notes;
  /** Time since they were written. */
  readonly ageMs: number;
  /** Time since the conversation was as their run saw it; undefined: the run did not say when it began. */
  readonly snapshotAgeMs: number | undefined;
  /** When they were written. */
  readonly writeTime: Date;
  /** How many turns their run had seen; undefined: not known. */
  readonly observedTurn: number | undefined;
  /** How many turns have come since; undefined: not known. */
  readonly turnsBehind: number | undefined;
  /** Whether they are within the bounds that were asked for. */
  readonly fresh: boolean;
  /** The run that wrote them. */
  readonly run: Run;
  /** How long they will still be there. */
  readonly expiresInMs: number;
}

/** No notes, and why. */
export interface NotReadyReading extends ReadingBase {
  readonly ready: false;
  /** Why there are none. */
  readonly readiness: Exclude<Readiness, "ready">;
  /** Not ready is never fresh. */
  readonly fresh: false;
  readonly notes: undefined;
  /** Why nobody answered, for people, where `readiness` is `unavailable`; empty elsewhere. */
  readonly unavailableReason: string;
}

/**
 * What a primary reads. `ready` tells the two apart:
 *
 * @example
 * const reading = await primary.getNotes("session-1", { maxTurnsBehind: 3 });
 * const advice = reading.ready && reading.fresh ? reading.notes.summary : undefined;
 */
export type Reading = ReadyReading | NotReadyReading;

/** A reading for a model, as `asToolResult` gives it. The names are those of the wire, in every language. */
export type ToolResult =
  | { readonly ready: false; readonly reason: Exclude<Readiness, "ready"> }
  | {
      readonly ready: true;
      readonly age_seconds: number;
      readonly snapshot_age_seconds?: number;
      readonly turns_behind?: number;
      readonly fresh: boolean;
      /** There when a run began after the one these notes are from; says what became of it. */
      readonly newer_run?: RunState;
      readonly notes: {
        readonly coverage?: Readonly<Record<string, number>>;
        readonly issues?: readonly { readonly text: string; readonly severity?: Severity; readonly turn?: number }[];
        readonly follow_up_suggestions?: readonly string[];
        readonly summary?: string;
        readonly extra?: JsonObject;
      };
    };

/** A session as it stood at one moment. */
export interface Session {
  readonly sessionId: string;
  /** The primary's fields. */
  readonly fields: JsonObject;
  /** How often `updateSession` changed it; 0: never. */
  readonly version: number;
  /** How many turns were ever appended. */
  readonly turnCount: number;
  /** The last of them, oldest first, where asked for. */
  readonly turns: readonly Turn[];
  /** Observer → what `getNotes` would answer for it. */
  readonly notes: Readonly<Record<string, Reading>>;
  /** When it was started; undefined: there is no such session. */
  readonly createTime: Date | undefined;
  /** When it was last changed, by anybody; undefined: there is no such session. */
  readonly updateTime: Date | undefined;
  /** What is left of it if nothing changes it; undefined: there is no such session. */
  readonly expiresInMs: number | undefined;
}

/** A session in a few words. */
export interface SessionSummary {
  readonly sessionId: string;
  readonly version: number;
  readonly turnCount: number;
  readonly updateTime: Date | undefined;
  readonly expiresInMs: number | undefined;
  /** The observers that ever began or wrote a run, sorted. */
  readonly observers: readonly string[];
}

/** A session after `updateSession`: its version now, and when it was changed. */
export interface UpdateResult {
  readonly version: number;
  readonly updateTime: Date;
}

/** A run that has begun, and the transcript it is to look at, oldest turn first. */
export interface BeginResult {
  readonly run: Run;
  readonly transcript: readonly Turn[];
}

/** What became of notes: the outcome, the run that wrote them, and when it did so first. */
export interface WriteResult {
  readonly outcome: WriteOutcome;
  readonly run: Run;
  readonly writeTime: Date;
}

/** What every call takes. */
export interface CallOptions {
  /** How long to wait for an answer, in milliseconds. Absent: as the client was told. */
  readonly timeoutMs?: number | undefined;
  /** Gives the call up; it then rejects with the signal's reason. What a write did by then is not known. */
  readonly signal?: AbortSignal | undefined;
}

/** What may be said of notes to read. */
export interface NotesOptions extends CallOptions {
  /** Whose notes. Absent: `default`. */
  readonly observer?: string | undefined;
  /** The oldest age that still counts as fresh. Absent: age does not matter. */
  readonly maxAgeMs?: number | undefined;
  /** How many turns the conversation has. Absent: as many as are stored. */
  readonly currentTurn?: number | undefined;
  /** How many turns may have come since and the notes still count as fresh. Absent: drift does not matter. */
  readonly maxTurnsBehind?: number | undefined;
  /** Whether to get a reading that is not ready and says why where nobody answers. */
  readonly unavailableOk?: boolean | undefined;
}

/** What may be said of the notes of several sessions. */
export type BatchOptions = Omit<NotesOptions, "currentTurn">;

/** What may be said of changes to a session. */
export interface UpdateOptions extends CallOptions {
  /** Fields to remove; those that are not there do not matter. */
  readonly remove?: readonly string[] | undefined;
  /** Change nothing unless the session is at this version. */
  readonly expectedVersion?: number | undefined;
  /** From now on, how long the session is kept after its last change. Absent: as it was. */
  readonly ttlMs?: number | undefined;
}

/** What may be said of turns to append. */
export interface AppendOptions extends CallOptions {
  /** Append nothing unless the transcript has this many turns. With it, doing it again is safe. */
  readonly expectedTurnCount?: number | undefined;
}

/** What may be said of a list that is fetched page by page; `timeoutMs` is for each page. */
export interface ListOptions extends CallOptions {
  /** How many at most in one page. Absent: as the sidecar sees fit. */
  readonly pageSize?: number | undefined;
}

/** What may be said of a run. */
export interface RunOptions {
  /**
   * The run's id. Absent: a new one. Give your own where a supervisor may start the same work again: a run that was begun and
   * has not ended goes on, and what is done is not done again.
   */
  readonly runId?: string | undefined;
  /** How many turns the run is going to see. Absent: as many as are stored. */
  readonly observedTurn?: number | undefined;
  /** How long it may take before it counts as abandoned. Absent: 5 minutes. */
  readonly leaseMs?: number | undefined;
  /** Whether to begin only if no other run of this observer is at work on the session. */
  readonly onlyIfIdle?: boolean | undefined;
  /** Whether to hand over the transcript. Absent: yes. */
  readonly includeTranscript?: boolean | undefined;
  /** Gives up the run's calls, but for `fail`; they then reject with the signal's reason, and the run has failed. */
  readonly signal?: AbortSignal | undefined;
}

/** What may be said of a run that is only to begin. */
export type BeginOptions = RunOptions & CallOptions;

/** What may be said of notes that a run writes. */
export interface RunWriteOptions {
  /** How many turns the run has seen. Absent: as it said when it began. */
  readonly observedTurn?: number | undefined;
  /** How long the notes count. Absent: as long as the session. */
  readonly ttlMs?: number | undefined;
}

/** What may be said of notes to write. */
export interface WriteOptions extends RunWriteOptions, CallOptions {
  /** The run that concluded them. Absent: a new one. */
  readonly runId?: string | undefined;
}
