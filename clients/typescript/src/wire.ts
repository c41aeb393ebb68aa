/** Conversion between the values in `types.ts` and protobuf messages. */

import { create, fromJson, type JsonValue as WireJson, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import {
  type Duration,
  DurationSchema,
  type Timestamp,
  type TimestampSchema,
  type Value,
  ValueSchema,
} from "@bufbuild/protobuf/wkt";

import {
  object,
  onlyKnown,
  refusal,
  array,
  shareOf,
  keyInPath,
  struct,
  text,
  texts,
  wholeNumber,
  milliseconds,
  kindOf,
} from "./arguments.js";
import { ServerError } from "./errors.js";
import {
  type IssueSchema,
  type Notes as NotesMessage,
  type NotesSchema,
  type Run as RunMessage,
  RunState as WireRunState,
  Severity as WireSeverity,
} from "./gen/session_notes/v1/notes_pb.js";
import {
  type DueSession as DueMessage,
  type GetNotesResponse,
  Readiness as WireReadiness,
  StaleReason as WireStaleReason,
} from "./gen/session_notes/v1/session_notes_pb.js";
import type {
  Session as SessionMessage,
  SessionSummary as SummaryMessage,
} from "./gen/session_notes/v1/session_state_pb.js";
import type { Turn as TurnMessage, TurnSchema } from "./gen/session_notes/v1/turn_pb.js";
import { NotReady, Ready } from "./readings.js";
import type {
  DueSession,
  Issue,
  JsonObject,
  NewNotes,
  Notes,
  Reading,
  Run,
  Session,
  SessionSummary,
  Severity,
  StaleReason,
  Turn,
} from "./types.js";

/** The observer with the empty name. */
export const DEFAULT_OBSERVER = "default";

const SEVERITIES: Readonly<Record<Severity, WireSeverity>> = {
  info: WireSeverity.INFO,
  warning: WireSeverity.WARNING,
  critical: WireSeverity.CRITICAL,
};

// The parts of notes and of an issue. Any other part would be lost, such as one with a name of the wire format.
const NOTES: readonly (keyof Notes)[] = ["coverage", "issues", "followUpSuggestions", "summary", "extra"];
const ISSUE: readonly (keyof Issue)[] = ["text", "severity", "turn"];

// The longest Duration in protobuf, about 10,000 years.
const MAX_DURATION_MS = 315_576_000_000_000;

// The range of a Timestamp in protobuf. That of a `Date` is larger, so a number of microseconds is a valid one.
const MIN_TIME_MS = Date.parse("0001-01-01T00:00:00.000Z");
const MAX_TIME_MS = Date.parse("9999-12-31T23:59:59.999Z");

/** Converts a count. */
export function count(name: string, content: unknown): bigint | undefined {
  return content === undefined ? undefined : BigInt(wholeNumber(name, content));
}

/** Converts a maximum number of items, clamped to the range of the field. The sidecar's own limit is far lower. */
export function maximum(name: string, content: unknown): number {
  return Math.min(wholeNumber(name, content), 2 ** 31 - 1);
}

/** Converts a duration, rounded to microseconds and clamped to protobuf's range. The sidecar's own limits are lower. */
export function duration(name: string, ms: unknown): Duration | undefined {
  if (ms === undefined) {
    return undefined;
  }
  const span = milliseconds(name, ms);
  const microseconds = Math.round(Math.max(-MAX_DURATION_MS, Math.min(span, MAX_DURATION_MS)) * 1000);
  return create(DurationSchema, {
    seconds: BigInt(Math.trunc(microseconds / 1e6)),
    nanos: (microseconds % 1e6) * 1000,
  });
}

/** Converts the fields of a session. */
export function fields(name: string, content: JsonObject): Record<string, Value> {
  return mapped(struct(name, content), (item) => fromJson(ValueSchema, item));
}

/** Converts notes to a message. */
export function notesMessage(notes: NewNotes): MessageInitShape<typeof NotesSchema> {
  const {
    coverage = {},
    issues = [],
    followUpSuggestions = [],
    summary = "",
    extra = {},
  } = onlyKnown("notes", notes, NOTES);
  return {
    coverage: Object.fromEntries(
      Object.entries(object("notes.coverage", coverage)).map(([topic, share]) => [
        text("a topic of notes.coverage", topic),
        shareOf("notes.coverage" + keyInPath(topic), share),
      ]),
    ),
    issues: array("notes.issues", issues).map((issue, index) => issueMessage(`notes.issues[${index}]`, issue)),
    followUpSuggestions: texts("notes.followUpSuggestions", followUpSuggestions),
    summary: text("notes.summary", summary),
    ...extraMessage("notes.extra", extra),
  };
}

function issueMessage(name: string, issue: Issue): MessageInitShape<typeof IssueSchema> {
  const { text: words, severity, turn } = onlyKnown(name, issue, ISSUE);
  if (severity !== undefined && !Object.hasOwn(SEVERITIES, severity)) {
    throw refusal(`${name}.severity`, "must be info, warning or critical");
  }
  return {
    text: text(`${name}.text`, words),
    severity: severity === undefined ? WireSeverity.UNSPECIFIED : SEVERITIES[severity],
    ...(turn !== undefined && { turn: count(`${name}.turn`, turn) }),
  };
}

/** Converts turns to messages. */
export function turnMessages(turns: readonly Turn[]): MessageInitShape<typeof TurnSchema>[] {
  return array("turns", turns).map((turn, index) => turnMessage(`turns[${index}]`, turn));
}

/** Converts a turn to a message. */
export function turnMessage(name: string, turn: Turn): MessageInitShape<typeof TurnSchema> {
  const { speaker, text: words, time, extra = {} } = object(name, turn);
  return {
    speaker: text(`${name}.speaker`, speaker),
    text: text(`${name}.text`, words),
    ...(time !== undefined && { time: timestamp(`${name}.time`, time) }),
    ...extraMessage(`${name}.extra`, extra),
  };
}

/** Converts notes from a message. */
export function notesFrom(message: NotesMessage): Notes {
  return {
    coverage: message.coverage,
    issues: message.issues.map(({ text, severity, turn }) => {
      const severityName = enumName(WireSeverity, severity);
      return {
        text,
        ...(severityName !== "unspecified" && { severity: severityName }),
        ...(turn !== undefined && { turn: Number(turn) }),
      };
    }),
    followUpSuggestions: message.followUpSuggestions,
    summary: message.summary,
    extra: message.extra ?? {},
  };
}

/** Converts a turn from a message. */
export function turnFrom(message: TurnMessage): Turn {
  return {
    speaker: message.speaker,
    text: message.text,
    ...(message.time && { time: date(message.time) }),
    ...(message.extra && Object.keys(message.extra).length > 0 && { extra: message.extra }),
  };
}

/** Converts a run from a message. */
export function runFrom(message: RunMessage): Run {
  return {
    runId: message.runId,
    number: Number(message.number),
    observer: message.observer,
    state: enumName(WireRunState, message.state),
    observedTurn: numberOf(message.observedTurn),
    beginTime: message.beginTime && date(message.beginTime),
    endTime: message.endTime && date(message.endTime),
    failure: message.failure,
    notes: message.notes && notesFrom(message.notes),
  };
}

/** Converts a reading from a response. A sidecar that is too old to know the bound on the snapshot's age has not checked it. */
export function readingFrom(
  sessionId: string,
  observer: string,
  message: GetNotesResponse,
  maxSnapshotAgeMs?: number,
): Reading {
  const readiness = enumName(WireReadiness, message.readiness);
  const common = {
    sessionId,
    observer: observer || DEFAULT_OBSERVER,
    latestRun: message.latestRun && runFrom(message.latestRun),
  };
  if (!message.ready || readiness !== "ready") {
    return new NotReady({
      ...common,
      ready: false,
      readiness: readiness === "ready" ? "unspecified" : readiness,
      fresh: false,
      staleBecause: [],
      notes: undefined,
      unavailableReason: "",
    });
  }
  const snapshotAgeMs = message.snapshotAge && millisecondsOf(message.snapshotAge);
  const fresh = message.fresh ?? false;
  const unchecked: StaleReason[] = [];
  if (fresh && maxSnapshotAgeMs !== undefined && !(snapshotAgeMs !== undefined && snapshotAgeMs <= maxSnapshotAgeMs)) {
    unchecked.push(snapshotAgeMs === undefined ? "snapshot_unknown" : "snapshot_age");
  }
  return new Ready({
    ...common,
    ready: true,
    readiness,
    notes: notesFrom(present("notes", message.notes)),
    ageMs: millisecondsOf(present("age", message.age)),
    snapshotAgeMs,
    writeTime: date(present("write_time", message.writeTime)),
    observedTurn: numberOf(message.observedTurn),
    turnsBehind: numberOf(message.turnsBehind),
    fresh: fresh && unchecked.length === 0,
    staleBecause: [...message.staleBecause.map((reason) => enumName(WireStaleReason, reason)), ...unchecked],
    run: runFrom(present("run", message.run)),
    expiresInMs: millisecondsOf(present("expires_in", message.expiresIn)),
  });
}

/** Converts a session from a message. */
export function sessionFrom(message: SessionMessage): Session {
  return {
    sessionId: message.sessionId,
    fields: mapped(message.fields, (content) => toJson(ValueSchema, content)),
    version: Number(message.version),
    turnCount: Number(message.turnCount ?? 0),
    turns: message.turns.map(turnFrom),
    notes: mapped(message.notes, (reading, observer) => readingFrom(message.sessionId, observer, reading)),
    createTime: message.createTime && date(message.createTime),
    updateTime: message.updateTime && date(message.updateTime),
    expiresInMs: message.expiresIn && millisecondsOf(message.expiresIn),
  };
}

/** Converts a summary from a message. */
export function summaryFrom(message: SummaryMessage): SessionSummary {
  return {
    sessionId: message.sessionId,
    version: Number(message.version),
    turnCount: Number(message.turnCount),
    updateTime: message.updateTime && date(message.updateTime),
    expiresInMs: message.expiresIn && millisecondsOf(message.expiresIn),
    observers: message.observers,
  };
}

/** Converts a due session from a message. */
export function dueFrom(message: DueMessage): DueSession {
  return {
    sessionId: message.sessionId,
    turnCount: Number(message.turnCount),
    turnsBehind: Number(present("turns_behind", message.turnsBehind)),
    quietMs: millisecondsOf(present("quiet", message.quiet)),
    latestRun: message.latestRun && runFrom(message.latestRun),
  };
}

/** Converts a time. A `Date` has no microseconds, so they are truncated. */
export function date(message: Timestamp): Date {
  return new Date(Number(message.seconds) * 1000 + Math.floor(message.nanos / 1e6));
}

/** Converts a duration to milliseconds, truncated to microseconds. */
export function millisecondsOf(message: Duration): number {
  return (Number(message.seconds) * 1e6 + Math.trunc(message.nanos / 1000)) / 1000;
}

/** Returns a part of a response that the contract guarantees. */
export function present<T>(name: string, part: T | undefined): T {
  if (part === undefined) {
    throw new ServerError(`the response has no ${name}`);
  }
  return part;
}

/** Converts an enum value to its name. */
export function enumName<Names extends string>(
  wire: Readonly<Record<Names, number>> & Readonly<Record<number, string>>,
  number: number,
): Lowercase<Names> | "unspecified" {
  // A number without a name comes from a sidecar newer than this client.
  const names: Readonly<Record<number, string | undefined>> = wire;
  return (names[number]?.toLowerCase() ?? "unspecified") as Lowercase<Names> | "unspecified";
}

/** Converts a time. */
export function timestamp(name: string, time: unknown): MessageInitShape<typeof TimestampSchema> {
  if (!(time instanceof Date)) {
    throw refusal(name, `must be a Date, not ${kindOf(time)}`);
  }
  const ms = time.getTime();
  if (!(ms >= MIN_TIME_MS && ms <= MAX_TIME_MS)) {
    throw refusal(name, "must be in the years 1 to 9999");
  }
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: (ms - seconds * 1000) * 1e6 };
}

function extraMessage(name: string, content: JsonObject): { extra?: Record<string, WireJson> } {
  const extra = struct(name, content);
  return Object.keys(extra).length > 0 ? { extra } : {};
}

/** Converts an optional count. */
export function numberOf(counted: bigint | undefined): number | undefined {
  return counted === undefined ? undefined : Number(counted);
}

function mapped<T, U>(content: Readonly<Record<string, T>>, convert: (item: T, key: string) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(content).map(([key, item]) => [key, convert(item, key)]));
}
