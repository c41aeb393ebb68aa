/** Credentials of a client: TLS, and the token sent with each call. */

import { readFileSync, statSync } from "node:fs";
import { BlockList, isIP } from "node:net";

import { ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";

import { kindOf, onlyKnown, text } from "./arguments.js";
import { variable } from "./environment.js";
import { InvalidArgument, Unauthenticated } from "./errors.js";

const RECHECK_MS = 1000;

/** A token, or a function that returns the current one. The function runs for every call, so it must be fast. */
export type Token = string | (() => string);

/**
 * TLS settings. An empty object enables TLS with the certificate authorities that Node trusts.
 *
 * Files are read when a client is created, and reloaded within a second after they are replaced. The client then reconnects;
 * calls in flight finish on the old connection. New files take effect once certificate and key match.
 *
 * @example
 * new PrimaryClient("notes.example.org:50051", { tls: { caFile: "ca.pem" }, token: tokenFile("token") });
 */
export interface TLS {
  /** PEM file with the sidecar's certificate authorities. Absent: the authorities that Node trusts. */
  readonly caFile?: string | undefined;
  /** PEM file with the client's certificate, if the sidecar requires one. */
  readonly certFile?: string | undefined;
  /** PEM file with the private key of the client's certificate. */
  readonly keyFile?: string | undefined;
}

/**
 * Returns a token function that reads a file, and reloads it when it changes. If that fails, the last token stays in use.
 *
 * The token is the first line that is neither blank nor a comment (#), as in the sidecar's files.
 *
 * @throws InvalidArgument The file contains no token.
 */
export function tokenFile(path: string): () => string {
  text("the path of a token file", path);
  let [seen, token] = orReject(path, () => [fingerprint(path), readToken(path) ?? ""]);
  if (token === "") {
    throw new InvalidArgument(`no token in ${path}: its first line must be a token`);
  }
  return () => {
    try {
      const now = fingerprint(path);
      if (now !== seen) {
        token = readToken(path) ?? token;
        seen = now;
      }
    } catch {
      // The file is being replaced. The old token may still be valid; if not, the sidecar rejects it.
    }
    return token;
  };
}

/** Token and TLS of a client. */
export class Credentials {
  readonly #token: Token | undefined;
  readonly #tls: TLS | undefined;
  #channel: ChannelCredentials;
  #fingerprint: string;
  #nextCheck = performance.now() + RECHECK_MS;

  /**
   * @param target The sidecar's address.
   * @param token The client's option; undefined: use the environment.
   * @param tls The client's option; undefined: use the environment.
   * @throws InvalidArgument A value is invalid, or the token would leave this machine unencrypted.
   */
  constructor(target: string, token: Token | undefined, tls: TLS | undefined) {
    if (token !== undefined && typeof token !== "string" && typeof token !== "function") {
      throw new InvalidArgument(`token must be a string, or a function that returns one, not ${kindOf(token)}`);
    }
    if (tls !== undefined) {
      onlyKnown("tls", tls, ["caFile", "certFile", "keyFile"]);
    }
    const unix = target.startsWith("unix:");
    if (unix && tls !== undefined) {
      throw new InvalidArgument("tls does not apply to a unix socket: remove it, or use a host:port target");
    }
    const encryption = unix ? undefined : (tls ?? tlsOfEnvironment());
    this.#token = token ?? tokenOfEnvironment();
    if (typeof this.#token === "string") {
      validToken(this.#token);
    }
    if (this.#token !== undefined && encryption === undefined && !unix && !isLoopback(target)) {
      throw new InvalidArgument(
        "a token is sent to another machine only over TLS: pass tls, or set SESSION_NOTES_TLS_CA",
      );
    }
    this.#tls = encryption;
    this.#fingerprint = this.#fingerprints();
    this.#channel = encryption === undefined ? credentials.createInsecure() : encrypted(encryption);
  }

  /** Returns the channel credentials, with the TLS files as last read. */
  forChannel(): ChannelCredentials {
    return this.#channel;
  }

  /** Makes the next call check the TLS files, because outdated files may be why a connection failed. */
  recheckSoon(): void {
    this.#nextCheck = 0;
  }

  /** Returns whether the TLS files have changed and match each other. True once per change; checks once per second. */
  replaced(): boolean {
    if (this.#tls === undefined || performance.now() < this.#nextCheck) {
      return false;
    }
    this.#nextCheck = performance.now() + RECHECK_MS;
    const seen = this.#fingerprints();
    if (seen === this.#fingerprint) {
      return false;
    }
    try {
      this.#channel = encrypted(this.#tls);
    } catch {
      // The files are being replaced. The current connection may still work.
      return false;
    }
    this.#fingerprint = seen;
    return true;
  }

  #fingerprints(): string {
    const { caFile, certFile, keyFile } = this.#tls ?? {};
    return [caFile, certFile, keyFile].map((path) => path && fingerprintOrEmpty(path)).join();
  }

  /**
   * Returns the metadata of a call.
   *
   * @throws InvalidArgument The token function returned no token.
   * @throws Unauthenticated The token function threw.
   */
  metadata(): Metadata {
    const metadata = new Metadata();
    if (this.#token !== undefined) {
      const token = typeof this.#token === "string" ? this.#token : validToken(callTokenFunction(this.#token));
      metadata.set("authorization", `Bearer ${token}`);
    }
    return metadata;
  }
}

function tokenOfEnvironment(): Token | undefined {
  const path = variable("TOKEN_FILE");
  return variable("TOKEN") ?? (path === undefined ? undefined : tokenFile(path));
}

function tlsOfEnvironment(): TLS | undefined {
  const [caFile, certFile, keyFile] = [variable("TLS_CA"), variable("TLS_CERT"), variable("TLS_KEY")];
  return caFile === undefined && certFile === undefined && keyFile === undefined
    ? undefined
    : { caFile, certFile, keyFile };
}

function callTokenFunction(getToken: () => string): string {
  let token: unknown;
  try {
    token = getToken();
  } catch (error) {
    // Leave out the error's text, which may contain a secret. The error itself is the cause.
    const unauthenticated = new Unauthenticated(`the token function threw ${kindOf(error)}`);
    unauthenticated.cause = error;
    throw unauthenticated;
  }
  if (typeof token !== "string") {
    if (token instanceof Promise) {
      // Async functions are invalid. An unhandled rejection of the promise would end the process.
      token.catch(() => undefined);
    }
    throw new InvalidArgument(`the token function must return a string, not ${kindOf(token)}`);
  }
  return token;
}

function encrypted(tls: TLS): ChannelCredentials {
  const { caFile, certFile, keyFile } = tls;
  for (const [name, path] of Object.entries({ caFile, certFile, keyFile })) {
    if (path !== undefined) {
      text(`tls.${name}`, path);
    }
  }
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new InvalidArgument("tls.certFile and tls.keyFile must be given together");
  }
  const [ca, key, cert] = [caFile, keyFile, certFile].map(content);
  try {
    return credentials.createSsl(ca, key, cert);
  } catch {
    // Leave out Node's message, which may quote the file.
    throw new InvalidArgument("the certificates or the key cannot be used");
  }
}

