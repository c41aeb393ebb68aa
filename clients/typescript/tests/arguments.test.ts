/** Tests of arguments: wrong types are rejected by name and without the value; long timeouts; invalid targets. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";

import {
  type ActiveRun,
  BackgroundObserver,
  DeadlineExceeded,
  InvalidArgument,
  NotesFeed,
  NotesTool,
  ObserverClient,
  PrimaryClient,
  TurnRecorder,
  Unavailable,
} from "session-notes";
import { notesMiddleware, notesTool, recordingMiddleware } from "session-notes/ai-sdk";

import { eventually, newSessionId, unreachable, Sidecar, Silent } from "./sidecar.js";

const execute = promisify(execFile);

const TEXT = [
  [42, "must be a string, not number"],
  [null, "must be a string, not null"],
  [new Date(), "must be a string, not Date"],
  ["a\ud800", "must not contain a lone surrogate (half a character)"],
] as const;
const COUNT = [
  ["3", "must be a number, not string"],
  [true, "must be a number, not boolean"],
  [null, "must be a number, not null"],
  [3n, "must be a number, not bigint"],
  [1.5, "must be a whole number up to 2^53 - 1"],
  [NaN, "must be a whole number up to 2^53 - 1"],
] as const;
const FLAG = [
  ["yes", "must be a boolean, not string"],
  [1, "must be a boolean, not number"],
  [null, "must be a boolean, not null"],
] as const;
const SPAN = [
  ["60", "must be a number of milliseconds, not string"],
  [new Date(), "must be a number of milliseconds, not Date"],
  [null, "must be a number of milliseconds, not null"],
  [NaN, "must be a number of milliseconds, not NaN"],
] as const;
const OBJECT = [
  [42, "must be an object, not number"],
  [null, "must be an object, not null"],
  [[], "must be an object, not Array"],
  [new Map([["summary", "lost"]]), "must be an object, not Map"],
] as const;
const SEVERAL = [
  ["text", "must be an array, not string"],
  [7, "must be an array, not number"],
  [new Set(), "must be an array, not Set: pass [...] with it"],
] as const;
const SIGNAL = [
  ["now", "must be an AbortSignal, not string"],
  [null, "must be an AbortSignal, not null"],
] as const;

type Wrong = Readonly<Record<string, readonly (readonly [unknown, string])[]>>;
type Method = readonly [readonly string[], unknown[], Wrong];

// The names of positional arguments, valid values, and invalid ones. Names without a position are options.
const OPTIONS = [...OBJECT, [AbortSignal.abort(), "must be an object, not AbortSignal"]] as const;
const CALL = { options: OPTIONS, timeoutMs: SPAN, signal: SIGNAL };
const BOUNDS = { maxAgeMs: SPAN, maxSnapshotAgeMs: SPAN, maxTurnsBehind: COUNT };
const NOTES = { ...BOUNDS, observer: TEXT, unavailableOk: FLAG };
const BEGIN = {
  ...{ runId: TEXT, observedTurn: COUNT, leaseMs: SPAN, onlyIfIdle: FLAG, includeTranscript: FLAG },
  ...{ afterTurn: COUNT, afterCurrentNotes: FLAG, maxTurns: COUNT, includeCurrentNotes: FLAG },
};
const PRIMARY: Readonly<Record<string, Method>> = {
  getNotes: [["sessionId"], ["s"], { sessionId: TEXT, ...NOTES, currentTurn: COUNT, ...CALL }],
  batchGetNotes: [["sessionIds"], [["s"]], { sessionIds: SEVERAL, ...NOTES, ...CALL }],
  getSession: [["sessionId"], ["s"], { sessionId: TEXT, includeTurns: FLAG, ...CALL }],
  updateSession: [
    ["sessionId", "set"],
    ["s", { a: 1 }],
    { sessionId: TEXT, set: OBJECT, remove: SEVERAL, expectedVersion: COUNT, ttlMs: SPAN, ...CALL },
  ],
  appendTurns: [
    ["sessionId", "turns"],
    ["s", [{ speaker: "user", text: "x" }]],
    { sessionId: TEXT, turns: SEVERAL, expectedTurnCount: COUNT, appendId: TEXT, ...CALL },
  ],
  deleteSession: [["sessionId"], ["s"], { sessionId: TEXT, ...CALL }],
  listSessions: [[], [], { pageSize: COUNT, ...CALL }],
};
const OBSERVER: Readonly<Record<string, Method>> = {
  run: [
    ["sessionId", "work"],
    ["s", () => undefined],
    { sessionId: TEXT, work: [[42, "must be a function, not number"]], ...BEGIN, options: OPTIONS, signal: SIGNAL },
  ],
  beginRun: [["sessionId"], ["s"], { sessionId: TEXT, ...BEGIN, ...CALL }],
  writeNotes: [
    ["sessionId", "notes"],
    ["s", {}],
    { sessionId: TEXT, notes: OBJECT, runId: TEXT, observedTurn: COUNT, ttlMs: SPAN, ...CALL },
  ],
  failRun: [["sessionId", "runId", "reason"], ["s", "r", "x"], { sessionId: TEXT, runId: TEXT, ...CALL }],
  renewRun: [["sessionId", "runId"], ["s", "r"], { sessionId: TEXT, runId: TEXT, leaseMs: SPAN, ...CALL }],
  dueSessions: [[], [], { minTurnsBehind: COUNT, minIntervalMs: SPAN, minQuietMs: SPAN, pageSize: COUNT, ...CALL }],
  listRuns: [["sessionId"], ["s"], { sessionId: TEXT, includeNotes: FLAG, pageSize: COUNT, ...CALL }],
};

suite("arguments of a wrong kind", { concurrency: true }, () => {
  for (const [Client, methods] of [
    [PrimaryClient, PRIMARY],
    [ObserverClient, OBSERVER],
  ] as const) {
    for (const [name, [positions, fit, wrong]] of Object.entries(methods)) {
      test(`${Client.name}.${name}`, async () => {
        using client = new Client("127.0.0.1:1");
        const method = Reflect.get(client, name) as (...given: unknown[]) => Promise<unknown> | AsyncGenerator;
        const call = (given: unknown[]) => {
          const answer = method.apply(client, given);
          return "next" in answer ? answer.next() : answer;
        };
        for (const [argument, values] of Object.entries(wrong)) {
          for (const [value, problem] of values) {
            const given: unknown[] = [...fit];
            const position = positions.indexOf(argument);
            if (position >= 0) {
              given[position] = value;
            } else {
              given.push(argument === "options" ? value : { [argument]: value });
            }
            const expected = { name: "InvalidArgument", reason: "INVALID_FIELD", message: `${argument} ${problem}` };
            await assert.rejects(
              new Promise((resolve) => {
                resolve(call(given));
              }),
              expected,
              `${argument}: ${String(value)}`,
            );
          }
        }
        const options = Object.keys(wrong).filter((option) => option !== "options" && !positions.includes(option));
        await assert.rejects(
          new Promise((resolve) => {
            resolve(call([...fit, { timeout: 5 }]));
          }),
          (error: Error) => {
            const [, known = ""] = /^options\["timeout"\] is not one of (.*)$/.exec(error.message) ?? [];
            assert.deepEqual(known.split(", ").sort(), options.sort(), error.message);
            return error instanceof InvalidArgument;
          },
        );
      });
    }
  }

  const client = new PrimaryClient("127.0.0.1:1");
  after(() => {
    client.close();
  });
  const PROMPT = { minSeverity: [["bad", "must be info, warning or critical"]], maxChars: COUNT } as const;
  const NAMES = [...SEVERAL, [[], "must name at least one observer"]] as const;
  const POSITIVE = [...SPAN, [0, "must be above 0 and finite"], [Infinity, "must be above 0 and finite"]] as const;
  const LEAST_ONE = [...COUNT, [0, "must be at least 1"]] as const;
  const LEAST_ZERO = [...COUNT, [-1, "must be at least 0"]] as const;
  const PAUSE = [...SPAN, [-1, "must be at least 0 and finite"]] as const;
  const TLS = [...OBJECT, [{ ca: "x" }, '["ca"] is not one of caFile, certFile, keyFile']] as const;
  const TOKEN = [[42, "must be a string, or a function that returns one, not number"]] as const;
  const CONNECTION = { tls: TLS, token: TOKEN };
  const TOOL = { ...BOUNDS, observer: TEXT, observers: NAMES, minSeverity: PROMPT.minSeverity, description: TEXT };
  const classes: Readonly<Record<string, readonly [(options: object) => unknown, Wrong]>> = {
    PrimaryClient: [
      (options) => new PrimaryClient("127.0.0.1:1", options),
      { ...CONNECTION, timeoutMs: SPAN, stateTimeoutMs: SPAN },
    ],
    ObserverClient: [
      (options) => new ObserverClient("127.0.0.1:1", options),
      { ...CONNECTION, timeoutMs: SPAN, observer: TEXT },
    ],
    NotesFeed: [(options) => new NotesFeed(client, "s", options), { ...BOUNDS, ...PROMPT, observers: NAMES }],
    NotesTool: [(options) => new NotesTool(client, "s", options), { ...TOOL, name: TEXT, currentTurn: COUNT }],
    TurnRecorder: [
      (options) => new TurnRecorder(client, options),
      { timeoutMs: POSITIVE, observer: [[42, "must be a BackgroundObserver, not number"]] },
    ],
    BackgroundObserver: [
      (options) => new BackgroundObserver(() => undefined, options),
      {
        ...{
          ...CONNECTION,
          target: TEXT.slice(0, 1),
          observer: TEXT,
          client: [[42, "must be an ObserverClient, not number"]],
        },
        ...{ maxConcurrent: LEAST_ONE, timeLimitMs: POSITIVE, ttlMs: POSITIVE, leaseMs: POSITIVE, maxTurns: LEAST_ONE },
        ...{ transcript: [["none", "must be all or new"]], minIntervalMs: PAUSE, minNewTurns: LEAST_ZERO },
        ...{ quietForMs: PAUSE, maxRuns: LEAST_ONE, brakes: FLAG },
      },
    ],
    notesTool: [(options) => notesTool(client, "s", options), TOOL],
    notesMiddleware: [(options) => notesMiddleware(client, "s", options), { ...BOUNDS, ...PROMPT, observers: NAMES }],
    recordingMiddleware: [
      (options) => recordingMiddleware({ record: () => undefined }, "s", options),
      { toolCalls: FLAG },
    ],
  };
  for (const [name, [make, wrong]] of Object.entries(classes)) {
    test(`the options of ${name}`, () => {
      for (const [option, values] of Object.entries(wrong)) {
        for (const [value, problem] of values) {
          const message = `${option}${problem.startsWith("[") ? "" : " "}${problem}`;
          assert.throws(() => make({ [option]: value }), { name: "InvalidArgument", message }, String(value));
        }
      }
      const message = "options must be an object, not PrimaryClient";
      assert.throws(() => make(client), { name: "InvalidArgument", message });
      assert.throws(
        () => make({ time_limit: 5 }),
        (error: Error) => {
          const [, known = ""] = /^options\["time_limit"\] is not one of (.*)$/.exec(error.message) ?? [];
          assert.deepEqual(known.split(", ").sort(), Object.keys(wrong).sort(), error.message);
          return error instanceof InvalidArgument;
        },
      );
    });
  }

  const parts: readonly (readonly [string, unknown])[] = [
    ['notes.coverage["budget"] must be from 0 to 1', { coverage: { goals: 1, budget: 1.2 } }],
    ['notes.coverage["budget"] must be from 0 to 1', { coverage: { budget: NaN } }],
    ['notes.coverage["budget"] must be a number, not string', { coverage: { budget: "all" } }],
    ["notes.issues must be an array, not Object: pass [...] with it", { issues: { text: "late" } }],
    ["notes.issues[0] must be an object, not string", { issues: ["late"] }],
    ['notes.issues[0]["level"] is not one of text, severity, turn', { issues: [{ text: "x", level: "info" }] }],
    [
      'notes["follow_up_suggestions"] is not one of coverage, issues, followUpSuggestions, summary, extra',
      { follow_up_suggestions: ["Who?"] },
    ],
    [
      "notes.issues[1].severity must be info, warning or critical",
      { issues: [{ text: "x" }, { text: "x", severity: "bad" }] },
    ],
    ["notes.issues[0].turn must be a number, not string", { issues: [{ text: "x", turn: "7" }] }],
    ["notes.followUpSuggestions[1] must be a string, not number", { followUpSuggestions: ["Who?", 5] }],
    ["notes.summary must be a string, not null", { summary: null }],
    ['notes.extra["a"][1]["b"] must not contain NaN or infinity', { extra: { a: [1, { b: NaN }] } }],
    ['notes.extra["a"][1] must be JSON, not function', { extra: { a: [1, () => 1] } }],
    ['notes.extra["a"] must be JSON, not Map', { extra: { a: new Map() } }],
    ['notes.extra["a"] must not contain a lone surrogate (half a character)', { extra: { a: "\udc00" } }],
  ];
  for (const [message, notes] of parts) {
    test(message, async () => {
      using observer = new ObserverClient("127.0.0.1:1");
      await assert.rejects(observer.writeNotes("s", notes as object), { name: "InvalidArgument", message });
    });
  }

  test("turns and ids are named by their position", async () => {
    using primary = new PrimaryClient("127.0.0.1:1");
    const turn = { speaker: "user", text: "x" };
    const cases: readonly (readonly [string, unknown])[] = [
      ["turns must be an array, not Object: pass [...] with it", turn],
      ["turns[1].text must be a string, not undefined", [turn, { speaker: "user" }]],
      ["turns[0].time must be a Date, not number", [{ ...turn, time: 5 }]],
      ["turns[0].time must be in the years 1 to 9999", [{ ...turn, time: new Date(NaN) }]],
      ["turns[0].time must be in the years 1 to 9999", [{ ...turn, time: new Date(1_700_000_000_000_000) }]],
      ["turns[0].time must be in the years 1 to 9999", [{ ...turn, time: new Date("-000001-12-31") }]],
      ["turns[1] must be an object, not string", [turn, "hello"]],
    ];
    for (const [message, turns] of cases) {
      await assert.rejects(primary.appendTurns("s", turns as never), { name: "InvalidArgument", message });
    }
    const ids = { name: "InvalidArgument", message: "sessionIds[1] must be a string, not number" };
    await assert.rejects(primary.batchGetNotes(["s", 4] as never), ids);
    const names = { name: "InvalidArgument", message: "remove[0] must be a string, not null" };
    await assert.rejects(primary.updateSession("s", {}, { remove: [null] as never }), names);
  });
});

suite("deadlines and runs", { concurrency: false }, () => {
  let sidecar: Sidecar;

  before(async () => {
    sidecar = await Sidecar.start();
  });

  after(async () => {
    await sidecar[Symbol.asyncDispose]();
  });

  for (const timeoutMs of [Number.MAX_SAFE_INTEGER, Number.MAX_VALUE, Infinity, 1e12, 2 ** 31]) {
    test(`a long timeout does not fire early: ${timeoutMs}`, async () => {
      using primary = new PrimaryClient(sidecar.target, { timeoutMs, stateTimeoutMs: timeoutMs });
      using observer = new ObserverClient(sidecar.target, { timeoutMs });
      await primary.getNotes("s");
      await primary.getSession("s");
      assert.equal((await observer.beginRun(newSessionId())).run.number, 1);
    });
  }

  test("long durations are validated by the sidecar", async () => {
    const sessionId = newSessionId();
    using primary = new PrimaryClient(sidecar.target);
    using observer = new ObserverClient(sidecar.target);
    await observer.writeNotes(sessionId, { summary: "x" });
    for (const far of [Number.MAX_VALUE, Infinity]) {
      assert((await primary.getNotes(sessionId, { maxAgeMs: far, timeoutMs: 5000 })).fresh);
      for (const [field, call] of [
        ["lease", () => observer.beginRun(sessionId, { leaseMs: far })],
        ["ttl", () => primary.updateSession(sessionId, {}, { ttlMs: -far })],
        ["ttl", () => observer.writeNotes(sessionId, {}, { ttlMs: far })],
      ] as const) {
        await assert.rejects(call, (error) => {
          assert(error instanceof InvalidArgument);
          assert.equal(error.violations[0]?.field, field);
          return true;
        });
      }
    }
  });

  /** Returns the only run of a session. */
  async function recorded(observer: ObserverClient, sessionId: string): Promise<readonly [string, string]> {
    const runs = [];
    for await (const { state, failure } of observer.listRuns(sessionId)) {
      runs.push([state, failure] as const);
    }
    assert.equal(runs.length, 1);
    return runs[0] ?? ["", ""];
  }

  const reasons: readonly (readonly [string, unknown, string])[] = [
    ["a long one", "é".repeat(5000), `${"é".repeat(2046)}…`],
    ["one of 4 KiB", "x".repeat(4096), "x".repeat(4096)],
    ["half a character", "Great \ud83d", "Great \ufffd"],
    ["an error", new RangeError("overloaded"), "RangeError: overloaded"],
    ["an error without a message", new RangeError(), "RangeError"],
    ["what has no text", Object.create(null), "Object"],
    ["none", undefined, ""],
  ];
  for (const [name, reason, failure] of reasons) {
    test(`a run can fail with any reason: ${name}`, async () => {
      using observer = new ObserverClient(sidecar.target);
      const sessionId = newSessionId();
      await observer.run(sessionId, (run) => run.fail(reason as string));
      assert.deepEqual(await recorded(observer, sessionId), ["failed", failure]);
    });
  }

  test("a run whose signal is aborted has failed, by its own call or the client's", async () => {
    using observer = new ObserverClient(sidecar.target);
    const give: Readonly<Record<string, (run: ActiveRun) => Promise<unknown>>> = {
      stopped: (run) => run.fail("stopped"),
      AbortError: (run) => run.write({ summary: "x" }),
    };
    for (const [failure, work] of Object.entries(give)) {
      const sessionId = newSessionId();
      const controller = new AbortController();
      const reason = Object.assign(new Error("the user hung up"), { name: failure });
      const running = observer.run(
        sessionId,
        async (run) => {
          controller.abort(reason);
          await work(run);
        },
        { signal: controller.signal },
      );
      await (failure === "stopped" ? running : assert.rejects(running, reason));
      assert.deepEqual((await recorded(observer, sessionId))[0], "failed");
    }
  });

  test("a run that began while its begin was aborted has failed", async () => {
    using observer = new ObserverClient(sidecar.target);
    await observer.beginRun(newSessionId());
    const sessionId = newSessionId();
    const controller = new AbortController();
    const running = observer.run(sessionId, () => assert.fail("work was called"), { signal: controller.signal });
    // By now the request is in flight, without a response.
    setImmediate(() => {
      controller.abort();
    });
    await assert.rejects(running, { name: "AbortError" });
    await eventually(async () => {
      const states = [];
      for await (const { state } of observer.listRuns(sessionId)) {
        states.push(state);
      }
      return states.every((state) => state === "failed");
    });
  });
});

