/** The options of calls, each with its check. */

import { abortSignal, atLeast, type Checks, flag, milliseconds, oneOf, text, texts, wholeNumber } from "./arguments.js";
import type {
  AppendOptions,
  BatchOptions,
  BeginOptions,
  CallOptions,
  DueOptions,
  ListOptions,
  NotesBounds,
  NotesOptions,
  PromptOptions,
  RenewOptions,
  RunOptions,
  RunWriteOptions,
  UpdateOptions,
  WriteOptions,
} from "./types.js";

export const CALL: Checks<CallOptions> = { timeoutMs: milliseconds, signal: abortSignal };

export const STORED_BOUNDS: Checks<Omit<NotesBounds, "currentTurn">> = {
  maxAgeMs: milliseconds,
  maxSnapshotAgeMs: milliseconds,
  maxTurnsBehind: wholeNumber,
};

export const BATCH: Checks<BatchOptions> = { ...CALL, ...STORED_BOUNDS, observer: text, unavailableOk: flag };
export const NOTES: Checks<NotesOptions> = { ...BATCH, currentTurn: wholeNumber };
export const SESSION: Checks<CallOptions & { readonly includeTurns?: boolean | undefined }> = {
  ...CALL,
  includeTurns: flag,
};
export const UPDATE: Checks<UpdateOptions> = {
  ...CALL,
  remove: texts,
  expectedVersion: wholeNumber,
  ttlMs: milliseconds,
};
export const APPEND: Checks<AppendOptions> = { ...CALL, expectedTurnCount: wholeNumber, appendId: text };
export const LIST: Checks<ListOptions> = { ...CALL, pageSize: wholeNumber };
export const RUNS: Checks<ListOptions & { readonly includeNotes?: boolean | undefined }> = {
  ...LIST,
  includeNotes: flag,
};
export const DUE: Checks<DueOptions> = {
  ...LIST,
  minTurnsBehind: wholeNumber,
  minIntervalMs: milliseconds,
  minQuietMs: milliseconds,
};
export const RUN: Checks<RunOptions> = {
  runId: text,
  observedTurn: wholeNumber,
  leaseMs: milliseconds,
  onlyIfIdle: flag,
  includeTranscript: flag,
  afterTurn: wholeNumber,
  afterCurrentNotes: flag,
  maxTurns: wholeNumber,
  includeCurrentNotes: flag,
  signal: abortSignal,
};
export const BEGIN: Checks<BeginOptions> = { ...RUN, ...CALL };
export const RUN_WRITE: Checks<RunWriteOptions> = { observedTurn: wholeNumber, ttlMs: milliseconds };
export const WRITE: Checks<WriteOptions> = { ...CALL, ...RUN_WRITE, runId: text };
export const RUN_RENEW: Checks<Omit<RenewOptions, "signal">> = { leaseMs: milliseconds, timeoutMs: milliseconds };
export const RENEW: Checks<RenewOptions> = { ...CALL, ...RUN_RENEW };

export const SEVERITY: Checks<Pick<PromptOptions, "minSeverity">> = {
  minSeverity: oneOf("info", "warning", "critical"),
};
export const PROMPT: Checks<PromptOptions> = { ...SEVERITY, maxChars: atLeast(0) };
