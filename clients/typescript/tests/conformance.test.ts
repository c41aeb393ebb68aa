/** Conformance with the tables that all clients share (format: tests/conformance/README.md). */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { after, before, suite, test } from "node:test";

import { create, fromJson, type JsonObject as WireJsonObject, toBinary } from "@bufbuild/protobuf";
import { Metadata, status as Code } from "@grpc/grpc-js";
import * as client from "session-notes";

import * as details from "../dist/gen/session_notes/status/v1/status_pb.js";
import { GetNotesResponseSchema } from "../dist/gen/session_notes/v1/session_notes_pb.js";
import { withoutPrompts } from "../dist/prompt.js";
import { translate } from "../dist/status.js";
import { readingFrom } from "../dist/wire.js";
import { CONFORMANCE, eventually, newSessionId, unreachable, Sidecar, Silent } from "./sidecar.js";

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
type JsonObject = Record<string, Json>;

interface Step {
  readonly call: string;
  readonly with?: JsonObject;
  readonly gives?: Json;
  readonly fails?: string | JsonObject;
  readonly tool_result?: Json;
  readonly only?: JsonObject;
  readonly save?: Record<string, string>;
  readonly eventually?: boolean;
  readonly during?: readonly Step[];
  readonly raises?: string;
}

interface Case {
  readonly name: string;
  readonly target?: string;
  readonly steps: readonly Step[];
}

interface PromptCase {
  readonly name: string;
  readonly observer?: string;
  readonly response: WireJsonObject;
  readonly min_severity?: client.Severity;
  readonly max_chars?: number;
  readonly lines: readonly string[];
}

interface Table {
  readonly cases?: readonly Case[];
  readonly readings?: readonly { name: string; response: WireJsonObject; gives: JsonObject; tool_result: Json }[];
  readonly notes?: WireJsonObject;
  readonly prompts?: readonly PromptCase[];
  readonly spoken?: readonly { readonly text: string; readonly kept: string }[];
  readonly tools?: readonly { name: string; observers?: readonly string[]; description: readonly string[] }[];
  readonly ages?: { readonly cases: readonly [string, number][] };
  readonly statuses?: readonly {
    name: string;
    code: keyof typeof Code;
    message: string;
    details?: readonly Record<string, WireJsonObject>[];
    raw_details?: string;
    error: JsonObject;
  }[];
}

const TABLES = new Map(
  readdirSync(CONFORMANCE)
    .filter((file) => file.endsWith(".json"))
    .map((file) => [basename(file, ".json"), JSON.parse(readFileSync(join(CONFORMANCE, file), "utf8")) as Table]),
);

/** Thrown inside a run by cases that need a failing run. */
class Oops extends Error {}

/** A result differs from the case. */
class Mismatch extends Error {}

const OBSERVERS = new Set([
  ...["begin_run", "write_notes", "fail_run", "renew_run", "list_runs", "due_sessions", "run"],
]);

/** Names with values in seconds in a table and milliseconds in this client. */
const SPANS = new Set([
  ...["max_age", "max_snapshot_age", "ttl", "lease", "timeout", "min_interval", "min_quiet"],
  ...["age", "snapshot_age", "expires_in", "quiet", "retry_after"],
]);

/** Parts with keys that are user data. */
const USERS = new Set(["coverage", "extra", "fields", "set", "metadata"]);

/** The positional arguments of each call; all others are options. */
const POSITIONAL: Readonly<Record<string, readonly string[]>> = {
  getNotes: ["sessionId"],
  batchGetNotes: ["sessionIds"],
  getSession: ["sessionId"],
  updateSession: ["sessionId", "set"],
  appendTurns: ["sessionId", "turns"],
  deleteSession: ["sessionId"],
  listSessions: [],
  beginRun: ["sessionId"],
  writeNotes: ["sessionId", "notes"],
  failRun: ["sessionId", "runId", "reason"],
  renewRun: ["sessionId", "runId"],
  listRuns: ["sessionId"],
  dueSessions: [],
  write: ["notes"],
  fail: ["reason"],
  renew: [],
};

