/** Who we are to a sidecar, and whether others can listen: the token of each call, and TLS. */

import { readFileSync, statSync } from "node:fs";
import { BlockList, isIP } from "node:net";

import { ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";

import { InvalidArgument } from "./errors.js";

/** A token, or what gives the one of the moment; asked at every call, so it must be quick. */
export type Token = string | (() => string);

/**
 * Encrypts the connection, and has the sidecar show its certificate. The files are read when a client is made. Without any
 * of them: `{}` trusts the authorities that Node trusts.
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
  let [seen, token] = orRefuse(path, () => [look(path), readToken(path) ?? ""]);
  if (token === "") {
    throw new InvalidArgument(`there is no token in ${path}`);
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
  readonly channel: ChannelCredentials;
  readonly #token: Token | undefined;

  /**
   * @param target The sidecar's address.
   * @param token As the client was told; undefined: as the environment says.
   * @param tls As the client was told; undefined: as the environment says.
   * @throws InvalidArgument They do not fit, or the token would travel for everybody to read.
   */
  constructor(target: string, token: Token | undefined, tls: TLS | undefined) {
    const unix = target.startsWith("unix:");
    if (unix && tls !== undefined) {
      throw new InvalidArgument("a unix socket takes no TLS: it never leaves this machine");
    }
    const encryption = unix ? undefined : (tls ?? tlsOfEnvironment());
    this.#token = token ?? tokenOfEnvironment();
    if (typeof this.#token === "string") {
      checked(this.#token);
    }
    if (this.#token !== undefined && encryption === undefined && !unix && !isLoopback(target)) {
      throw new InvalidArgument("a token goes to another machine with TLS alone: give tls, or SESSION_NOTES_TLS_CA");
    }
    this.channel = encryption === undefined ? credentials.createInsecure() : encrypted(encryption);
  }

  /** What goes with a call. */
  metadata(): Metadata {
    const metadata = new Metadata();
    if (this.#token !== undefined) {
      const token = typeof this.#token === "string" ? this.#token : checked(this.#token());
      metadata.set("authorization", `Bearer ${token}`);
    }
    return metadata;
  }
}

function tokenOfEnvironment(): Token | undefined {
  const { SESSION_NOTES_TOKEN: token, SESSION_NOTES_TOKEN_FILE: path } = process.env;
  return token || (path ? tokenFile(path) : undefined);
}

function tlsOfEnvironment(): TLS | undefined {
  const { SESSION_NOTES_TLS_CA: ca, SESSION_NOTES_TLS_CERT: cert, SESSION_NOTES_TLS_KEY: key } = process.env;
  if (!ca && !cert && !key) {
    return undefined;
  }
  return { caFile: ca || undefined, certFile: cert || undefined, keyFile: key || undefined };
}

function encrypted({ caFile, certFile, keyFile }: TLS): ChannelCredentials {
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new InvalidArgument("a certificate and its key go together");
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
