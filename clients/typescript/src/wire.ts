/** Between the values of `types.ts` and the messages on the wire. */

import { create, fromJson, type JsonValue as WireJson, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import {
  type Duration,
  DurationSchema,
  type Timestamp,
  type TimestampSchema,
  type Value,
  ValueSchema,
} from "@bufbuild/protobuf/wkt";

import { ServerError } from "./errors.js";
import {
  type IssueSchema,
  type Notes as NotesMessage,
  type NotesSchema,
  type Run as RunMessage,
  RunState as WireRunState,
  Severity as WireSeverity,
} from "./gen/session_notes/v1/notes_pb.js";
import { type GetNotesResponse, Readiness as WireReadiness } from "./gen/session_notes/v1/session_notes_pb.js";
import type {
  Session as SessionMessage,
  SessionSummary as SummaryMessage,
} from "./gen/session_notes/v1/session_state_pb.js";
import type { Turn as TurnMessage, TurnSchema } from "./gen/session_notes/v1/turn_pb.js";
import { NotReady, Ready } from "./readings.js";
import type {
  Issue,
  JsonObject,
  JsonValue,
  NewNotes,
  Notes,
  Reading,
  Run,
  Session,
  SessionSummary,
  Severity,
  Turn,
} from "./types.js";

/** The observer that an empty name means. */
export const DEFAULT_OBSERVER = "default";

// Levels of JSON: more than the 16 the sidecar takes, so that it has the say, but no more than can be sent. Protobuf reads at
// most 100 messages in each other, and a level is up to three.
const DEEPEST = 32;

const SEVERITIES: Readonly<Record<Severity, WireSeverity>> = {
  info: WireSeverity.INFO,
  warning: WireSeverity.WARNING,
  critical: WireSeverity.CRITICAL,
};

/** Text for the wire; `name` is what the caller knows it by. */
export function text(name: string, content: unknown): string {
  if (typeof content !== "string") {
    throw new TypeError(`${name} must be a string, not ${kindOf(content)}`);
  }
  if (!content.isWellFormed()) {
    // The encoder would put another character in its place and say nothing.
    throw new TypeError(`${name} has half a character in it`);
  }
  return content;
}

/** A count for the wire. */
export function count(name: string, number: number | undefined): bigint | undefined {
  if (number !== undefined && !Number.isSafeInteger(number)) {
    throw new TypeError(`${name} must be a whole number up to 2^53 - 1`);
  }
  return number === undefined ? undefined : BigInt(number);
}

/** A span for the wire, to the microsecond. */
export function duration(name: string, ms: number | undefined): Duration | undefined {
  if (ms === undefined) {
    return undefined;
  }
  const microseconds = Math.round(finiteMs(name, ms) * 1000);
  return create(DurationSchema, {
    seconds: BigInt(Math.trunc(microseconds / 1e6)),
    nanos: (microseconds % 1e6) * 1000,
  });
}

/** Several of something. A string has elements too, and is never meant so. */
export function several<T>(name: string, items: readonly T[]): readonly T[] {
  const given: unknown = items;
  if (!Array.isArray(given)) {
    throw new TypeError(`${name} must be an array, not ${kindOf(given)}`);
  }
  return items;
}

/** The fields of a session for the wire. */
export function fields(name: string, content: JsonObject): Record<string, Value> {
  return mapped(struct(name, content), (item) => fromJson(ValueSchema, item));
}

/** Notes for the wire. */
export function notesMessage(notes: NewNotes): MessageInitShape<typeof NotesSchema> {
  const { coverage = {}, issues = [], followUpSuggestions = [], summary = "", extra = {} } = object("notes", notes);
  return {
    coverage: Object.fromEntries(
      Object.entries(object("notes.coverage", coverage)).map(([topic, share]) => [
        text("notes.coverage", topic),
        number("notes.coverage", share),
      ]),
    ),
    issues: several("notes.issues", issues).map(issueMessage),
    followUpSuggestions: several("notes.followUpSuggestions", followUpSuggestions).map((suggestion) =>
      text("notes.followUpSuggestions", suggestion),
    ),
    summary: text("notes.summary", summary),
    ...extraMessage("notes.extra", extra),
  };
}

function issueMessage(issue: Issue): MessageInitShape<typeof IssueSchema> {
  const { text: said, severity, turn } = object("notes.issues", issue);
  if (severity !== undefined && !Object.hasOwn(SEVERITIES, severity)) {
    throw new TypeError("a severity must be info, warning or critical");
  }
  return {
    text: text("notes.issues.text", said),
    severity: severity === undefined ? WireSeverity.UNSPECIFIED : SEVERITIES[severity],
    ...(turn !== undefined && { turn: count("notes.issues.turn", turn) }),
  };
}

/** A turn for the wire. */
export function turnMessage(turn: Turn): MessageInitShape<typeof TurnSchema> {
  const { speaker, text: said, time, extra = {} } = object("turns", turn);
  return {
    speaker: text("turns.speaker", speaker),
    text: text("turns.text", said),
    ...(time !== undefined && { time: timestamp("turns.time", time) }),
    ...extraMessage("turns.extra", extra),
  };
}

/** Notes as a caller gets them. */
export function notesFrom(message: NotesMessage): Notes {
  return {
    coverage: message.coverage,
    issues: message.issues.map(({ text, severity, turn }) => {
      const known = enumName(WireSeverity, severity);
      return {
        text,
        ...(known !== "unspecified" && { severity: known }),
        ...(turn !== undefined && { turn: Number(turn) }),
      };
    }),
    followUpSuggestions: message.followUpSuggestions,
    summary: message.summary,
    extra: message.extra ?? {},
  };
}

/** A turn as a caller gets it. */
export function turnFrom(message: TurnMessage): Turn {
  return {
    speaker: message.speaker,
    text: message.text,
    ...(message.time && { time: date(message.time) }),
    ...(message.extra && Object.keys(message.extra).length > 0 && { extra: message.extra }),
  };
}

/** A run as a caller gets it. */
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

/** A reading as a caller gets it. */
export function readingFrom(sessionId: string, observer: string, message: GetNotesResponse): Reading {
  const readiness = enumName(WireReadiness, message.readiness);
  const about = {
    sessionId,
    observer: observer || DEFAULT_OBSERVER,
    latestRun: message.latestRun && runFrom(message.latestRun),
  };
  if (!message.ready || readiness !== "ready") {
    return new NotReady({
      ...about,
      ready: false,
      readiness: readiness === "ready" ? "unspecified" : readiness,
      fresh: false,
      notes: undefined,
      unavailableReason: "",
    });
  }
  return new Ready({
    ...about,
    ready: true,
    readiness,
    notes: notesFrom(sent("notes", message.notes)),
    ageMs: milliseconds(sent("age", message.age)),
    snapshotAgeMs: message.snapshotAge && milliseconds(message.snapshotAge),
    writeTime: date(sent("write_time", message.writeTime)),
    observedTurn: numberOf(message.observedTurn),
    turnsBehind: numberOf(message.turnsBehind),
    fresh: message.fresh ?? false,
    run: runFrom(sent("run", message.run)),
    expiresInMs: milliseconds(sent("expires_in", message.expiresIn)),
  });
}

/** A session as a caller gets it. */
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
    expiresInMs: message.expiresIn && milliseconds(message.expiresIn),
  };
}

