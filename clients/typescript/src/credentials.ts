/** Who we are to a sidecar, and whether others can listen: the token of each call, and TLS. */

import { readFileSync, statSync } from "node:fs";
import { BlockList, isIP } from "node:net";

import { ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";

import { variable } from "./environment.js";
import { InvalidArgument, Unauthenticated } from "./errors.js";
import { kindOf, object, text } from "./wire.js";

const LOOK_MS = 1000;

/** A token, or what gives the one of the moment; asked at every call, so it must be quick. */
export type Token = string | (() => string);

/**
 * Encryption of the connection, and whose certificates to trust. Without any file: `{}` trusts the authorities that Node
 * trusts.
 *
 * The files are read when a client is made, and again within a second of their replacement. The client then connects anew;
 * calls in flight end on the old connection. Files that are replaced one after the other count once they fit each other again.
 *
 * @example
 * new PrimaryClient("notes.example.org:50051", { tls: { caFile: "ca.pem" }, token: tokenFile("token") });
 */
export interface TLS {
  /** Whose certificates a sidecar may have, as PEM. Absent: those of the authorities that Node trusts. */
  readonly caFile?: string | undefined;
  /** Our own certificate, as PEM, where the sidecar wants one. */
  readonly certFile?: string | undefined;
  /** The private key of it. */
  readonly keyFile?: string | undefined;
}

/**
 * A token in a file, read again when the file changes; where that fails, the last one stays.
 *
 * It is the first line that is neither blank nor a comment (#), as in the files of the sidecar.
 *
 * @throws InvalidArgument There is no token in it.
 */
export function tokenFile(path: string): () => string {
  text("the path of a token file", path);
  let [seen, token] = orRefuse(path, () => [look(path), readToken(path) ?? ""]);
  if (token === "") {
    throw new InvalidArgument(`no token in ${path}: its first line must be a token`);
  }
  return () => {
    try {
      const now = look(path);
      if (now !== seen) {
        token = readToken(path) ?? token;
        seen = now;
      }
    } catch {
      // It is being replaced; what we have may still do, and if not, the sidecar says so.
    }
    return token;
  };
}

/** What a client connects and calls with. */
export class Credentials {
  readonly #token: Token | undefined;
  readonly #tls: TLS | undefined;
  #channel: ChannelCredentials;
  #seen: string;
  #nextLook = performance.now() + LOOK_MS;

  /**
   * @param target The sidecar's address.
   * @param token As the client was told; undefined: as the environment says.
   * @param tls As the client was told; undefined: as the environment says.
   * @throws InvalidArgument They do not fit, or the token would travel for everybody to read.
   */
  constructor(target: string, token: Token | undefined, tls: TLS | undefined) {
    if (token !== undefined && typeof token !== "string" && typeof token !== "function") {
      throw new InvalidArgument(`token must be a string, or a function that returns one, not ${kindOf(token)}`);
    }
    const unix = target.startsWith("unix:");
    if (unix && tls !== undefined) {
      throw new InvalidArgument("tls does not apply to a unix socket: remove it, or use a host:port target");
    }
    const encryption = unix ? undefined : (tls ?? tlsOfEnvironment());
    this.#token = token ?? tokenOfEnvironment();
    if (typeof this.#token === "string") {
      checked(this.#token);
    }
    if (this.#token !== undefined && encryption === undefined && !unix && !isLoopback(target)) {
      throw new InvalidArgument("a token is sent to another machine only over TLS: pass tls, or set SESSION_NOTES_TLS_CA");
    }
    this.#tls = encryption;
    this.#seen = this.#look();
    this.#channel = encryption === undefined ? credentials.createInsecure() : encrypted(encryption);
  }

  /** For a channel, with what the files of TLS held when they were last read. */
  forChannel(): ChannelCredentials {
    return this.#channel;
  }

  /** Looks at the files of TLS at the next call: a connection that was refused may be so for what they held. */
  lookSoon(): void {
    this.#nextLook = 0;
  }

  /** Whether the files of TLS have changed and fit each other; once per change, with one look a second. */
  replaced(): boolean {
    if (this.#tls === undefined || performance.now() < this.#nextLook) {
      return false;
    }
    this.#nextLook = performance.now() + LOOK_MS;
    const seen = this.#look();
    if (seen === this.#seen) {
      return false;
    }
    try {
      this.#channel = encrypted(this.#tls);
    } catch {
      // They are being replaced; the connection that we have may still do.
      return false;
    }
    this.#seen = seen;
    return true;
  }

  #look(): string {
    const { caFile, certFile, keyFile } = this.#tls ?? {};
    return [caFile, certFile, keyFile].map((path) => path && lookIfThere(path)).join();
  }

  /**
   * What goes with a call.
   *
   * @throws InvalidArgument The token function returned no token.
   * @throws Unauthenticated The token function threw.
   */
  metadata(): Metadata {
    const metadata = new Metadata();
    if (this.#token !== undefined) {
      const token = typeof this.#token === "string" ? this.#token : checked(asked(this.#token));
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

function asked(token: () => string): string {
  let given: unknown;
  try {
    given = token();
  } catch (error) {
    // Without its text, which may hold a secret; the error itself is the cause.
    const raised = new Unauthenticated(`the token function threw ${kindOf(error)}`);
    raised.cause = error;
    throw raised;
  }
  if (typeof given !== "string") {
    if (given instanceof Promise) {
      // An async function is refused; where it also rejects, Node would end the process.
      given.catch(() => undefined);
    }
    throw new InvalidArgument(`the token function must return a string, not ${kindOf(given)}`);
  }
  return given;
}

function encrypted(tls: TLS): ChannelCredentials {
  const { caFile, certFile, keyFile } = object("tls", tls);
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
    // Without what Node says of it, which may quote the file.
    throw new InvalidArgument("the certificates or the key cannot be used");
  }
}

function content(path: string | undefined): Buffer | null {
  return path === undefined ? null : orRefuse(path, () => readFileSync(path));
}

function orRefuse<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new InvalidArgument(`${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function lookIfThere(path: string): string {
  try {
    return look(path);
  } catch {
    return "";
  }
}

function look(path: string): string {
  const { mtimeNs, ino, size } = statSync(path, { bigint: true });
  return `${mtimeNs} ${ino} ${size}`;
}

function readToken(path: string): string | undefined {
  const lines = readFileSync(path, "utf8").split("\n");
  const said = lines.map((line) => line.trim()).find((line) => line !== "" && !line.startsWith("#"));
  return said !== undefined && isToken(said) ? said : undefined;
}

function isToken(text: unknown): text is string {
  return typeof text === "string" && /^[!-~]+$/.test(text);
}

function checked(token: string): string {
  if (!isToken(token)) {
    // Without a word of it: errors end up in logs.
    throw new InvalidArgument("a token must be printable ASCII without spaces");
  }
  return token;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** Whether all addresses of a target are this machine's own. A name is, if it is `localhost`: none is looked up. */
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
