/**
 * Sends calls: deadline, retries, and gRPC's errors turned into ours.
 *
 * Retries are our own, not gRPC's: its retry policy stops after five tries, and a sidecar may take longer to restart. Here the
 * deadline alone is the limit, and what the sidecar says about when to come back counts.
 */

import { type Client, type ServiceError, status as Code } from "@grpc/grpc-js";

import type { Call } from "./calls.js";
import { openChannel, targetOrDefault } from "./channel.js";
import { Credentials, type TLS, type Token } from "./credentials.js";
import {
  DeadlineExceeded,
  InvalidArgument,
  Overloaded,
  type SessionNotesError,
  Unavailable,
  UsageError,
} from "./errors.js";
import { translate } from "./status.js";
import type { CallOptions } from "./types.js";

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;

/** How long the next try of one call may take, and whether there is to be one. */
class Tries {
  readonly #repeatable: boolean;
  readonly #deadline: number;
  #pauseMs = FIRST_PAUSE_MS;
  #earlier: SessionNotesError | undefined;

  constructor(call: Call<unknown>, timeoutMs: number) {
    if (typeof timeoutMs !== "number" || !Number.isFinite(timeoutMs)) {
      throw new InvalidArgument("timeoutMs must be a number of milliseconds");
    }
    this.#repeatable = call.repeatable;
    this.#deadline = performance.now() + timeoutMs;
  }

  remainingMs(): number {
    return this.#deadline - performance.now();
  }

  /** Milliseconds to wait before the next try; throws the error where there is to be none. */
  pauseAfter(code: Code, error: SessionNotesError): number {
    const passing = code === Code.UNAVAILABLE || error instanceof Overloaded;
    if (!this.#repeatable || !passing) {
      throw this.#last(error);
    }
    // Jitter, so that many clients of one sidecar do not come back all at once.
    const pause = Math.max(this.#pauseMs * (0.5 + Math.random() / 2), error.retryAfterMs ?? 0);
    if (pause >= this.remainingMs()) {
      throw this.#last(error);
    }
    this.#earlier = error;
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
    return pause;
  }

  /** The error of the last try, with that of the one before. */
  #last(error: SessionNotesError): SessionNotesError {
    if (this.#earlier !== undefined) {
      error.cause = this.#earlier;
      if (error instanceof DeadlineExceeded) {
        // Its time ran out in the middle of a try. What takes so long, the one before has said.
        error.message += `; before that: ${this.#earlier.message}`;
      }
    }
    return error;
  }
}

/** A connection to a sidecar, for any number of calls at once. It keeps no process alive by itself. */
export class Transport {
  readonly #credentials: Credentials;
  /** Ends each try and each pause that is under way. */
  readonly #underWay = new Set<() => void>();
  #client: Client | undefined;

  constructor(target: string | undefined, token: Token | undefined, tls: TLS | undefined) {
    const address = targetOrDefault(target);
    this.#credentials = new Credentials(address, token, tls);
    this.#client = openChannel(address, this.#credentials);
  }

  /** Ends the connection; calls under way end as Unavailable. */
  close(): void {
    const client = this.#client;
    this.#client = undefined;
    for (const end of this.#underWay) {
      end();
    }
    client?.close();
  }

  /** Sends a call and reads its answer, within `timeoutMs` or the default. */
  async send<T>(call: Call<T>, { timeoutMs, signal }: CallOptions, defaultMs: number): Promise<T> {
    const tries = new Tries(call, timeoutMs ?? defaultMs);
    if (this.#client === undefined) {
      throw new UsageError("this client is closed");
    }
    for (;;) {
      signal?.throwIfAborted();
      const outcome = await this.#try(call, tries.remainingMs(), signal);
      if (outcome instanceof Uint8Array) {
        return call.read(outcome);
      }
      signal?.throwIfAborted();
      this.#mustBeOpen();
      await this.#pause(tries.pauseAfter(outcome.code, translate(outcome)), signal);
      this.#mustBeOpen();
    }
  }

  async #try(call: Call<unknown>, remainingMs: number, signal?: AbortSignal): Promise<Uint8Array | ServiceError> {
    const client = this.#mustBeOpen();
    const metadata = this.#credentials.metadata();
    return this.#interruptible<Uint8Array | ServiceError>(signal, (done) => {
      const sent = client.makeUnaryRequest<Uint8Array, Uint8Array>(
        call.path,
        (request) => Buffer.from(request.buffer, request.byteOffset, request.byteLength),
        (answer) => answer,
        call.request,
        metadata,
        { deadline: Date.now() + remainingMs },
        (error, answer) => {
          done(error ?? answer ?? new Uint8Array());
        },
      );
      return () => {
        sent.cancel();
      };
    });
  }

  async #pause(ms: number, signal?: AbortSignal): Promise<void> {
    await this.#interruptible<"over">(signal, (done) => {
      const timer = setTimeout(done, ms, "over");
      return () => {
        clearTimeout(timer);
        done("over");
      };
    });
  }

  /** Something that takes time, and that close() and the caller's signal end; `begin` says how. */
  #interruptible<T>(signal: AbortSignal | undefined, begin: (done: (outcome: T) => void) => () => void): Promise<T> {
    return new Promise((resolve) => {
      const end = begin((outcome) => {
        this.#underWay.delete(end);
        signal?.removeEventListener("abort", end);
        resolve(outcome);
      });
      this.#underWay.add(end);
      signal?.addEventListener("abort", end);
    });
  }

  #mustBeOpen(): Client {
    if (this.#client === undefined) {
      throw new Unavailable("the client was closed during the call");
    }
    return this.#client;
  }
}
