/** Tests of the package: its files, its types, and the examples in its README. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { fileURLToPath } from "node:url";

import ts from "typescript";

import { Sidecar } from "./sidecar.js";

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));

function read(...path: string[]): string {
  return readFileSync(join(PACKAGE, ...path), "utf8");
}

function examples(): string[] {
  return [...read("README.md").matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code ?? "");
}

/** The example of the AI SDK's integration, as a module with the names that it uses. */
function sdkExample(): string {
  const page = read("..", "..", "docs", "integrations-frameworks.md");
  const [, code = ""] = /^## Vercel AI SDK$.*?^```ts\n(.*?)^```$/ms.exec(page) ?? [];
  const before = `import type { ModelMessage } from "ai";
    import type { BackgroundObserver } from "session-notes";
    declare const model: Parameters<typeof wrapLanguageModel>[0]["model"];
    declare const messages: ModelMessage[], observer: BackgroundObserver, abortSignal: AbortSignal;`;
  const after = `recordingMiddleware(recorder, ({ providerOptions }) => String(providerOptions?.["app"]?.["session"]));
    notesTool(primary, ({ toolCallId }) => toolCallId);
    // @ts-expect-error: the types are those of the SDK
    export const middleware: number = notesMiddleware(primary, "s");
    // @ts-expect-error: so is the tool's
    export const tool: number = tools.notes;`;
  return [before, code, after].join("\n");
}

/** Returns the problems that the compiler finds with the strictest settings. */
function problems(paths: string[], skipLibCheck: boolean): string[] {
  const program = ts.createProgram(paths, {
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts"],
    module: ts.ModuleKind.NodeNext,
    types: ["node"],
    typeRoots: [join(PACKAGE, "node_modules/@types")],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noEmit: true,
    skipLibCheck,
  });
  return ts.getPreEmitDiagnostics(program).map((problem) => {
    const where = problem.file?.fileName ?? "";
    return `${where}: ${ts.flattenDiagnosticMessageText(problem.messageText, "\n")}`;
  });
}