/** A session in a few words, as a caller gets it. */
export function summaryFrom(message: SummaryMessage): SessionSummary {
  return {
    sessionId: message.sessionId,
    version: Number(message.version),
    turnCount: Number(message.turnCount),
    updateTime: message.updateTime && date(message.updateTime),
    expiresInMs: message.expiresIn && milliseconds(message.expiresIn),
    observers: message.observers,
  };
}

/** A time as a caller gets it: a `Date` has no microseconds, so they are cut off. */
export function date(message: Timestamp): Date {
  return new Date(Number(message.seconds) * 1000 + Math.floor(message.nanos / 1e6));
}

/** A span as a caller gets it: in milliseconds, to the microsecond. */
export function milliseconds(message: Duration): number {
  return (Number(message.seconds) * 1e6 + Math.trunc(message.nanos / 1000)) / 1000;
}

/** What the contract promises to be in an answer. */
export function sent<T>(name: string, part: T | undefined): T {
  if (part === undefined) {
    throw new ServerError(`the answer has no ${name}`);
  }
  return part;
}

/** A value of an enum as a caller gets it. */
export function enumName<Names extends string>(
  wire: Readonly<Record<Names, number>> & Readonly<Record<number, string>>,
  number: number,
): Lowercase<Names> | "unspecified" {
  // A number without a name is from a sidecar newer than this client.
  const names: Readonly<Record<number, string | undefined>> = wire;
  return (names[number]?.toLowerCase() ?? "unspecified") as Lowercase<Names> | "unspecified";
}

