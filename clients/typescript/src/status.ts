/** Conversion of gRPC errors to the errors of this package. */

import { status as Code, type ServiceError } from "@grpc/grpc-js";
import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";

import {
  Conflict,
  DeadlineExceeded,
  type ErrorDetails,
  InvalidArgument,
  Overloaded,
  PermissionDenied,
  RunAlreadyFailed,
  RunAlreadyWritten,
  RunNotFound,
  ServerError,
  SessionDeleted,
  SessionNotAllowed,
  SessionNotesError,
  TooLarge,
  TurnCountMismatch,
  TurnsAlreadyAppended,
  Unauthenticated,
  Unavailable,
  VersionMismatch,
} from "./errors.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
  StatusSchema,
} from "./gen/session_notes/status/v1/status_pb.js";
import { millisecondsOf } from "./wire.js";

type Kind = new (message: string, details: ErrorDetails) => SessionNotesError;

const BY_REASON = new Map<string, Kind>([
  ["TOO_LARGE", TooLarge],
  ["OVERLOADED", Overloaded],
  ["RUN_ALREADY_WRITTEN", RunAlreadyWritten],
  ["RUN_ALREADY_FAILED", RunAlreadyFailed],
  ["RUN_NOT_FOUND", RunNotFound],
  ["SESSION_DELETED", SessionDeleted],
  ["VERSION_MISMATCH", VersionMismatch],
  ["TURN_COUNT_MISMATCH", TurnCountMismatch],
  ["TURNS_ALREADY_APPENDED", TurnsAlreadyAppended],
  ["SESSION_NOT_ALLOWED", SessionNotAllowed],
]);

// For reasons that this client is too old to know, and for errors from gRPC itself.
const BY_CODE = new Map<Code, Kind>([
  [Code.INVALID_ARGUMENT, InvalidArgument],
  [Code.RESOURCE_EXHAUSTED, TooLarge],
  [Code.UNAVAILABLE, Unavailable],
  [Code.DEADLINE_EXCEEDED, DeadlineExceeded],
  // A proxy cancelled the call; the caller's own signal is handled elsewhere.
  [Code.CANCELLED, Unavailable],
  [Code.UNAUTHENTICATED, Unauthenticated],
  [Code.PERMISSION_DENIED, PermissionDenied],
  [Code.ABORTED, Conflict],
]);

/** Converts a gRPC error to one of this package. */
export function translate(error: Pick<ServiceError, "code" | "details" | "metadata">): SessionNotesError {
  const details = detailsOf(error);
  const info = find(details, ErrorInfoSchema);
  const retryDelay = find(details, RetryInfoSchema)?.retryDelay;
  const errorDetails: ErrorDetails = {
    reason: info?.reason ?? "",
    metadata: { ...info?.metadata },
    retryAfterMs: retryDelay && millisecondsOf(retryDelay),
  };
  const kind = BY_REASON.get(errorDetails.reason ?? "") ?? BY_CODE.get(error.code) ?? ServerError;
  const code = Code[error.code];
  // grpc-js ends some messages with an empty resolution note.
  const message = error.details.replace(/\.? Resolution note: $/, "") || code;
  if (kind === InvalidArgument) {
    const violations = find(details, BadRequestSchema)?.fieldViolations ?? [];
    return new InvalidArgument(
      message,
      errorDetails,
      violations.map(({ field, description }) => ({ field, description })),
    );
  }
  return new kind(kind === ServerError ? `${code}: ${message}` : message, errorDetails);
}

function detailsOf(error: Pick<ServiceError, "metadata">): readonly Any[] {
  const [content] = error.metadata.get("grpc-status-details-bin");
  if (!Buffer.isBuffer(content)) {
    return [];
  }
  try {
    return fromBinary(StatusSchema, content).details;
  } catch {
    return [];
  }
}

function find<Schema extends DescMessage>(details: readonly Any[], schema: Schema): MessageShape<Schema> | undefined {
  // anyUnpack compares full names, which intentionally differ from the originals; see status.proto.
  const detail = details.find((candidate) => candidate.typeUrl.endsWith(`/google.rpc.${schema.name}`));
  if (detail === undefined) {
    return undefined;
  }
  try {
    return fromBinary(schema, detail.value);
  } catch {
    return undefined;
  }
}
