/** Process warnings of this package, without user data. */

import { createHash } from "node:crypto";

const FIRST_WARNINGS = 10;
const FIRST_PAUSE_MS = 60_000;
const LAST_PAUSE_MS = 3600_000;
const MAX_KINDS = 100;

/** Emits a process warning. */
export function warn(message: string): void {
  process.emitWarning(message, "SessionNotesWarning");
}

/**
 * Returns the name of a session in warnings. Callers choose ids, which may identify the user, so this is the start of their SHA-256,
 * as printed by `printf %s ID | sha256sum | cut -c1-8`.
 */
export function sessionDigest(sessionId: string): string {
  return createHash("sha256").update(sessionId).digest("hex").slice(0, 8);
}

/** Returns a number with its noun: `1 turn`, `2 turns`. */
export function counted(number: number, noun = "turn"): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/**
 * Warnings that repeat for as long as their cause lasts. The first ten of each kind are emitted, later ones less often: the pause
 * between two doubles from a minute to an hour, and a warning tells how many were left out.
 */
export class RepeatedWarnings {
  readonly #kinds = new Map<
    string,
    { count: number; omitted: number; last: number; pauseMs: number; notBefore: number }
  >();

  /** Warns about a subject, unless there were too many warnings with the same problem. */
  warn(subject: string, problem: string): void {
    const omitted = this.#omitted(problem, performance.now());
    if (omitted !== undefined) {
      warn(`${subject}: ${problem}${omitted > 0 ? ` (${omitted} more since the last such warning)` : ""}`);
    }
  }

  /** Counts a warning. If it should be emitted, returns the number of those left out before it. */
  #omitted(problem: string, now: number): number | undefined {
    let kind = this.#kinds.get(problem);
    if (kind === undefined || now - kind.last > LAST_PAUSE_MS) {
      kind = { count: 0, omitted: 0, last: now, pauseMs: 0, notBefore: 0 };
    }
    // The latest kinds are last.
    this.#kinds.delete(problem);
    this.#kinds.set(problem, kind);
    const [oldest] = this.#kinds.keys();
    if (this.#kinds.size > MAX_KINDS && oldest !== undefined) {
      this.#kinds.delete(oldest);
    }
    kind.last = now;
    kind.count += 1;
    if (kind.count > FIRST_WARNINGS) {
      if (now < kind.notBefore) {
        kind.omitted += 1;
        return undefined;
      }
      kind.pauseMs = Math.min(2 * kind.pauseMs, LAST_PAUSE_MS) || FIRST_PAUSE_MS;
      kind.notBefore = now + kind.pauseMs;
    }
    const { omitted } = kind;
    kind.omitted = 0;
    return omitted;
  }
}
