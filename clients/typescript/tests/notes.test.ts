/** Tests of notes that arrive at a model: feeds and the tool. */

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";

import { NotesFeed, NotesTool, ObserverClient, PrimaryClient } from "session-notes";

import { newSessionId, unreachable, Sidecar, Warnings } from "./sidecar.js";

const PARAMETERS = { type: "object", properties: {}, required: [], additionalProperties: false };

suite("notes for a model", { concurrency: false }, () => {
  let sidecar: Sidecar;
  let primary: PrimaryClient;
  const warnings = new Warnings();

  before(async () => {
    sidecar = await Sidecar.start();
    primary = new PrimaryClient(sidecar.target, { timeoutMs: 10_000, stateTimeoutMs: 10_000 });
  });

  after(async () => {
    primary.close();
    warnings[Symbol.dispose]();
    await sidecar[Symbol.asyncDispose]();
  });

  async function write(sessionId: string, observer: string, summary: string): Promise<void> {
    using client = new ObserverClient(sidecar.target, { observer });
    const issues = [{ text: "later", severity: "info" as const }, { text: "unrated" }];
    await client.writeNotes(sessionId, { summary, issues });
  }

  test("a tool is defined for OpenAI and Anthropic, without arguments", () => {
    const tool = new NotesTool(primary, "s");
    const { name, description } = tool;
    assert.equal(name, "get_session_notes");
    assert.match(description, /^Reads a background observer's notes on this conversation: /);
    assert.deepEqual(tool.openai(), { type: "function", function: { name, description, parameters: PARAMETERS } });
    const responses = { type: "function", name, description, parameters: PARAMETERS, strict: true };
    assert.deepEqual(tool.openaiResponses(), responses);
    assert.deepEqual(tool.anthropic(), { name, description, input_schema: PARAMETERS });
    const own = new NotesTool(primary, "s", { name: "advice", description: "Advice.", observers: ["coach"] });
    assert.deepEqual(own.anthropic(), { name: "advice", description: "Advice.", input_schema: PARAMETERS });
  });

  test("a tool returns the result of its session, with its bounds and severities", async () => {
    const sessionId = newSessionId();
    let turns = 3;
    const bounds = { maxTurnsBehind: 1, currentTurn: () => turns };
    const tool = new NotesTool(primary, sessionId, { observer: "coach", minSeverity: "info", ...bounds });
    assert.equal(await tool.json(), '{"ready":false,"reason":"never_run"}');
    using client = new ObserverClient(sidecar.target, { observer: "coach" });
    const issues = [{ text: "late", severity: "info" as const }, { text: "unrated" }];
    await client.writeNotes(sessionId, { issues }, { observedTurn: 2 });
    const result = await tool.call();
    assert("fresh" in result && result.fresh);
    assert.deepEqual(result.notes, { issues: [{ text: "late", severity: "info" }] });
    turns = 4;
    const later = await tool.call();
    assert("fresh" in later && !later.fresh);
    assert.deepEqual(later.stale_because, ["turns_behind"]);
  });

  test("a tool for several observers returns the result of each", async () => {
    const sessionId = newSessionId();
    const tool = new NotesTool(primary, sessionId, { observers: ["", "critic"], minSeverity: "critical" });
    assert.match(tool.description, /^Reads the notes of several background observers/);
    await write(sessionId, "", "x");
    const result = await tool.call();
    assert("observers" in result);
    assert.deepEqual(Object.keys(result.observers), ["default", "critic"]);
    assert.deepEqual(result.observers["critic"], { ready: false, reason: "never_run" });
    const found = result.observers["default"];
    assert(found?.ready);
    assert.deepEqual(found.notes, { summary: "x" });
  });

  test("an outage is a result of the tool, and nothing new for a feed; other causes are warnings", async () => {
    warnings.clear();
    const unavailable = { ready: false, reason: "unavailable" };
    using away = new PrimaryClient(await unreachable());
    assert.deepEqual(await new NotesTool(away, "s").call(), unavailable);
    assert.deepEqual(await new NotesTool(away, "s", { observers: ["a", "b"] }).call(), unavailable);
    assert.equal(await new NotesFeed(away, "s").next(), null);
    assert.deepEqual(await warnings.texts(0), []);
    using refused = new PrimaryClient(sidecar.target, {
      token: () => {
        throw new RangeError("secret");
      },
    });
    assert.deepEqual(await new NotesTool(refused, "s").call(), unavailable);
    assert.equal(await new NotesFeed(refused, "s").next(), null);
    assert.deepEqual(await warnings.texts(2), [
      "notes tool: notes are unavailable to the model: Unauthenticated ",
      "session 043a7187: no notes for the prompt: Unauthenticated",
    ]);
  });

  test("a mistake in the program is an error of the tool and the feed", async () => {
    for (const make of [
      () => new NotesTool(primary, "no session").call(),
      () => new NotesFeed(primary, "no session").next(),
    ]) {
      await assert.rejects(make, { name: "InvalidArgument" });
    }
    const closed = new PrimaryClient(sidecar.target);
    closed.close();
    await assert.rejects(new NotesTool(closed, "s").call(), { name: "UsageError" });
    const wrong: readonly (readonly [() => unknown, string])[] = [
      [() => new NotesTool({} as never, "s"), "primary must be a PrimaryClient, not Object"],
      [() => new NotesFeed({} as never, "s"), "primary must be a PrimaryClient, not Object"],
      [() => new NotesTool(primary, "s", { observer: "a", observers: ["b"] }), "pass either observer or observers"],
      [() => new NotesFeed(primary, "s", { observers: [] }), "observers must name at least one observer"],
      [() => new NotesFeed(primary, "s", { observers: "a" as never }), "observers must be an array, not string"],
      [() => new NotesFeed(primary, "s", { maxChars: -1 }), "maxChars must be at least 0"],
      [
        () => new NotesTool(primary, "s", { minSeverity: "bad" as never }),
        "minSeverity must be info, warning or critical",
      ],
    ];
    for (const [make, message] of wrong) {
      assert.throws(make, { name: "InvalidArgument", message });
    }
  });

  test("a feed keeps silent if only the reason for which notes are stale has changed", async () => {
    const sessionId = newSessionId();
    const turn = { speaker: "user", text: "x" };
    await primary.appendTurns(sessionId, [turn]);
    using client = new ObserverClient(sidecar.target);
    await client.run(sessionId, (run) => run.write({ summary: "x" }));
    const feed = new NotesFeed(primary, sessionId, { maxAgeMs: 0, maxTurnsBehind: 0 });
    assert.match((await feed.next()) ?? "", /written a while ago/);
    await primary.appendTurns(sessionId, [turn]);
    assert.equal(await feed.next(), null);
  });

  test("the text of a feed counts characters, not halves of them, and has no more than its maximum", async () => {
    const sessionId = newSessionId();
    await write(sessionId, "", "😀".repeat(100));
    const whole = (await new NotesFeed(primary, sessionId).next()) ?? "";
    assert(whole.includes("😀"));
    const length = Array.from(whole).length;
    assert.equal(await new NotesFeed(primary, sessionId, { maxChars: length }).next(), whole);
    const less = (await new NotesFeed(primary, sessionId, { maxChars: length - 1 }).next()) ?? "";
    assert.match(less, /Summary: (😀)+ \[…\]\n<\/session-notes>$/u);
    assert(Array.from(less).length < length);
  });
});