suite("the package", { concurrency: false }, () => {
  // Create the consumer inside the package, so that it finds the dependencies.
  const home = mkdtempSync(join(PACKAGE, "build", "consumer-"));
  const modules = join(home, "node_modules");
  let files: string[] = [];

  before(() => {
    mkdirSync(modules);
    // A package of its own; in this package, its name would mean the sources.
    writeFileSync(join(home, "package.json"), '{ "private": true }');
    const pack = ["pack", "--ignore-scripts", "--json", "--pack-destination", home];
    const packed: unknown = JSON.parse(execFileSync("npm", pack, { cwd: PACKAGE, encoding: "utf8" }));
    // npm 10 and 11 print a list, npm 12 an object.
    const [archive] = Object.values(packed as Record<string, { filename: string; files: { path: string }[] }>);
    assert(archive !== undefined);
    files = archive.files.map(({ path }) => path);
    execFileSync("tar", ["-xzf", join(home, archive.filename), "-C", modules]);
    symlinkSync("package", join(modules, "session-notes"));
  });

  after(() => {
    rmSync(home, { recursive: true, force: true });
  });

  test("contains the built files, README and LICENSE", () => {
    const rest = files.filter((file) => !/^dist\/.*\.(js|d\.ts)$/.test(file));
    assert.deepEqual(rest.sort(), ["LICENSE", "README.md", "package.json"]);
    for (const file of ["dist/index.js", "dist/index.d.ts", "dist/gen/session_notes/v1/session_notes_pb.js"]) {
      assert(files.includes(file), file);
    }
  });

  test("has the license and the version of the project", () => {
    assert.equal(read("LICENSE"), read("..", "..", "LICENSE"));
    const { version } = JSON.parse(read("package.json")) as { version: string };
    assert(read("..", "..", "pyproject.toml").includes(`\nversion = "${version}"\n`));
  });

  test("compiles the README's examples with the strictest settings", () => {
    assert(examples().length >= 4);
    const narrowed = `import type { Reading } from "session-notes";
      export function describe(reading: Reading): number | string {
        return reading.ready ? reading.ageMs + reading.notes.issues.length : reading.readiness;
      }
      // @ts-expect-error: a reading that is not ready has no age
      export const age = (reading: Reading): number => reading.ageMs;`;
    const paths = [...examples(), narrowed].map((code, index) => {
      const path = join(home, `example-${index}.mts`);
      writeFileSync(path, code);
      return path;
    });
    assert.deepEqual(problems(paths, false), []);
  });

  test("runs the README's examples as installed", async () => {
    await using sidecar = await Sidecar.start();
    const env = { ...process.env, SESSION_NOTES_TARGET: sidecar.target };
    const [primary = "", observer = ""] = examples();
    const outputs = [primary, observer, primary].map((code, index) => {
      // Longer timeouts than in the README, for a busy machine.
      const patient = code.replace("unavailableOk: true", "timeoutMs: 10_000");
      const { outputText } = ts.transpileModule(patient, { compilerOptions: { target: ts.ScriptTarget.ES2022 } });
      const path = join(home, `run-${index}.mjs`);
      writeFileSync(path, outputText);
      return execFileSync(process.execPath, [path], { env, encoding: "utf8", timeout: 30_000 });
    });
    const [promised] = /\{"ready":false.*\}$/m.exec(primary) ?? [];
    assert.equal(outputs[0], `${promised}\n`);
    assert.match(
      outputs[2] ?? "",
      /^\{"ready":true,"age_seconds":[\d.]+,.*"turns_behind":2,"fresh":true,.*\n2 turns, a refund\. /,
    );
  });

  test("compiles the example of the AI SDK's integration with every supported version", () => {
    const { peerDependencies } = JSON.parse(read("package.json")) as { peerDependencies: Record<string, string> };
    assert.deepEqual(peerDependencies, { ai: "^5.0.0 || ^6.0.0 || ^7.0.0" });
    const path = join(home, "sdk.mts");
    writeFileSync(path, sdkExample());
    for (const version of ["ai-5", "ai", "ai-7"]) {
      rmSync(join(modules, "ai"), { force: true });
      symlinkSync(join(PACKAGE, "node_modules", version), join(modules, "ai"));
      assert.deepEqual(problems([path], true), [], version);
    }
    rmSync(join(modules, "ai"));
  });

  test("does not need the AI SDK, except for its integration", () => {
    // Outside of the package, so that the SDK is not found.
    const elsewhere = mkdtempSync(join(tmpdir(), "session-notes-"));
    try {
      cpSync(join(modules, "package"), join(elsewhere, "node_modules", "session-notes"), { recursive: true });
      for (const scope of ["@bufbuild", "@grpc"]) {
        symlinkSync(join(PACKAGE, "node_modules", scope), join(elsewhere, "node_modules", scope));
      }
      const script = `const { NotesTool } = await import("session-notes");
        const { code } = await import("session-notes/ai-sdk").catch((error) => error);
        console.log(NotesTool.name, code);`;
      const run = ["--input-type=module", "--eval", script];
      assert.equal(
        execFileSync(process.execPath, run, { cwd: elsewhere, encoding: "utf8" }),
        "NotesTool ERR_MODULE_NOT_FOUND\n",
      );
    } finally {
      rmSync(elsewhere, { recursive: true });
    }
  });

  test("has dependencies that support the oldest Node.js it supports", () => {
    const { packages } = JSON.parse(read("package-lock.json")) as {
      packages: Record<string, { engines?: { node?: string } }>;
    };
    const other = Object.entries(packages).filter(([path, { engines }]) => {
      if (path.startsWith("node_modules/ai-7")) {
        return false; // Only tests use it, and they pass.
      }
      const ranges = (engines?.node ?? "*").split("||").map((range) => range.trim());
      return !ranges.some((range) => /^\^?20\b|^\*$/.test(range) || Number(/^>= ?(\d+)/.exec(range)?.[1]) <= 20);
    });
    assert.deepEqual(other, []);
  });

  test("has no any in its types", () => {
    const typed = files.filter((file) => /^dist\/[^/]*\.d\.ts$/.test(file));
    assert(typed.length > 5);
    for (const file of typed) {
      const source = ts.createSourceFile(file, read(file), ts.ScriptTarget.ES2022);
      const visit = (node: ts.Node): void => {
        assert.notEqual(node.kind, ts.SyntaxKind.AnyKeyword, `any in ${file}`);
        ts.forEachChild(node, visit);
      };
      visit(source);
    }
  });
});
