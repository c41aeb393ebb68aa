/** Argument checks. Their errors name the invalid argument and never quote its value. */

import type { JsonValue as WireJson } from "@bufbuild/protobuf";

import { InvalidArgument } from "./errors.js";
import type { JsonObject, JsonValue } from "./types.js";

// Levels of JSON: more than the sidecar's limit of 16, so that the sidecar enforces its own limit, but within protobuf's. Protobuf
// parses at most 100 nested messages, and a level takes up to three.
const MAX_DEPTH = 32;

// The longest part of a key in an error message.
const MAX_KEY_LENGTH = 60;

/** Checks an argument, and throws the error for an invalid one. */
export type Check = (name: string, content: unknown) => unknown;

/** Each option with its check. */
export type Checks<Options> = { readonly [Name in keyof Options]-?: Check };

/**
 * Returns the error for an invalid argument. `name` is the path of the argument or of a part of it; `problem` never quotes the
 * value.
 */
export function refusal(name: string, problem: string): InvalidArgument {
  return new InvalidArgument(`${name} ${problem}`, { reason: "INVALID_FIELD" });
}

export function wrongType(name: string, expected: string, content: unknown): InvalidArgument {
  return refusal(name, `must be ${expected}, not ${kindOf(content)}`);
}

/** Whether a text can be a session id. */
export function isSessionId(id: string): boolean {
  return /^[!-z|~]{1,256}$/.test(id);
}

/** Checks a string; the error refers to it as `name`. */
export function text(name: string, content: unknown): string {
  if (typeof content !== "string") {
    throw wrongType(name, "a string", content);
  }
  if (!content.isWellFormed()) {
    // The encoder would silently replace it with another character.
    throw refusal(name, "must not contain a lone surrogate (half a character)");
  }
  return content;
}

export function wholeNumber(name: string, content: unknown): number {
  if (typeof content !== "number") {
    throw wrongType(name, "a number", content);
  }
  if (!Number.isSafeInteger(content)) {
    throw refusal(name, "must be a whole number up to 2^53 - 1");
  }
  return content;
}

/** Checks a boolean. */
export function flag(name: string, content: unknown): boolean {
  if (typeof content !== "boolean") {
    throw wrongType(name, "a boolean", content);
  }
  return content;
}

/** Checks a duration in milliseconds; it may be infinite. */
export function milliseconds(name: string, ms: unknown): number {
  if (typeof ms !== "number") {
    throw wrongType(name, "a number of milliseconds", ms);
  }
  if (Number.isNaN(ms)) {
    throw refusal(name, "must be a number of milliseconds, not NaN");
  }
  return ms;
}

/** Checks a duration in milliseconds that has an end and is not over at once. */
export function positive(name: string, content: unknown): number {
  const ms = milliseconds(name, content);
  if (!(ms > 0 && ms < Infinity)) {
    throw refusal(name, "must be above 0 and finite");
  }
  return ms;
}

/** Checks a duration in milliseconds that has an end. */
export function span(name: string, content: unknown): number {
  const ms = milliseconds(name, content);
  if (!(ms >= 0 && ms < Infinity)) {
    throw refusal(name, "must be at least 0 and finite");
  }
  return ms;
}

/** Returns a check of a whole number with a minimum. */
export function atLeast(minimum: number): Check {
  return (name, content) => {
    if (wholeNumber(name, content) < minimum) {
      throw refusal(name, `must be at least ${minimum}`);
    }
  };
}

/** Returns a check of a word. */
export function oneOf(...words: readonly string[]): Check {
  return (name, content) => {
    if (typeof content !== "string" || !words.includes(content)) {
      throw refusal(name, `must be ${words.slice(0, -1).join(", ")} or ${words.at(-1)}`);
    }
  };
}

/** Checks a signal. Any with the methods of one is accepted. */
export function abortSignal(name: string, content: unknown): void {
  if (typeof (content as Partial<AbortSignal> | null)?.throwIfAborted !== "function") {
    throw wrongType(name, "an AbortSignal", content);
  }
}

