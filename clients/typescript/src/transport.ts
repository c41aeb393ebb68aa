/**
 * Transport of calls: deadlines, retries and errors.
 *
 * gRPC's own retry policy stops after five attempts, and a sidecar may take longer to restart. This transport retries until the
 * deadline, and respects the sidecar's retry delay.
 */

import { setMaxListeners } from "node:events";

import { type Client, type ServiceError, status as Code } from "@grpc/grpc-js";

import type { Call } from "./calls.js";
import { openChannel } from "./channel.js";
import { Credentials, type TLS, type Token } from "./credentials.js";
import { DeadlineExceeded, Overloaded, type SessionNotesError, Unavailable, UsageError } from "./errors.js";
import { MAX_TIMER_MS } from "./pending.js";
import { translate } from "./status.js";
import { targetOrDefault } from "./targets.js";
import type { CallOptions } from "./types.js";

const MIN_PAUSE_MS = 50;
const MAX_PAUSE_MS = 1000;

// The wire format allows at most 99,999,999 hours. Beyond that, gRPC throws an error that no caller can catch.
const MAX_TIMEOUT_MS = 100 * 365 * 24 * 3600 * 1000;

/** Attempts of one call: the remaining time, and whether to retry. */
class Attempts {
  readonly #call: Call<unknown>;
  readonly #target: string;
  readonly #timeoutMs: number;
  readonly #deadline: number;
  #pauseMs = MIN_PAUSE_MS;
  #previous: SessionNotesError | undefined;

  constructor(call: Call<unknown>, target: string, timeoutMs: number) {
    this.#call = call;
    this.#target = target;
    this.#timeoutMs = Math.max(0, Math.min(timeoutMs, MAX_TIMEOUT_MS));
    this.#deadline = performance.now() + this.#timeoutMs;
  }

  remainingMs(): number {
    return this.#deadline - performance.now();
  }

  /** Returns the milliseconds to wait before the next attempt. Throws the error if the call must not be retried. */
  pauseAfter(code: Code, error: SessionNotesError): number {
    const { retried } = this.#call;
    const again = error instanceof Overloaded ? retried !== "never" : code === Code.UNAVAILABLE && retried === "outage";
    if (!again) {
      throw this.#final(error);
    }
    // Jitter, so that the clients of one sidecar do not all retry at the same time.
    const pause = Math.max(this.#pauseMs * (0.5 + Math.random() / 2), error.retryAfterMs ?? 0);
    if (pause >= this.remainingMs()) {
      throw this.#final(error);
    }
    this.#previous = error;
    this.#pauseMs = Math.min(this.#pauseMs * 2, MAX_PAUSE_MS);
    return pause;
  }

  /**
   * Returns the error of the last attempt, with the previous attempt's error as its cause. If there was no response, the message
   * names the call, the target and the timeout.
   */
  #final(error: SessionNotesError): SessionNotesError {
    if (this.#previous !== undefined) {
      error.cause = this.#previous;
    }
    if (error instanceof Unavailable && error.reason === "") {
      let problem = error.message;
      if (error instanceof DeadlineExceeded) {
        problem = `no answer within ${this.#timeoutMs / 1000} s`;
        if (this.#previous !== undefined) {
          // The deadline passed during an attempt. The previous error explains why the call took so long.
          problem += `; before that: ${this.#previous.message}`;
        }
      }
      error.message = `${this.#call.path.slice(this.#call.path.lastIndexOf("/") + 1)} on ${this.#target}: ${problem}`;
    }
    return error;
  }
}

/** A connection to a sidecar, for any number of concurrent calls. It does not keep the process alive. */
export class Transport {
  /** The address of the sidecar. */
  readonly target: string;
  readonly #credentials: Credentials;
  /** Functions that end an attempt or a pause in progress. */
  readonly #inProgress = new Set<() => void>();
  #client: Client | undefined;
  /** The channel before the TLS files were replaced. Calls in flight finish on it. */
  #previous: Client | undefined;

