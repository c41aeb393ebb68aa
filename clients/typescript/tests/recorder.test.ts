/** Tests of the recorder: turns are stored in the background, once each and in order, whatever happens to the sidecar. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { after, before, suite, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { promisify } from "node:util";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";
import { ObserverClient, PrimaryClient, TurnRecorder, Unavailable } from "session-notes";

import { ErrorInfoSchema, StatusSchema } from "../dist/gen/session_notes/status/v1/status_pb.js";
import {
  AppendTurnsRequestSchema,
  AppendTurnsResponseSchema,
  GetSessionResponseSchema,
} from "../dist/gen/session_notes/v1/session_state_pb.js";
import { Refusing } from "./refusing.js";
import { eventually, newSessionId, unreachable, Sidecar, Warnings } from "./sidecar.js";

const execute = promisify(execFile);

function said(text: string): { speaker: string; text: string } {
  return { speaker: "user", text };
}

/** Returns `grpc-status-details-bin` with a reason. */
function reason(name: string, metadata: Record<string, string>): Uint8Array {
  const value = toBinary(ErrorInfoSchema, create(ErrorInfoSchema, { reason: name, metadata }));
  const details = [{ typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value }];
  return toBinary(StatusSchema, create(StatusSchema, { details }));
}

suite("a recorder", { concurrency: false }, () => {
  let sidecar: Sidecar;
  let primary: PrimaryClient;
  const warnings = new Warnings();

  before(async () => {
    sidecar = await Sidecar.start();
    primary = new PrimaryClient(sidecar.target, { timeoutMs: 5000, stateTimeoutMs: 10_000 });
  });

  after(async () => {
    primary.close();
    warnings[Symbol.dispose]();
    await sidecar[Symbol.asyncDispose]();
  });

  async function transcript(sessionId: string): Promise<string[]> {
    return (await primary.getSession(sessionId, { includeTurns: true })).turns.map(({ text }) => text);
  }

  test("stores turns in order, and then submits their session once", async () => {
    const sessionId = newSessionId();
    const seen: Promise<string[]>[] = [];
    const observer = { submit: (submitted: string) => seen.push(transcript(submitted)) };
    await using recorder = new TurnRecorder(primary, { observer, timeoutMs: 10_000 });
    recorder.record(sessionId, [said("1"), said("2")], { observe: false });
    recorder.record(sessionId, said("3"));
    assert.equal(recorder.turns(sessionId), undefined);
    assert(await recorder.close());
    assert.equal(recorder.turns(sessionId), 3);
    assert.deepEqual(await Promise.all(seen), [["1", "2", "3"]]);
  });

  test("submits no run for turns that are only to be stored, and one without turns on request", async () => {
    const sessionId = newSessionId();
    const submitted: string[] = [];
    const observer = { submit: (id: string) => submitted.push(id) };
    await using recorder = new TurnRecorder(primary, { observer, timeoutMs: 10_000 });
    recorder.record(sessionId, said("1"), { observe: false });
    await eventually(() => Promise.resolve(recorder.turns(sessionId) === 1));
    assert.deepEqual(submitted, []);
    recorder.record(sessionId, []);
    await recorder.close();
    assert.deepEqual(submitted, [sessionId]);
  });

  test("records 1,000 turns once each and in order while the sidecar is killed and restarted", async () => {
    const sessions = [newSessionId(), newSessionId()];
    const recorder = new TurnRecorder(primary, { timeoutMs: 2000 });
    const texts = Array.from({ length: 1000 }, (_, index) => String(index));
    let restarted: Promise<void> | undefined;
    for (const [index, text] of texts.entries()) {
      for (const sessionId of sessions) {
        recorder.record(sessionId, said(text));
      }
      if (index % 20 === 0) {
        // Let calls be sent, so that the kill meets some of them in flight.
        await nextTurn();
      }
      if (index === 300) {
        restarted = sidecar.end("SIGKILL").then(() => sidecar.start());
      }
    }
    await restarted;
    assert(await recorder.close({ timeoutMs: 60_000 }));
    for (const sessionId of sessions) {
      assert.deepEqual(await transcript(sessionId), texts);
    }
  });

  test("adapts what cannot be stored, never throws, and warns without user data", async () => {
    warnings.clear();
    const sessionId = newSessionId();
    await using recorder = new TurnRecorder(primary, { timeoutMs: 10_000 });
    const cyclic: Record<string, unknown> = { a: 1 };
    cyclic["list"] = [cyclic, cyclic];
    const hostile = {
      get text(): string {
        throw new RangeError("secret");
      },
    };
    const odd: unknown[] = [
      said("é".repeat(40_000)),
      { ...said("half \ud83d"), time: "secret", extra: { a: ["secret"], b: undefined } },
      { ...said("cyclic"), extra: cyclic },
      { ...said("date"), extra: { secret: new Date() } },
      { ...said("x".repeat(60_000)), extra: { secret: "y".repeat(10_000) } },
      "secret",
      { speaker: "secret" },
      hostile,
      { text: "anonymous", time: new Date(0) },
      { ...said("microseconds"), time: new Date(1_700_000_000_000_000) },
    ];
    recorder.record(sessionId, odd as never);
    recorder.record("secret id", said("secret"));
    recorder.record(42 as never, said("secret"));
    recorder.record(sessionId, null as never, null as never);
    assert(await recorder.close());
    const { turns } = await primary.getSession(sessionId, { includeTurns: true });
    const [cut, ...rest] = turns;
    assert(cut !== undefined && /^é+ \[…\]$/u.test(cut.text));
    assert(Buffer.byteLength(cut.text) > 65_000 && Buffer.byteLength(cut.text) < 65_536);
    assert.deepEqual(rest, [
      { speaker: "user", text: "half \ufffd", extra: { a: ["secret"] } },
      said("cyclic"),
      said("date"),
      said("x".repeat(60_000)),
      { speaker: "", text: "anonymous", time: new Date(0) },
      said("microseconds"),
    ]);
    const digest = createHash("sha256").update(sessionId).digest("hex").slice(0, 8);
    const texts = await warnings.texts(4);
    assert(!texts.join().includes("secret"), texts.join());
    assert.equal(
      texts[0],
      `session ${digest}: text cut, time left out: it is not a Date in the years 1 to 9999 (2 times), ` +
        "extra left out: not JSON, nested too deep, or too large (2 times), " +
        "extra left out: too large next to the text, left out, not a turn: string, " +
        "a turn left out: its text is undefined, a turn left out: RangeError",
    );
    assert.equal(texts[1], "1 turn not recorded: the session id is not 1 to 256 printable ASCII characters");
    assert.equal(texts[2], `${texts[1]}, but number`);
  });

  test("warns of a second turn that is not in an array with the first", async () => {
    warnings.clear();
    const sessionId = newSessionId();
    await using recorder = new TurnRecorder(primary, { timeoutMs: 10_000 });
    recorder.record(sessionId, said("1"), said("2") as never);
    assert(await recorder.close());
    assert.deepEqual(await transcript(sessionId), ["1"]);
    const problem = "InvalidArgument: options[…] is not one of observe";
    assert.deepEqual(await warnings.texts(1), [`the third argument of record has no effect: ${problem}`]);
  });

  test("does not record notes as speech", async () => {
    const sessionId = newSessionId();
    const submitted: string[] = [];
    using observer = new ObserverClient(sidecar.target);
    await observer.writeNotes(sessionId, { summary: "x" });
    const notes = (await primary.getNotes(sessionId)).asPrompt();
    assert.notEqual(notes, "");
    await using recorder = new TurnRecorder(primary, { observer: { submit: (id) => submitted.push(id) } });
    recorder.record(sessionId, { speaker: "system", text: notes });
    await recorder.close();
    assert.deepEqual([await transcript(sessionId), submitted], [[], []]);
    await using later = new TurnRecorder(primary);
    later.record(sessionId, said(`${notes}\n\nYes.`));
    await later.close();
    assert.deepEqual(await transcript(sessionId), ["Yes."]);
  });

  test("drops the pending turns of a deleted session", async () => {
    const sessionId = newSessionId();
    await primary.appendTurns(sessionId, [said("old")]);
    await using recorder = new TurnRecorder(primary, { timeoutMs: 10_000 });
    using other = new PrimaryClient(sidecar.target.replace("127.0.0.1", "localhost"));
    await sidecar.end("SIGKILL");
    recorder.record(sessionId, said("pending"));
    await assert.rejects(other.deleteSession(sessionId), Unavailable);
    await sidecar.start();
    assert(await recorder.close({ timeoutMs: 10_000 }));
    assert.deepEqual(await transcript(sessionId), ["old"]);
  });

  test("continues where another writer has appended", async () => {
    const sessionId = newSessionId();
    await using recorder = new TurnRecorder(primary, { timeoutMs: 10_000 });
    recorder.record(sessionId, said("1"));
    await eventually(() => Promise.resolve(recorder.turns(sessionId) === 1));
    await primary.appendTurns(sessionId, [said("2")]);
    recorder.record(sessionId, said("3"));
    assert(await recorder.close());
    assert.deepEqual(await transcript(sessionId), ["1", "2", "3"]);
    assert.equal(recorder.turns(sessionId), 3);
  });

  test("shortens a turn to the limit of a sidecar, and leaves out one that is rejected", async () => {
    await using small = await Sidecar.start("--max-turn-bytes", "2048");
    using client = new PrimaryClient(small.target, { stateTimeoutMs: 10_000 });
    const sessionId = newSessionId();
    await using recorder = new TurnRecorder(client, { timeoutMs: 10_000 });
    recorder.record(sessionId, [said("1"), said("x".repeat(5000)), said("3")]);
    assert(await recorder.close());
    const { turns } = await client.getSession(sessionId, { includeTurns: true });
    assert.deepEqual([turns.length, turns[0]?.text, turns[2]?.text], [3, "1", "3"]);
    assert.match(turns[1]?.text ?? "", /^x{1900,} \[…\]$/u);
  });

  test("stores pending turns when the process ends, without close", async () => {
    const sessionId = newSessionId();
    const { stdout } = await run(sidecar.target, `recorder.record("${sessionId}", { speaker: "user", text: "last" });`);
    assert.equal(stdout, "");
    assert.deepEqual(await transcript(sessionId), ["last"]);
  });

  test("delays the end of the process only briefly during an outage, and warns of the loss", async () => {
    const started = performance.now();
    const { stderr } = await run(await unreachable(), `recorder.record("s", { speaker: "user", text: "secret" });`);
    assert(performance.now() - started < 15_000);
    assert.match(stderr, /SessionNotesWarning: 1 turn of 1 session not recorded: the recorder ended/);
    assert(!stderr.includes("secret"));
  });

  test("keeps at most 10,000 turns, warns once, and reports the loss", async () => {
    warnings.clear();
    using client = new PrimaryClient(await unreachable());
    const recorder = new TurnRecorder(client);
    for (let index = 0; index < 10_003; index += 1) {
      recorder.record("s", said("x"));
    }
    assert.equal(await recorder.close({ timeoutMs: 100 }), false);
    recorder.record("s", said("late"));
    const texts = await warnings.texts(3);
    assert.deepEqual(
      texts.filter((text) => !text.includes("stay pending")),
      [
        "10000 turns pending, the most that a recorder keeps: turns are dropped (1 so far) until the sidecar stores turns again",
        "10000 turns of 1 session not recorded: the recorder ended before they could be stored (Unavailable); 3 more were dropped before",
        "session 043a718774c572bd8a25adbeb1bfcd5c0256ae11cecf9f9c3f925d0e52beaf89".slice(0, 16) +
          ": 1 turn not recorded: the recorder is closed",
      ],
    );
  });

  test("repeats an append with the same id, and recognizes its turns where ids are ignored", async () => {
    const refusing = await Refusing.start();
    try {
      using client = new PrimaryClient(refusing.target);
      const recorder = new TurnRecorder(client, { timeoutMs: 10_000 });
      const session = { turnCount: 2n, turns: [said("1"), said("2")] };
      refusing.responses.push(
        { code: Code.UNAVAILABLE },
        { code: Code.ABORTED, details: reason("TURN_COUNT_MISMATCH", { expected: "0", actual: "2" }) },
        toBinary(GetSessionResponseSchema, create(GetSessionResponseSchema, { session })),
        toBinary(AppendTurnsResponseSchema, create(AppendTurnsResponseSchema, { turnCount: 3n })),
      );
      recorder.record("s", [said("1"), said("2")]);
      await eventually(() => Promise.resolve(recorder.turns("s") === 2));
      recorder.record("s", said("3"));
      assert(await recorder.close({ timeoutMs: 10_000 }));
      const [first, second, , last] = refusing.requests;
      assert(first !== undefined && second !== undefined && last !== undefined);
      assert.deepEqual(first, second);
      const append = fromBinary(AppendTurnsRequestSchema, last);
      assert.deepEqual(
        append.turns.map(({ text }) => text),
        ["3"],
      );
      assert.equal(append.expectedTurnCount, 2n);
      assert.notEqual(append.appendId, fromBinary(AppendTurnsRequestSchema, first).appendId);
    } finally {
      refusing.stop();
    }
  });

  test("rejects arguments of a wrong kind", () => {
    const message = "client must be a PrimaryClient, not Object";
    assert.throws(() => new TurnRecorder({} as never), { name: "InvalidArgument", message });
    for (const [options, problem] of [
      [{ observer: 42 }, "observer must be a BackgroundObserver, not number"],
      [{ timeoutMs: "1" }, "timeoutMs must be a number of milliseconds, not string"],
    ] as const) {
      assert.throws(() => new TurnRecorder(primary, options as never), { name: "InvalidArgument", message: problem });
    }
  });
});

/** Runs a script with a recorder that is never closed. */
function run(target: string, lines: string): Promise<{ stdout: string; stderr: string }> {
  const script = `import { PrimaryClient, TurnRecorder } from "session-notes";
    const recorder = new TurnRecorder(new PrimaryClient("${target}"));
    ${lines}`;
  return execute(process.execPath, ["--input-type=module", "--eval", script], { timeout: 30_000 });
}
