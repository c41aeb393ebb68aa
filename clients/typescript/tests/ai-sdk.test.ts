/** Tests of the AI SDK's integration, on each supported version of the SDK, with its mock models and a real sidecar. */

import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { fileURLToPath } from "node:url";

import * as ai from "ai";
import * as ai5 from "ai-5";
import { MockLanguageModelV2 } from "ai-5/test";
import * as ai7 from "ai-7";
import { MockLanguageModelV4 } from "ai-7/test";
import { MockLanguageModelV3 } from "ai/test";
import { PrimaryClient, TurnRecorder } from "session-notes";
import { notesMiddleware, notesTool, recordingMiddleware, type Recorder } from "session-notes/ai-sdk";

import { eventually, newSessionId, Sidecar, Silent, unreachable, Warnings } from "./sidecar.js";

/** A part of a model's answer. */
type Part =
  | { type: "text"; text: string }
  | { type: "reasoning"; text: string }
  | { type: "file"; mediaType: string; data: unknown }
  | { type: "error"; error: Error }
  | { type: "tool-call"; toolCallId: string; toolName: string; input: string };

const VALID_ID = "must be 1 to 256 bytes of printable ASCII without space, '{' or '}'";

/** An answer, or an error of the model. */
type Answer = readonly Part[] | Error;

interface Message {
  readonly role: string;
  readonly content: string | { type: string; text?: string }[];
}

interface Version {
  readonly name: "ai-5" | "ai" | "ai-7";
  /** The SDK, with the types of version 6. */
  readonly sdk: typeof ai;
  /** Returns a model of the SDK's own kind that gives these answers. */
  model: (calls: {
    doGenerate: (call: Call) => unknown;
    doStream: (call: Call) => unknown;
  }) => Parameters<typeof ai.wrapLanguageModel>[0]["model"];
}

interface Call {
  readonly prompt: Message[];
}

const VERSIONS: readonly Version[] = [
  { name: "ai-5", sdk: ai5 as never, model: (calls) => new MockLanguageModelV2(calls as never) as never },
  { name: "ai", sdk: ai, model: (calls) => new MockLanguageModelV3(calls as never) },
  { name: "ai-7", sdk: ai7 as never, model: (calls) => new MockLanguageModelV4(calls as never) as never },
];

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));

/** Installs the built package next to a version of the SDK, and imports both of its entries. */
async function installed({ name }: Version) {
  const home = mkdtempSync(join(PACKAGE, "build", `${name}-`));
  after(() => {
    rmSync(home, { recursive: true });
  });
  const modules = join(home, "node_modules");
  mkdirSync(modules);
  writeFileSync(join(home, "package.json"), '{ "private": true }');
  symlinkSync(join(PACKAGE, "node_modules", name), join(modules, "ai"));
  cpSync(join(PACKAGE, "package.json"), join(modules, "session-notes", "package.json"));
  cpSync(join(PACKAGE, "dist"), join(modules, "session-notes", "dist"), { recursive: true });
  const load = (entry: string): Promise<unknown> => import(join(modules, "session-notes", "dist", entry));
  return {
    home,
    ...((await load("index.js")) as typeof import("session-notes")),
    ...((await load("ai-sdk.js")) as typeof import("session-notes/ai-sdk")),
  };
}

const say = (text: string): Part => ({ type: "text", text });
const call = (toolName: string, input = "{}"): Part => ({ type: "tool-call", toolCallId: "c1", toolName, input });
const user = (content: string) => ({ role: "user" as const, content });
const assistant = (content: string) => ({ role: "assistant" as const, content });

