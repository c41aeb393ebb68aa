/** Tests of the background observer: brakes, one run per session at a time, leases, sweeps and closing. */

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";

import {
  type ActiveRun,
  BackgroundObserver,
  type BackgroundOptions,
  type NewNotes,
  ObserverClient,
  PrimaryClient,
  type Run,
  TurnRecorder,
  UsageError,
} from "session-notes";

import { eventually, newSessionId, unreachable, Sidecar, Warnings } from "./sidecar.js";

const execute = promisify(execFile);

/** An analysis that counts its runs, and waits until it is released. */
class Analysis {
  readonly runs: ActiveRun[] = [];
  notes: (run: ActiveRun) => NewNotes | undefined = (run) => ({ summary: `${run.transcript.length} turns` });
  readonly #waiting: (() => void)[] = [];
  #held = false;
  #running = new Set<string>();

  readonly run = async (run: ActiveRun): Promise<NewNotes | undefined> => {
    assert(!this.#running.has(run.sessionId), "two runs of one session");
    this.#running.add(run.sessionId);
    this.runs.push(run);
    if (this.#held) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#running.delete(run.sessionId);
    return this.notes(run);
  };

  hold(): void {
    this.#held = true;
  }

  release(): void {
    this.#held = false;
    for (const resolve of this.#waiting.splice(0)) {
      resolve();
    }
  }

  async started(count: number): Promise<void> {
    await eventually(() => Promise.resolve(this.runs.length >= count));
    assert.equal(this.runs.length, count);
  }
}

suite("a background observer", { concurrency: false }, () => {
  let sidecar: Sidecar;
  let primary: PrimaryClient;
  let client: ObserverClient;
  const warnings = new Warnings();

  before(async () => {
    sidecar = await Sidecar.start();
    primary = new PrimaryClient(sidecar.target, { timeoutMs: 10_000, stateTimeoutMs: 10_000 });
    client = new ObserverClient(sidecar.target, { timeoutMs: 30_000 });
  });

  after(async () => {
    primary.close();
    client.close();
    warnings[Symbol.dispose]();
    await sidecar[Symbol.asyncDispose]();
  });

  /** Starts an observer without brakes, unless the options have some. */
  function start(analysis: Analysis, options: BackgroundOptions = {}): BackgroundObserver {
    return new BackgroundObserver(analysis.run, { client, brakes: false, ...options });
  }

  async function append(sessionId: string, ...texts: string[]): Promise<void> {
    await primary.appendTurns(
      sessionId,
      texts.map((text) => ({ speaker: "user", text })),
    );
  }

  async function runsOf(sessionId: string): Promise<Run[]> {
    const runs: Run[] = [];
    for await (const run of client.listRuns(sessionId)) {
      runs.unshift(run);
    }
    return runs;
  }

  async function endsOf(sessionId: string): Promise<(readonly [string, string])[]> {
    return (await runsOf(sessionId)).map(({ state, failure }) => [state, failure] as const);
  }

  async function summaryOf(sessionId: string): Promise<string | undefined> {
    return (await primary.getNotes(sessionId)).notes?.summary;
  }

  test("writes the notes of a submitted session", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await append(sessionId, "1", "2");
    const observer = start(analysis);
    observer.submit(sessionId);
    assert(await observer.close());
    assert.equal(await summaryOf(sessionId), "2 turns");
    assert.throws(() => {
      observer.submit(sessionId);
    }, UsageError);
  });

  test("runs a session once, however often it is submitted while it waits", async () => {
    const [sessionId, other] = [newSessionId(), newSessionId()];
    const analysis = new Analysis();
    analysis.hold();
    await using observer = start(analysis, { maxConcurrent: 1 });
    for (const submitted of [other, sessionId, sessionId, sessionId]) {
      observer.submit(submitted);
    }
    await analysis.started(1);
    analysis.release();
    assert(await observer.close());
    assert.equal(analysis.runs.length, 2);
    assert.equal((await runsOf(sessionId)).length, 1);
  });

  test("runs a session that is submitted during its run once more, and never twice at a time", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    analysis.hold();
    await using observer = start(analysis);
    observer.submit(sessionId);
    await analysis.started(1);
    for (let times = 0; times < 100; times += 1) {
      observer.submit(sessionId);
    }
    assert.equal((await runsOf(sessionId)).length, 1);
    analysis.release();
    assert(await observer.close());
    assert.equal(analysis.runs.length, 2);
    assert.deepEqual(
      (await endsOf(sessionId)).map(([state]) => state),
      ["written", "written"],
    );
  });

  test("analyses at most maxConcurrent sessions at a time", async () => {
    const analysis = new Analysis();
    analysis.hold();
    await using observer = start(analysis, { maxConcurrent: 2 });
    const sessions = Array.from({ length: 5 }, newSessionId);
    for (const sessionId of sessions) {
      observer.submit(sessionId);
    }
    await analysis.started(2);
    analysis.release();
    assert(await observer.close());
    assert.deepEqual(new Set(analysis.runs.map(({ sessionId }) => sessionId)), new Set(sessions));
  });

  test("holds a session back until it is quiet, and then runs it exactly once", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await using observer = start(analysis, { quietForMs: 700 });
    const started = performance.now();
    for (const text of ["1", "2", "3"]) {
      await append(sessionId, text);
      observer.submit(sessionId);
    }
    assert.equal(analysis.runs.length, 0);
    await analysis.started(1);
    assert(performance.now() - started >= 700);
    await observer.close();
    assert.equal(await summaryOf(sessionId), "3 turns");
    assert.equal(analysis.runs.length, 1);
  });

