/**
 * Public types: plain, readonly values without protobuf or gRPC. They are in one file because they refer to each other and contain
 * no code.
 *
 * Times are `Date`s from the store's clock, truncated to milliseconds. Durations are numbers of milliseconds with names like
 * `ageMs`, and may have a fraction. Counts are plain numbers, which the contract limits to less than 2^53.
 */

/** A JSON value. Undefined properties are omitted, as by `JSON.stringify`. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;

/** A JSON object. */
export interface JsonObject {
  readonly [name: string]: JsonValue | undefined;
}

/**
 * Whether current notes exist, and the reason if they do not.
 *
 * - `never_run`: no notes, and no run on record.
 * - `running`: no notes yet; the latest run is in flight.
 * - `ready`: current notes exist. A newer run may be in flight or may have failed.
 * - `failed`: no notes; the latest run failed or was abandoned.
 * - `expired`: the ttl of the notes has passed, or the store has lost the observer's runs.
 * - `unavailable`: an outage. Set by the client with `unavailableOk`, never by a sidecar.
 * - `unspecified`: a value that this client is too old to know.
 */
export type Readiness = "never_run" | "running" | "ready" | "failed" | "expired" | "unavailable" | "unspecified";

/**
 * State of a run.
 *
 * - `superseded`: wrote after a newer run, or saw fewer turns than the current notes. Its notes are in the history only.
 * - `abandoned`: the lease expired before the run wrote or failed.
 * - `unspecified`: a value that this client is too old to know.
 */
export type RunState = "running" | "written" | "superseded" | "failed" | "abandoned" | "unspecified";

/**
 * Why notes are not fresh: a bound of the call that is not met, or cannot be checked.
 *
 * - `age`: older than `maxAgeMs`.
 * - `snapshot_age`: based on a snapshot older than `maxSnapshotAgeMs`.
 * - `turns_behind`: further behind than `maxTurnsBehind`.
 * - `turns_unknown`: `maxTurnsBehind` cannot be checked, because no turn count is known.
 * - `snapshot_unknown`: `maxSnapshotAgeMs` cannot be checked, because the run had no BeginRun.
 * - `unspecified`: a value that this client is too old to know.
 */
export type StaleReason =
  "age" | "snapshot_age" | "turns_behind" | "turns_unknown" | "snapshot_unknown" | "unspecified";

/** Severity of an issue: worth knowing, should be addressed in this conversation, or in the next turn. */
export type Severity = "info" | "warning" | "critical";

/**
 * Outcome of a write.
 *
 * - `accepted`: the notes became current.
 * - `duplicate`: the run had already written the same notes; nothing changed.
 * - `superseded`: a newer run had already written, or the current notes saw more turns. The notes are in the history only.
 * - `unspecified`: a value that this client is too old to know.
 */
export type WriteOutcome = "accepted" | "duplicate" | "superseded" | "unspecified";

/** One finding of an observer. */
export interface Issue {
  /** Description of the finding, for the primary to read. */
  readonly text: string;
  /** Severity of the finding. Absent: not rated, or a value that this client is too old to know. */
  readonly severity?: Severity | undefined;
  /** The turn that the finding refers to, counted from 1; 0: before the first turn. Absent: no particular turn. */
  readonly turn?: number | undefined;
}

/** The conclusions of one run of an observer. */
export interface Notes {
  /** Share of each topic that the conversation has covered, from 0 to 1. */
  readonly coverage: Readonly<Record<string, number>>;
  /** Findings, in the order in which the primary should read them. */
  readonly issues: readonly Issue[];
  /** Suggestions for what to say or ask next, best first. */
  readonly followUpSuggestions: readonly string[];
  /** A short summary of the conversation so far. */
  readonly summary: string;
  /** Additional data as JSON: at most 16 levels deep, numbers up to ±(2^53 − 1). */
  readonly extra: JsonObject;
}

/** Notes to write; absent parts are empty. */
export type NewNotes = { readonly [Part in keyof Notes]?: Notes[Part] | undefined };

/** One utterance in the conversation. */
export interface Turn {
  /** The speaker: `user`, `primary` or a person's name, for example. */
  readonly speaker: string;
  /** The words spoken. */
  readonly text: string;
  /** When they were spoken, by the caller's clock, in the years 1 to 9999; stored unchanged. */
  readonly time?: Date | undefined;
  /** Additional data as JSON. Absent: none. */
  readonly extra?: JsonObject | undefined;
}