type Method = (...args: unknown[]) => unknown;

/** Timeout of getNotes for a running sidecar: tests share a few cores. */
const PATIENT = { timeoutMs: 5000 };

/** Runner of one case against one target. If patient, getNotes has a longer timeout than by default. */
class Runner {
  readonly #names = new Map<string, Json>();
  readonly #target: string;
  readonly #closed: boolean;
  readonly #primary: client.PrimaryClient;
  readonly #observers = new Map<string, client.ObserverClient>();
  #run: client.ActiveRun | undefined;
  #feed: client.NotesFeed | undefined;

  constructor(target: string, { patient, closed }: { patient: boolean; closed: boolean }) {
    this.#target = target;
    this.#closed = closed;
    this.#primary = new client.PrimaryClient(target, patient ? PATIENT : {});
    if (closed) {
      this.#primary.close();
    }
  }

  close(): void {
    for (const openClient of [this.#primary, ...this.#observers.values()]) {
      openClient.close();
    }
  }

  async steps(steps: readonly Step[]): Promise<void> {
    for (const [index, step] of steps.entries()) {
      try {
        await this.#step(step);
      } catch (error) {
        throw error instanceof Mismatch ? new Mismatch(`step ${index + 1}, ${step.call}: ${error.message}`) : error;
      }
    }
  }

  async #step(step: Step): Promise<void> {
    if (step.eventually === true) {
      await eventually(() => holds(() => this.#step({ ...step, eventually: false })));
    } else if (step.call === "run") {
      await this.#performRun(step);
    } else {
      await this.#check(step, () => this.#call(step));
    }
  }

  async #check(step: Step, call: () => Promise<unknown>): Promise<void> {
    let result: unknown;
    try {
      result = await call();
    } catch (error) {
      if (!(error instanceof client.SessionNotesError)) {
        throw error;
      }
      if (step.fails === undefined) {
        throw new Mismatch(`it failed: ${error.name}: ${error.message}`);
      }
      const expected = typeof step.fails === "string" ? { error: step.fails } : step.fails;
      compareError(this.#resolved(expected) as JsonObject, error);
      return;
    }
    if (step.fails !== undefined) {
      throw new Mismatch("it did not fail");
    }
    this.#results(step, result);
  }

  #results(step: Step, result: unknown): void {
    const { only } = step;
    if (only !== undefined) {
      result = (result as unknown[]).filter((item) =>
        Object.entries(only).every(([path, part]) => at(item, path) === this.#resolved(part)),
      );
    }
    if (step.gives !== undefined) {
      const expected = this.#resolved(step.gives);
      if (isObject(expected) && !isMatcher(expected)) {
        for (const [path, part] of Object.entries(expected)) {
          equal(part, at(result, path), path);
        }
      } else {
        equal(expected, neutral(result), "the result");
      }
    }
    if (step.tool_result !== undefined) {
      const sent = JSON.stringify((result as client.Reading).asToolResult());
      equal(this.#resolved(step.tool_result), JSON.parse(sent) as Json, "tool_result");
    }
    for (const [name, path] of Object.entries(step.save ?? {})) {
      this.#names.set(name, at(result, path));
    }
  }

  async #performRun(step: Step): Promise<void> {
    const { session_id: sessionId, observer, ...options } = this.#resolved(step.with ?? {}) as JsonObject;
    const perform = () =>
      this.#observer(observer).run(
        sessionId as string,
        async (run) => {
          this.#run = run;
          this.#results(step, run);
          await this.steps(step.during ?? []);
          if (step.raises !== undefined) {
            throw new Oops("never recorded");
          }
        },
        given(options) as client.RunOptions,
      );
    if (step.raises === undefined) {
      const { call, fails } = step;
      await this.#check(fails === undefined ? { call } : { call, fails }, perform);
    } else {
      await assert.rejects(perform, Oops);
    }
  }

  #observer(observer: Json = ""): client.ObserverClient {
    const name = typeof observer === "string" ? observer : "";
    const made = this.#observers.get(name) ?? new client.ObserverClient(this.#target, { observer: name });
    this.#observers.set(name, made);
    if (this.#closed) {
      made.close();
    }
    return made;
  }

