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

import { array, text } from "./arguments.js";
import { InvalidArgument, RunInFlight, ServerError } from "./errors.js";
import { failureReason } from "./failures.js";
import { SessionNotes, WriteOutcome as WireWriteOutcome } from "./gen/session_notes/v1/session_notes_pb.js";
import { SessionState } from "./gen/session_notes/v1/session_state_pb.js";
import type {
  AppendOptions,
  BatchOptions,
  BeginOptions,
  BeginResult,
  DueOptions,
  DueSession,
  JsonObject,
  NewNotes,
  NotesBounds,
  NotesOptions,
  Reading,
  RenewResult,
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
  /** After which failures the call is retried. */
  readonly retried: Retried;
}

/**
 * Failures after which a call is retried: none; those without effect, which are overloads; or outages too, after which the first
 * attempt may have taken effect.
 */
export type Retried = "never" | "without effect" | "outage";

/** A page of a listing, and the token of the next page, which is empty on the last page. */
export type Page<T> = readonly [items: readonly T[], nextToken: string];

export function getNotes(sessionId: string, options: NotesOptions): Call<Reading> {
  // Never retried: a primary needs to know about an outage immediately.
  return call(
    SessionNotes.method.getNotes,
    () => notesRequest("sessionId", sessionId, options),
    (response) => wire.readingFrom(sessionId, options.observer ?? "", response, options.maxSnapshotAgeMs),
  );
}

export function batchGetNotes(sessionIds: readonly string[], options: BatchOptions): Call<readonly Reading[]> {
  const { observer = "" } = options;
  return batch(() =>
    array("sessionIds", sessionIds).map((sessionId, index) => ({
      ...{ name: `sessionIds[${index}]`, sessionId, options: { ...options, observer } },
    })),
  );
}

/** Reads the notes of several observers on one session, in one call. */
export function notesOfObservers(
  sessionId: string,
  observers: readonly string[],
  bounds: NotesBounds,
): Call<readonly Reading[]> {
  return batch(() => observers.map((observer) => ({ name: "sessionId", sessionId, options: { ...bounds, observer } })));
}

interface BatchEntry {
  /** Name of the session id in errors. */
  readonly name: string;
  readonly sessionId: string;
  readonly options: NotesOptions & { readonly observer: string };
}

function batch(entries: () => readonly BatchEntry[]): Call<readonly Reading[]> {
  let sent: readonly BatchEntry[] = [];
  return call(
    SessionNotes.method.batchGetNotes,
    () => {
      sent = entries();
      return { requests: sent.map(({ name, sessionId, options }) => notesRequest(name, sessionId, options)) };
    },
    ({ responses }) => {
      if (responses.length !== sent.length) {
        throw new ServerError(`${responses.length} responses to ${sent.length} requests`);
      }
      return sent.map(({ sessionId, options }, index) => {
        const response = wire.present("response", responses[index]);
        return wire.readingFrom(sessionId, options.observer, response, options.maxSnapshotAgeMs);
      });
    },
  );
}

function notesRequest(
  name: string,
  sessionId: string,
  { observer = "", maxAgeMs, maxSnapshotAgeMs, currentTurn, maxTurnsBehind }: NotesOptions,
) {
  return {
    sessionId: text(name, sessionId),
    observer: text("observer", observer),
    maxAge: wire.duration("maxAgeMs", maxAgeMs),
    maxSnapshotAge: wire.duration("maxSnapshotAgeMs", maxSnapshotAgeMs),
    currentTurn: wire.count("currentTurn", currentTurn),
    maxTurnsBehind: wire.count("maxTurnsBehind", maxTurnsBehind),
  };
}

export function beginRun(sessionId: string, observer: string, options: BeginOptions): Call<BeginResult> {
  const { runId, observedTurn, leaseMs, onlyIfIdle = false, includeTranscript = true } = options;
  const { afterTurn, afterCurrentNotes = false, maxTurns = 0, includeCurrentNotes = false } = options;
  return call(
    SessionNotes.method.beginRun,
    () => ({
      sessionId: text("sessionId", sessionId),
      observer: text("observer", observer),
      runId: idOrNew("runId", runId),
      observedTurn: wire.count("observedTurn", observedTurn),
      lease: wire.duration("leaseMs", leaseMs),
      onlyIfIdle,
      includeTranscript,
      afterTurn: wire.count("afterTurn", afterTurn),
      afterCurrentNotes,
      maxTurns: wire.maximum("maxTurns", maxTurns),
      includeCurrentNotes,
    }),
    (response) => {
      const run = wire.runFrom(wire.present("run", response.run));
      if (!response.started) {
        throw new RunInFlight(run);
      }
      return {
        run,
        transcript: response.transcript.map(wire.turnFrom),
        firstTurn: wire.numberOf(response.firstTurn),
        current: response.current && wire.readingFrom(sessionId, observer, response.current),
      };
    },
    "outage",
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
      runId: idOrNew("runId", runId),
      notes: wire.notesMessage(notes),
      observedTurn: wire.count("observedTurn", observedTurn),
      ttl: wire.duration("ttlMs", ttlMs),
    }),
    (response) => ({
      outcome: wire.enumName(WireWriteOutcome, response.outcome),
      run: wire.runFrom(wire.present("run", response.run)),
      writeTime: wire.date(wire.present("write_time", response.writeTime)),
    }),
    "outage",
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
    "outage",
  );
}

