/** The two kinds of readings, and their tool results. */

import { checked } from "./arguments.js";
import { PROMPT, SEVERITY } from "./options.js";
import { prompt, severitiesFrom } from "./prompt.js";
import type {
  Notes,
  NotReadyReading,
  PromptOptions,
  ReadyReading,
  Run,
  Severity,
  StaleReason,
  ToolResult,
} from "./types.js";

type Data<Reading> = Omit<Reading, "asToolResult" | "asPrompt">;

/** A reading with notes. */
export class Ready implements ReadyReading {
  declare readonly sessionId: string;
  declare readonly observer: string;
  declare readonly ready: true;
  declare readonly readiness: "ready";
  declare readonly notes: Notes;
  declare readonly ageMs: number;
  declare readonly snapshotAgeMs: number | undefined;
  declare readonly writeTime: Date;
  declare readonly observedTurn: number | undefined;
  declare readonly turnsBehind: number | undefined;
  declare readonly fresh: boolean;
  declare readonly staleBecause: readonly StaleReason[];
  declare readonly run: Run;
  declare readonly latestRun: Run | undefined;
  declare readonly expiresInMs: number;

  constructor(data: Data<ReadyReading>) {
    Object.assign(this, data);
  }

  asToolResult(options: { readonly minSeverity?: Severity | undefined } = {}): ToolResult {
    const shown = severitiesFrom(checked(options, SEVERITY).minSeverity);
    // Include only the state of a newer run: its failure reason is for people, and a model might read it to the user.
    const newer = newerRun(this.run, this.latestRun);
    return {
      ready: true,
      age_seconds: seconds(this.ageMs),
      ...(this.snapshotAgeMs !== undefined && { snapshot_age_seconds: seconds(this.snapshotAgeMs) }),
      ...(this.turnsBehind !== undefined && { turns_behind: this.turnsBehind }),
      fresh: this.fresh,
      ...(this.staleBecause.length > 0 && { stale_because: this.staleBecause }),
      ...(newer !== undefined && { newer_run: newer }),
      notes: notesForTool(this.notes, shown),
    };
  }

  asPrompt(options: PromptOptions = {}): string {
    return prompt(this, options);
  }
}

/** The state of the latest run, if it is newer, unless it ended without notes and had no newer turns. */
function newerRun(run: Run, latest: Run | undefined): Run["state"] | undefined {
  if (latest === undefined || latest.number <= run.number) {
    return undefined;
  }
  const hadNewTurns =
    run.observedTurn === undefined || latest.observedTurn === undefined || latest.observedTurn > run.observedTurn;
  return hadNewTurns || !["failed", "abandoned"].includes(latest.state) ? latest.state : undefined;
}

/** A reading without notes. */
export class NotReady implements NotReadyReading {
  declare readonly sessionId: string;
  declare readonly observer: string;
  declare readonly ready: false;
  declare readonly readiness: NotReadyReading["readiness"];
  declare readonly fresh: false;
  declare readonly staleBecause: readonly [];
  declare readonly notes: undefined;
  declare readonly latestRun: Run | undefined;
  declare readonly unavailableReason: string;

  constructor(data: Data<NotReadyReading>) {
    Object.assign(this, data);
  }

  asToolResult(options: { readonly minSeverity?: Severity | undefined } = {}): ToolResult {
    checked(options, SEVERITY);
    return { ready: false, reason: this.readiness };
  }

  asPrompt(options: PromptOptions = {}): string {
    checked(options, PROMPT);
    return "";
  }
}

/** Returns the reading of an outage, for callers with `unavailableOk`. */
export function unavailableReading(sessionId: string, observer: string, reason: string): NotReadyReading {
  return new NotReady({
    sessionId,
    observer,
    ready: false,
    readiness: "unavailable",
    fresh: false,
    staleBecause: [],
    notes: undefined,
    latestRun: undefined,
    unavailableReason: reason,
  });
}

function notesForTool(
  notes: Notes,
  shown: readonly (Severity | undefined)[],
): Extract<ToolResult, { ready: true }>["notes"] {
  const issues = notes.issues.filter(({ severity }) => shown.includes(severity));
  return {
    ...(Object.keys(notes.coverage).length > 0 && { coverage: notes.coverage }),
    ...(issues.length > 0 && {
      issues: issues.map(({ text, severity, turn }) => ({
        text,
        ...(severity !== undefined && { severity }),
        ...(turn !== undefined && { turn }),
      })),
    }),
    ...(notes.followUpSuggestions.length > 0 && { follow_up_suggestions: notes.followUpSuggestions }),
    ...(notes.summary !== "" && { summary: notes.summary }),
    ...(Object.keys(notes.extra).length > 0 && { extra: notes.extra }),
  };
}

/** Rounds to three places as Python's `round` does: half to even. */
function seconds(ms: number): number {
  const exact = Math.round(ms * 1000) / 1e6;
  // A double is exactly halfway between two thousandths only if it is an odd number of sixteenths.
  if ((exact * 16) % 2 !== 1) {
    return Number(exact.toFixed(3));
  }
  const below = Math.floor(exact * 1000);
  return (below % 2 === 0 ? below : below + 1) / 1000;
}
