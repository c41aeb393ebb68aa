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

import { InvalidArgument, ServerError } from "./errors.js";
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

// How much of a key an error shows.
const LONGEST_KEY = 60;

// The longest Duration that protobuf allows, about 10,000 years.
const LONGEST_SPAN_MS = 315_576_000_000_000;

/**
 * This client's own refusal of an argument. `name` is the argument, or the part of it, by its name and position; `problem` never
 * quotes its value.
 */
export function refusal(name: string, problem: string): InvalidArgument {
  return new InvalidArgument(`${name} ${problem}`, { reason: "INVALID_FIELD" });
}

function wrongType(name: string, expected: string, content: unknown): InvalidArgument {
  return refusal(name, `must be ${expected}, not ${kindOf(content)}`);
}

/** Text for the wire; `name` is what the caller knows it by. */
export function text(name: string, content: unknown): string {
  if (typeof content !== "string") {
    throw wrongType(name, "a string", content);
  }
  if (!content.isWellFormed()) {
    // The encoder would put another character in its place and say nothing.
    throw refusal(name, "must not contain a lone surrogate (half a character)");
  }
  return content;
}

/** A count for the wire. */
export function count(name: string, content: unknown): bigint | undefined {
  return content === undefined ? undefined : BigInt(wholeNumber(name, content));
}

/** A page's size for the wire. The sidecar has its own limit, far below what the wire holds. */
export function pageSize(content: unknown): number {
  return Math.min(wholeNumber("pageSize", content), 2 ** 31 - 1);
}

function wholeNumber(name: string, content: unknown): number {
  if (typeof content !== "number") {
    throw wrongType(name, "a number", content);
  }
  if (!Number.isSafeInteger(content)) {
    throw refusal(name, "must be a whole number up to 2^53 - 1");
  }
  return content;
}

/** A boolean for the wire. */
export function flag(name: string, content: unknown): boolean {
  if (typeof content !== "boolean") {
    throw wrongType(name, "a boolean", content);
  }
  return content;
}

/** A span for the wire, to the microsecond, and shortened to what the wire can hold: the sidecar says what it takes. */
export function duration(name: string, ms: unknown): Duration | undefined {
  if (ms === undefined) {
    return undefined;
  }
  const span = milliseconds(name, ms);
  const microseconds = Math.round(Math.max(-LONGEST_SPAN_MS, Math.min(span, LONGEST_SPAN_MS)) * 1000);
  return create(DurationSchema, {
    seconds: BigInt(Math.trunc(microseconds / 1e6)),
    nanos: (microseconds % 1e6) * 1000,
  });
}

/** A span in milliseconds; it may be infinite. */
export function milliseconds(name: string, ms: unknown): number {
  if (typeof ms !== "number") {
    throw wrongType(name, "a number of milliseconds", ms);
  }
  if (Number.isNaN(ms)) {
    throw refusal(name, "must be a number of milliseconds, not NaN");
  }
  return ms;
}

/** Several of something. A string has elements too, and is never meant so. */
export function several<T>(name: string, items: readonly T[]): readonly T[] {
  const given: unknown = items;
  if (!Array.isArray(given)) {
    const hint = typeof given === "object" && given !== null ? ": pass [...] with it" : "";
    throw refusal(name, `must be an array, not ${kindOf(given)}${hint}`);
  }
  return items;
}

/** Several texts for the wire. */
export function texts(name: string, items: readonly string[]): string[] {
  return several(name, items).map((item, index) => text(`${name}[${index}]`, item));
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
        text("a topic of notes.coverage", topic),
        shareOf("notes.coverage" + shown(topic), share),
      ]),
    ),
    issues: several("notes.issues", issues).map((issue, index) => issueMessage(`notes.issues[${index}]`, issue)),
    followUpSuggestions: texts("notes.followUpSuggestions", followUpSuggestions),
    summary: text("notes.summary", summary),
    ...extraMessage("notes.extra", extra),
  };
}

function issueMessage(name: string, issue: Issue): MessageInitShape<typeof IssueSchema> {
  const { text: said, severity, turn } = object(name, issue);
  if (severity !== undefined && !Object.hasOwn(SEVERITIES, severity)) {
    throw refusal(`${name}.severity`, "must be info, warning or critical");
  }
  return {
    text: text(`${name}.text`, said),
    severity: severity === undefined ? WireSeverity.UNSPECIFIED : SEVERITIES[severity],
    ...(turn !== undefined && { turn: count(`${name}.turn`, turn) }),
  };
}