/** A model that gives answers, one per call, and keeps the prompts. */
function scripted({ name, model }: Version, ...answers: readonly Answer[]) {
  const prompts: Message[][] = [];
  const old = name === "ai-5";
  const next = ({ prompt }: Call) => {
    prompts.push(structuredClone(prompt));
    const answer = answers[prompts.length - 1] ?? [];
    if (answer instanceof Error) {
      throw answer;
    }
    const reason = answer.some(({ type }) => type === "tool-call") ? "tool-calls" : "stop";
    return {
      answer,
      finishReason: old ? reason : { unified: reason, raw: reason },
      usage: old
        ? { inputTokens: 1, outputTokens: 1, totalTokens: 2 }
        : { inputTokens: { total: 1 }, outputTokens: { total: 1 } },
    };
  };
  return {
    prompts,
    model: model({
      doGenerate: (given) => {
        const { answer, ...rest } = next(given);
        return Promise.resolve({ content: answer, warnings: [], ...rest });
      },
      doStream: (given) => {
        const { answer, ...rest } = next(given);
        const parts = [
          { type: "stream-start", warnings: [] },
          ...answer.flatMap(streamed),
          { type: "finish", ...rest },
        ];
        return Promise.resolve({ stream: ai.simulateReadableStream({ chunks: parts, chunkDelayInMs: null }) });
      },
    }),
  };
}

function streamed(part: Part, index: number): object[] {
  if (part.type !== "text" && part.type !== "reasoning") {
    return [part];
  }
  const id = String(index);
  const deltas = part.text.split(/(?<= )/).map((delta) => ({ type: `${part.type}-delta`, id, delta }));
  return [{ type: `${part.type}-start`, id }, ...deltas, { type: `${part.type}-end`, id }];
}

/** The messages of all steps. Since version 7, `response` has those of the last one only. */
function responseMessages(result: {
  responseMessages?: ai.ModelMessage[];
  response: { messages: ai.ModelMessage[] };
}): ai.ModelMessage[] {
  return result.responseMessages ?? result.response.messages;
}

/** The texts of a prompt, by role; a message of another kind has its parts' types. */
function brief(prompt: readonly Message[] | undefined): string[] {
  return (prompt ?? []).map(({ role, content }) => {
    const texts = typeof content === "string" ? [content] : content.map(({ type, text }) => text ?? type);
    return `${role}: ${texts.map((text) => text.replace(/.*Summary: (.*)\n<.*/s, "<$1>")).join(" ")}`;
  });
}

