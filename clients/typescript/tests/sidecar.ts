/** Support for tests: a real sidecar on a real store, and servers that are not sidecars. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** A Python interpreter with the sidecar installed. */
export const PYTHON = process.env["SIDECAR_PYTHON"] || join(ROOT, ".venv/bin/python");

export const CONFORMANCE = join(ROOT, "tests/conformance");

const START_MS = 30_000;

/** A sidecar process on a free port and a unix socket. */
export class Sidecar implements AsyncDisposable {
  /** TCP address; "" until the sidecar listens. */
  target = "";
  readonly home = mkdtempSync(join(tmpdir(), "session-notes-"));
  readonly unix = `unix:${join(this.home, "sidecar.sock")}`;
  readonly #flags: readonly string[];
  #process: ChildProcess | undefined;

  private constructor(flags: readonly string[]) {
    this.#flags = flags;
  }

  /** Starts a sidecar with further arguments of `serve`. Resolves when it listens; the store is ready a moment later. */
  static async start(...flags: string[]): Promise<Sidecar> {
    const sidecar = new Sidecar(flags);
    try {
      await sidecar.start();
    } catch (error) {
      await sidecar[Symbol.asyncDispose]();
      throw error;
    }
    return sidecar;
  }

  /** Starts the process, or restarts it with the same port and data. */
  async start(): Promise<void> {
    const listen = ["--listen", this.target || "127.0.0.1:0", "--listen", this.unix];
    // Longer store timeouts than by default: tests share a few cores.
    const limits = ["--notes-timeout", "5s", "--store-timeout", "5s"];
    const serve = ["-m", "session_notes_tools", "serve", ...listen, "--data-dir", join(this.home, "data"), ...limits];
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SESSION_NOTES_")));
    const child = spawn(PYTHON, [...serve, ...this.#flags], { env, stdio: ["ignore", "ignore", "pipe"] });
    this.#process = child;
    const log: string[] = [];
    const waiting = setTimeout(() => child.kill("SIGKILL"), START_MS);
    for await (const line of createInterface({ input: child.stderr })) {
      log.push(line);
      const match = /listening on (127\.0\.0\.1:\d+)\s*$/.exec(line);
      if (match?.[1] !== undefined) {
        this.target = match[1];
        break;
      }
    }
    clearTimeout(waiting);
    assert(this.target !== "" && child.exitCode === null && !child.killed, `no sidecar:\n${log.join("\n")}`);
    child.stderr.resume();
  }

  /** Ends the process with a signal. */
  async end(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const child = this.#process;
    if (child?.exitCode === null && child.signalCode === null) {
      child.kill(signal);
      await once(child, "exit");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGTERM");
    rmSync(this.home, { recursive: true, force: true });
  }
}

/** Returns an address without a listener. */
export async function unreachable(): Promise<string> {
  const server = await listening();
  const target = targetOf(server);
  server.close();
  await once(server, "close");
  return target;
}

/** A server that accepts connections and never sends anything. */
export class Silent implements Disposable {
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server.on("connection", (socket) => {
      this.#sockets.add(socket.on("error", () => undefined));
    });
  }

  static async start(): Promise<Silent> {
    return new Silent(await listening());
  }

  get target(): string {
    return targetOf(this.#server);
  }

  [Symbol.dispose](): void {
    this.#server.close();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
  }
}

async function listening(): Promise<Server> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

function targetOf(server: Server): string {
  const address = server.address();
  assert(address !== null && typeof address === "object");
  return `127.0.0.1:${address.port}`;
}

/** Returns a new session id. */
export function newSessionId(): string {
  return `session-${randomUUID()}`;
}

/** Waits until a condition holds, with a limit. */
export async function eventually(holds: () => Promise<boolean>, limitMs = 10_000): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await holds())) {
    assert(performance.now() < end, `not within ${limitMs} ms`);
    await sleep(20);
  }
}

/** The process warnings of this package since the last `clear`. */
export class Warnings implements Disposable {
  #texts: string[] = [];
  readonly #collect = (warning: Error): void => {
    if (warning.name === "SessionNotesWarning") {
      this.#texts.push(warning.message);
    }
  };

  constructor() {
    process.on("warning", this.#collect);
  }

  clear(): void {
    this.#texts = [];
  }

  /** Waits for a number of warnings. */
  async texts(least: number): Promise<readonly string[]> {
    await eventually(() => Promise.resolve(this.#texts.length >= least));
    await nextTurn(); // For those that were emitted at the same time.
    return this.#texts;
  }

  [Symbol.dispose](): void {
    process.off("warning", this.#collect);
  }
}
