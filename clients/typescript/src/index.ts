/**
 * Clients of the session-notes sidecar.
 *
 * The primary, which talks to the user:
 *
 * ```ts
 * using primary = new PrimaryClient();
 * await primary.appendTurns("session-1", [{ speaker: "user", text: "Can we start in May?" }]);
 * const reading = await primary.getNotes("session-1", { unavailableOk: true });
 * reading.asToolResult(); // { ready: false, reason: "never_run" }
 * ```
 *
 * The observer, which analyses the transcript:
 *
 * ```ts
 * using observer = new ObserverClient();
 * await observer.run("session-1", async (run) => {
 *   await run.write({ summary: `${run.transcript.length} turns so far` });
 * });
 * ```
 *
 * Every error is a `SessionNotesError`; `errors.ts` begins with the hierarchy.
 *
 * @packageDocumentation
 */

export { type Analysis, BackgroundObserver, type BackgroundOptions, type CloseOptions } from "./background.js";
export { type TLS, type Token, tokenFile } from "./credentials.js";
export * from "./errors.js";
export { type FeedOptions, NotesFeed } from "./feed.js";
export { DEFAULT_RUN_TIMEOUT_MS, ObserverClient, type ObserverOptions } from "./observer.js";
export {
  type ConnectionOptions,
  DEFAULT_NOTES_TIMEOUT_MS,
  DEFAULT_STATE_TIMEOUT_MS,
  PrimaryClient,
  type PrimaryOptions,
} from "./primary.js";
export { DEFAULT_MAX_CHARS } from "./prompt.js";
export { type RecorderOptions, TurnRecorder } from "./recorder.js";
export type { ActiveRun } from "./runs.js";
export { DEFAULT_TARGET } from "./targets.js";
export { NotesTool, type NotesToolResult, type ToolOptions } from "./tool.js";
export type * from "./types.js";
