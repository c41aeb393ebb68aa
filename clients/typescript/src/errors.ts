/**
 * What can go wrong, so that callers never import gRPC.
 *
 * SessionNotesError
 * ├── InvalidArgument          the request says something it must not; `violations` names the fields
 * ├── TooLarge                 something sent is larger than the sidecar takes; `limit` and `actual`
 * ├── Unavailable              no answer to be had: sidecar or store down, stopping, or this client closed meanwhile
 * │   ├── DeadlineExceeded     no answer in time
 * │   └── Overloaded           the sidecar has too much to do; it has done nothing about this call
 * ├── Unauthenticated          the sidecar does not know this caller
 * ├── PermissionDenied         it does, and the call is not for it
 * ├── Conflict                 somebody else was faster
 * │   ├── VersionMismatch      the session is at another version; `actual`
 * │   └── TurnCountMismatch    the transcript has another length; `actual`
 * ├── RunNotFound              no such run
 * ├── RunAlreadyWritten        the run has written notes, or other ones
 * ├── RunAlreadyFailed         the run has ended without notes
 * ├── RunInFlight              asked for `onlyIfIdle`, and another run is at work; `run`
 * ├── SessionDeleted           the session was deleted while the run was at work: give up
 * ├── ServerError              anything else; of a bug in the sidecar the message has an id that its log has too
 * └── UsageError               a closed client, a run ended twice
 *
 * A call whose `signal` is aborted is none of these: it rejects with the signal's own reason, as everywhere in Node.
 */

import type { Run } from "./types.js";

/** One field at fault: its path from the request's root, and what is wrong with it. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** What an error says beside its message. */
export interface ErrorDetails {
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfterMs?: number | undefined;
}

/** Whatever a client of session-notes rejects with. */
export class SessionNotesError extends Error {
  static {
    this.prototype.name = "SessionNotesError";
  }

  /** A name of the contract's `ErrorReason` without its prefix (`STORE_UNAVAILABLE`), or empty. */
  readonly reason: string;
  /** What comes with the reason (`{ expected: "4", actual: "6" }`). */
  readonly metadata: Readonly<Record<string, string>>;
  /** How many milliseconds the sidecar asks to be left alone, where it says so. */
  readonly retryAfterMs: number | undefined;

  constructor(message = "", details: ErrorDetails = {}) {
    super(message);
    this.reason = details.reason ?? "";
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** The request says something it must not. */
export class InvalidArgument extends SessionNotesError {
  static {
    this.prototype.name = "InvalidArgument";
  }

  /** The first 20 fields at fault. Empty where the request could not even be built. */
  readonly violations: readonly FieldViolation[];

  constructor(message = "", details: ErrorDetails = {}, violations: readonly FieldViolation[] = []) {
    super(violations.map(({ field, description }) => `${field} ${description}`).join("; ") || message, details);
    this.violations = violations;
  }
}

/** Something sent is larger than the sidecar takes, in bytes, or in entries for a batch. */
export class TooLarge extends SessionNotesError {
  static {
    this.prototype.name = "TooLarge";
  }

  /** The most the sidecar takes, where it says so. */
  get limit(): number | undefined {
    return numberIn(this.metadata, "limit");
  }

  /** What was sent, where the sidecar says so. */
  get actual(): number | undefined {
    return numberIn(this.metadata, "actual");
  }
}

/** No answer to be had. For a read: go on without. For a write: the outcome is unknown. */
export class Unavailable extends SessionNotesError {
  static {
    this.prototype.name = "Unavailable";
  }
}

/** No answer within the call's deadline. */
export class DeadlineExceeded extends Unavailable {
  static {
    this.prototype.name = "DeadlineExceeded";
  }
}

/** The sidecar has too much to do. It has done nothing about this call: even a write can be tried again. */
export class Overloaded extends Unavailable {
  static {
    this.prototype.name = "Overloaded";
  }
}

/** The sidecar does not know this caller. */
export class Unauthenticated extends SessionNotesError {
  static {
    this.prototype.name = "Unauthenticated";
  }
}

/** The call is not for this caller. */
export class PermissionDenied extends SessionNotesError {
  static {
    this.prototype.name = "PermissionDenied";
  }
}

/** Somebody else was faster. Read again, decide again. */
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

  /** The version it is at. */
  get actual(): number | undefined {
    return numberIn(this.metadata, "actual");
  }
}

/** The transcript has another length than `expectedTurnCount`. On a retry: the first try may have got through. */
export class TurnCountMismatch extends Conflict {
  static {
    this.prototype.name = "TurnCountMismatch";
  }

  /** The length it has. */
  get actual(): number | undefined {
    return numberIn(this.metadata, "actual");
  }
}

/** There is no such run. */
export class RunNotFound extends SessionNotesError {
  static {
    this.prototype.name = "RunNotFound";
  }
}

/** The run has written its notes: others cannot follow, and it cannot fail any more. */
export class RunAlreadyWritten extends SessionNotesError {
  static {
    this.prototype.name = "RunAlreadyWritten";
  }
}

/** The run has ended without notes, and cannot write any. */
export class RunAlreadyFailed extends SessionNotesError {
  static {
    this.prototype.name = "RunAlreadyFailed";
  }
}

/** `onlyIfIdle` was asked for, and another run of this observer is at work on the session. */
export class RunInFlight extends SessionNotesError {
  static {
    this.prototype.name = "RunInFlight";
  }

  /** The run at work. */
  readonly run: Run;

  constructor(run: Run) {
    super(`run ${run.number} is still in flight`);
    this.run = run;
  }
}

/** The session was deleted while the run was at work. Give up: the user's data is to stay deleted. */
export class SessionDeleted extends SessionNotesError {
  static {
    this.prototype.name = "SessionDeleted";
  }
}

/** A bug in the sidecar (the message has an id that its log has too), or something that is no sidecar of ours. */
export class ServerError extends SessionNotesError {
  static {
    this.prototype.name = "ServerError";
  }
}

/** The client was used in a way that cannot work: it is closed, or a run was ended twice. */
export class UsageError extends SessionNotesError {
  static {
    this.prototype.name = "UsageError";
  }
}

function numberIn(metadata: Readonly<Record<string, string>>, name: string): number | undefined {
  const text = metadata[name] ?? "";
  return /^[0-9]+$/.test(text) ? Number(text) : undefined;
}