for (const version of VERSIONS) {
  const { sdk } = version;
  const client = await installed(version);
  const { NotesTool, ObserverClient, PrimaryClient, TurnRecorder } = client;
  const { notesMiddleware, notesTool, recordingMiddleware } = client;

  suite(version.name, { concurrency: false }, () => {
    let sidecar: Sidecar;
    let primary: InstanceType<typeof PrimaryClient>;
    let recorder: InstanceType<typeof TurnRecorder>;
    const submitted: string[] = [];
    const warnings = new Warnings();

    before(async () => {
      sidecar = await Sidecar.start();
      primary = new PrimaryClient(sidecar.target, { timeoutMs: 10_000, stateTimeoutMs: 10_000 });
      recorder = new TurnRecorder(primary, { timeoutMs: 10_000, observer: { submit: (id) => submitted.push(id) } });
    });

    after(async () => {
      await recorder.close();
      primary.close();
      warnings[Symbol.dispose]();
      await sidecar[Symbol.asyncDispose]();
    });

    async function write(sessionId: string, summary: string): Promise<void> {
      using observer = new ObserverClient(sidecar.target);
      await observer.writeNotes(sessionId, { summary });
    }

    /** The transcript, once the session was submitted so many times. */
    async function transcript(sessionId: string, runs: number): Promise<string[]> {
      const times = () => submitted.filter((id) => id === sessionId).length;
      await eventually(() => Promise.resolve(times() >= runs));
      assert.equal(times(), runs);
      const { turns } = await primary.getSession(sessionId, { includeTurns: true });
      return turns.map(({ speaker, text, extra }) => `${speaker}: ${text}${extra ? ` ${JSON.stringify(extra)}` : ""}`);
    }

    const search = () =>
      sdk.tool({
        inputSchema: sdk.jsonSchema({ type: "object", properties: {} }),
        execute: () => Promise.resolve({ found: 2 }),
      });

    test("the tool has the result of NotesTool, and the model cannot choose the session", async () => {
      const sessionId = newSessionId();
      await write(sessionId, "Wants a refund.");
      const { model, prompts } = scripted(version, [call("advice", '{"sessionId":"other"}')], [say("Done.")]);
      const seen: unknown[] = [];
      const advice = notesTool(
        primary,
        (options) => {
          seen.push(options.toolCallId);
          return sessionId;
        },
        { maxTurnsBehind: 2 },
      );
      const { steps } = await sdk.generateText({
        model,
        tools: { advice },
        stopWhen: sdk.stepCountIs(3),
        messages: [user("Hello")],
      });
      const [result] = steps[0]?.toolResults ?? [];
      const expected = await new NotesTool(primary, sessionId, { maxTurnsBehind: 2 }).call();
      assert("fresh" in expected && expected.notes.summary === "Wants a refund.");
      const ages = { age_seconds: 0, snapshot_age_seconds: 0 };
      assert.deepEqual({ ...(result?.output as object), ...ages }, { ...expected, ...ages });
      assert.deepEqual(seen, ["c1"]);
      assert.equal(prompts.length, 2);
    });

    test("notes follow the user's latest message, and stay the same in all steps of a tool loop", async () => {
      const sessionId = newSessionId();
      await write(sessionId, "1");
      const middleware = notesMiddleware(primary, sessionId);
      const script = scripted(version, [call("search")], [say("Two.")], [say("Bye.")]);
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const newer = sdk.tool({
        inputSchema: sdk.jsonSchema({ type: "object", properties: {} }),
        execute: async () => {
          await write(sessionId, "2");
          return "2";
        },
      });
      const messages: ai.ModelMessage[] = [user("How many?")];
      const tools = { search: newer };
      const stopWhen = sdk.stepCountIs(3);
      const result = await sdk.generateText({ model, system: "Help.", messages, tools, stopWhen });
      messages.push(...responseMessages(result), user("Thanks."));
      await sdk.streamText({ model, system: "Help.", messages, tools }).consumeStream();
      const [first, second, third] = script.prompts.map(brief);
      assert.deepEqual(first, ["system: Help.", "user: How many?", "user: <1>"]);
      assert.deepEqual(second, [...first, "assistant: tool-call", "tool: tool-result"]);
      const before = [
        "system: Help.",
        "user: How many?",
        "assistant: tool-call",
        "tool: tool-result",
        "assistant: Two.",
      ];
      assert.deepEqual(third, [...before, "user: Thanks.", "user: <2>"]);
    });

    test("the last notes stay during an outage, and a system message may follow the user's", async () => {
      const sessionId = newSessionId();
      await using own = await Sidecar.start();
      using client = new PrimaryClient(own.target, { timeoutMs: 10_000 });
      using observer = new ObserverClient(own.target);
      await observer.writeNotes(sessionId, { summary: "1" });
      const { model, prompts } = scripted(version);
      const wrapped = sdk.wrapLanguageModel({ model, middleware: notesMiddleware(client, sessionId) });
      const ask = async (text: string) => {
        const messages = [user(text), { role: "system" as const, content: "Be brief." }];
        await sdk.generateText({ model: wrapped, messages, allowSystemInMessages: true });
      };
      await ask("a");
      await observer.writeNotes(sessionId, { summary: "2" });
      await ask("a");
      await own.end("SIGKILL");
      await ask("b");
      assert.deepEqual(prompts.map(brief), [
        ["user: a", "user: <1>", "system: Be brief."],
        ["user: a", "user: <2>", "system: Be brief."],
        ["user: b", "user: <2>", "system: Be brief."],
      ]);
    });

    test("a tool loop is recorded once, in order, without reasoning, files, tool calls and notes", async () => {
      const sessionId = newSessionId();
      await write(sessionId, "secret advice");
      const thought: Part = { type: "reasoning", text: "Hm." };
      const data = version.name === "ai-7" ? { type: "data", data: "aaaa" } : "aaaa";
      const picture: Part = { type: "file", mediaType: "image/png", data };
      const script = scripted(
        version,
        [thought, say("Let me "), say("see."), call("search")],
        [picture, say("Two.")],
        [thought, say("You are "), say("welcome.")],
      );
      const texts: string[] = [];
      const own: Recorder = {
        record: (id, turns, options) => {
          texts.push(...turns.map(({ text }) => text));
          recorder.record(id, turns, options);
        },
      };
      // In either order, notes are not recorded.
      const middleware = [notesMiddleware(primary, sessionId), recordingMiddleware(own, sessionId)];
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const image = { type: "file" as const, mediaType: "image/png", data: new Uint8Array([0x89, 0x50, 0x4e, 0x47]) };
      const text = (part: string) => ({ type: "text" as const, text: part });
      const messages: ai.ModelMessage[] = [
        user("old"),
        assistant("answered"),
        user("Hello?"),
        { role: "user", content: [text("How"), image, text("many?")] },
      ];
      const stopWhen = sdk.stepCountIs(3);
      const result = await sdk.generateText({ model, messages, tools: { search: search() }, stopWhen });
      assert.equal(result.text, "Two.");
      const first = ["user: Hello?", "user: How\nmany?", "primary: Let me see.", "primary: Two."];
      assert.deepEqual(await transcript(sessionId, 1), first);
      messages.push(...responseMessages(result), user("Thanks."));
      const stream = sdk.streamText({ model, messages, tools: { search: search() }, stopWhen });
      await stream.consumeStream();
      assert.equal(await stream.text, "You are welcome.");
      assert.deepEqual(await transcript(sessionId, 2), [...first, "user: Thanks.", "primary: You are welcome."]);
      assert.equal(script.prompts.filter((prompt) => brief(prompt).includes("user: <secret advice>")).length, 3);
      assert(!texts.join().includes("secret advice"));
    });

    test("on request, tool calls and results are recorded, but not those of a notes tool", async () => {
      const sessionId = newSessionId();
      const script = scripted(
        version,
        [say("Wait."), call("search", '{"q":1}')],
        [{ ...call("advice"), toolCallId: "c2" } as Part],
        [say("Two.")],
      );
      const middleware = recordingMiddleware(recorder, sessionId, { toolCalls: true });
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const tools = { search: search(), advice: notesTool(primary, sessionId) };
      // The application has performed the first call.
      const output = { type: "content" as const, value: [say("One"), say("two")] as { type: "text"; text: string }[] };
      const messages: ai.ModelMessage[] = [
        user("old"),
        { role: "assistant", content: [{ type: "tool-call", toolCallId: "c0", toolName: "count", input: {} }] },
        { role: "tool", content: [{ type: "tool-result", toolCallId: "c0", toolName: "count", output }] },
        user("How many?"),
      ];
      await sdk.streamText({ model, messages, tools, stopWhen: sdk.stepCountIs(5) }).consumeStream();
      assert.deepEqual(await transcript(sessionId, 1), [
        'tool: One\ntwo {"result_of":"c0"}',
        "user: How many?",
        "primary: Wait.",
        'tool: search({"q":1}) {"call_id":"c1"}',
        'tool: {"found":2} {"result_of":"c1"}',
        "primary: Two.",
      ]);
    });

    test("an aborted stream is recorded as far as it came, and a repeated message once", async () => {
      const sessionId = newSessionId();
      const script = scripted(version, [say("One two three")], [say("Four.")]);
      const model = sdk.wrapLanguageModel({
        model: script.model,
        middleware: recordingMiddleware(recorder, sessionId),
      });
      const abort = new AbortController();
      const stream = sdk.streamText({ model, messages: [user("Count.")], abortSignal: abort.signal });
      for await (const part of stream.textStream) {
        if (part === "two ") {
          abort.abort();
        }
      }
      const [first, second = "", ...rest] = await transcript(sessionId, 1);
      assert.deepEqual([first, rest], ["user: Count.", []]);
      assert.match(second, /^primary: One two (three)? ?\{"interrupted":true\}$/);
      // By another middleware, as in the next request. The application has dropped the partial answer.
      const next = sdk.wrapLanguageModel({ model: script.model, middleware: recordingMiddleware(recorder, sessionId) });
      await sdk.generateText({ model: next, messages: [user("Count."), user("Go on.")] });
      assert.deepEqual(await transcript(sessionId, 2), [first, second, "user: Go on.", "primary: Four."]);
    });

    test("messages that are sent again for another answer are recorded once, and equal new ones too", async () => {
      const sessionId = newSessionId();
      const answers: Answer[] = [[say("Yes?")], [call("search")], [say("No.")], [say("Maybe.")], [say("Sure.")]];
      const script = scripted(version, ...answers, [say("Yes?")]);
      const middleware = recordingMiddleware(recorder, sessionId);
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const options = { model, tools: { search: search() }, stopWhen: sdk.stepCountIs(3) };
      const messages = [user("Hello."), assistant("Yes?"), user("Is it there?")];
      const instructions = { system: "Be kind.", instructions: "Be kind." }; // By version.
      const prompts = [
        { messages: messages.slice(0, 1) },
        { messages },
        { messages, ...instructions },
        { messages: [...messages, user("Well?")] },
        { messages: messages.slice(0, 1) }, // Without a history.
      ];
      for (const [index, prompt] of prompts.entries()) {
        await sdk.generateText({ ...options, ...prompt });
        await transcript(sessionId, index + 1);
      }
      assert.deepEqual(await transcript(sessionId, 5), [
        "user: Hello.",
        "primary: Yes?",
        "user: Is it there?",
        "primary: No.",
        "primary: Maybe.",
        "user: Well?",
        "primary: Sure.",
        "user: Hello.",
        "primary: Yes?",
      ]);
    });

    test("a failed call is not recorded, and its messages are recorded with the next answer", async () => {
      const sessionId = newSessionId();
      const failure: Part = { type: "error", error: new Error("z") };
      const answers: Answer[] = [[say("Par"), failure], new Error("x"), [say("Yes."), call("search")], new Error("y")];
      const script = scripted(version, ...answers, [say("No.")]);
      const middleware = recordingMiddleware(recorder, sessionId);
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const options = { model, maxRetries: 0, tools: { search: search() }, stopWhen: sdk.stepCountIs(3) };
      const onError = () => undefined;
      await sdk.streamText({ ...options, messages: [user("Well?")], onError }).consumeStream({ onError });
      await assert.rejects(sdk.generateText({ ...options, messages: [user("Well?")] }), /x/);
      // The second step fails.
      await assert.rejects(sdk.generateText({ ...options, messages: [user("Well?")] }), /y/);
      await sdk.generateText({ ...options, messages: [user("Well?")] });
      assert.deepEqual(await transcript(sessionId, 1), ["user: Well?", "primary: Yes.", "primary: No."]);
      await sdk.generateText({ ...options, messages: [user("Well?")] }); // An empty answer.
      assert.deepEqual(await transcript(sessionId, 1), ["user: Well?", "primary: Yes.", "primary: No."]);
    });

    test("a message whose answer was aborted before its first word is recorded with the next answer", async () => {
      const sessionId = newSessionId();
      const script = scripted(version, [say("Hello.")], [say("Bye.")]);
      const middleware = recordingMiddleware(recorder, sessionId);
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      // The application keeps what has come of an answer: nothing, or reasoning.
      const silent = { role: "assistant" as const, content: [{ type: "reasoning" as const, text: "Hm." }] };
      const messages = [user("One."), assistant(""), user("Two.")];
      await sdk.generateText({ model, messages });
      await transcript(sessionId, 1);
      await sdk.generateText({ model, messages: [...messages, assistant("Hello."), user("3"), silent, user("4")] });
      const said = ["user: One.", "user: Two.", "primary: Hello.", "user: 3", "user: 4", "primary: Bye."];
      assert.deepEqual(await transcript(sessionId, 2), said);
    });

    test("results of tools are recorded once if the answer after them is empty", async () => {
      const sessionId = newSessionId();
      const script = scripted(version, [call("search")], [], [say("Bye.")]);
      const middleware = recordingMiddleware(recorder, sessionId, { toolCalls: true });
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const options = { model, tools: { search: search() }, stopWhen: sdk.stepCountIs(3) };
      const messages: ai.ModelMessage[] = [user("Where?")];
      messages.push(
        ...responseMessages(await sdk.generateText({ ...options, messages })),
        assistant(""),
        user("Well?"),
      );
      await transcript(sessionId, 1);
      await sdk.generateText({ ...options, messages });
      const result = 'tool: {"found":2} {"result_of":"c1"}';
      const said = ["user: Where?", 'tool: search({}) {"call_id":"c1"}', result, "user: Well?", "primary: Bye."];
      assert.deepEqual(await transcript(sessionId, 2), said);
    });

    test("agents and UI message streams are recorded, in the session of the call", async () => {
      const sessionId = newSessionId();
      const of = (params: { providerOptions?: Record<string, Record<string, unknown>> | undefined }) =>
        String(params.providerOptions?.["app"]?.["session"]);
      await write(sessionId, "1");
      const script = scripted(version, [say("Hi.")]);
      const middleware = [recordingMiddleware(recorder, of), notesMiddleware(primary, of)];
      const model = sdk.wrapLanguageModel({ model: script.model, middleware });
      const Agent = version.name === "ai-5" ? sdk.Experimental_Agent : sdk.ToolLoopAgent;
      const agent = new Agent({ model, providerOptions: { app: { session: sessionId } } });
      const stream = await agent.stream({ messages: [user("Hello.")] });
      const body = await stream.toUIMessageStreamResponse().text();
      assert.match(body, /"delta":"Hi\."/);
      assert.deepEqual(script.prompts.map(brief), [["user: Hello.", "user: <1>"]]);
      assert.deepEqual(await transcript(sessionId, 1), ["user: Hello.", "primary: Hi."]);
    });

    test("the example in the docs works", async () => {
      const sessionId = newSessionId();
      await write(sessionId, "1");
      const page = readFileSync(join(PACKAGE, "../../docs/integrations-frameworks.md"), "utf8");
      const [, code = ""] = /^## Vercel AI SDK$.*?^```ts\n(.*?)^```$/ms.exec(page) ?? [];
      const [imports, body] = code.replaceAll('"session-1"', `"${sessionId}"`).split("\n\nconst primary");
      // A longer timeout than by default, for a busy machine.
      const patient = body?.replace("PrimaryClient()", `PrimaryClient("${sidecar.target}", { timeoutMs: 10_000 })`);
      const path = join(client.home, "example.mjs");
      const names = "{ model, messages, observer, abortSignal }";
      const run = `async (${names}) => {\nconst primary${patient}\nreturn { result, recorder };\n};`;
      writeFileSync(path, `${imports}\nexport default ${run}\n`);
      const { default: example } = (await import(path)) as {
        default: (given: object) => Promise<{ result: ai.StreamTextResult<ai.ToolSet, never>; recorder: TurnRecorder }>;
      };
      const { model, prompts } = scripted(version, [say("Hi.")]);
      const observer = { submit: (id: string) => submitted.push(id) };
      const given = { model, messages: [user("Hello.")], observer, abortSignal: new AbortController().signal };
      const { result, recorder } = await example(given);
      await result.consumeStream();
      assert.equal(await result.text, "Hi.");
      assert(await recorder.close());
      assert.deepEqual(prompts.map(brief), [["user: Hello.", "user: <1>"]]);
      assert.deepEqual(await transcript(sessionId, 1), ["user: Hello.", "primary: Hi."]);
    });

    test("a refused or silent sidecar, a broken recorder and a broken function change nothing", async () => {
      using silent = await Silent.start();
      const broken = (error: Error) => () => {
        throw error;
      };
      const rejecting: Recorder = { record: () => Promise.reject(new SyntaxError("secret")) };
      const outcomes: unknown[] = [];
      const run = async (middleware: ai.LanguageModelMiddleware[], tools: ai.ToolSet) => {
        const answers: Answer[] = [[say("Wait."), call("advice")], [say("Two.")]];
        const generated = scripted(version, ...answers);
        const streaming = scripted(version, ...answers);
        const stopWhen = sdk.stepCountIs(3);
        const messages = [user("How many?")];
        const generate = sdk.wrapLanguageModel({ model: generated.model, middleware });
        const { text, steps } = await sdk.generateText({ model: generate, messages, tools, stopWhen });
        const streamed = sdk.wrapLanguageModel({ model: streaming.model, middleware });
        const parts: string[] = [];
        for await (const part of sdk.streamText({ model: streamed, messages, tools, stopWhen }).fullStream) {
          parts.push(part.type);
        }
        outcomes.push([text, steps.length, generated.prompts.map(brief), streaming.prompts.map(brief), parts]);
      };
      await run([], { advice: search() });
      for (const target of [await unreachable(), silent.target]) {
        using client = new PrimaryClient(target);
        await using away = new TurnRecorder(client, { timeoutMs: 250 });
        const started = performance.now();
        const middleware = [recordingMiddleware(away, "s"), notesMiddleware(client, "s")];
        await run(middleware, { advice: notesTool(client, "s") });
        // Two turns, each with a reading and a call of the tool, of at most 250 ms.
        assert(performance.now() - started < 5000);
        await away.close({ timeoutMs: 0 });
      }
      for (const middleware of [
        [recordingMiddleware({ record: broken(new RangeError("secret")) }, "s"), recordingMiddleware(rejecting, "s")],
        [recordingMiddleware(recorder, broken(new TypeError("secret")))],
        [notesMiddleware(primary, broken(new EvalError("secret"))), notesMiddleware(primary, () => "my secret")],
      ]) {
        await run(middleware, { advice: search() });
      }
      for (const outcome of outcomes) {
        assert.deepEqual(outcome, outcomes[0]);
      }
      const texts = await warnings.texts(8);
      assert.deepEqual([...new Set(texts)].filter((text) => text.startsWith("AI SDK")).sort(), [
        "AI SDK: no notes for the prompt: EvalError",
        `AI SDK: no notes for the prompt: InvalidArgument: requests[0].session_id ${VALID_ID}`,
        "AI SDK: turns are not recorded: RangeError",
        "AI SDK: turns are not recorded: SyntaxError",
        "AI SDK: turns are not recorded: TypeError",
      ]);
    });
  });
}

test("arguments of a wrong kind are rejected", () => {
  using primary = new PrimaryClient("127.0.0.1:1");
  const wrong: readonly (readonly [() => unknown, string])[] = [
    [() => notesTool({} as never, "s"), "primary must be a PrimaryClient, not Object"],
    [() => notesMiddleware({} as never, "s"), "primary must be a PrimaryClient, not Object"],
    [() => notesMiddleware(primary, "s", { maxChars: -1 }), "maxChars must be at least 0"],
    [() => notesTool(primary, 1 as never), "sessionId must be a string, or a function that returns one, not number"],
    [() => notesMiddleware(primary, "an id"), `sessionId ${VALID_ID}`],
    [() => recordingMiddleware({} as never, "s"), "recorder must be a TurnRecorder, not Object"],
    [() => recordingMiddleware(TurnRecorder as never, "s"), "recorder must be a TurnRecorder, not function"],
  ];
  for (const [make, message] of wrong) {
    assert.throws(make, { name: "InvalidArgument", message });
  }
});