/** One execution of an observer. */
export interface Run {
  /** Id, unique per session and observer. */
  readonly runId: string;
  /** Sequence number from 1; a higher number means a newer run. */
  readonly number: number;
  /** The observer that the run belongs to. */
  readonly observer: string;
  /** State of the run. */
  readonly state: RunState;
  /** Number of turns that the run had seen; undefined: unknown. */
  readonly observedTurn: number | undefined;
  /** When BeginRun took the snapshot; undefined: the run had no BeginRun. */
  readonly beginTime: Date | undefined;
  /** When the run wrote its notes, failed or was abandoned; undefined: in flight. */
  readonly endTime: Date | undefined;
  /** The observer's reason for ending the run without notes; empty if it has not failed. */
  readonly failure: string;
  /** Notes of the run, if requested in `listRuns`. */
  readonly notes: Notes | undefined;
}

/** Properties of every reading. */
export interface ReadingBase {
  /** The session. */
  readonly sessionId: string;
  /** The observer whose notes were read. */
  readonly observer: string;
  /** The newest run, in any state; undefined: the observer has never begun a run. */
  readonly latestRun: Run | undefined;
  /**
   * Returns the result of a tool call for the primary's model: short, plain JSON without empty values, identical to the Python
   * client's.
   *
   * @example
   * JSON.stringify(reading.asToolResult()); // {"ready":false,"reason":"never_run"}
   */
  asToolResult(options?: {
    /** Leave out less severe issues. Absent: all issues. */
    readonly minSeverity?: Severity | undefined;
  }): ToolResult;
  /**
   * Returns the notes as text for the prompt of the primary's model, in a tag `<session-notes>`, identical to the Python client's.
   * Empty if the reading is not ready, or if nothing remains.
   *
   * Unchanged notes of unchanged freshness give exactly the same text, so that prompt caches stay valid: instead of an age, it has a
   * reason for which the notes are not fresh. Suggestions are left out unless the notes are fresh, and `extra` always. The notes' own
   * text cannot close the tag. Recorders remove the tag from what they record.
   *
   * @example
   * messages.push({ role: "system", content: reading.asPrompt({ minSeverity: "warning" }) });
   * @throws InvalidArgument An option is invalid.
   */
  asPrompt(options?: PromptOptions): string;
}

/** The current notes, and everything needed to decide whether to trust them. */
export interface ReadyReading extends ReadingBase {
  readonly ready: true;
  readonly readiness: "ready";
  readonly notes: Notes;
  /** Time since the notes were written. */
  readonly ageMs: number;
  /** Time since the snapshot that the notes are based on; undefined: the run had no BeginRun. */
  readonly snapshotAgeMs: number | undefined;
  /** When the notes were written. */
  readonly writeTime: Date;
  /** Number of turns that the run behind the notes had seen; undefined: unknown. */
  readonly observedTurn: number | undefined;
  /** Drift: number of turns since then; undefined: unknown. */
  readonly turnsBehind: number | undefined;
  /** Whether the notes meet the bounds in the call. */
  readonly fresh: boolean;
  /** Why the notes are not fresh: every reason; empty if they are. */
  readonly staleBecause: readonly StaleReason[];
  /** The run that wrote the notes. */
  readonly run: Run;
  /** Time until the notes expire. */
  readonly expiresInMs: number;
}

/** No notes, with the reason. */
export interface NotReadyReading extends ReadingBase {
  readonly ready: false;
  /** The reason that there are no notes. */
  readonly readiness: Exclude<Readiness, "ready">;
  /** Always false: only notes can be fresh. */
  readonly fresh: false;
  /** Always empty: only notes can be stale. */
  readonly staleBecause: readonly [];
  readonly notes: undefined;
  /** The error message of the outage if `readiness` is `unavailable`; otherwise empty. */
  readonly unavailableReason: string;
}

/**
 * Result of `getNotes`. `ready` distinguishes the two kinds:
 *
 * @example
 * const reading = await primary.getNotes("session-1", { maxTurnsBehind: 3 });
 * const advice = reading.ready && reading.fresh ? reading.notes.summary : undefined;
 */
export type Reading = ReadyReading | NotReadyReading;

