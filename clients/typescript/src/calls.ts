/** Each RPC as a value: what to send, how to read the answer, whether it may be sent again. No I/O here. */

import { randomBytes } from "node:crypto";

import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";

import { InvalidArgument, RunInFlight, ServerError } from "./errors.js";
import { SessionNotes, WriteOutcome as WireWriteOutcome } from "./gen/session_notes/v1/session_notes_pb.js";
import { SessionState } from "./gen/session_notes/v1/session_state_pb.js";
import type {
  BatchOptions,
  BeginOptions,
  BeginResult,
  JsonObject,
  NewNotes,
  NotesOptions,
  Reading,
  Run,
  Session,
  SessionSummary,
  Turn,
  UpdateOptions,
  UpdateResult,
  WriteOptions,
  WriteResult,
} from "./types.js";
import * as wire from "./wire.js";

// The most that the sidecar takes as a failure's reason, and the mark of one that was longer.
const LONGEST_REASON_BYTES = 4096;
const CUT = "…";

/** One call, ready to be sent. */
export interface Call<T> {
  /** The RPC's full path. */
  readonly path: string;
  readonly request: Uint8Array;
  /** Makes of the answer what the caller gets. */
  readonly read: (answer: Uint8Array) => T;
  /** Whether sending it twice is as good as once, so that it can be tried again. */
  readonly repeatable: boolean;
}

/** A page of a list, and the token of the next one; empty: it was the last. */
export type Page<T> = readonly [items: readonly T[], nextToken: string];

export function getNotes(sessionId: string, options: NotesOptions): Call<Reading> {
  // Never tried again: to a primary, "nobody answers" is an answer, and better now than a deadline later.
  return call(
    SessionNotes.method.getNotes,
    () => notesRequest("sessionId", sessionId, options),
    (answer) => wire.readingFrom(sessionId, options.observer ?? "", answer),
  );
}

export function batchGetNotes(sessionIds: readonly string[], options: BatchOptions): Call<readonly Reading[]> {
  return call(
    SessionNotes.method.batchGetNotes,
    () => ({
      requests: wire
        .several("sessionIds", sessionIds)
        .map((sessionId, index) => notesRequest(`sessionIds[${index}]`, sessionId, options)),
    }),
    ({ responses }) => {
      if (responses.length !== sessionIds.length) {
        throw new ServerError(`${responses.length} answers to ${sessionIds.length} requests`);
      }
      return responses.map((answer, index) =>
        wire.readingFrom(sessionIds[index] ?? "", options.observer ?? "", answer),
      );
    },
  );
}

function notesRequest(
  name: string,
  sessionId: string,
  { observer = "", maxAgeMs, currentTurn, maxTurnsBehind }: NotesOptions,
) {
  return {
    sessionId: wire.text(name, sessionId),
    observer: wire.text("observer", observer),
    maxAge: wire.duration("maxAgeMs", maxAgeMs),
    currentTurn: wire.count("currentTurn", currentTurn),
    maxTurnsBehind: wire.count("maxTurnsBehind", maxTurnsBehind),
  };
}

export function beginRun(sessionId: string, observer: string, options: BeginOptions): Call<BeginResult> {
  const { runId, observedTurn, leaseMs, onlyIfIdle = false, includeTranscript = true } = options;
  return call(
    SessionNotes.method.beginRun,
    () => ({
      sessionId: wire.text("sessionId", sessionId),
      observer: wire.text("observer", observer),
      runId: runIdOrNew(runId),
      observedTurn: wire.count("observedTurn", observedTurn),
      lease: wire.duration("leaseMs", leaseMs),
      onlyIfIdle: wire.flag("onlyIfIdle", onlyIfIdle),
      includeTranscript: wire.flag("includeTranscript", includeTranscript),
    }),
    (answer) => {
      const run = wire.runFrom(wire.sent("run", answer.run));
      if (!answer.started) {
        throw new RunInFlight(run);
      }
      return { run, transcript: answer.transcript.map(wire.turnFrom) };
    },
    { repeatable: true },
  );
}

export function writeNotes(
  sessionId: string,
  observer: string,
  notes: NewNotes,
  { runId, observedTurn, ttlMs }: WriteOptions,
): Call<WriteResult> {
  return call(
    SessionNotes.method.writeNotes,
    () => ({
      sessionId: wire.text("sessionId", sessionId),
      observer: wire.text("observer", observer),
      runId: runIdOrNew(runId),
      notes: wire.notesMessage(notes),
      observedTurn: wire.count("observedTurn", observedTurn),
      ttl: wire.duration("ttlMs", ttlMs),
    }),
    (answer) => ({
      outcome: wire.enumName(WireWriteOutcome, answer.outcome),
      run: wire.runFrom(wire.sent("run", answer.run)),
      writeTime: wire.date(wire.sent("write_time", answer.writeTime)),
    }),
    { repeatable: true },
  );
}

export function failRun(sessionId: string, observer: string, runId: string, reason: unknown): Call<Run> {
  return call(
    SessionNotes.method.failRun,
    () => ({
      sessionId: wire.text("sessionId", sessionId),
      observer: wire.text("observer", observer),
      runId: wire.text("runId", runId),
      reason: storable(reason),
    }),
    (answer) => wire.runFrom(wire.sent("run", answer.run)),
    { repeatable: true },
  );
}

