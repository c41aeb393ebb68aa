/** Brakes of a background observer: when a session may be analysed, given its past and the time. */

/** Long enough for a few turns of a conversation, so that an hour of it costs at most 240 calls of a model. */
export const DEFAULT_MIN_INTERVAL_MS = 15_000;

/** An analysis of what the current notes have seen costs as much as any other, and finds nothing. */
export const DEFAULT_MIN_NEW_TURNS = 1;

/** The parts of one exchange are usually recorded within two seconds. An analysis in between sees half of it. */
export const DEFAULT_QUIET_FOR_MS = 2000;

/** A run per minute for a working day. More is probably a program that submits in a loop. */
export const DEFAULT_MAX_RUNS = 500;

/** After how many times `quietForMs` a session is run although it is never quiet, as during a long turn of an agent. */
const MAX_WAIT_FOR_QUIET = 10;

/** The pause after a first failure, unless `minIntervalMs` is longer. A restart may be over by then. */
const FIRST_PAUSE_MS = 5000;

/** The pause after many failures. A spent quota costs four calls per hour then, and notes return soon after it ends. */
const LAST_PAUSE_MS = 15 * 60_000;

/** Number of sessions whose past is remembered. Beyond it, that of the longest inactive one is forgotten. */
const MAX_HISTORIES = 10_000;

/** Number of sessions that may wait for new turns. Beyond it, the longest waiting one must be submitted again. */
export const MAX_WAITING = 10_000;

/** How long the past of an inactive session is remembered. By then the sidecar, by default, has dropped the session. */
const MEMORY_MS = 24 * 3600_000;

/** The brakes of an observer. */
export interface Brakes {
  /** Shortest time between the begins of two runs of a session. */
  readonly minIntervalMs: number;
  /** Smallest number of turns that the current notes have not seen. 0: not checked. */
  readonly minNewTurns: number;
  /** How long a session must not have been submitted, if it ever is so long. */
  readonly quietForMs: number;
  /** Largest number of analyses of a session. */
  readonly maxRuns: number;
  /** Whether failures delay the next run. */
  readonly backoff: boolean;
}

/** The brakes that a person would choose for a paid model. */
export const DEFAULT_BRAKES: Brakes = {
  minIntervalMs: DEFAULT_MIN_INTERVAL_MS,
  minNewTurns: DEFAULT_MIN_NEW_TURNS,
  quietForMs: DEFAULT_QUIET_FOR_MS,
  maxRuns: DEFAULT_MAX_RUNS,
  backoff: true,
};

export const NO_BRAKES: Brakes = { minIntervalMs: 0, minNewTurns: 0, quietForMs: 0, maxRuns: Infinity, backoff: false };

/** The past of one session in this process. */
export interface History {
  /** Number of analyses. */
  runs: number;
  /** When the latest run began. */
  beganAt: number;
  /** Number of failures since the last success. */
  failures: number;
  /** When the latest failure ended. */
  failedAt: number;
  /** When anything last happened. */
  activeAt: number;
  /** Whether a warning has said that the session has had all its runs. */
  reported: boolean;
}

/**
 * Returns the time from which a session may have a run.
 *
 * @param first When it was submitted for the first time since its latest run.
 * @param last When it was last submitted.
 */
export function earliest(brakes: Brakes, history: History | undefined, first: number, last: number): number {
  const { quietForMs, minIntervalMs, backoff } = brakes;
  const quiet = Math.min(last + quietForMs, first + MAX_WAIT_FOR_QUIET * quietForMs);
  if (history === undefined) {
    return quiet;
  }
  const failures = backoff ? history.failures : 0;
  const firstPauseMs = Math.max(minIntervalMs, FIRST_PAUSE_MS);
  const pauseMs = Math.min(firstPauseMs * 2 ** (failures - 1), Math.max(firstPauseMs, LAST_PAUSE_MS));
  return Math.max(quiet, history.beganAt + minIntervalMs, failures > 0 ? history.failedAt + pauseMs : -Infinity);
}

/** The past of the sessions, as far as it is remembered, the longest inactive one first. */
export class Histories {
  readonly #histories = new Map<string, History>();

  /** Returns the past of a session; undefined: nothing is remembered. */
  get(sessionId: string): History | undefined {
    return this.#histories.get(sessionId);
  }

  /** Returns the past of a session to which something happens, and forgets those that are long inactive. */
  active(sessionId: string, now: number): History {
    const none = { runs: 0, beganAt: -Infinity, failures: 0, failedAt: 0, activeAt: now, reported: false };
    const history = this.#histories.get(sessionId) ?? none;
    history.activeAt = now;
    this.#histories.delete(sessionId);
    this.#histories.set(sessionId, history);
    for (const [oldest, { activeAt }] of this.#histories) {
      if (now - activeAt <= MEMORY_MS && this.#histories.size <= MAX_HISTORIES) {
        break;
      }
      this.#histories.delete(oldest);
    }
    return history;
  }

  /** Forgets a deleted session. */
  forget(sessionId: string): void {
    this.#histories.delete(sessionId);
  }
}