suite("no answer", { concurrency: true }, () => {
  test("names the call, the target and the timeout", async () => {
    using silent = await Silent.start();
    using primary = new PrimaryClient(silent.target, { timeoutMs: 100 });
    const message = `GetNotes on ${silent.target}: no answer within 0.1 s`;
    await assert.rejects(primary.getNotes("s"), new DeadlineExceeded(message));
    const reading = await primary.getNotes("s", { unavailableOk: true });
    assert(!reading.ready);
    assert.equal(reading.unavailableReason, message);
    const target = await unreachable();
    using observer = new ObserverClient(target, { timeoutMs: 100 });
    await assert.rejects(observer.beginRun("s"), (error) => {
      assert(error instanceof Unavailable);
      assert(error.message.startsWith(`BeginRun on ${target}: `), error.message);
      return true;
    });
  });
});

suite("targets", { concurrency: true }, () => {
  const impossible = [
    ..."127.0.0.1 localhost :50051 127.0.0.1: 127.0.0.1:0 127.0.0.1:99999 127.0.0.1:https".split(" "),
    ..."http://127.0.0.1:50051 grpc://127.0.0.1:50051 127.0.0.1:50051/ user@127.0.0.1:50051 ::1 ::1:50051".split(" "),
    ..."[::1] [::1:50051 [localhost]:50051 dns:///localhost ipv4:127.0.0.1 ipv4:localhost:1 ipv6:[::1]".split(" "),
    ..."127.0.0.1:1,127.0.0.2:1 unix: unix:// unix:/// unix://run/s unix-abstract:s vsock:2:50051".split(" "),
    " ",
    " 127.0.0.1:50051",
    "127.0.0.1:50051\n",
    "local host:50051",
    "unix: ",
    `unix:/${"x".repeat(107)}`,
  ];
  const possible = [
    ..."127.0.0.1:50051 localhost:50051 session_notes:50051 [::1]:50051 dns:notes.example.org:50051".split(" "),
    ..."dns:///notes.example.org:50051 ipv4:127.0.0.1:1,127.0.0.2:1 ipv6:[::1]:1 unix:/run/s unix:///run/s".split(" "),
    "unix:s",
    "unix:/run/my notes/s",
  ];

  for (const target of impossible) {
    test(`invalid: ${JSON.stringify(target)}`, () => {
      for (const Client of [PrimaryClient, ObserverClient]) {
        assert.throws(
          () => new Client(target),
          /^InvalidArgument: .* is not an address: use host:port or unix:\/path$/,
        );
      }
    });
  }

  test("valid targets", () => {
    for (const target of possible) {
      new PrimaryClient(target).close();
    }
    assert.throws(() => new PrimaryClient(50051 as never), /target must be a string, not number/);
  });

  test("the path of a socket is taken literally", async () => {
    const home = mkdtempSync(join(tmpdir(), "s-"));
    // Every connection is destroyed, since one that stays open keeps this process alive. On a busy machine, clients reconnect.
    const server = createServer((socket) => socket.destroy()).listen(join(home, "plain"));
    try {
      let path = join(home, "plain");
      for (const name of ["a#b", "a?b=c", "a%41", "a%", "a b", "ü", 'a"<\\>`{|}^']) {
        renameSync(path, join(home, name));
        path = join(home, name);
        for (const target of [`unix:${path}`, `unix://${path}`]) {
          const accepted = once(server, "connection");
          using primary = new PrimaryClient(target);
          await Promise.all([assert.rejects(primary.getNotes("s"), Unavailable), accepted]);
        }
      }
    } finally {
      server.close();
      rmSync(home, { recursive: true });
    }
  });

  test("a misspelled variable causes one warning, an invalid target names its variable", async () => {
    const script = `import { ObserverClient, PrimaryClient } from "session-notes";
      for (const Client of [PrimaryClient, ObserverClient]) {
        try { new Client(); } catch (error) { console.log(error.message); }
      }`;
    const slips = {
      SESSION_NOTES_TARGT: "SESSION_NOTES_TARGET",
      SESSION_NOTE_TARGET: "SESSION_NOTES_TARGET",
      SESSION_NOTES_TOKENFILE: "SESSION_NOTES_TOKEN_FILE",
      SESSION_NOTES_TLS_CA_FILE: "SESSION_NOTES_TLS_CA",
    };
    const others = ["SESSION_NOTES_PORT", "SESSION_NOTES_SERVICE_HOST", "SESSION_NOTES_TOKENS_DIR", "SESSION_MANAGER"];
    const names = [...Object.keys(slips), ...others];
    const env = Object.fromEntries(names.map((name) => [name, "canary"]));
    const options = { timeout: 20_000, env: { ...env, SESSION_NOTES_TARGET: "localhost" } };
    const { stdout, stderr } = await execute(process.execPath, ["--input-type=module", "--eval", script], options);
    const refused = "SESSION_NOTES_TARGET: localhost is not an address: use host:port or unix:/path\n";
    assert.equal(stdout, refused.repeat(2));
    const lines = stderr.split("\n").filter((line) => line.includes("SessionNotesWarning"));
    assert.deepEqual(
      lines.map((line) => line.replace(/^.*SessionNotesWarning: /, "")).sort(),
      Object.entries(slips)
        .map(([name, meant]) => `the environment variable ${name} is unknown and has no effect; is it ${meant}?`)
        .sort(),
    );
    assert(!stderr.includes("canary"));
  });
});