function content(path: string | undefined): Buffer | null {
  return path === undefined ? null : orReject(path, () => readFileSync(path));
}

function orReject<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new InvalidArgument(`${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function fingerprintOrEmpty(path: string): string {
  try {
    return fingerprint(path);
  } catch {
    return "";
  }
}

function fingerprint(path: string): string {
  const { mtimeNs, ino, size } = statSync(path, { bigint: true });
  return `${mtimeNs} ${ino} ${size}`;
}

function readToken(path: string): string | undefined {
  const lines = readFileSync(path, "utf8").split("\n");
  const line = lines.map((line) => line.trim()).find((line) => line !== "" && !line.startsWith("#"));
  return line !== undefined && isToken(line) ? line : undefined;
}

function isToken(text: unknown): text is string {
  return typeof text === "string" && /^[!-~]+$/.test(text);
}

function validToken(token: string): string {
  if (!isToken(token)) {
    // Never quote the token: errors end up in logs.
    throw new InvalidArgument("a token must be printable ASCII without spaces");
  }
  return token;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** Returns whether all addresses of a target are loopback. Names are not resolved; only `localhost` counts. */
function isLoopback(target: string): boolean {
  const addresses = target.replace(/^(dns:\/\/\/|dns:|ipv4:|ipv6:)/, "").split(",");
  return addresses.every((address) => {
    const [, host = ""] = /^(.*):[0-9]+$/s.exec(address) ?? [];
    if (host === "localhost") {
      return true;
    }
    const bare = host.replace(/^\[/, "").replace(/\]$/, "");
    const version = isIP(bare);
    return version !== 0 && LOOPBACK.check(bare, version === 4 ? "ipv4" : "ipv6");
  });
}
