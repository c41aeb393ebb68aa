/** Tests beyond the conformance tables: sidecars that die, aborted calls, unix sockets, processes that end. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { after, before, suite, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { inspect, promisify } from "node:util";

import {
  type ActiveRun,
  DeadlineExceeded,
  ObserverClient,
  PrimaryClient,
  type Reading,
  RunAlreadyWritten,
  SessionDeleted,
  Unavailable,
  UsageError,
} from "session-notes";

import { eventually, newSessionId, unreachable, Sidecar, Silent } from "./sidecar.js";

const execute = promisify(execFile);

/** Timeout of getNotes for a running sidecar: tests share a few cores. */
const PATIENT = { timeoutMs: 5000 };

/** Returns the duration of a promise in milliseconds. */
async function durationOf(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

suite("a client", { concurrency: false }, () => {
  let sidecar: Sidecar;

  before(async () => {
    sidecar = await Sidecar.start();
  });

  after(async () => {
    await sidecar[Symbol.asyncDispose]();
  });

  test("works over a unix socket", async () => {
    const sessionId = newSessionId();
    using observer = new ObserverClient(sidecar.unix);
    using primary = new PrimaryClient(sidecar.unix, { token: "an-unneeded-token", ...PATIENT });
    await observer.writeNotes(sessionId, { summary: "x" });
    const reading = await primary.getNotes(sessionId);
    assert(reading.ready);
    assert.equal(reading.notes.summary, "x");
  });

  test("reads its target from the environment, and ignores proxies", async (context) => {
    const variables = { SESSION_NOTES_TARGET: sidecar.target, http_proxy: `http://${await unreachable()}` };
    for (const [name, value] of Object.entries(variables)) {
      process.env[name] = process.env[name.replace("http", "grpc")] = value;
    }
    context.after(() => {
      for (const name of ["SESSION_NOTES_TARGET", "http_proxy", "grpc_proxy"]) {
        Reflect.deleteProperty(process.env, name);
      }
    });
    using primary = new PrimaryClient();
    assert.equal((await primary.getSession("s")).version, 0);
  });

  test("returns notes and turns equal to those written", async () => {
    const sessionId = newSessionId();
    using primary = new PrimaryClient(sidecar.target, PATIENT);
    using observer = new ObserverClient(sidecar.target);
    const turns = [{ speaker: "user", text: "Hello", time: new Date("2026-01-02T03:04:05.678Z"), extra: { a: [1] } }];
    const notes = {
      coverage: { goals: 1 },
      issues: [{ text: "late", severity: "warning" as const, turn: 1 }, { text: "vague" }],
      followUpSuggestions: ["Who?"],
      summary: "x",
      extra: { left: undefined, kept: null },
    };
    await primary.appendTurns(sessionId, turns);
    const seen = await observer.run(sessionId, async (run) => {
      await run.write(notes);
      return run.transcript;
    });
    assert.deepEqual(seen, turns);
    const reading = await primary.getNotes(sessionId);
    assert.deepEqual(reading.notes, { ...notes, extra: { kept: null } });
    assert(reading.ready);
    assert(Math.abs(reading.writeTime.getTime() - Date.now()) < 60_000);
  });

  test("keeps a run's session id out of logs", async () => {
    using observer = new ObserverClient(sidecar.target);
    await observer.run("jane.doe@example.org", async (run) => {
      const text = `<ActiveRun: run ${run.number} of observer 'default' on session 7f73355b>`;
      assert.equal(inspect(run), text);
      assert.equal(String(run), text);
      await run.write({});
    });
  });

  test("warns of a failure that could not be recorded, and rethrows the error of the work", async () => {
    const sessionId = newSessionId();
    const observer = new ObserverClient(sidecar.target);
    const warned = once(process, "warning") as Promise<[Error]>;
    let activeRun: ActiveRun | undefined;
    await assert.rejects(
      observer.run(sessionId, (run) => {
        activeRun = run;
        observer.close();
        throw new RangeError("my card is 4111");
      }),
      new RangeError("my card is 4111"),
    );
    const [warning] = await warned;
    const digest = createHash("sha256").update(sessionId).digest("hex").slice(0, 8);
    assert.equal(warning.name, "SessionNotesWarning");
    assert.equal(warning.message, `session ${digest}, run 1: its failure could not be recorded: UsageError`);
    assert(activeRun?.ended);
  });

  test("does not warn if there is no failure to record", async (context) => {
    const sessionId = newSessionId();
    using primary = new PrimaryClient(sidecar.target, PATIENT);
    using observer = new ObserverClient(sidecar.target);
    const warnings: Error[] = [];
    const collect = (warning: Error) => warnings.push(warning);
    process.on("warning", collect);
    context.after(() => process.off("warning", collect));
    const twice = observer.run(sessionId, async (run) => {
      await observer.writeNotes(sessionId, { summary: "first" }, { runId: run.runId });
      await run.write({ summary: "second" });
    });
    await assert.rejects(twice, RunAlreadyWritten);
    const deleted = observer.run(sessionId, async (run) => {
      await primary.deleteSession(sessionId);
      await run.write({ summary: "x" });
    });
    await assert.rejects(deleted, SessionDeleted);
    await nextTurn();
    assert.deepEqual(warnings, []);
  });

  test("does not keep the process alive", async () => {
    const script = `import { PrimaryClient } from "session-notes";
      const primary = new PrimaryClient(${JSON.stringify(sidecar.target)});
      console.log((await primary.getSession("s", { timeoutMs: 10_000 })).version);`;
    const { stdout } = await execute(process.execPath, ["--input-type=module", "--eval", script], { timeout: 20_000 });
    assert.equal(stdout, "0\n");
  });

  test("rejects calls after close, and allows repeated close", async () => {
    const primary = new PrimaryClient(sidecar.target, PATIENT);
    await primary.getSession("s");
    primary.close();
    primary.close();
    await assert.rejects(primary.getSession("s"), new UsageError("this client is closed"));
    await assert.rejects(primary.batchGetNotes([], { unavailableOk: true }), UsageError);
  });

  test("distinguishes an outage from no notes, and recovers soon after its sidecar", async () => {
    const sessionId = newSessionId();
    using primary = new PrimaryClient(sidecar.target, PATIENT);
    using observer = new ObserverClient(sidecar.target);
    await observer.writeNotes(sessionId, { summary: "x" });
    assert((await primary.getNotes(sessionId)).ready);
    await sidecar.end("SIGKILL");
    const calls = [() => primary.getNotes(sessionId), () => primary.updateSession(sessionId, { a: 1 })];
    for (const call of calls) {
      assert((await durationOf(() => assert.rejects(call, Unavailable))) < 1000);
    }
    const reading = await primary.getNotes(sessionId, { unavailableOk: true });
    assert(!reading.ready);
    assert.equal(reading.readiness, "unavailable");
    assert.notEqual(reading.unavailableReason, "");
    assert.deepEqual(reading.asToolResult(), { ready: false, reason: "unavailable" });
    await sidecar.start();
    await eventually(async () => (await primary.getNotes(sessionId, { unavailableOk: true })).ready, 5000);
    assert.equal((await primary.getSession(sessionId)).version, 0);
  });

  test("replaces a connection that the network loses, which closes nothing", async (context) => {
    const sockets: Socket[] = [];
    const [host, port] = sidecar.target.split(":");
    const proxy = createServer((client) => {
      const server = connect(Number(port), host);
      sockets.push(client, server);
      client.pipe(server).pipe(client);
    }).listen(0, "127.0.0.1");
    context.after(() => {
      proxy.close();
      sockets.forEach((socket) => socket.destroy());
    });
    await once(proxy, "listening");
    using primary = new PrimaryClient(`127.0.0.1:${(proxy.address() as AddressInfo).port}`);
    await primary.getSession("s");
    sockets.forEach((socket) => socket.unpipe().removeAllListeners("end"));
    await eventually(
      async () => (await primary.getNotes("s", { unavailableOk: true })).readiness === "never_run",
      90_000,
    );
  });

  test("retries an observer's calls during a restart: one run, one write", async () => {
    const sessionId = newSessionId();
    using observer = new ObserverClient(sidecar.target, { timeoutMs: 30_000 });
    const outcome = await observer.run(sessionId, async (run) => {
      await sidecar.end("SIGTERM");
      const written = run.write({ summary: "x" });
      await sidecar.start();
      return (await written).outcome;
    });
    assert.equal(outcome, "accepted");
    const runs = [];
    for await (const { number, state } of observer.listRuns(sessionId)) {
      runs.push([number, state]);
    }
    assert.deepEqual(runs, [[1, "written"]]);
  });
});

suite("a call", { concurrency: true }, () => {
  let silent: Silent;

  before(async () => {
    silent = await Silent.start();
  });

  after(() => {
    silent[Symbol.dispose]();
  });

  test("waits 250 ms for notes by default", async () => {
    using primary = new PrimaryClient(silent.target);
    for (const [timeoutMs, least, most] of [
      [undefined, 245, 1000],
      [100, 95, 900],
      [0, 0, 500],
    ] as const) {
      const ms = await durationOf(() => assert.rejects(primary.getNotes("s", { timeoutMs }), DeadlineExceeded));
      assert(ms >= least && ms < most, `${ms} ms`);
    }
    await assert.rejects(primary.getNotes("s", { timeoutMs: NaN }), { name: "InvalidArgument" });
  });

  test("has the timeout set for the client", async () => {
    using primary = new PrimaryClient(silent.target, { timeoutMs: 50, stateTimeoutMs: 60 });
    for (const call of [() => primary.getNotes("s"), () => primary.deleteSession("s")]) {
      assert((await durationOf(() => assert.rejects(call, DeadlineExceeded))) < 1000);
    }
  });

  test("that is aborted rejects with the signal's reason, even with unavailableOk", async () => {
    using primary = new PrimaryClient(silent.target);
    const reason = new Error("the user hung up");
    const options = { timeoutMs: 60_000, unavailableOk: true };
    await assert.rejects(primary.getNotes("s", { ...options, signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const waiting = primary.getNotes("s", { ...options, signal: controller.signal });
    setTimeout(() => {
      controller.abort(reason);
    }, 50);
    assert((await durationOf(() => assert.rejects(waiting, reason))) < 5000);
  });

  test("may share its signal with any number of others", async () => {
    const warnings: Error[] = [];
    const collect = (warning: Error) => warnings.push(warning);
    process.on("warning", collect);
    using primary = new PrimaryClient(silent.target, { timeoutMs: 60_000 });
    const controller = new AbortController();
    const calls = Array.from({ length: 100 }, () => primary.getNotes("s", { signal: controller.signal }));
    const ended = Promise.all(calls.map((call) => assert.rejects(call, { name: "AbortError" })));
    controller.abort();
    await ended;
    await nextTurn(); // For the warnings.
    process.off("warning", collect);
    assert.deepEqual(warnings, []);
  });

  test("that is aborted between two attempts does not wait for the next", async () => {
    using observer = new ObserverClient(await unreachable(), { timeoutMs: 60_000 });
    const signal = AbortSignal.timeout(300);
    const ms = await durationOf(() => assert.rejects(observer.beginRun("s", { signal }), { name: "TimeoutError" }));
    assert(ms < 5000, `${ms} ms`);
  });

  test("in flight when the client is closed rejects with Unavailable", async () => {
    const primary = new PrimaryClient(silent.target);
    const observer = new ObserverClient(await unreachable(), { timeoutMs: 60_000 });
    const waiting = [primary.getSession("s", { timeoutMs: 60_000 }), observer.beginRun("s")].map((call) =>
      assert.rejects(call, new Unavailable("the client was closed during the call")),
    );
    setTimeout(() => {
      primary.close();
      observer.close();
    }, 200);
    assert((await durationOf(() => Promise.all(waiting))) < 5000);
  });

  test("names the target", async () => {
    const target = await unreachable();
    using primary = new PrimaryClient(target);
    await assert.rejects(primary.getNotes("s"), (error: Unavailable) => {
      assert(error.message.includes(target));
      assert(!error.message.includes("Resolution note"), error.message);
      return true;
    });
  });

  test("has a stack with its caller", async () => {
    using primary = new PrimaryClient(await unreachable());
    async function callingFunction(): Promise<Reading> {
      return await primary.getNotes("s");
    }
    await assert.rejects(callingFunction, (error: Error) => error.stack?.includes("callingFunction") === true);
  });
});
