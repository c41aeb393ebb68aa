/** RPCs as values: the request, how to read the response, and whether the call may be repeated. No I/O. */

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

import { flag, array, text, texts } from "./arguments.js";
import { InvalidArgument, RunInFlight, ServerError } from "./errors.js";
import { failureReason } from "./failures.js";
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

/** One call, ready to be sent. */
export interface Call<T> {
  /** The RPC's full path. */
  readonly path: string;
  readonly request: Uint8Array;
  /** Converts the response to the result of the call. */
  readonly read: (response: Uint8Array) => T;
  /** Whether the call is idempotent and can be retried. */
  readonly idempotent: boolean;
}

/** A page of a listing, and the token of the next page, which is empty on the last page. */
export type Page<T> = readonly [items: readonly T[], nextToken: string];

export function getNotes(sessionId: string, options: NotesOptions): Call<Reading> {
  // Never retried: a primary needs to know about an outage immediately.
  return call(
    SessionNotes.method.getNotes,
    () => notesRequest("sessionId", sessionId, options),
    (response) => wire.readingFrom(sessionId, options.observer ?? "", response),
  );
}

export function batchGetNotes(sessionIds: readonly string[], options: BatchOptions): Call<readonly Reading[]> {
  return call(
    SessionNotes.method.batchGetNotes,
    () => ({
      requests: array("sessionIds", sessionIds).map((sessionId, index) =>
        notesRequest(`sessionIds[${index}]`, sessionId, options),
      ),
    }),
    ({ responses }) => {
      if (responses.length !== sessionIds.length) {
        throw new ServerError(`${responses.length} responses to ${sessionIds.length} requests`);
      }
      return responses.map((response, index) =>
        wire.readingFrom(sessionIds[index] ?? "", options.observer ?? "", response),
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
    sessionId: text(name, sessionId),
    observer: text("observer", observer),
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
      sessionId: text("sessionId", sessionId),
      observer: text("observer", observer),
      runId: runIdOrNew(runId),
      observedTurn: wire.count("observedTurn", observedTurn),
      lease: wire.duration("leaseMs", leaseMs),
      onlyIfIdle: flag("onlyIfIdle", onlyIfIdle),
      includeTranscript: flag("includeTranscript", includeTranscript),
    }),
    (response) => {
      const run = wire.runFrom(wire.present("run", response.run));
      if (!response.started) {
        throw new RunInFlight(run);
      }
      return { run, transcript: response.transcript.map(wire.turnFrom) };
    },
    { idempotent: true },
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
      sessionId: text("sessionId", sessionId),
      observer: text("observer", observer),
      runId: runIdOrNew(runId),
      notes: wire.notesMessage(notes),
      observedTurn: wire.count("observedTurn", observedTurn),
      ttl: wire.duration("ttlMs", ttlMs),
    }),
    (response) => ({
      outcome: wire.enumName(WireWriteOutcome, response.outcome),
      run: wire.runFrom(wire.present("run", response.run)),
      writeTime: wire.date(wire.present("write_time", response.writeTime)),
    }),
    { idempotent: true },
  );
}

export function failRun(sessionId: string, observer: string, runId: string, reason: unknown): Call<Run> {
  return call(
    SessionNotes.method.failRun,
    () => ({
      sessionId: text("sessionId", sessionId),
      observer: text("observer", observer),
      runId: text("runId", runId),
      reason: failureReason(reason),
    }),
    (response) => wire.runFrom(wire.present("run", response.run)),
    { idempotent: true },
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
      sessionId: text("sessionId", sessionId),
      observer: text("observer", observer),
      pageSize: wire.pageSize(pageSize),
      pageToken,
      includeNotes: flag("includeNotes", includeNotes),
    }),
    ({ runs, nextPageToken }) => [runs.map(wire.runFrom), nextPageToken],
    { idempotent: true },
  );
}

export function getSession(sessionId: string, includeTurns: boolean): Call<Session> {
  return call(
    SessionState.method.getSession,
    () => ({ sessionId: text("sessionId", sessionId), includeTurns: flag("includeTurns", includeTurns) }),
    ({ session }) => wire.sessionFrom(wire.present("session", session)),
    { idempotent: true },
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
      sessionId: text("sessionId", sessionId),
      set: wire.fields("set", set),
      remove: texts("remove", remove),
      expectedVersion: wire.count("expectedVersion", expectedVersion),
      ttl: wire.duration("ttlMs", ttlMs),
    }),
    ({ version, updateTime }) => ({
      version: Number(version),
      updateTime: wire.date(wire.present("update_time", updateTime)),
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
      sessionId: text("sessionId", sessionId),
      turns: wire.turnMessages(turns),
      expectedTurnCount: wire.count("expectedTurnCount", expectedTurnCount),
    }),
    ({ turnCount }) => Number(turnCount),
  );
}

export function deleteSession(sessionId: string): Call<boolean> {
  // Harmless to repeat, but the second attempt would report that the session did not exist.
  return call(
    SessionState.method.deleteSession,
    () => ({ sessionId: text("sessionId", sessionId) }),
    ({ existed }) => existed ?? false,
  );
}

export function listSessions(pageSize: number, pageToken: string): Call<Page<SessionSummary>> {
  return call(
    SessionState.method.listSessions,
    () => ({ pageSize: wire.pageSize(pageSize), pageToken }),
    ({ sessions, nextPageToken }) => [sessions.map(wire.summaryFrom), nextPageToken],
    { idempotent: true },
  );
}

/** Yields the items of a listing, fetched page by page. */
export async function* pages<T>(fetch: (pageToken: string) => Promise<Page<T>>): AsyncGenerator<T, void, undefined> {
  let token = "";
  do {
    const [items, nextToken] = await fetch(token);
    yield* items;
    token = nextToken;
  } while (token !== "");
}

/** Returns the run's id, or a new one. The client generates it, so that every attempt has the same id. */
export function runIdOrNew(runId: string | undefined): string {
  return text("runId", runId ?? "") || randomBytes(16).toString("hex");
}

function call<Request extends DescMessage, Response extends DescMessage, T>(
  method: DescMethodUnary<Request, Response>,
  build: () => MessageInitShape<Request>,
  read: (response: MessageShape<Response>) => T,
  { idempotent = false } = {},
): Call<T> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    request: encoded(method.input, build),
    read: (response) => read(decoded(method.output, response)),
    idempotent,
  };
}

/** Serializes a request. Throws InvalidArgument, as the sidecar would return it, if the request cannot be built. */
function encoded<Schema extends DescMessage>(schema: Schema, build: () => MessageInitShape<Schema>): Uint8Array {
  try {
    return toBinary(schema, create(schema, build()));
  } catch (error) {
    // Leave out the library's message, which may quote a value.
    throw error instanceof InvalidArgument ? error : new InvalidArgument("the request cannot be built");
  }
}

function decoded<Schema extends DescMessage>(schema: Schema, response: Uint8Array): MessageShape<Schema> {
  try {
    return fromBinary(schema, response);
  } catch {
    throw new ServerError(`the response is not a ${schema.typeName}`);
  }
}