/** Result of `asToolResult`, with the names of the wire format in every language. */
export type ToolResult =
  | { readonly ready: false; readonly reason: Exclude<Readiness, "ready"> }
  | {
      readonly ready: true;
      readonly age_seconds: number;
      readonly snapshot_age_seconds?: number;
      readonly turns_behind?: number;
      readonly fresh: boolean;
      /** Why the notes are not fresh, if they are not. */
      readonly stale_because?: readonly StaleReason[];
      /** State of the latest run, if it is newer than the notes' run. */
      readonly newer_run?: RunState;
      readonly notes: {
        readonly coverage?: Readonly<Record<string, number>>;
        readonly issues?: readonly { readonly text: string; readonly severity?: Severity; readonly turn?: number }[];
        readonly follow_up_suggestions?: readonly string[];
        readonly summary?: string;
        readonly extra?: JsonObject;
      };
    };

/** Options of `asPrompt`. */
export interface PromptOptions {
  /** Leave out less severe issues. Absent: all issues. */
  readonly minSeverity?: Severity | undefined;
  /**
   * Maximum length in characters. Items that do not fit are left out, except for the first of them: it is cut to what the others
   * leave, and ends with ` […]`. Absent: 2,000.
   */
  readonly maxChars?: number | undefined;
}

/** The state of a session at one moment. */
export interface Session {
  readonly sessionId: string;
  /** The primary's fields. */
  readonly fields: JsonObject;
  /** Number of times that `updateSession` has changed the session. */
  readonly version: number;
  /** Number of turns ever appended. */
  readonly turnCount: number;
  /** The transcript, oldest turn first, if requested. */
  readonly turns: readonly Turn[];
  /** For each observer, the result of `getNotes` without bounds. */
  readonly notes: Readonly<Record<string, Reading>>;
  /** When the session was created; undefined: it does not exist. */
  readonly createTime: Date | undefined;
  /** When the session was last changed; undefined: it does not exist. */
  readonly updateTime: Date | undefined;
  /** Time until the session expires if nothing changes it; undefined: it does not exist. */
  readonly expiresInMs: number | undefined;
}

/** Summary of a session. */
export interface SessionSummary {
  readonly sessionId: string;
  readonly version: number;
  readonly turnCount: number;
  readonly updateTime: Date | undefined;
  readonly expiresInMs: number | undefined;
  /** Every observer that has ever begun or written a run, sorted. */
  readonly observers: readonly string[];
}

/** Result of `updateSession`: the new version, and the time of the change. */
export interface UpdateResult {
  readonly version: number;
  readonly updateTime: Date;
}

/** Result of `beginRun`. */
export interface BeginResult {
  readonly run: Run;
  /** The transcript of the snapshot, or the requested part of it, oldest turn first. */
  readonly transcript: readonly Turn[];
  /** Number of the first turn in `transcript`, from 1; undefined: it is empty. */
  readonly firstTurn: number | undefined;
  /** The observer's current notes, as `getNotes` without bounds returns them; undefined: not requested. */
  readonly current: Reading | undefined;
}

/** Result of `renewRun`. */
export interface RenewResult {
  readonly run: Run;
  /** Whether the run's notes would be superseded now. The run may go on, but need not. */
  readonly obsolete: boolean;
  /** Number of turns appended since the run's snapshot; undefined: unknown. */
  readonly turnsBehind: number | undefined;
}

/** A session on which an observer has work to do. */
export interface DueSession {
  readonly sessionId: string;
  /** Number of turns ever appended. */
  readonly turnCount: number;
  /** Number of turns that the observer's current notes have not seen. */
  readonly turnsBehind: number;
  /** Time since the last turn was appended. */
  readonly quietMs: number;
  /** The observer's newest run, in any state; undefined: it has never begun one. */
  readonly latestRun: Run | undefined;
}

/** Result of `writeNotes`: the outcome, the run, and when its notes were first written. */
export interface WriteResult {
  readonly outcome: WriteOutcome;
  readonly run: Run;
  readonly writeTime: Date;
}

/** Options of every call. */
export interface CallOptions {
  /** Timeout in milliseconds. Absent: the client's. */
  readonly timeoutMs?: number | undefined;
  /** Aborts the call, which then rejects with the signal's reason. The outcome of an aborted write is unknown. */
  readonly signal?: AbortSignal | undefined;
}

/** Bounds on notes. They decide whether notes are fresh; stale notes are returned as well. */
export interface NotesBounds {
  /** Maximum age of fresh notes, inclusive. Absent: any age. */
  readonly maxAgeMs?: number | undefined;
  /**
   * Maximum age of the snapshot that fresh notes are based on, inclusive. Absent: any age. `maxAgeMs` bounds when the notes were
   * written, this option what they have seen.
   */
  readonly maxSnapshotAgeMs?: number | undefined;
  /** The caller's own count of turns in the conversation. Absent: the length of the stored transcript. */
  readonly currentTurn?: number | undefined;
  /** Maximum drift of fresh notes, inclusive. Absent: any drift. */
  readonly maxTurnsBehind?: number | undefined;
}

