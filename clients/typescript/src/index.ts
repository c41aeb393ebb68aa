/**
 * Clients of the session-notes sidecar.
 *
 * The process that talks to the user:
 *
 * ```ts
 * using primary = new PrimaryClient();
 * await primary.appendTurns("session-1", [{ speaker: "user", text: "Can we start in May?" }]);
 * const reading = await primary.getNotes("session-1", { unavailableOk: true });
 * reading.asToolResult(); // { ready: false, reason: "never_run" }
 * ```
 *
 * The one that watches:
 *
 * ```ts
 * using observer = new ObserverClient();
 * await observer.run("session-1", async (run) => {
 *   await run.write({ summary: `${run.transcript.length} turns so far` });
 * });
 * ```
 *
 * Whatever goes wrong is a `SessionNotesError`; the tree stands at the top of `errors.ts`.
 *
 * @packageDocumentation
 */

export { type TLS, type Token, tokenFile } from "./credentials.js";
export * from "./errors.js";
export { DEFAULT_RUN_TIMEOUT_MS, ObserverClient, type ObserverOptions } from "./observer.js";
export {
  type ConnectionOptions,
  DEFAULT_NOTES_TIMEOUT_MS,
  DEFAULT_STATE_TIMEOUT_MS,
  PrimaryClient,
  type PrimaryOptions,
} from "./primary.js";
export type { ActiveRun } from "./runs.js";
export { DEFAULT_TARGET } from "./targets.js";
export type * from "./types.js";