/** Checks an array. Strings are iterable too, but always a mistake. */
export function array<T>(name: string, items: readonly T[]): readonly T[];
export function array(name: string, given: unknown): readonly unknown[];
export function array(name: string, given: unknown): readonly unknown[] {
  if (!Array.isArray(given)) {
    const hint = typeof given === "object" && given !== null ? ": pass [...] with it" : "";
    throw refusal(name, `must be an array, not ${kindOf(given)}${hint}`);
  }
  return given;
}

/** Checks an array of strings. */
export function texts(name: string, items: unknown): string[] {
  return array(name, items).map((item, index) => text(`${name}[${index}]`, item));
}

/** Checks an object, such as options. */
export function object<T extends object>(name: string, content: T): T {
  const given: unknown = content;
  // Reject arrays and Maps, which would pass for empty objects.
  if (typeof given !== "object" || given === null || Symbol.iterator in given) {
    throw wrongType(name, "an object", content);
  }
  return content;
}

/** Checks an object that has no other parts than these, because they would be ignored. */
export function onlyKnown<T extends object>(name: string, content: T, known: readonly string[]): T {
  for (const [key, part] of Object.entries(object(name, content))) {
    if (part !== undefined && !known.includes(key)) {
      throw refusal(name + keyInPath(key), `is not one of ${known.join(", ")}`);
    }
  }
  return content;
}

/** Checks options: their names, and the values of those that are present. */
export function checked<Options extends object>(options: Options, checks: Checks<Options>): Options {
  if (kindOf(options) !== "Object") {
    // An instance of a class would pass for no options, such as an AbortSignal or an observer.
    throw wrongType("options", "an object", options);
  }
  onlyKnown("options", options, Object.keys(checks));
  for (const name of Object.keys(checks) as (keyof Options & string)[]) {
    if (options[name] !== undefined) {
      checks[name](name, options[name]);
    }
  }
  return options;
}

/** Returns the type of a value for an error message, without its content. */
export function kindOf(content: unknown): string {
  if (content === null || typeof content !== "object") {
    return content === null ? "null" : typeof content;
  }
  if (Array.isArray(content)) {
    return "Array";
  }
  const prototype = Object.getPrototypeOf(content) as { readonly constructor?: unknown } | null;
  const kind = prototype?.constructor;
  return typeof kind === "function" ? kind.name : "Object";
}

/** Returns a copy that contains only JSON; `keys` is the path from the argument. */
function json(name: string, content: JsonValue, keys = "", depth = 0): WireJson {
  if (depth > MAX_DEPTH) {
    throw refusal(name, "must not be nested deeper than 16");
  }
  if (typeof content === "number" && !Number.isFinite(content)) {
    throw refusal(name + keys, "must not contain NaN or infinity");
  }
  if (content === null || typeof content === "boolean" || typeof content === "number") {
    return content;
  }
  if (typeof content === "string") {
    return text(name + keys, content);
  }
  if (Array.isArray(content)) {
    return Array.from<JsonValue, WireJson>(content, (item, index) => json(name, item, `${keys}[${index}]`, depth + 1));
  }
  if (kindOf(content) !== "Object") {
    throw wrongType(name + keys, "JSON", content);
  }
  const entries: [string, WireJson][] = [];
  for (const [key, item] of Object.entries(content)) {
    if (item !== undefined) {
      entries.push([text(`a key of ${name}${keys}`, key), json(name, item, keys + keyInPath(key), depth + 1)]);
    }
  }
  return Object.fromEntries(entries);
}

export function keyInPath(key: string): string {
  return `[${JSON.stringify(key.length > MAX_KEY_LENGTH ? `${key.slice(0, MAX_KEY_LENGTH)}…` : key)}]`;
}

export function struct(name: string, content: JsonObject): Record<string, WireJson> {
  return json(name, object(name, content)) as Record<string, WireJson>;
}

export function shareOf(name: string, content: unknown): number {
  if (typeof content !== "number") {
    throw wrongType(name, "a number", content);
  }
  if (!(content >= 0 && content <= 1)) {
    throw refusal(name, "must be from 0 to 1");
  }
  return content;
}