/** Options of `getNotes`. */
export interface NotesOptions extends NotesBounds, CallOptions {
  /** The observer whose notes to read. Absent: `default`. */
  readonly observer?: string | undefined;
  /** Whether an outage resolves to a reading with `readiness: "unavailable"` instead of rejecting. */
  readonly unavailableOk?: boolean | undefined;
}

/** Options of `batchGetNotes`. */
export type BatchOptions = Omit<NotesOptions, "currentTurn">;

/** Options of `updateSession`. */
export interface UpdateOptions extends CallOptions {
  /** Fields to remove. Fields that do not exist are ignored. */
  readonly remove?: readonly string[] | undefined;
  /** Change nothing unless the session is at this version. */
  readonly expectedVersion?: number | undefined;
  /** How long the session is kept after its last change. Stays in effect until set again. Absent: unchanged. */
  readonly ttlMs?: number | undefined;
}

/** Options of `appendTurns`. */
export interface AppendOptions extends CallOptions {
  /** Append nothing unless the transcript has this many turns. */
  readonly expectedTurnCount?: number | undefined;
  /**
   * Id of the append, with which its turns are appended only once, however often the call is repeated. Absent: a new one. Set it to
   * repeat a call yourself. A session remembers its last 200.
   */
  readonly appendId?: string | undefined;
}

/** Options of listings, which are fetched page by page; `timeoutMs` applies to each page. */
export interface ListOptions extends CallOptions {
  /** Maximum number of items per page. Absent: the sidecar's default. */
  readonly pageSize?: number | undefined;
}

/** Options of `dueSessions`, which is fetched page by page; `timeoutMs` applies to each page. */
export interface DueOptions extends ListOptions {
  /** Minimum number of turns that the current notes have not seen. Absent: 1. */
  readonly minTurnsBehind?: number | undefined;
  /** Minimum time since the observer's latest run began. Absent: any. */
  readonly minIntervalMs?: number | undefined;
  /** Minimum time since the last turn was appended. Absent: any. */
  readonly minQuietMs?: number | undefined;
}

/** Options of `renewRun`. */
export interface RenewOptions extends CallOptions {
  /** How long the run may take from now before it counts as abandoned. Absent: 5 minutes. */
  readonly leaseMs?: number | undefined;
}

/** Options of `run`. */
export interface RunOptions {
  /**
   * The run's id. Absent: a new one. Set it if a supervisor may restart the same work: a run in flight continues, and finished work
   * is not repeated.
   */
  readonly runId?: string | undefined;
  /** Number of turns that the run will see. Absent: the length of the stored transcript. */
  readonly observedTurn?: number | undefined;
  /** How long the run may take before it counts as abandoned. Absent: 5 minutes. */
  readonly leaseMs?: number | undefined;
  /** Whether to begin only if no other run of this observer is in flight on the session. */
  readonly onlyIfIdle?: boolean | undefined;
  /** Whether to return the transcript. Absent: yes. Without it, the next three options have no effect. */
  readonly includeTranscript?: boolean | undefined;
  /** Return only turns with a higher number than this; turns are numbered from 1. Absent: all turns. */
  readonly afterTurn?: number | undefined;
  /**
   * Return only turns that the current notes have not seen; all, if there are no notes, or if they do not tell. Excludes `afterTurn`.
   */
  readonly afterCurrentNotes?: boolean | undefined;
  /** Of the selected turns, return at most this many, the newest. Absent: all of them. */
  readonly maxTurns?: number | undefined;
  /** Whether to return the observer's current notes. */
  readonly includeCurrentNotes?: boolean | undefined;
  /** Aborts the run's calls except `fail`: they reject with the signal's reason, and the run fails. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `beginRun`. */
export type BeginOptions = RunOptions & CallOptions;

/** Options of `ActiveRun.write`. */
export interface RunWriteOptions {
  /** Number of turns that the run has seen. Absent: the number recorded when it began. */
  readonly observedTurn?: number | undefined;
  /** How long the notes stay current. Absent: as long as the session. */
  readonly ttlMs?: number | undefined;
}

/** Options of `writeNotes`. */
export interface WriteOptions extends RunWriteOptions, CallOptions {
  /** The run that the notes come from. Absent: a new one. */
  readonly runId?: string | undefined;
}
