/** Tests of retries. */

import assert from "node:assert/strict";
import { after, before, beforeEach, suite, test } from "node:test";

import { create, fromJson, toBinary } from "@bufbuild/protobuf";
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
  });

  after(() => {
    refusing.stop();
  });

  const neverRetried: Readonly<Record<string, (primary: PrimaryClient) => Promise<unknown>>> = {
    appendTurns: (primary) => primary.appendTurns("s", [{ speaker: "user", text: "x" }]),
    "appendTurns, counted": (primary) =>
      primary.appendTurns("s", [{ speaker: "user", text: "x" }], { expectedTurnCount: 0 }),
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
    assert.equal(refusing.requests.length, 2);
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
