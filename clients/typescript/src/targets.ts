/** The addresses of sidecars: which targets gRPC can connect to. */

import { isIPv4, isIPv6 } from "node:net";

import { variable, warnOfMisspeltNames } from "./environment.js";
import { InvalidArgument } from "./errors.js";
import { kindOf } from "./wire.js";

/** Where clients look for a sidecar unless told: by argument, or by the environment variable `SESSION_NOTES_TARGET`. */
export const DEFAULT_TARGET = "127.0.0.1:50051";

// The longest path that the address of a unix socket holds on Linux.
const LONGEST_PATH_BYTES = 107;

/**
 * The address to call: the one given, else the environment's, else the default.
 *
 * @throws InvalidArgument It is no address of a sidecar, whatever listens where.
 */
export function targetOrDefault(target: string | undefined): string {
  const given: unknown = target;
  if (given !== undefined && typeof given !== "string") {
    throw new InvalidArgument(`target must be a string, not ${kindOf(given)}`);
  }
  warnOfMisspeltNames();
  const fromEnvironment = target ? undefined : variable("TARGET");
  const address = target || fromEnvironment || DEFAULT_TARGET;
  if (!isAddress(address)) {
    const source = fromEnvironment === undefined ? "" : "SESSION_NOTES_TARGET: ";
    const shown = isPrintable(address) ? address : JSON.stringify(address);
    throw new InvalidArgument(`${source}${shown} is not an address: use host:port or unix:/path`);
  }
  return address;
}

function isPrintable(text: string): boolean {
  return !/[\p{C}\p{Zl}\p{Zp}]/u.test(text);
}

function isAddress(target: string): boolean {
  if (target !== target.trim() || !isPrintable(target)) {
    return false;
  }
  const [, scheme, rest = ""] = /^([^:]*):(.*)$/s.exec(target) ?? [];
  switch (scheme) {
    case "xds":
      // Its resolver has a configuration of its own, and names that say nothing of an address.
      return true;
    case "unix": {
      const path = rest.replace(/^\/\//, "");
      const absolute = path.startsWith("/") || path === rest;
      const short = Buffer.byteLength(path) <= LONGEST_PATH_BYTES;
      return absolute && short && path === path.trim() && /[^/]/.test(path);
    }
    case "ipv4":
      return rest.split(",").every((address) => isIPv4(hostOf(address)));
    case "ipv6":
      return rest.split(",").every((address) => isIPv6(inBrackets(hostOf(address)) ?? ""));
  }
  const host = hostOf(scheme === "dns" ? rest.replace(/^\/\/[^/]*\//, "") : target);
  const bare = inBrackets(host);
  return bare === undefined ? /^[A-Za-z0-9_.-]+$/.test(host) : isIPv6(bare);
}

/** The host of `host:port`; empty where either is missing or wrong. */
function hostOf(address: string): string {
  const [, host = "", port = ""] = /^(.*):([0-9]{1,6})$/s.exec(address) ?? [];
  // gRPC takes a port that is missing for 443.
  return Number(port) > 0 && Number(port) <= 65535 ? host : "";
}

function inBrackets(host: string): string | undefined {
  return /^\[(.*)\]$/s.exec(host)?.[1];
}