export function renewRun(
  sessionId: string,
  observer: string,
  runId: string,
  leaseMs: number | undefined,
): Call<RenewResult> {
  return call(
    SessionNotes.method.renewRun,
    () => ({
      sessionId: text("sessionId", sessionId),
      observer: text("observer", observer),
      runId: text("runId", runId),
      lease: wire.duration("leaseMs", leaseMs),
    }),
    ({ run, obsolete, turnsBehind }) => ({
      run: wire.runFrom(wire.present("run", run)),
      obsolete: obsolete ?? false,
      turnsBehind: wire.numberOf(turnsBehind),
    }),
    "outage",
  );
}

export function dueSessions(observer: string, options: DueOptions, pageToken: string): Call<Page<DueSession>> {
  const { minTurnsBehind, minIntervalMs, minQuietMs, pageSize = 0 } = options;
  return call(
    SessionNotes.method.listDueSessions,
    () => ({
      observer: text("observer", observer),
      minTurnsBehind: wire.count("minTurnsBehind", minTurnsBehind),
      minInterval: wire.duration("minIntervalMs", minIntervalMs),
      minQuiet: wire.duration("minQuietMs", minQuietMs),
      pageSize: wire.maximum("pageSize", pageSize),
      pageToken,
    }),
    ({ sessions, nextPageToken }) => [sessions.map(wire.dueFrom), nextPageToken],
    "outage",
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
      pageSize: wire.maximum("pageSize", pageSize),
      pageToken,
      includeNotes,
    }),
    ({ runs, nextPageToken }) => [runs.map(wire.runFrom), nextPageToken],
    "outage",
  );
}

export function getSession(sessionId: string, includeTurns: boolean): Call<Session> {
  return call(
    SessionState.method.getSession,
    () => ({ sessionId: text("sessionId", sessionId), includeTurns }),
    ({ session }) => wire.sessionFrom(wire.present("session", session)),
    "outage",
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
      remove: [...remove],
      expectedVersion: wire.count("expectedVersion", expectedVersion),
      ttl: wire.duration("ttlMs", ttlMs),
    }),
    ({ version, updateTime }) => ({
      version: Number(version),
      updateTime: wire.date(wire.present("update_time", updateTime)),
    }),
  );
}

/** `duplicate` is undefined in the response of a sidecar that does not know append ids. */
export function appendTurns(
  sessionId: string,
  turns: readonly Turn[],
  { expectedTurnCount, appendId }: AppendOptions,
  retried: Retried,
): Call<{ readonly turnCount: number; readonly duplicate: boolean | undefined }> {
  return call(
    SessionState.method.appendTurns,
    () => ({
      sessionId: text("sessionId", sessionId),
      turns: wire.turnMessages(turns),
      expectedTurnCount: wire.count("expectedTurnCount", expectedTurnCount),
      appendId: idOrNew("appendId", appendId),
    }),
    ({ turnCount, duplicate }) => ({ turnCount: Number(turnCount), duplicate }),
    retried,
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
    () => ({ pageSize: wire.maximum("pageSize", pageSize), pageToken }),
    ({ sessions, nextPageToken }) => [sessions.map(wire.summaryFrom), nextPageToken],
    "outage",
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

/** Returns an id, or a new one. The client generates it, so that every attempt has the same id. */
export function idOrNew(name: string, id: string | undefined): string {
  return text(name, id ?? "") || randomBytes(16).toString("hex");
}

function call<Request extends DescMessage, Response extends DescMessage, T>(
  method: DescMethodUnary<Request, Response>,
  build: () => MessageInitShape<Request>,
  read: (response: MessageShape<Response>) => T,
  retried: Retried = "never",
): Call<T> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    request: encoded(method.input, build),
    read: (response) => read(decoded(method.output, response)),
    retried,
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
