/** Failure reasons of runs. */

import { kindOf } from "./arguments.js";

// The sidecar's limit on a failure reason, and the mark of a truncated one.
const MAX_REASON_BYTES = 4096;
const TRUNCATION_MARK = "…";

/**
 * Returns a failure reason that the sidecar accepts, whatever the input, so that any run can fail. An error becomes
 * `Name: message`.
 */
export function failureReason(reason: unknown): string {
  const bytes = Buffer.from(textOf(reason).toWellFormed());
  if (bytes.length <= MAX_REASON_BYTES) {
    return bytes.toString();
  }
  // Do not cut through a character.
  let end = MAX_REASON_BYTES - Buffer.byteLength(TRUNCATION_MARK);
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) {
    end -= 1;
  }
  return bytes.toString("utf8", 0, end) + TRUNCATION_MARK;
}

function textOf(reason: unknown): string {
  if (typeof reason === "string") {
    return reason;
  }
  if (reason === undefined || reason === null) {
    return "";
  }
  return reason instanceof Error && reason.message !== ""
    ? `${errorName(reason)}: ${reason.message}`
    : errorName(reason);
}

/** Returns the name of an error's class, without the message, which may contain user data. */
export function errorName(error: unknown): string {
  return kindOf(error);
}
