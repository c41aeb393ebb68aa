/**
 * Errors of the clients, so that callers never import gRPC.
 *
 * SessionNotesError
 * ├── InvalidArgument          the request violates the contract; `violations` lists the fields
 * ├── TooLarge                 a size limit is exceeded; `limit` and `actual`
 * ├── Unavailable              an outage: the sidecar or the store is down or stopping, or this client was closed
 * │   ├── DeadlineExceeded     no response in time
 * │   └── Overloaded           too many calls in flight; this one had no effect
 * ├── Unauthenticated          the sidecar does not recognize the caller's credentials
 * ├── PermissionDenied         the caller's role does not permit the call
 * │   └── SessionNotAllowed    the caller's token is limited to other sessions
 * ├── Conflict                 another writer was faster
 * │   ├── VersionMismatch      the session is at another version; `actual`
 * │   └── TurnCountMismatch    the transcript has another length; `actual`
 * ├── TurnsAlreadyAppended     the `appendId` has already appended other turns
 * ├── RunNotFound              the run does not exist
 * ├── RunAlreadyWritten        the run has already written its notes
 * ├── RunAlreadyFailed         the run has ended without notes
 * ├── RunInFlight              `onlyIfIdle` found another run in flight; `run`
 * ├── SessionDeleted           the session was deleted after the run or the append: do not retry
 * ├── ServerError              any other error; for a bug in the sidecar, the message has an id that is also in its log
 * └── UsageError               a call on a closed client, or a run ended twice
 *
 * A call whose `signal` is aborted rejects with the signal's reason instead, as everywhere in Node.
 */

import type { Run } from "./types.js";

/** An invalid field: its path from the root of the request, and the rule that it violates. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** Details of an error. */
export interface ErrorDetails {
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfterMs?: number | undefined;
}

/** Base class of all errors of the clients. */
export class SessionNotesError extends Error {
  static {
    this.prototype.name = "SessionNotesError";
  }

  /** A name of the contract's `ErrorReason` without its prefix (`STORE_UNAVAILABLE`), or empty. */
  readonly reason: string;
  /** Values that belong to the reason (`{ expected: "4", actual: "6" }`). */
  readonly metadata: Readonly<Record<string, string>>;
  /** Delay before a retry in milliseconds, if the sidecar sent one. */
  readonly retryAfterMs: number | undefined;

  constructor(message = "", details: ErrorDetails = {}) {
    super(message);
    this.reason = details.reason ?? "";
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** The request violates the contract. */
export class InvalidArgument extends SessionNotesError {
  static {
    this.prototype.name = "InvalidArgument";
  }

  /** The first 20 invalid fields. Empty if the client itself rejected the argument. */
  readonly violations: readonly FieldViolation[];

  constructor(message = "", details: ErrorDetails = {}, violations: readonly FieldViolation[] = []) {
    super(violations.map(({ field, description }) => `${field} ${description}`).join("; ") || message, details);
    this.violations = violations;
  }
}

/** The request exceeds a limit in bytes or, for batches, turns and fields, in entries. */
export class TooLarge extends SessionNotesError {
  static {
    this.prototype.name = "TooLarge";
  }

  /** The limit, if known. */
  get limit(): number | undefined {
    return numberIn(this.metadata, "limit");
  }

  /** The actual size, if known. */
  get actual(): number | undefined {
    return numberIn(this.metadata, "actual");
  }
}

/** An outage. After a read, continue without the data. After a write, the outcome is unknown. */
export class Unavailable extends SessionNotesError {
  static {
    this.prototype.name = "Unavailable";
  }
}

/** No response within the timeout. */
export class DeadlineExceeded extends Unavailable {
  static {
    this.prototype.name = "DeadlineExceeded";
  }
}

/** The sidecar has too many calls in flight. The call had no effect, so it is always safe to retry. */
export class Overloaded extends Unavailable {
  static {
    this.prototype.name = "Overloaded";
  }
}

/** The sidecar does not recognize the caller's credentials. */
export class Unauthenticated extends SessionNotesError {
  static {
    this.prototype.name = "Unauthenticated";
  }
}

/** The caller's role does not permit the call. */
export class PermissionDenied extends SessionNotesError {
  static {
    this.prototype.name = "PermissionDenied";
  }
}

/** The caller's token is limited to sessions with other ids. Says nothing about whether the session exists. */
export class SessionNotAllowed extends PermissionDenied {
  static {
    this.prototype.name = "SessionNotAllowed";
  }
}

/** Another writer was faster. Read again before retrying. */
export class Conflict extends SessionNotesError {
  static {
    this.prototype.name = "Conflict";
  }
}

/** The session is at another version than `expectedVersion`. */
export class VersionMismatch extends Conflict {
  static {
    this.prototype.name = "VersionMismatch";
  }

  /** The actual version. */
  get actual(): number | undefined {
    return numberIn(this.metadata, "actual");
  }
}

/** The transcript has another length than `expectedTurnCount`. On a retry, the first attempt may have succeeded. */
export class TurnCountMismatch extends Conflict {
  static {
    this.prototype.name = "TurnCountMismatch";
  }

  /** The actual length. */
  get actual(): number | undefined {
    return numberIn(this.metadata, "actual");
  }
}

/** An earlier call with the same `appendId` has appended other turns. */
export class TurnsAlreadyAppended extends SessionNotesError {
  static {
    this.prototype.name = "TurnsAlreadyAppended";
  }
}

/** The run does not exist. */
export class RunNotFound extends SessionNotesError {
  static {
    this.prototype.name = "RunNotFound";
  }
}

/** The run has already written its notes, so it can neither write different ones nor fail. */
export class RunAlreadyWritten extends SessionNotesError {
  static {
    this.prototype.name = "RunAlreadyWritten";
  }
}

/** The run has failed, so it cannot write notes. */
export class RunAlreadyFailed extends SessionNotesError {
  static {
    this.prototype.name = "RunAlreadyFailed";
  }
}

/** `onlyIfIdle` was set, and another run of this observer is in flight on the session. */
export class RunInFlight extends SessionNotesError {
  static {
    this.prototype.name = "RunInFlight";
  }

  /** The run in flight. */
  readonly run: Run;

  constructor(run: Run) {
    super(`run ${run.number} is still in flight`);
    this.run = run;
  }
}

/** The session was deleted after the run began, or after an append with the same `appendId`. Do not retry: the user's data must stay deleted. */
export class SessionDeleted extends SessionNotesError {
  static {
    this.prototype.name = "SessionDeleted";
  }
}

/** A bug in the sidecar (the message has an id that is also in its log), or a server that is not a sidecar. */
export class ServerError extends SessionNotesError {
  static {
    this.prototype.name = "ServerError";
  }
}

/** A misuse of the client: a call after `close()`, or a run ended twice. */
export class UsageError extends SessionNotesError {
  static {
    this.prototype.name = "UsageError";
  }
}

function numberIn(metadata: Readonly<Record<string, string>>, name: string): number | undefined {
  const text = metadata[name] ?? "";
  return /^[0-9]+$/.test(text) ? Number(text) : undefined;
}
