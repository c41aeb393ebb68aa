/** Targets: addresses of sidecars, and their validation. */

import { isIPv4, isIPv6 } from "node:net";

import { kindOf } from "./arguments.js";
import { variable, warnOfMisspelledNames } from "./environment.js";
import { InvalidArgument } from "./errors.js";

/** The default address of a sidecar. An argument or the environment variable `SESSION_NOTES_TARGET` overrides it. */
export const DEFAULT_TARGET = "127.0.0.1:50051";

// The longest path of a unix socket on Linux.
const MAX_PATH_BYTES = 107;

/**
 * Returns the address to call: the argument, else the environment variable, else the default.
 *
 * @throws InvalidArgument The address is invalid.
 */
export function targetOrDefault(target: string | undefined): string {
  const given: unknown = target;
  if (given !== undefined && typeof given !== "string") {
    throw new InvalidArgument(`target must be a string, not ${kindOf(given)}`);
  }
  warnOfMisspelledNames();
  const fromEnvironment = target ? undefined : variable("TARGET");
  const address = target || fromEnvironment || DEFAULT_TARGET;
  if (!isAddress(address)) {
    const source = fromEnvironment === undefined ? "" : "SESSION_NOTES_TARGET: ";
    const printable = isPrintable(address) ? address : JSON.stringify(address);
    throw new InvalidArgument(`${source}${printable} is not an address: use host:port or unix:/path`);
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
      // xDS resolves names through its own configuration, so any name can be valid.
      return true;
    case "unix": {
      const path = rest.replace(/^\/\//, "");
      const absolute = path.startsWith("/") || path === rest;
      const short = Buffer.byteLength(path) <= MAX_PATH_BYTES;
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

/** Returns the host of `host:port`; empty if either is missing or invalid. */
function hostOf(address: string): string {
  const [, host = "", port = ""] = /^(.*):([0-9]{1,6})$/s.exec(address) ?? [];
  // gRPC would use 443 for a missing port.
  return Number(port) > 0 && Number(port) <= 65535 ? host : "";
}

function inBrackets(host: string): string | undefined {
  return /^\[(.*)\]$/s.exec(host)?.[1];
}