export function listRuns(
  sessionId: string,
  observer: string,
  includeNotes: boolean,
  pageSize: number,
  pageToken: string,
): Call<Page<Run>> {
  return call(
    SessionNotes.method.listRuns,
    () => ({
      sessionId: wire.text("sessionId", sessionId),
      observer: wire.text("observer", observer),
      pageSize: wire.pageSize(pageSize),
      pageToken,
      includeNotes: wire.flag("includeNotes", includeNotes),
    }),
    ({ runs, nextPageToken }) => [runs.map(wire.runFrom), nextPageToken],
    { repeatable: true },
  );
}

export function getSession(sessionId: string, includeTurns: boolean): Call<Session> {
  return call(
    SessionState.method.getSession,
    () => ({ sessionId: wire.text("sessionId", sessionId), includeTurns: wire.flag("includeTurns", includeTurns) }),
    ({ session }) => wire.sessionFrom(wire.sent("session", session)),
    { repeatable: true },
  );
}

export function updateSession(
  sessionId: string,
  set: JsonObject,
  { remove = [], expectedVersion, ttlMs }: UpdateOptions,
): Call<UpdateResult> {
  return call(
    SessionState.method.updateSession,
    () => ({
      sessionId: wire.text("sessionId", sessionId),
      set: wire.fields("set", set),
      remove: wire.texts("remove", remove),
      expectedVersion: wire.count("expectedVersion", expectedVersion),
      ttl: wire.duration("ttlMs", ttlMs),
    }),
    ({ version, updateTime }) => ({
      version: Number(version),
      updateTime: wire.date(wire.sent("update_time", updateTime)),
    }),
  );
}

export function appendTurns(
  sessionId: string,
  turns: readonly Turn[],
  expectedTurnCount: number | undefined,
): Call<number> {
  return call(
    SessionState.method.appendTurns,
    () => ({
      sessionId: wire.text("sessionId", sessionId),
      turns: wire.turnMessages(turns),
      expectedTurnCount: wire.count("expectedTurnCount", expectedTurnCount),
    }),
    ({ turnCount }) => Number(turnCount),
  );
}

export function deleteSession(sessionId: string): Call<boolean> {
  // Harmless to repeat, but the second try would answer that there was nothing to delete.
  return call(
    SessionState.method.deleteSession,
    () => ({ sessionId: wire.text("sessionId", sessionId) }),
    ({ existed }) => existed ?? false,
  );
}

export function listSessions(pageSize: number, pageToken: string): Call<Page<SessionSummary>> {
  return call(
    SessionState.method.listSessions,
    () => ({ pageSize: wire.pageSize(pageSize), pageToken }),
    ({ sessions, nextPageToken }) => [sessions.map(wire.summaryFrom), nextPageToken],
    { repeatable: true },
  );
}

/** A list, fetched page by page. */
export async function* pages<T>(fetch: (pageToken: string) => Promise<Page<T>>): AsyncGenerator<T, void, undefined> {
  let token = "";
  do {
    const [items, nextToken] = await fetch(token);
    yield* items;
    token = nextToken;
  } while (token !== "");
}

/** The run's id, or a new one. Made here, not by the sidecar, so that every try carries the same. */
export function runIdOrNew(runId: string | undefined): string {
  return wire.text("runId", runId ?? "") || randomBytes(16).toString("hex");
}

/**
 * A failure's reason as the sidecar takes it: a run that cannot say why it failed must still be able to fail. An error is
 * `Name: message`.
 */
export function storable(reason: unknown): string {
  const bytes = Buffer.from(textOf(reason).toWellFormed());
  if (bytes.length <= LONGEST_REASON_BYTES) {
    return bytes.toString();
  }
  // A character that the cut leaves incomplete is left out.
  let end = LONGEST_REASON_BYTES - Buffer.byteLength(CUT);
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) {
    end -= 1;
  }
  return bytes.toString("utf8", 0, end) + CUT;
}

function textOf(reason: unknown): string {
  if (typeof reason === "string") {
    return reason;
  }
  if (reason === undefined || reason === null) {
    return "";
  }
  return reason instanceof Error && reason.message !== "" ? `${nameOf(reason)}: ${reason.message}` : nameOf(reason);
}

/** What an error is called: the name of its class, since its text may hold what the user said. */
export function nameOf(error: unknown): string {
  return wire.kindOf(error);
}

function call<Request extends DescMessage, Answer extends DescMessage, T>(
  method: DescMethodUnary<Request, Answer>,
  build: () => MessageInitShape<Request>,
  read: (answer: MessageShape<Answer>) => T,
  { repeatable = false } = {},
): Call<T> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    request: encoded(method.input, build),
    read: (answer) => read(decoded(method.output, answer)),
    repeatable,
  };
}

/** A request that cannot be built is refused as the sidecar would refuse it. */
function encoded<Schema extends DescMessage>(schema: Schema, build: () => MessageInitShape<Schema>): Uint8Array {
  try {
    return toBinary(schema, create(schema, build()));
  } catch (error) {
    // What others say of it may quote a value.
    throw error instanceof InvalidArgument ? error : new InvalidArgument("the request cannot be built");
  }
}

function decoded<Schema extends DescMessage>(schema: Schema, answer: Uint8Array): MessageShape<Schema> {
  try {
    return fromBinary(schema, answer);
  } catch {
    throw new ServerError(`the answer is no ${schema.typeName}`);
  }
}