  async #call(step: Step): Promise<unknown> {
    const { observer, ...args } = this.#resolved(step.with ?? {}) as JsonObject;
    if (step.call.startsWith("run.")) {
      return send(this.#run, step.call.slice("run.".length), args);
    }
    if (step.call === "feed") {
      const { session_id: sessionId, ...options } = args;
      this.#feed = new client.NotesFeed(this.#primary, sessionId as string, given(options) as client.FeedOptions);
      return null;
    }
    if (step.call === "feed.next") {
      return this.#feed?.next();
    }
    if (OBSERVERS.has(step.call)) {
      return send(this.#observer(observer), step.call, args);
    }
    return send(this.#primary, step.call, observer === undefined ? args : { ...args, observer });
  }

  #resolved(content: Json): Json {
    if (typeof content === "string") {
      const name = /^\$(\w+)$/.exec(content)?.[1];
      if (name === undefined) {
        return content;
      }
      const value = this.#names.get(name) ?? newSessionId();
      this.#names.set(name, value);
      return value;
    }
    if (Array.isArray(content)) {
      return content.map((item) => this.#resolved(item));
    }
    if (isObject(content)) {
      const repeat = content["$repeat"];
      if (Array.isArray(repeat)) {
        const item = this.#resolved(repeat[0] ?? null);
        const times = Number(repeat[1]);
        return typeof item === "string"
          ? item.repeat(times)
          : Array<Json[]>(times)
              .fill(item as Json[])
              .flat();
      }
      const levels = content["$nested"];
      if (typeof levels === "number") {
        return Array.from({ length: levels - 1 }).reduce<JsonObject>((inner) => ({ a: inner }), {});
      }
      const lines = content["$lines"];
      if (Array.isArray(lines)) {
        return lines.map(String).join("\n");
      }
      return Object.fromEntries(Object.entries(content).map(([name, item]) => [name, this.#resolved(item)]));
    }
    return content;
  }
}

/** Performs a call, with positional arguments and options. */
async function send(on: unknown, call: string, args: JsonObject): Promise<unknown> {
  const name = camel(call);
  const options = given(args) as Record<string, unknown>;
  const positional = POSITIONAL[name] ?? [];
  const values = positional.map((argument) => options[argument]);
  for (const argument of positional) {
    Reflect.deleteProperty(options, argument);
  }
  const method = (on as Record<string, Method | undefined>)[name];
  assert(method !== undefined, `there is no call ${call}`);
  const result = method.call(on, ...values, options);
  return isAsyncIterable(result) ? collected(result) : await result;
}

/** Converts arguments to this client's names and units. */
function given(content: Json, key = ""): unknown {
  if (SPANS.has(key) && typeof content === "number") {
    return content * 1000;
  }
  if (key === "time" && typeof content === "string") {
    return new Date(content);
  }
  if (Array.isArray(content)) {
    return content.map((item) => given(item, key));
  }
  if (isObject(content) && !USERS.has(key)) {
    return Object.fromEntries(
      Object.entries(content).map(([name, item]) => [
        SPANS.has(name) ? `${camel(name)}Ms` : camel(name),
        given(item, name),
      ]),
    );
  }
  return content;
}

/** Returns a result as JSON, the same for every language. */
function neutral(result: unknown, key = ""): Json {
  if (result === undefined || result === null) {
    return null;
  }
  if (result instanceof Date) {
    return result.toISOString();
  }
  if (Array.isArray(result)) {
    return result.map((item) => neutral(item, key));
  }
  if (typeof result !== "object") {
    return result as Json;
  }
  const users = USERS.has(key);
  return Object.fromEntries(
    Object.entries(result).map(([name, item]) => [
      users ? name : snake(name),
      name.endsWith("Ms") && !users && typeof item === "number" ? item / 1000 : neutral(item, name),
    ]),
  );
}

/** Returns the part of a result at a path, in neutral form. */
function at(result: unknown, path: string): Json {
  let part = result;
  let key = "";
  for (const step of path.split(".")) {
    if (part === undefined || part === null) {
      throw new Mismatch(`there is no ${path}`);
    }
    const users = USERS.has(key);
    key = users ? step : SPANS.has(step) ? `${camel(step)}Ms` : camel(step);
    part = (part as Record<string, unknown>)[key];
  }
  return key.endsWith("Ms") && typeof part === "number" ? part / 1000 : neutral(part, key);
}

/** Throws Mismatch unless both are equal as JSON: a boolean is not a number, and keys must match exactly. */
function equal(expected: Json, actual: Json, path: string): void {
  const problem = new Mismatch(`${path} is ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`);
  if (isObject(expected)) {
    const between = expected["$between"];
    if (Array.isArray(between)) {
      const [low, high] = between;
      if (typeof actual !== "number" || actual < Number(low) || actual > Number(high)) {
        throw problem;
      }
      return;
    }
    if (expected["$present"] === true) {
      if (actual === null || actual === "") {
        throw problem;
      }
      return;
    }
    if (!isObject(actual) || Object.keys(expected).length !== Object.keys(actual).length) {
      throw problem;
    }
    for (const [name, part] of Object.entries(expected)) {
      if (!Object.hasOwn(actual, name)) {
        throw problem;
      }
      equal(part, actual[name] ?? null, `${path}.${name}`);
    }
  } else if (Array.isArray(expected)) {
    if (!Array.isArray(actual) || actual.length !== expected.length) {
      throw problem;
    }
    for (const [index, part] of expected.entries()) {
      equal(part, actual[index] ?? null, `${path}.${index}`);
    }
  } else if (expected !== actual) {
    throw problem;
  }
}

/** Throws Mismatch unless an error has the class and the attributes in the case. */
function compareError(expected: JsonObject, error: client.SessionNotesError): void {
  for (const [path, part] of Object.entries(expected)) {
    if (path === "error") {
      equal(part, error.constructor.name, "the error's class");
      equal(part, error.name, "the error's name");
    } else if (path === "is") {
      for (const parent of part as string[]) {
        const kind = (client as unknown as Record<string, new () => Error>)[parent];
        if (kind === undefined || !(error instanceof kind)) {
          throw new Mismatch(`${error.name} is not a ${parent}`);
        }
      }
    } else {
      equal(part, at(error, path), path);
    }
  }
}

async function holds(check: () => Promise<void>): Promise<boolean> {
  try {
    await check();
    return true;
  } catch (error) {
    if (error instanceof Mismatch) {
      return false;
    }
    throw error;
  }
}

function isObject(content: unknown): content is JsonObject {
  return typeof content === "object" && content !== null && !Array.isArray(content);
}

function isMatcher(content: JsonObject): boolean {
  return "$between" in content || "$present" in content;
}

function isAsyncIterable(result: unknown): result is AsyncIterable<unknown> {
  return typeof result === "object" && result !== null && Symbol.asyncIterator in result;
}

async function collected(items: AsyncIterable<unknown>): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const item of items) {
    all.push(item);
  }
  return all;
}

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function snake(name: string): string {
  return name.replace(/Ms$/, "").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

suite("the cases of tests/conformance", { concurrency: 4 }, () => {
  let sidecar: Sidecar;
  let silent: Silent;
  const targets = new Map<string, string>();

  before(async () => {
    [sidecar, silent] = await Promise.all([Sidecar.start(), Silent.start()]);
    targets.set("sidecar", sidecar.target).set("closed", sidecar.target);
    targets.set("silent", silent.target).set("unreachable", await unreachable());
  });

  after(async () => {
    silent[Symbol.dispose]();
    await sidecar[Symbol.asyncDispose]();
  });

  async function run({ target = "sidecar", steps }: Case): Promise<void> {
    const runner = new Runner(targets.get(target) ?? "", {
      patient: target === "sidecar",
      closed: target === "closed",
    });
    try {
      await runner.steps(steps);
    } finally {
      runner.close();
    }
  }

  for (const [table, { cases = [] }] of TABLES) {
    for (const one of cases) {
      if (table === "broken") {
        test(`a wrong expectation is rejected: ${one.name}`, () => assert.rejects(run(one), Mismatch));
      } else {
        test(`${table}: ${one.name}`, () => run(one));
      }
    }
  }
});

suite("the pure tables of tests/conformance", () => {
  for (const { readings = [], notes, prompts = [], spoken = [], tools = [], ages, statuses = [] } of TABLES.values()) {
    for (const { name, observer = "", response, min_severity, max_chars, lines } of prompts) {
      test(`a prompt: ${name}`, () => {
        const run = { runId: "a", number: "1", observer: "default", state: "RUN_STATE_WRITTEN" };
        const rest = { age: "1s", writeTime: "2026-01-02T03:04:05Z", expiresIn: "1s", run };
        const complete = { ready: true, readiness: "READINESS_READY", notes: notes ?? {}, ...rest, ...response };
        const reading = readingFrom("s", observer, fromJson(GetNotesResponseSchema, complete));
        assert.equal(reading.asPrompt({ minSeverity: min_severity, maxChars: max_chars }), lines.join("\n"));
      });
    }
    for (const { text, kept } of spoken) {
      test(`speech: ${text.slice(0, 30)}`, () => {
        assert.equal(withoutPrompts(text), kept);
      });
    }
    for (const { name, observers, description } of tools) {
      test(`a tool: ${name}`, () => {
        using primary = new client.PrimaryClient("127.0.0.1:1");
        assert.equal(new client.NotesTool(primary, "s", { observers }).description, description.join("\n"));
      });
    }
    for (const { name, response, gives, tool_result } of readings) {
      test(`a response: ${name}`, () => {
        const reading = readingFrom("s", "", fromJson(GetNotesResponseSchema, response));
        for (const [path, part] of Object.entries(gives)) {
          equal(part, at(reading, path), path);
        }
        equal(tool_result, JSON.parse(JSON.stringify(reading.asToolResult())) as Json, "tool_result");
      });
    }
    const ready = readings.find(({ name }) => name.startsWith("a newer run"))?.response;
    for (const [age, seconds] of ages?.cases ?? []) {
      test(`an age of ${age}`, () => {
        const tool = readingFrom("s", "", fromJson(GetNotesResponseSchema, { ...ready, age })).asToolResult();
        assert(tool.ready);
        equal(seconds, tool.age_seconds, age);
      });
    }
    for (const { name, code, message, details: sent = [], raw_details: raw, error } of statuses) {
      test(`a status: ${name}`, () => {
        const metadata = new Metadata();
        metadata.set("grpc-status-details-bin", raw === undefined ? packed(sent) : Buffer.from(raw, "hex"));
        compareError(error, translate({ code: Code[code], details: message, metadata }));
      });
    }
  }
});

/** Returns `grpc-status-details-bin` as a sidecar sends it. */
function packed(sent: readonly Record<string, WireJsonObject>[]): Buffer {
  const schemas = {
    ErrorInfo: details.ErrorInfoSchema,
    BadRequest: details.BadRequestSchema,
    RetryInfo: details.RetryInfoSchema,
  };
  const any = sent.flatMap((detail) =>
    Object.entries(detail).map(([kind, content]) => {
      const schema = schemas[kind as keyof typeof schemas];
      return { typeUrl: `type.googleapis.com/google.rpc.${kind}`, value: toBinary(schema, fromJson(schema, content)) };
    }),
  );
  return Buffer.from(toBinary(details.StatusSchema, create(details.StatusSchema, { details: any })));
}
