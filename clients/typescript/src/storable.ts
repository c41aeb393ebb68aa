/** Turns prepared for storage: the closest turn that a sidecar accepts, and what had to be changed. */

import { create, toBinary } from "@bufbuild/protobuf";

import { kindOf } from "./arguments.js";
import { TurnSchema } from "./gen/session_notes/v1/turn_pb.js";
import { withoutPrompts } from "./prompt.js";
import { CUT, shortened } from "./texts.js";
import type { JsonObject, JsonValue, Turn } from "./types.js";
import { timestamp, turnMessage } from "./wire.js";

/** The largest turn, serialized, that a sidecar with default settings accepts. */
export const MAX_TURN_BYTES = 64 * 1024;

// The longest speaker. The contract has no limit for it, but a very long one would leave no room for text.
const MAX_SPEAKER_BYTES = 256;
// An `extra` up to this size is kept, and a long text is cut to make room for it. A larger one is dropped first.
const SMALL_EXTRA_BYTES = 4096;
// Tag and length of the text field, for every text that may need cutting.
const TEXT_OVERHEAD = 4;
// The sidecar's limit.
const MAX_JSON_DEPTH = 16;

/** A turn that can be stored. It shares no mutable object with the caller. */
export interface Storable {
  readonly turn: Turn;
  /** Serialized size in bytes. */
  readonly size: number;
  /** What had to be changed, for the log. */
  readonly changes: readonly string[];
}

/**
 * Returns a turn that can be stored: without notes for a prompt, with surrogates replaced, long text cut, and an invalid `extra` left
 * out. A text of nothing but notes gives undefined; anything that is not a turn gives a string that says why.
 */
export function storable(given: unknown, maxBytes: number): Storable | string | undefined {
  if (typeof given !== "object" || given === null) {
    return `left out, not a turn: ${kindOf(given)}`;
  }
  try {
    const { speaker, text, time, extra } = given as { readonly [part in keyof Turn]?: unknown };
    if (typeof text !== "string") {
      return `a turn left out: its text is ${kindOf(text)}`;
    }
    const spoken = withoutPrompts(text);
    return spoken === "" && text !== "" ? undefined : prepared(speaker, spoken, time, extra, maxBytes);
  } catch (error) {
    // Any object may have getters and proxies that throw.
    return `a turn left out: ${kindOf(error)}`;
  }
}

/** Returns a turn that can be stored under a smaller limit. */
export function smaller({ speaker, text, time, extra }: Turn, maxBytes: number): Storable {
  return prepared(speaker, text, time, extra, maxBytes);
}

function prepared(speaker: unknown, text: string, time: unknown, extra: unknown, maxBytes: number): Storable {
  const changes: string[] = [];
  const cut = (name: string, whole: string, bytes: number): string => {
    const short = shortened(whole, bytes, CUT);
    if (short !== whole.toWellFormed()) {
      changes.push(`${name} cut`);
    }
    return short;
  };
  const name = typeof speaker === "string" ? speaker : speaker === undefined || speaker === null ? "" : kindOf(speaker);
  let rest: Turn = { speaker: cut("speaker", name, Math.min(MAX_SPEAKER_BYTES, Math.trunc(maxBytes / 4))), text: "" };
  if (isTime(time)) {
    rest = { ...rest, time: new Date(time) };
  } else if (time !== undefined) {
    changes.push("time left out: it is not a Date in the years 1 to 9999");
  }
  const withoutExtra = rest;
  if (extra !== undefined) {
    const copy = copyOf(extra, maxBytes);
    if (copy === undefined) {
      changes.push("extra left out: not JSON, nested too deep, or too large");
    } else {
      rest = { ...rest, extra: copy };
    }
  }
  const room = (): number => maxBytes - sizeOf(rest) - TEXT_OVERHEAD;
  if (rest.extra && Buffer.byteLength(text) > room() && sizeOf(rest) - sizeOf(withoutExtra) > SMALL_EXTRA_BYTES) {
    rest = withoutExtra;
    changes.push("extra left out: too large next to the text");
  }
  const turn = { ...rest, text: cut("text", text, Math.max(0, room())) };
  return { turn, size: sizeOf(turn), changes };
}

function isTime(time: unknown): time is Date {
  try {
    timestamp("time", time);
    return true;
  } catch {
    return false;
  }
}

/** Returns the serialized size of a turn in bytes. */
function sizeOf(turn: Turn): number {
  return toBinary(TurnSchema, create(TurnSchema, turnMessage("turn", turn))).length;
}

/** Returns a copy of JSON that the sidecar accepts, up to a maximum size; undefined if it would be rejected or is too large. */
function copyOf(extra: unknown, maxBytes: number): JsonObject | undefined {
  let left = maxBytes;
  const spend = (bytes: number): void => {
    left -= bytes;
    if (left < 0) {
      // An object that contains itself would never end.
      throw new RangeError();
    }
  };
  const textOf = (text: string): string => {
    spend(2 + text.length);
    return text.toWellFormed();
  };
  const objectOf = (content: unknown, depth: number): JsonObject => {
    if (kindOf(content) !== "Object" || depth > MAX_JSON_DEPTH) {
      throw new TypeError();
    }
    return Object.fromEntries(
      Object.entries(content as object)
        .filter(([, item]) => item !== undefined)
        .map(([key, item]) => [textOf(key), valueOf(item, depth)]),
    );
  };
  const valueOf = (content: unknown, depth: number): JsonValue => {
    spend(2);
    if (content === null || typeof content === "boolean") {
      return content;
    }
    if (typeof content === "number" && Math.abs(content) <= Number.MAX_SAFE_INTEGER) {
      spend(9);
      return content;
    }
    if (typeof content === "string") {
      return textOf(content);
    }
    if (Array.isArray(content) && depth < MAX_JSON_DEPTH) {
      return Array.from(content, (item: unknown) => valueOf(item, depth + 1));
    }
    return objectOf(content, depth + 1);
  };
  try {
    return objectOf(extra, 1);
  } catch {
    // `extra` may be any object, including one with a getter that throws.
    return undefined;
  }
}
