/** Process warnings of this package, without user data. */

import { createHash } from "node:crypto";

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
