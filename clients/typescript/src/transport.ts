/**
 * Sends calls: deadline, retries, and gRPC's errors turned into ours.
 *
 * Retries are our own, not gRPC's: its retry policy stops after five tries, and a sidecar may take longer to restart. Here the
 * deadline alone is the limit, and what the sidecar says about when to come back counts.
 */

import { type Client, type ServiceError, status as Code } from "@grpc/grpc-js";

import type { Call } from "./calls.js";
import { openChannel } from "./channel.js";
import { Credentials, type TLS, type Token } from "./credentials.js";
import { DeadlineExceeded, Overloaded, type SessionNotesError, Unavailable, UsageError } from "./errors.js";
import { translate } from "./status.js";
import { targetOrDefault } from "./targets.js";
import type { CallOptions } from "./types.js";
import { kindOf, milliseconds, refusal } from "./wire.js";

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1000;

// The wire holds at most 99,999,999 hours, and gRPC throws beyond, where nobody can catch it.
const LONGEST_TIMEOUT_MS = 100 * 365 * 24 * 3600 * 1000;

// A timer that is longer goes off at once.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** How long the next try of one call may take, and whether there is to be one. */
class Tries {
  readonly #call: Call<unknown>;
  readonly #target: string;
  readonly #timeoutMs: number;
  readonly #deadline: number;
  #pauseMs = FIRST_PAUSE_MS;
  #earlier: SessionNotesError | undefined;

  constructor(call: Call<unknown>, target: string, timeoutMs: number) {
    this.#call = call;
    this.#target = target;
    this.#timeoutMs = Math.max(0, Math.min(milliseconds("timeoutMs", timeoutMs), LONGEST_TIMEOUT_MS));
    this.#deadline = performance.now() + this.#timeoutMs;
  }

  remainingMs(): number {
    return this.#deadline - performance.now();
  }

  /** Milliseconds to wait before the next try; throws the error where there is to be none. */
  pauseAfter(code: Code, error: SessionNotesError): number {
    const passing = code === Code.UNAVAILABLE || error instanceof Overloaded;
    if (!this.#call.repeatable || !passing) {
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

  /**
   * The error of the last try, with that of the one before; where no sidecar answered, with the call, its target and its
   * timeout.
   */
  #last(error: SessionNotesError): SessionNotesError {
    if (this.#earlier !== undefined) {
      error.cause = this.#earlier;
    }
    if (error instanceof Unavailable && error.reason === "") {
      let said = error.message;
      if (error instanceof DeadlineExceeded) {
        said = `no answer within ${this.#timeoutMs / 1000} s`;
        if (this.#earlier !== undefined) {
          // The time ran out in the middle of a try. The one before says what takes so long.
          said += `; before that: ${this.#earlier.message}`;
        }
      }
      error.message = `${this.#call.path.slice(this.#call.path.lastIndexOf("/") + 1)} on ${this.#target}: ${said}`;
    }
    return error;
  }
}

/** A connection to a sidecar, for any number of calls at once. It keeps no process alive by itself. */
export class Transport {
  readonly #target: string;
  readonly #credentials: Credentials;
  /** Ends each try and each pause that is under way. */
  readonly #underWay = new Set<() => void>();
  #client: Client | undefined;
  /** The one before, where the files of TLS were replaced: calls in flight end on it. */
  #earlier: Client | undefined;

  constructor(target: string | undefined, token: Token | undefined, tls: TLS | undefined) {
    this.#target = targetOrDefault(target);
    this.#credentials = new Credentials(this.#target, token, tls);
    this.#client = openChannel(this.#target, this.#credentials);
  }

  /** Ends the connection; calls under way end as Unavailable. */
  close(): void {
    const client = this.#client;
    this.#client = undefined;
    for (const end of this.#underWay) {
      end();
    }
    client?.close();
    this.#earlier?.close();
  }

  /** Sends a call and reads its answer, within `timeoutMs` or the default. */
  async send<T>(call: Call<T>, { timeoutMs, signal }: CallOptions, defaultMs: number): Promise<T> {
    const tries = new Tries(call, this.#target, timeoutMs ?? defaultMs);
    if (signal !== undefined && typeof (signal as Partial<AbortSignal> | null)?.throwIfAborted !== "function") {
      throw refusal("signal", `must be an AbortSignal, not ${kindOf(signal)}`);
    }
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
      if (outcome.code === Code.UNAVAILABLE) {
        this.#credentials.lookSoon();
      }
      await this.#pause(tries.pauseAfter(outcome.code, translate(outcome)), signal);
      this.#mustBeOpen();
    }
  }

  async #try(call: Call<unknown>, remainingMs: number, signal?: AbortSignal): Promise<Uint8Array | ServiceError> {
    const metadata = this.#credentials.metadata();
    this.#followFiles();
    const client = this.#mustBeOpen();
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
      const timer = setTimeout(done, Math.min(ms, LONGEST_TIMER_MS), "over");
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

  /** Connects anew once the files of TLS are replaced. */
  #followFiles(): void {
    if (this.#client !== undefined && this.#credentials.replaced()) {
      // Calls in flight end on the channel they began on, unless the files are replaced twice meanwhile.
      this.#earlier?.close();
      this.#earlier = this.#client;
      this.#client = openChannel(this.#target, this.#credentials);
    }
  }

  #mustBeOpen(): Client {
    if (this.#client === undefined) {
      throw new Unavailable("the client was closed during the call");
    }
    return this.#client;
  }
}