function finiteMs(name: string, ms: unknown): number {
  if (typeof ms !== "number" || !Number.isFinite(ms)) {
    throw new TypeError(`${name} must be a number of milliseconds`);
  }
  return ms;
}

function timestamp(name: string, time: Date): MessageInitShape<typeof TimestampSchema> {
  const ms = time instanceof Date ? time.getTime() : NaN;
  if (Number.isNaN(ms)) {
    throw new TypeError(`${name} must be a valid Date`);
  }
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: (ms - seconds * 1000) * 1e6 };
}

function extraMessage(name: string, content: JsonObject): { extra?: Record<string, WireJson> } {
  const extra = struct(name, content);
  return Object.keys(extra).length > 0 ? { extra } : {};
}

function struct(name: string, content: JsonObject): Record<string, WireJson> {
  return json(name, object(name, content)) as Record<string, WireJson>;
}

/** A copy that holds nothing but JSON. */
function json(name: string, content: JsonValue, depth = 0): WireJson {
  if (depth > DEEPEST) {
    throw new TypeError(`${name} must not be nested deeper than 16`);
  }
  if (content === null || typeof content === "boolean" || typeof content === "number") {
    return content;
  }
  if (typeof content === "string") {
    return text(name, content);
  }
  if (Array.isArray(content)) {
    return Array.from<JsonValue, WireJson>(content, (item) => json(name, item, depth + 1));
  }
  if (kindOf(content) !== "Object") {
    throw new TypeError(`${name} holds something that is no JSON value: ${kindOf(content)}`);
  }
  const copied: [string, WireJson][] = [];
  for (const [key, item] of Object.entries(content)) {
    if (item !== undefined) {
      copied.push([text(name, key), json(name, item, depth + 1)]);
    }
  }
  return Object.fromEntries(copied);
}

function object<T extends object>(name: string, content: T): T {
  const given: unknown = content;
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new TypeError(`${name} must be an object, not ${kindOf(content)}`);
  }
  return content;
}

function number(name: string, content: unknown): number {
  if (typeof content !== "number") {
    throw new TypeError(`${name} must be a number, not ${kindOf(content)}`);
  }
  return content;
}

function numberOf(counted: bigint | undefined): number | undefined {
  return counted === undefined ? undefined : Number(counted);
}

function mapped<T, U>(content: Readonly<Record<string, T>>, convert: (item: T, key: string) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(content).map(([key, item]) => [key, convert(item, key)]));
}

/** What something is, for people, without a word of what it says. */
function kindOf(content: unknown): string {
  if (content === null || typeof content !== "object") {
    return content === null ? "null" : typeof content;
  }
  const prototype = Object.getPrototypeOf(content) as object | null;
  return prototype === null ? "Object" : prototype.constructor.name;
}