/** Turns for the wire. */
export function turnMessages(turns: readonly Turn[]): MessageInitShape<typeof TurnSchema>[] {
  return several("turns", turns).map((turn, index) => turnMessage(`turns[${index}]`, turn));
}

function turnMessage(name: string, turn: Turn): MessageInitShape<typeof TurnSchema> {
  const { speaker, text: said, time, extra = {} } = object(name, turn);
  return {
    speaker: text(`${name}.speaker`, speaker),
    text: text(`${name}.text`, said),
    ...(time !== undefined && { time: timestamp(`${name}.time`, time) }),
    ...extraMessage(`${name}.extra`, extra),
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
    ageMs: millisecondsOf(sent("age", message.age)),
    snapshotAgeMs: message.snapshotAge && millisecondsOf(message.snapshotAge),
    writeTime: date(sent("write_time", message.writeTime)),
    observedTurn: numberOf(message.observedTurn),
    turnsBehind: numberOf(message.turnsBehind),
    fresh: message.fresh ?? false,
    run: runFrom(sent("run", message.run)),
    expiresInMs: millisecondsOf(sent("expires_in", message.expiresIn)),
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
    expiresInMs: message.expiresIn && millisecondsOf(message.expiresIn),
  };
}

/** A session in a few words, as a caller gets it. */
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

/** A time as a caller gets it: a `Date` has no microseconds, so they are cut off. */
export function date(message: Timestamp): Date {
  return new Date(Number(message.seconds) * 1000 + Math.floor(message.nanos / 1e6));
}

/** A span as a caller gets it: in milliseconds, to the microsecond. */
export function millisecondsOf(message: Duration): number {
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

function timestamp(name: string, time: Date): MessageInitShape<typeof TimestampSchema> {
  const ms = time instanceof Date ? time.getTime() : NaN;
  if (Number.isNaN(ms)) {
    throw refusal(name, time instanceof Date ? "must be a valid Date" : `must be a Date, not ${kindOf(time)}`);
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

/** A copy that holds nothing but JSON; `keys` is the way to it from the argument. */
function json(name: string, content: JsonValue, keys = "", depth = 0): WireJson {
  if (depth > DEEPEST) {
    throw refusal(name, "must not be nested deeper than 16");
  }
  if (typeof content === "number" && !Number.isFinite(content)) {
    throw refusal(name + keys, "must not hold NaN or infinity");
  }
  if (content === null || typeof content === "boolean" || typeof content === "number") {
    return content;
  }
  if (typeof content === "string") {
    return text(name + keys, content);
  }
  if (Array.isArray(content)) {
    return Array.from<JsonValue, WireJson>(content, (item, index) => json(name, item, `${keys}[${index}]`, depth + 1));
  }
  if (kindOf(content) !== "Object") {
    throw wrongType(name + keys, "JSON", content);
  }
  const copied: [string, WireJson][] = [];
  for (const [key, item] of Object.entries(content)) {
    if (item !== undefined) {
      copied.push([text(`a key of ${name}${keys}`, key), json(name, item, keys + shown(key), depth + 1)]);
    }
  }
  return Object.fromEntries(copied);
}

function shown(key: string): string {
  return `[${JSON.stringify(key.length > LONGEST_KEY ? `${key.slice(0, LONGEST_KEY)}…` : key)}]`;
}

/** An object, as options are one too. */
export function object<T extends object>(name: string, content: T): T {
  const given: unknown = content;
  // An array is none, and neither is a Map: it would count as empty.
  if (typeof given !== "object" || given === null || Symbol.iterator in given) {
    throw wrongType(name, "an object", content);
  }
  return content;
}

function shareOf(name: string, content: unknown): number {
  if (typeof content !== "number") {
    throw wrongType(name, "a number", content);
  }
  if (!(content >= 0 && content <= 1)) {
    throw refusal(name, "must be from 0 to 1");
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
export function kindOf(content: unknown): string {
  if (content === null || typeof content !== "object") {
    return content === null ? "null" : typeof content;
  }
  if (Array.isArray(content)) {
    return "Array";
  }
  const prototype = Object.getPrototypeOf(content) as { readonly constructor?: unknown } | null;
  const kind = prototype?.constructor;
  return typeof kind === "function" ? kind.name : "Object";
}