  for (const [pending, count] of [
    ["drop", 1],
    ["run", 2],
  ] as const) {
    test(`with the default brakes, holds a second run back until close: ${pending}`, async () => {
      const sessionId = newSessionId();
      const analysis = new Analysis();
      await using observer = new BackgroundObserver(analysis.run, { client, quietForMs: 0 });
      await append(sessionId, "1");
      observer.submit(sessionId);
      await eventually(async () => (await summaryOf(sessionId)) === "1 turns");
      await append(sessionId, "2");
      observer.submit(sessionId);
      observer.submit(sessionId);
      assert(await observer.close({ pending }));
      assert.equal(await summaryOf(sessionId), `${count} turns`);
      assert.equal(analysis.runs.length, count);
    });
  }

  test("can drop what waits at close", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await using observer = start(analysis, { quietForMs: 60_000 });
    observer.submit(sessionId);
    assert(await observer.close({ pending: "drop" }));
    assert.deepEqual(await runsOf(sessionId), []);
  });

  test("runs a session only if it has enough new turns, and not for those that the notes have seen", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await using observer = start(analysis, { minNewTurns: 2 });
    await append(sessionId, "1");
    observer.submit(sessionId);
    await append(sessionId, "2");
    observer.submit(sessionId);
    await eventually(async () => (await summaryOf(sessionId)) === "2 turns");
    observer.submit(sessionId);
    await append(sessionId, "3");
    observer.submit(sessionId);
    // A session that is held back for turns is run at close if it has any.
    assert(await observer.close());
    assert.equal(await summaryOf(sessionId), "3 turns");
    assert.deepEqual((await runsOf(sessionId)).length, 2);
  });

  test("does not run a session at close that expired while it waited for turns", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await using observer = start(analysis, { minNewTurns: 2 });
    await append(sessionId, "1");
    await primary.updateSession(sessionId, {}, { ttlMs: 1500 });
    observer.submit(sessionId);
    await eventually(async () => (await primary.getSession(sessionId)).turnCount === 0);
    assert(await observer.close());
    assert.deepEqual(analysis.runs, []);
  });

  test("stops after maxRuns of a session, and warns once", async () => {
    warnings.clear();
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await using observer = start(analysis, { maxRuns: 1 });
    observer.submit(sessionId);
    await eventually(async () => (await endsOf(sessionId))[0]?.[0] === "written");
    observer.submit(sessionId);
    observer.submit(sessionId);
    await observer.close();
    assert.equal((await runsOf(sessionId)).length, 1);
    const [warning, ...others] = await warnings.texts(1);
    assert.match(warning ?? "", /^session [0-9a-f]{8}: maxRuns of 1 reached, no further runs$/);
    assert.deepEqual(others, []);
  });

  test("waits longer after each failure, with brakes", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    analysis.notes = () => {
      throw new RangeError("my card is 4111");
    };
    const braked = { brakes: true, minIntervalMs: 0, quietForMs: 0, minNewTurns: 0 };
    await using observer = start(analysis, braked);
    observer.submit(sessionId);
    await eventually(async () => (await endsOf(sessionId))[0]?.[0] === "failed");
    observer.submit(sessionId);
    await observer.close({ pending: "drop" });
    assert.equal(analysis.runs.length, 1);
  });

  test("records failures, and warns of them without user data", async () => {
    warnings.clear();
    const analysis = new Analysis();
    const failures: readonly (readonly [string, () => unknown])[] = [
      [
        "RangeError",
        () => {
          throw new RangeError("my card is 4111");
        },
      ],
      ["ended without notes", () => undefined],
      ["InvalidArgument", () => ({ coverage: { "my card is 4111": 2 } })],
      ["InvalidArgument", () => "my card is 4111"],
    ];
    await using observer = start(analysis);
    for (const [failure, notes] of failures) {
      const sessionId = newSessionId();
      analysis.notes = notes as () => NewNotes;
      observer.submit(sessionId);
      await eventually(async () => (await endsOf(sessionId))[0]?.[0] === "failed");
      assert.deepEqual(await endsOf(sessionId), [["failed", failure]]);
    }
    const texts = (await warnings.texts(4)).map((text) => text.replace(/^session [0-9a-f]{8}, run 1: /, ""));
    assert.deepEqual(texts, [
      "the analysis threw RangeError",
      "the analysis returned no notes",
      "the notes were not written: InvalidArgument: notes.coverage[…] must be from 0 to 1",
      "the notes were not written: InvalidArgument: notes must be an object, not string",
    ]);
  });

  test("lets an analysis end its run itself", async () => {
    const [written, failed] = [newSessionId(), newSessionId()];
    warnings.clear();
    await using observer = new BackgroundObserver(
      async (run) => {
        await (run.sessionId === written ? run.write({ summary: "mine" }) : run.fail("no model"));
      },
      { client, brakes: false },
    );
    observer.submit(written);
    observer.submit(failed);
    await observer.close();
    assert.equal(await summaryOf(written), "mine");
    assert.deepEqual(await endsOf(failed), [["failed", "no model"]]);
    assert.deepEqual(await warnings.texts(0), []);
  });

  test("aborts an analysis at its time limit, and discards notes that come too late", async () => {
    const [sessionId, deaf] = [newSessionId(), newSessionId()];
    const analysis = new Analysis();
    const reasons: unknown[] = [];
    await using observer = new BackgroundObserver(
      async (run) => {
        await once(run.signal, "abort");
        reasons.push(run.signal.reason);
        if (run.sessionId === sessionId) {
          throw run.signal.reason;
        }
        return analysis.run(run);
      },
      { client, brakes: false, timeLimitMs: 300 },
    );
    observer.submit(sessionId);
    observer.submit(deaf);
    await analysis.started(1);
    await observer.close();
    for (const late of [sessionId, deaf]) {
      assert.deepEqual(await endsOf(late), [["failed", "time limit of 0.3 s passed"]]);
    }
    assert(reasons.every((reason) => reason instanceof DOMException && reason.name === "TimeoutError"));
  });

  test("gives up at the timeout of close, and records its runs as failed", async () => {
    const [sessionId, waiting] = [newSessionId(), newSessionId()];
    const analysis = new Analysis();
    analysis.hold();
    const observer = start(analysis, { maxConcurrent: 1 });
    observer.submit(sessionId);
    observer.submit(waiting);
    await analysis.started(1);
    assert.equal(await observer.close({ timeoutMs: 100 }), false);
    assert(analysis.runs[0]?.signal.aborted);
    assert.deepEqual(await endsOf(sessionId), [["failed", "observer closed"]]);
    analysis.release();
    await eventually(async () => Promise.resolve((await endsOf(sessionId)).length === 1));
    assert.deepEqual(await runsOf(waiting), []);
  });

  test("gives up runs that cannot begin soon after close", async () => {
    const analysis = new Analysis();
    const observer = new BackgroundObserver(analysis.run, { target: await unreachable(), brakes: false });
    observer.submit("s");
    const begun = performance.now();
    assert(await observer.close());
    assert(performance.now() - begun < 8000);
    assert.equal(analysis.runs.length, 0);
  });

  test("runs a session after an outage that is longer than the retries of BeginRun", async () => {
    await using restarted = await Sidecar.start();
    using impatient = new ObserverClient(restarted.target, { timeoutMs: 1000 });
    const analysis = new Analysis();
    const options = { client: impatient, quietForMs: 0, minIntervalMs: 0, minNewTurns: 0 };
    await using observer = new BackgroundObserver(analysis.run, options);
    await restarted.end("SIGKILL");
    warnings.clear();
    observer.submit(newSessionId());
    assert.match((await warnings.texts(1))[0] ?? "", /no run could begin/);
    await restarted.start();
    await analysis.started(1);
    assert(await observer.close({ timeoutMs: 30_000 }));
  });

  test("runs a session again whose notes an outage lost, unless it has had all its runs", async () => {
    for (const maxRuns of [1, 2]) {
      await using restarted = await Sidecar.start();
      using impatient = new ObserverClient(restarted.target, { timeoutMs: 1000 });
      const analysis = new Analysis();
      analysis.hold();
      const options = { client: impatient, quietForMs: 0, minIntervalMs: 0, minNewTurns: 0, maxRuns };
      await using observer = new BackgroundObserver(analysis.run, options);
      observer.submit(newSessionId());
      await analysis.started(1);
      await restarted.end("SIGKILL");
      warnings.clear();
      analysis.release();
      assert.match((await warnings.texts(1))[0] ?? "", /the notes could not be written/);
      await restarted.start();
      await analysis.started(maxRuns);
      assert(await observer.close({ timeoutMs: 30_000 }));
      assert.equal(analysis.runs.length, maxRuns);
    }
  });

  test("warns less and less often while an outage lasts", async () => {
    warnings.clear();
    using away = new ObserverClient(await unreachable(), { timeoutMs: 10 });
    await using observer = start(new Analysis(), { client: away, maxConcurrent: 30 });
    for (let number = 0; number < 30; number += 1) {
      observer.submit(`s-${number}`);
    }
    await observer.close();
    const texts = await warnings.texts(10);
    assert(texts.length <= 22, `${texts.length} warnings`); // 11 of each kind
    assert.match(texts[0] ?? "", /^session [0-9a-f]{8}: no run could begin: (Unavailable|DeadlineExceeded)$/);
  });

  test("hands out only the turns that the current notes have not seen", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    analysis.notes = (run) => ({ summary: `${run.current?.notes?.summary ?? "none"}, ${run.transcript.length}` });
    await using observer = start(analysis, { transcript: "new", maxTurns: 2 });
    await append(sessionId, "1", "2", "3");
    observer.submit(sessionId);
    await eventually(async () => (await summaryOf(sessionId)) === "none, 2");
    await append(sessionId, "4");
    observer.submit(sessionId);
    await eventually(async () => (await summaryOf(sessionId)) === "none, 2, 1");
    assert.deepEqual(
      analysis.runs.map(({ firstTurn }) => firstTurn),
      [2, 4],
    );
  });

  test("renews its lease while an analysis runs", async () => {
    const sessionId = newSessionId();
    const analysis = new Analysis();
    await using observer = start(analysis, { leaseMs: 900 });
    observer.submit(sessionId); // Shows that the sidecar renews leases.
    await eventually(async () => (await endsOf(sessionId))[0]?.[0] === "written");
    analysis.hold();
    observer.submit(sessionId);
    await analysis.started(2);
    const end = performance.now() + 2500;
    while (performance.now() < end) {
      assert.equal((await runsOf(sessionId))[1]?.state, "running");
    }
    analysis.release();
    await observer.close();
    assert.equal((await runsOf(sessionId))[1]?.state, "written");
  });

  test("tells an analysis that its run is obsolete, which is no failure to back off from", async () => {
    warnings.clear();
    const sessionId = newSessionId();
    const analysis = new Analysis();
    analysis.hold();
    await using observer = start(analysis, { leaseMs: 600 });
    observer.submit(sessionId);
    await analysis.started(1);
    await client.writeNotes(sessionId, { summary: "newer" });
    await eventually(() => Promise.resolve(analysis.runs[0]?.obsolete === true));
    analysis.notes = () => undefined;
    analysis.release();
    await observer.close();
    assert.equal(await summaryOf(sessionId), "newer");
    assert.deepEqual((await endsOf(sessionId))[0], ["failed", "obsolete: a newer run was faster"]);
    assert.deepEqual(await warnings.texts(0), []);
  });

  test("drops a deleted session, and ends its run", async () => {
    const [running, waiting] = [newSessionId(), newSessionId()];
    const analysis = new Analysis();
    analysis.hold();
    await using observer = start(analysis, { maxConcurrent: 1 });
    await append(running, "1");
    observer.submit(running);
    observer.submit(waiting);
    await analysis.started(1);
    await primary.deleteSession(running);
    await primary.deleteSession(waiting);
    const [run] = analysis.runs;
    assert(run?.ended && run.obsolete && run.signal.aborted);
    analysis.release();
    await observer.close();
    assert.equal(analysis.runs.length, 1);
    for (const sessionId of [running, waiting]) {
      assert.equal((await primary.getSession(sessionId)).createTime, undefined);
    }
  });

  test("runs after the turns of a recorder are stored, outside of the recording request", async () => {
    const sessionId = newSessionId();
    const request = new AsyncLocalStorage<string>();
    const seen: (string | undefined)[] = [];
    const observer = new BackgroundObserver(
      (run) => {
        seen.push(request.getStore());
        return { summary: run.transcript.map(({ text }) => text).join() };
      },
      { client, brakes: false },
    );
    const recorder = new TurnRecorder(primary, { observer, timeoutMs: 10_000 });
    request.run("the request", () => {
      recorder.record(sessionId, { speaker: "user", text: "1" });
      recorder.record(sessionId, { speaker: "user", text: "2" });
    });
    assert(await recorder.close());
    await eventually(async () => (await summaryOf(sessionId)) === "1,2");
    request.run("the request", () => {
      observer.submit(newSessionId());
    });
    assert(await observer.close());
    assert.deepEqual(seen, [undefined, undefined]);
  });

  test("finds due sessions, whose submission was lost", async () => {
    const sessionId = newSessionId();
    const name = `sweeper-${sessionId}`;
    const analysis = new Analysis();
    await append(sessionId, "1");
    const swept = { target: sidecar.target, observer: name, brakes: false };
    await using observer = new BackgroundObserver(analysis.run, swept);
    observer.sweep(100);
    const read = { observer: name };
    await eventually(async () => (await primary.getNotes(sessionId, read)).notes?.summary === "1 turns");
    await append(sessionId, "2");
    await eventually(async () => (await primary.getNotes(sessionId, read)).notes?.summary === "2 turns");
    await observer.close();
    assert.equal(analysis.runs.filter((run) => run.sessionId === sessionId).length, 2);
  });

  test("counts the runs of other processes for the interval, and closes at once", async () => {
    const sessionId = newSessionId();
    await client.run(sessionId, (run) => run.write({ summary: "by another process" }));
    await append(sessionId, "1");
    await client.run(sessionId, (run) => run.fail("by another process"));
    const analysis = new Analysis();
    const brakes = { minNewTurns: 1, minIntervalMs: 1000 };
    await using observer = start(analysis, brakes);
    observer.submit(sessionId);
    await eventually(async () => (await runsOf(sessionId)).at(-1)?.state === "written");
    const [, failed, last] = await runsOf(sessionId);
    assert(Number(last?.beginTime) - Number(failed?.beginTime) >= 990);
    await append(sessionId, "2");
    const late = start(analysis, { ...brakes, minIntervalMs: 3_600_000 });
    late.submit(sessionId);
    assert(await late.close());
    assert.equal(analysis.runs.length, 2);
  });

  test("waits while a run of another process is in flight", async () => {
    const [taken, free] = [newSessionId(), newSessionId()];
    await Promise.all([append(taken, "1"), append(free, "1")]);
    const { run } = await client.beginRun(taken);
    const analysis = new Analysis();
    await using observer = start(analysis, { minNewTurns: 1, minIntervalMs: 200, maxConcurrent: 1 });
    observer.submit(taken);
    observer.submit(free);
    await analysis.started(1);
    assert.equal(analysis.runs[0]?.sessionId, free, "the first submission was tried before");
    await client.failRun(taken, run.runId, "by another process");
    await analysis.started(2);
    assert.equal(analysis.runs[1]?.sessionId, taken);
  });

  test("leaves a due session that another process ran while it was queued", async () => {
    await using own = await Sidecar.start();
    using others = new PrimaryClient(own.target, { stateTimeoutMs: 10_000 });
    using another = new ObserverClient(own.target, { timeoutMs: 30_000 });
    const sessions = [newSessionId(), newSessionId()];
    const speak = (sessionId: string) => others.appendTurns(sessionId, [{ speaker: "user", text: "x" }]);
    await Promise.all(sessions.map(speak));
    const analysis = new Analysis();
    analysis.hold();
    const swept = { target: own.target, maxConcurrent: 1, quietForMs: 0, minIntervalMs: 3_600_000 };
    const observer = new BackgroundObserver(analysis.run, swept);
    observer.sweep(3_600_000);
    await analysis.started(1); // The other session is in the same page, and queued.
    const queued = sessions.find((sessionId) => sessionId !== analysis.runs[0]?.sessionId) ?? "";
    await another.run(queued, (run) => run.write({ summary: "faster" }));
    await speak(queued);
    analysis.release();
    assert(await observer.close());
    assert.equal(analysis.runs.length, 1);
  });

  test("shares the due sessions between two processes", async () => {
    const name = `shared-${newSessionId()}`;
    const sessions = Array.from({ length: 20 }, newSessionId);
    await Promise.all(sessions.map((sessionId) => append(sessionId, "1")));
    const script = `import { BackgroundObserver } from "session-notes";
      import { setTimeout as sleep } from "node:timers/promises";
      const observer = new BackgroundObserver(
        async () => { await sleep(20); return { summary: "x" }; },
        { target: "${sidecar.target}", observer: "${name}", brakes: false, maxConcurrent: 2 });
      observer.sweep(50);
      process.stdin.on("data", async () => {
        console.log(await observer.close());
        process.exit();
      });`;
    const processes = [0, 1].map(() => spawn(process.execPath, ["--input-type=module", "--eval", script]));
    using reader = new ObserverClient(sidecar.target, { observer: name });
    const runs = async (sessionId: string): Promise<Run[]> => {
      const found: Run[] = [];
      for await (const run of reader.listRuns(sessionId)) {
        found.push(run);
      }
      return found;
    };
    try {
      const written = async (sessionId: string) => (await runs(sessionId)).some(({ state }) => state === "written");
      for (const sessionId of sessions) {
        await eventually(() => written(sessionId), 30_000);
      }
    } finally {
      for (const child of processes) {
        child.stdin.write("close\n");
      }
      await Promise.all(processes.map((child) => once(child, "exit")));
    }
    for (const sessionId of sessions) {
      const writes = (await runs(sessionId)).filter(({ state }) => state === "written");
      assert.equal(writes.length, 1);
    }
  });

  test("does not keep the process alive while it waits, and does while it sweeps", async () => {
    const script = (lines: string): string => `import { BackgroundObserver } from "session-notes";
      const observer = new BackgroundObserver(() => ({}), { target: "${sidecar.target}", quietForMs: 60_000 });
      ${lines}`;
    const run = (lines: string, timeout: number) =>
      execute(process.execPath, ["--input-type=module", "--eval", script(lines)], { timeout });
    await run(`observer.submit("waiting");`, 20_000);
    await assert.rejects(run("observer.sweep(60_000);", 3000), { killed: true });
  });

  test("rejects arguments of a wrong kind", () => {
    const wrong: readonly (readonly [BackgroundOptions | object, string])[] = [
      [{ client: 42 }, "client must be an ObserverClient, not number"],
      [{ client, observer: "coach" }, "pass either client, or target, token, tls and observer to create one"],
      [{ maxConcurrent: 0 }, "maxConcurrent must be at least 1"],
      [{ timeLimitMs: 0 }, "timeLimitMs must be above 0 and finite"],
      [{ ttlMs: "1" }, "ttlMs must be a number of milliseconds, not string"],
      [{ leaseMs: Infinity }, "leaseMs must be above 0 and finite"],
      [{ transcript: "some" }, "transcript must be all or new"],
      [{ maxTurns: 0 }, "maxTurns must be at least 1"],
      [{ minIntervalMs: -1 }, "minIntervalMs must be at least 0 and finite"],
      [{ minNewTurns: 1.5 }, "minNewTurns must be a whole number up to 2^53 - 1"],
      [{ quietForMs: NaN }, "quietForMs must be a number of milliseconds, not NaN"],
      [{ maxRuns: 0 }, "maxRuns must be at least 1"],
      [{ brakes: "off" }, "brakes must be a boolean, not string"],
    ];
    for (const [options, message] of wrong) {
      assert.throws(() => new BackgroundObserver(() => ({}), options), { name: "InvalidArgument", message });
    }
    const message = "analyse must be a function of a run, not Object";
    assert.throws(() => new BackgroundObserver({} as never), { name: "InvalidArgument", message });
  });
});
