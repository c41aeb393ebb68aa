/** Failure reasons of runs. */

import { kindOf } from "./arguments.js";
import { InvalidArgument } from "./errors.js";
import { shortened } from "./texts.js";

// The sidecar's limit on a failure reason, and the mark of a truncated one.
const MAX_REASON_BYTES = 4096;
const TRUNCATION_MARK = "…";

/**
 * Returns a failure reason that the sidecar accepts, whatever the input, so that any run can fail. An error becomes
 * `Name: message`.
 */
export function failureReason(reason: unknown): string {
  return shortened(textOf(reason), MAX_REASON_BYTES, TRUNCATION_MARK);
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

/**
 * Returns an error for warnings: its class, and for an argument the part of it that is invalid. Never a key or a text of the user.
 */
export function forLogs(error: unknown): string {
  const name = errorName(error);
  return error instanceof InvalidArgument ? `${name}: ${error.message.replace(/\[".*"\]/gs, "[…]")}` : name;
}
