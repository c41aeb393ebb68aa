/** Tests of credentials: tokens, TLS, and no token over an unencrypted network. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";

import {
  InvalidArgument,
  ObserverClient,
  PermissionDenied,
  PrimaryClient,
  SessionNotAllowed,
  type TLS,
  tokenFile,
  Unauthenticated,
  Unavailable,
} from "session-notes";

import { eventually, newSessionId, PYTHON, Sidecar } from "./sidecar.js";

const TOKENS = { primary: "canary-primary-5b1e", observer: "canary-observer-5b1e", admin: "canary-admin-5b1e" };

const home = mkdtempSync(join(tmpdir(), "session-notes-access-"));
after(() => {
  rmSync(home, { recursive: true, force: true });
});

/** Replaces a file with one that only its owner can read. */
function secret(path: string, ...lines: string[]): string {
  writeFileSync(`${path}.new`, lines.map((line) => `${line}\n`).join(""), { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return path;
}

/** Creates a directory of tokens for the sidecar. */
function tokensDir(): string {
  const tokens = join(home, "tokens");
  mkdirSync(tokens, { mode: 0o700, recursive: true });
  for (const [role, token] of Object.entries(TOKENS)) {
    secret(join(tokens, role), token);
  }
  return tokens;
}

/** Sets environment variables for the duration of a test. */
function withEnvironment(context: { after(undo: () => void): void }, variables: Record<string, string>): void {
  Object.assign(process.env, variables);
  context.after(() => {
    for (const name of Object.keys(variables)) {
      Reflect.deleteProperty(process.env, name);
    }
  });
}

/** Returns whether no property of a value contains a secret. */
function holdsNoSecret(error: unknown): boolean {
  return !inspect(error, { depth: 10, showHidden: true }).includes("canary");
}

suite("with tokens", { concurrency: false }, () => {
  let sidecar: Sidecar;

  before(async () => {
    sidecar = await Sidecar.start("--tokens-dir", tokensDir());
  });

  after(async () => {
    await sidecar[Symbol.asyncDispose]();
  });

  test("each client uses its own token and is limited to its role", async () => {
    const sessionId = newSessionId();
    using primary = new PrimaryClient(sidecar.target, { token: TOKENS.primary });
    using observer = new ObserverClient(sidecar.target, { token: () => TOKENS.observer });
    await primary.appendTurns(sessionId, [{ speaker: "user", text: "hello" }]);
    await observer.run(sessionId, (run) => run.write({ summary: `${run.transcript.length} turn` }));
    assert((await primary.getNotes(sessionId, { timeoutMs: 5000 })).ready);
    await assert.rejects(primary.listSessions().next(), (error) => {
      assert(error instanceof PermissionDenied);
      assert.deepEqual(error.metadata, { method: "session_notes.v1.SessionState.ListSessions" });
      return true;
    });
  });

  test("a token for sessions with a prefix is limited to them, which is an error of its own", async () => {
    secret(join(home, "tokens", "primary"), TOKENS.primary, "canary-acme-5b1e prefix=acme.");
    using acme = new PrimaryClient(sidecar.target, { token: "canary-acme-5b1e", timeoutMs: 5000 });
    const own = `acme.${newSessionId()}`;
    await eventually(() =>
      acme.getSession(own).then(
        () => true,
        () => false,
      ),
    );
    assert.equal(await acme.appendTurns(own, [{ speaker: "user", text: "hello" }]), 1);
    for (const call of [() => acme.getNotes("other"), () => acme.batchGetNotes([own, "other"])]) {
      await assert.rejects(call, (error) => error instanceof SessionNotAllowed && error instanceof PermissionDenied);
    }
  });

  test("a missing or unknown token is rejected; the error does not show it", async () => {
    for (const token of [undefined, "canary-unknown"]) {
      using client = new PrimaryClient(sidecar.target, { token });
      await assert.rejects(client.getNotes("s", { unavailableOk: true, timeoutMs: 5000 }), (error) => {
        assert(error instanceof Unauthenticated);
        assert.equal(error.reason, "UNAUTHENTICATED");
        return holdsNoSecret(error);
      });
      assert(holdsNoSecret(client));
    }
  });

  test("the token can come from the environment or a file named there; an option takes precedence", async (context) => {
    const file = secret(join(home, "mine"), "", "# mine", TOKENS.observer);
    withEnvironment(context, { SESSION_NOTES_TOKEN_FILE: file });
    using observer = new ObserverClient(sidecar.target);
    assert.equal((await observer.beginRun(newSessionId())).run.number, 1);
    withEnvironment(context, { SESSION_NOTES_TOKEN: TOKENS.admin });
    using admin = new PrimaryClient(sidecar.target);
    await admin.listSessions().next();
    using primary = new PrimaryClient(sidecar.target, { token: TOKENS.primary });
    await assert.rejects(primary.listSessions().next(), PermissionDenied);
  });

  test("a token file is reloaded; if it is emptied or removed, the last token stays in use", async () => {
    const file = secret(join(home, "rotated"), "an-unknown-token");
    using primary = new PrimaryClient(sidecar.target, { token: tokenFile(file) });
    await assert.rejects(primary.getSession("s"), Unauthenticated);
    secret(file, TOKENS.primary);
    await primary.getSession("s");
    secret(file);
    await primary.getSession("s");
    rmSync(file);
    await primary.getSession("s");
  });

  test("a token function that throws causes Unauthenticated without its text; the next call runs it again", async () => {
    let broken = true;
    const token = () => {
      if (broken) {
        throw new RangeError("canary: no lease");
      }
      return TOKENS.primary;
    };
    using primary = new PrimaryClient(sidecar.target, { token });
    for (let i = 0; i < 2; i++) {
      await assert.rejects(primary.getNotes("s", { unavailableOk: true }), (error) => {
        assert(error instanceof Unauthenticated);
        assert.equal(error.message, "the token function threw RangeError");
        assert(error.cause instanceof RangeError);
        return true;
      });
    }
    broken = false;
    await primary.getSession("s");
  });

  test("an async token function is rejected, and the rejection of its promise does not end the process", async () => {
    const token = (() => Promise.reject(new Error("canary"))) as never;
    using primary = new PrimaryClient(sidecar.target, { token });
    const message = "the token function must return a string, not Promise";
    await assert.rejects(primary.getNotes("s", { unavailableOk: true }), { name: "InvalidArgument", message });
    // Node would report an unhandled rejection after this, and the test would fail.
    await new Promise(setImmediate);
  });
});

suite("with certificates", { concurrency: false }, () => {
  let sidecar: Sidecar;
  const pem = (name: string) => join(home, name);

  before(async () => {
    execFileSync(PYTHON, [fileURLToPath(new URL("../tests/authority.py", import.meta.url)), home]);
    const roles = secret(pem("roles"), "primary primary.example.org");
    const own = ["--tls-cert", pem("sidecar.pem"), "--tls-key", pem("sidecar.key")];
    const callers = ["--tls-client-ca", pem("ca.pem"), "--tls-roles", roles, "--tokens-dir", tokensDir()];
    sidecar = await Sidecar.start(...own, ...callers);
  });

  after(async () => {
    await sidecar[Symbol.asyncDispose]();
  });

  const mine = { certFile: pem("primary.pem"), keyFile: pem("primary.key") };

  test("a client certificate, by option or environment", async (context) => {
    using primary = new PrimaryClient(sidecar.target, { tls: { caFile: pem("ca.pem"), ...mine } });
    await primary.getSession("s", { timeoutMs: 10_000 });
    await assert.rejects(primary.listSessions().next(), PermissionDenied);
    withEnvironment(context, {
      SESSION_NOTES_TLS_CA: pem("ca.pem"),
      SESSION_NOTES_TLS_CERT: mine.certFile,
      SESSION_NOTES_TLS_KEY: mine.keyFile,
    });
    using other = new PrimaryClient(sidecar.target);
    await other.getSession("s");
    using byName = new PrimaryClient(sidecar.target.replace("127.0.0.1", "localhost"));
    await byName.getSession("s", { timeoutMs: 10_000 });
  });

  test("replaced files take effect once they match each other, and calls in flight finish on the old connection", async () => {
    const paths = { caFile: pem("my-ca.pem"), certFile: pem("my.pem"), keyFile: pem("my.key") };
    copyFileSync(pem("other-ca.pem"), paths.caFile);
    copyFileSync(mine.certFile, paths.certFile);
    copyFileSync(mine.keyFile, paths.keyFile);
    using primary = new PrimaryClient(sidecar.target, { tls: paths });
    await assert.rejects(primary.getNotes("s", { timeoutMs: 500 }), Unavailable);
    writeFileSync(paths.caFile, "no certificate yet");
    await assert.rejects(primary.getNotes("s", { timeoutMs: 500 }), Unavailable);
    copyFileSync(pem("ca.pem"), paths.caFile);
    await eventually(async () => (await primary.getNotes("s", { unavailableOk: true })).readiness === "never_run");
    // The sidecar's key belongs to another pair; with the sidecar's certificate, the client loses its role.
    copyFileSync(pem("sidecar.key"), paths.keyFile);
    const until = performance.now() + 1200;
    while (performance.now() < until) {
      await primary.getSession("s");
    }
    copyFileSync(pem("sidecar.pem"), paths.certFile);
    let ended = 0;
    await eventually(async () => {
      const calls = Array.from({ length: 20 }, () => primary.getSession("s"));
      const outcomes = await Promise.allSettled(calls);
      const failed = outcomes.flatMap((outcome): unknown[] => (outcome.status === "rejected" ? [outcome.reason] : []));
      assert(failed.every((error) => error instanceof Unauthenticated || error instanceof PermissionDenied));
      ended += failed.length;
      return ended > 0;
    });
  });

  const refused: Readonly<Record<string, TLS | undefined>> = {
    "a sidecar with another authority": { caFile: pem("other-ca.pem"), ...mine },
    "a sidecar with an authority that Node does not trust": mine,
    "no client certificate": { caFile: pem("ca.pem") },
    "no encryption": undefined,
  };
  for (const [name, tls] of Object.entries(refused)) {
    test(`no access: ${name}`, async () => {
      using primary = new PrimaryClient(sidecar.target, { tls });
      await assert.rejects(primary.getSession("s", { timeoutMs: 500 }), Unavailable);
    });
  }
});

suite("credentials", () => {
  for (const target of [
    "192.0.2.1:50051",
    "notes.example.org:50051",
    "dns:///notes.example.org:50051",
    "dns://192.0.2.1/localhost:50051",
    "ipv4:127.0.0.1:1,192.0.2.1:1",
    "localhost.example.org:50051",
    "[2001:db8::1]:50051",
  ]) {
    test(`a token is not sent unencrypted to another machine: ${target}`, () => {
      for (const Client of [PrimaryClient, ObserverClient]) {
        assert.throws(
          () => new Client(target, { token: TOKENS.admin }),
          (error) => {
            assert(error instanceof InvalidArgument);
            assert.match(error.message, /TLS/);
            return holdsNoSecret(error);
          },
        );
        new Client(target).close();
        new Client(target, { token: TOKENS.admin, tls: {} }).close();
      }
    });
  }

  for (const target of ["127.0.0.1:1", "127.8.9.1:1", "localhost:1", "[::1]:1", "unix:/run/s", "dns:localhost:1"]) {
    test(`a token may be sent unencrypted to this machine: ${target}`, () => {
      new PrimaryClient(target, { token: TOKENS.primary }).close();
    });
  }

  test("invalid credentials are rejected when a client is created, if possible, and never shown", async () => {
    const refused: (() => unknown)[] = ["", "canary two", "canary\n", "canary-\u00fc"].map(
      (token) => () => new PrimaryClient("127.0.0.1:1", { token }),
    );
    writeFileSync(join(home, "no.pem"), "canary");
    chmodSync(join(home, "no.pem"), 0o600);
    refused.push(
      () => tokenFile(join(home, "none")),
      () => tokenFile(secret(join(home, "empty"), "# nothing")),
      () => new PrimaryClient("127.0.0.1:1", { tls: { certFile: "cert" } }),
      () => new PrimaryClient("127.0.0.1:1", { tls: { caFile: join(home, "none") } }),
      () =>
        new PrimaryClient("127.0.0.1:1", { tls: { certFile: join(home, "no.pem"), keyFile: join(home, "no.pem") } }),
      () => new PrimaryClient("unix:/run/s", { tls: {} }),
      () => new PrimaryClient("127.0.0.1:1", { token: 42 as never }),
      () => new PrimaryClient("127.0.0.1:1", { tls: true as never }),
      () => new PrimaryClient("127.0.0.1:1", { tls: { caFile: 0 as never } }),
      () => tokenFile(0 as never),
    );
    for (const make of refused) {
      assert.throws(make, (error) => error instanceof InvalidArgument && holdsNoSecret(error));
    }
    using client = new PrimaryClient("127.0.0.1:1", { token: () => "canary two" });
    await assert.rejects(client.getSession("s"), (error) => error instanceof InvalidArgument && holdsNoSecret(error));
  });
});
