/** Tests of retries. */

import assert from "node:assert/strict";
import { after, before, beforeEach, suite, test } from "node:test";

import { create, fromBinary, fromJson, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";
import {
  DeadlineExceeded,
  ObserverClient,
  Overloaded,
  PrimaryClient,
  SessionNotesError,
  Unavailable,
} from "session-notes";

import { ErrorInfoSchema, RetryInfoSchema, StatusSchema } from "../dist/gen/session_notes/status/v1/status_pb.js";
import { AppendTurnsRequestSchema, AppendTurnsResponseSchema } from "../dist/gen/session_notes/v1/session_state_pb.js";
import { Refusing } from "./refusing.js";
import { eventually } from "./sidecar.js";

function detailed(retryDelay: string, reason = ""): Uint8Array {
  const retry = toBinary(RetryInfoSchema, fromJson(RetryInfoSchema, { retryDelay }));
  const info = toBinary(ErrorInfoSchema, create(ErrorInfoSchema, { reason }));
  const details = [
    { typeUrl: "type.googleapis.com/google.rpc.RetryInfo", value: retry },
    { typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value: info },
  ];
  return toBinary(StatusSchema, create(StatusSchema, { details }));
}

suite("retries", { concurrency: false }, () => {
  let refusing: Refusing;

  before(async () => {
    refusing = await Refusing.start();
  });

  beforeEach(() => {
    refusing.code = Code.UNAVAILABLE;
    refusing.details = undefined;
    refusing.answers = Infinity;
    refusing.requests.length = 0;
    refusing.responses.length = 0;
  });

  after(() => {
    refusing.stop();
  });

  const neverRetried: Readonly<Record<string, (primary: PrimaryClient) => Promise<unknown>>> = {
    appendTurns: (primary) => primary.appendTurns("s", [{ speaker: "user", text: "x" }]),
    updateSession: (primary) => primary.updateSession("s", { a: 1 }),
    deleteSession: (primary) => primary.deleteSession("s"),
    getNotes: (primary) => primary.getNotes("s"),
    batchGetNotes: (primary) => primary.batchGetNotes(["s"]),
  };

  for (const [name, call] of Object.entries(neverRetried)) {
    test(`a primary's ${name} is never retried`, async () => {
      using primary = new PrimaryClient(refusing.target, { timeoutMs: 2000 });
      await assert.rejects(call(primary), Unavailable);
      assert.equal(refusing.requests.length, 1);
    });
  }

  const TURNS = [{ speaker: "user", text: "x" }];
  const appended = (fields: MessageInitShape<typeof AppendTurnsResponseSchema>) =>
    toBinary(AppendTurnsResponseSchema, create(AppendTurnsResponseSchema, fields));
  const idsOf = (requests: readonly Buffer[]) =>
    requests.map((request) => fromBinary(AppendTurnsRequestSchema, request).appendId);

  test("appendTurns is retried with the same id once the sidecar is known to support ids", async () => {
    using primary = new PrimaryClient(refusing.target, { stateTimeoutMs: 10_000 });
    refusing.responses.push(appended({ turnCount: 1n, duplicate: false }));
    await primary.appendTurns("s", TURNS);
    const waiting = primary.appendTurns("s", TURNS);
    await eventually(() => Promise.resolve(refusing.requests.length >= 4));
    refusing.responses.push(appended({ turnCount: 2n, duplicate: true }));
    assert.equal(await waiting, 2);
    const [first, ...later] = idsOf(refusing.requests);
    assert.equal(new Set(later).size, 1);
    assert.notEqual(later[0], first);
    assert.match(later[0] ?? "", /^[0-9a-f]{32}$/);
  });

  test("appendTurns is not retried with a sidecar that ignores ids, unless turns are counted", async () => {
    using primary = new PrimaryClient(refusing.target, { stateTimeoutMs: 500 });
    refusing.responses.push(appended({ turnCount: 1n }));
    await primary.appendTurns("s", TURNS);
    await assert.rejects(primary.appendTurns("s", TURNS, { appendId: "mine" }), Unavailable);
    assert.equal(refusing.requests.length, 2);
    assert.equal(idsOf(refusing.requests)[1], "mine");
    await assert.rejects(primary.appendTurns("s", TURNS, { expectedTurnCount: 1 }), Unavailable);
    assert(refusing.requests.slice(2).length > 1);
  });

  for (const code of [Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED, Code.CANCELLED]) {
    test(`a permanent error is not retried: ${Code[code]}`, async () => {
      refusing.code = code;
      using observer = new ObserverClient(refusing.target);
      await assert.rejects(observer.beginRun("s"), SessionNotesError);
      assert.equal(refusing.requests.length, 1);
    });
  }

  test("an observer's calls are retried until the timeout, with growing pauses and the same request", async () => {
    using observer = new ObserverClient(refusing.target, { timeoutMs: 1000 });
    const started = performance.now();
    // The last attempt may run out of time, which is Unavailable, too.
    await assert.rejects(observer.beginRun("s"), Unavailable);
    assert(performance.now() - started < 1500);
    assert(refusing.requests.length >= 3 && refusing.requests.length <= 8, `${refusing.requests.length} tries`);
    assert.equal(new Set(refusing.requests.map((request) => request.toString("hex"))).size, 1);
  });

  test("an error after a slow last attempt names the timeout and the previous error", async () => {
    refusing.answers = 1;
    using observer = new ObserverClient(refusing.target, { timeoutMs: 500 });
    await assert.rejects(observer.beginRun("s"), (error: unknown) => {
      assert(error instanceof DeadlineExceeded);
      assert.match(error.message, /; before that: .*the store is away/u);
      assert(error.cause instanceof Unavailable);
      return true;
    });
    assert.equal(refusing.requests.length, 2);
  });

  test("a primary's reads of state are retried", async () => {
    using primary = new PrimaryClient(refusing.target, { stateTimeoutMs: 500 });
    await assert.rejects(primary.getSession("s"), Unavailable);
    assert(refusing.requests.length > 1);
  });

  test("the sidecar's retry delay applies, unless it exceeds the deadline", async () => {
    refusing.details = detailed("0.400s");
    using observer = new ObserverClient(refusing.target);
    await assert.rejects(
      observer.beginRun("s", { timeoutMs: 1150 }),
      (error: Unavailable) => error.retryAfterMs === 400,
    );
    assert.equal(refusing.requests.length, 3);
    const started = performance.now();
    await assert.rejects(observer.beginRun("s", { timeoutMs: 350 }), Unavailable);
    assert(performance.now() - started < 300);
  });

  test("a call without a response ends when its client is closed or its signal aborted", async () => {
    refusing.answers = 0;
    const observer = new ObserverClient(refusing.target, { timeoutMs: 60_000 });
    const controller = new AbortController();
    const closed = assert.rejects(observer.beginRun("s"), new Unavailable("the client was closed during the call"));
    const aborted = assert.rejects(observer.beginRun("s", { signal: controller.signal }), { name: "AbortError" });
    await eventually(() => Promise.resolve(refusing.requests.length === 2));
    const started = performance.now();
    controller.abort();
    await aborted;
    observer.close();
    await closed;
    assert(performance.now() - started < 5000);
  });

  test("overload is retried exactly where an outage is", async () => {
    refusing.code = Code.RESOURCE_EXHAUSTED;
    refusing.details = detailed("0.100s", "OVERLOADED");
    using observer = new ObserverClient(refusing.target);
    await assert.rejects(observer.beginRun("s", { timeoutMs: 1000 }), Unavailable);
    assert(refusing.requests.length >= 3 && refusing.requests.length <= 10, `${refusing.requests.length} tries`);
    refusing.requests.length = 0;
    using primary = new PrimaryClient(refusing.target);
    await assert.rejects(primary.getNotes("s", { timeoutMs: 1000 }), Overloaded);
    assert(!(await primary.getNotes("s", { timeoutMs: 1000, unavailableOk: true })).ready);
    await assert.rejects(primary.updateSession("s", {}, { timeoutMs: 1000 }), Overloaded);
    assert.equal(refusing.requests.length, 3);
  });

  test("an overloaded appendTurns is always retried: it had no effect", async () => {
    refusing.code = Code.RESOURCE_EXHAUSTED;
    refusing.details = detailed("0.100s", "OVERLOADED");
    using primary = new PrimaryClient(refusing.target);
    await assert.rejects(primary.appendTurns("s", TURNS, { timeoutMs: 1000 }), Overloaded);
    assert(refusing.requests.length >= 3, `${refusing.requests.length} tries`);
  });

  test("a request that arrives too late is a DeadlineExceeded with the sidecar's reason and message", async () => {
    refusing.code = Code.DEADLINE_EXCEEDED;
    refusing.details = detailed("0s", "REQUEST_TIMEOUT");
    using primary = new PrimaryClient(refusing.target);
    await assert.rejects(primary.appendTurns("s", [{ speaker: "user", text: "x" }]), (error: unknown) => {
      assert(error instanceof DeadlineExceeded);
      assert.equal(error.reason, "REQUEST_TIMEOUT");
      assert.equal(error.message, refusing.message);
      return true;
    });
    assert.equal(refusing.requests.length, 1);
  });
});