  constructor(target: string | undefined, token: Token | undefined, tls: TLS | undefined) {
    this.target = targetOrDefault(target);
    this.#credentials = new Credentials(this.target, token, tls);
    this.#client = openChannel(this.target, this.#credentials);
  }

  /** Closes the connection; calls in flight reject with Unavailable. */
  close(): void {
    const client = this.#client;
    this.#client = undefined;
    for (const end of this.#inProgress) {
      end();
    }
    client?.close();
    this.#previous?.close();
  }

  /** Sends a call and returns its result, within `timeoutMs` or the default. Once `stop` is aborted, it is not retried. */
  async send<T>(call: Call<T>, { timeoutMs, signal }: CallOptions, defaultMs: number, stop?: AbortSignal): Promise<T> {
    const attempts = new Attempts(call, this.target, timeoutMs ?? defaultMs);
    if (this.#client === undefined) {
      throw new UsageError("this client is closed");
    }
    if (signal instanceof AbortSignal) {
      // Many calls may share a signal. Node would warn of a leak at the eleventh.
      setMaxListeners(0, signal);
    }
    for (;;) {
      signal?.throwIfAborted();
      const outcome = await this.#attempt(call, attempts.remainingMs(), signal);
      if (outcome instanceof Uint8Array) {
        return call.read(outcome);
      }
      signal?.throwIfAborted();
      this.#mustBeOpen();
      if (outcome.code === Code.UNAVAILABLE) {
        this.#credentials.recheckSoon();
      }
      const error = translate(outcome);
      const pauseMs = attempts.pauseAfter(outcome.code, error);
      if (stop?.aborted !== true) {
        await this.#pause(pauseMs, signal ?? stop);
      }
      this.#mustBeOpen();
      if (stop?.aborted === true) {
        throw error;
      }
    }
  }

  async #attempt(call: Call<unknown>, remainingMs: number, signal?: AbortSignal): Promise<Uint8Array | ServiceError> {
    const metadata = this.#credentials.metadata();
    this.#reconnectIfReplaced();
    const client = this.#mustBeOpen();
    return this.#interruptible<Uint8Array | ServiceError>(signal, (done) => {
      const pending = client.makeUnaryRequest<Uint8Array, Uint8Array>(
        call.path,
        (request) => Buffer.from(request.buffer, request.byteOffset, request.byteLength),
        (response) => response,
        call.request,
        metadata,
        { deadline: Date.now() + remainingMs },
        (error, response) => {
          done(error ?? response ?? new Uint8Array());
        },
      );
      return () => {
        pending.cancel();
      };
    });
  }

  async #pause(ms: number, signal?: AbortSignal): Promise<void> {
    await this.#interruptible<"over">(signal, (done) => {
      const timer = setTimeout(done, Math.min(ms, MAX_TIMER_MS), "over");
      return () => {
        clearTimeout(timer);
        done("over");
      };
    });
  }

  /** Runs an operation that close() and the caller's signal can end. `begin` starts it and returns a function that ends it. */
  #interruptible<T>(signal: AbortSignal | undefined, begin: (done: (outcome: T) => void) => () => void): Promise<T> {
    return new Promise((resolve) => {
      const end = begin((outcome) => {
        this.#inProgress.delete(end);
        signal?.removeEventListener("abort", end);
        resolve(outcome);
      });
      this.#inProgress.add(end);
      signal?.addEventListener("abort", end);
    });
  }

  /** Reconnects after the TLS files were replaced. */
  #reconnectIfReplaced(): void {
    if (this.#client !== undefined && this.#credentials.replaced()) {
      // Calls in flight finish on their channel, unless the files are replaced a second time before they do.
      this.#previous?.close();
      this.#previous = this.#client;
      this.#client = openChannel(this.target, this.#credentials);
    }
  }

  #mustBeOpen(): Client {
    if (this.#client === undefined) {
      throw new Unavailable("the client was closed during the call");
    }
    return this.#client;
  }
}
