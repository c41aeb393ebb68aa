/**
 * Schedule of a background observer: one run at a time per session, with repeated submissions merged.
 *
 * A submitted session waits until the brakes release it. Then it is queued for its run.
 */

import { type Brakes, earliest, Histories, MAX_WAITING } from "./brakes.js";
import { MAX_TIMER_MS } from "./pending.js";
import type { ActiveRun } from "./runs.js";

/** A submitted session, however often it was submitted, until its job begins. */
interface Submission {
  /** When it was submitted for the first time. */
  readonly first: number;
  /** When it was last submitted. */
  last: number;
  /** Whether only the sweep has found it. The run then begins only if no other process has one in flight. */
  swept: boolean;
  /** Id of the session's latest run when the sweep found it. Undefined: it had no run. */
  latestRun?: string | undefined;
  /** Id of a run of another process that began too recently. Undefined: none did. */
  afterRun?: string;
  /** Time from which a run may follow that one. */
  notBefore?: number;
  /** Releases it, while the brakes hold it back. */
  timer?: NodeJS.Timeout | undefined;
}

/** A session whose run begins or is in flight, from `Schedule.take` to `Schedule.done`. */
export class Job {
  /** Once aborted, BeginRun is not retried. */
  readonly stop = new AbortController();
  /** Resolves when BeginRun has ended, whether or not a run began. */
  readonly begun: Promise<void>;
  /** Resolves `begun`. */
  readonly hasBegun: () => void;
  /** The run, once it has begun. */
  run: ActiveRun | undefined;
  /** Whether the session counts as failed or as successful; undefined: neither, for example without a run. */
  failed: boolean | undefined;
  /** Whether a run of another process began too recently: the submission stays. */
  tooEarly = false;
  /** Whether there are too few new turns: the submission stays until the next one. */
  tooFewTurns = false;
  /** Whether the sidecar was unavailable: the submission stays, for the pause after the failure. */
  unavailable = false;
  /** The next submission, if the session was submitted again in the meantime. */
  again: Submission | undefined;
  /** Whether the session was deleted in the meantime. */
  forgotten = false;

  constructor(
    readonly sessionId: string,
    readonly submission: Submission,
  ) {
    let resolveBegun: () => void = () => undefined;
    this.begun = new Promise((resolve) => {
      resolveBegun = resolve;
    });
    this.hasBegun = resolveBegun;
  }

  /** Whether only the sweep has found the session. */
  get swept(): boolean {
    return this.submission.swept;
  }
}

/** The submitted sessions and the jobs. */
export class Schedule {
  readonly jobs = new Map<string, Job>();
  readonly histories = new Histories();
  readonly #brakes: Brakes;
  readonly #onQueued: () => void;
  /** Every submitted session without a job. It is queued, or held back, or waits for turns until its next submission. */
  readonly #submitted = new Map<string, Submission>();
  /** Those that wait for turns, the longest waiting first. */
  readonly #waiting = new Set<string>();
  /** Those that need only a free place, in order. */
  readonly #queued = new Set<string>();
  #released = false;

  /** @param onQueued Called when a session has been queued. */
  constructor(brakes: Brakes, onQueued: () => void) {
    this.#brakes = brakes;
    this.#onQueued = onQueued;
  }

  /** Number of sessions that wait for a free place. */
  get queued(): number {
    return this.#queued.size;
  }

  /** Whether no session is submitted or has a job. */
  get empty(): boolean {
    return this.#submitted.size === 0 && this.jobs.size === 0;
  }

  /**
   * Submits a session, and returns whether it may have another run. If it is submitted already, it has one run for all submissions.
   * If it has a job, it is run once more.
   */
  submit(sessionId: string): boolean {
    if (this.#exhausted(sessionId)) {
      return false;
    }
    const now = performance.now();
    const job = this.jobs.get(sessionId);
    const submission = (job === undefined ? this.#submitted.get(sessionId) : job.again) ?? {
      first: now,
      last: now,
      swept: false,
    };
    submission.last = now;
    submission.swept = false;
    if (job === undefined) {
      this.#place(sessionId, submission);
    } else {
      job.again = submission;
    }
    return true;
  }

  /**
   * Queues a session that the sweep has found, and returns whether it may have another run. No effect if it is submitted already, or
   * if a brake holds it back: the sidecar lists it again.
   */
  sweep(sessionId: string, latestRun?: string): boolean {
    if (this.jobs.has(sessionId) || this.#submitted.has(sessionId)) {
      return true;
    }
    if (this.#exhausted(sessionId)) {
      return false;
    }
    // The sidecar has checked that no turn came for long enough, and knows all turns.
    const at = performance.now() - this.#brakes.quietForMs;
    const submission = { first: at, last: at, swept: true, latestRun };
    if (this.#earliest(sessionId, submission) <= performance.now()) {
      this.#place(sessionId, submission);
    }
    return true;
  }

  /** Queues all sessions, and holds back none from now on, because the observer is closing. */
  releaseAll(): void {
    this.#released = true;
    for (const [sessionId, submission] of this.#submitted) {
      this.#place(sessionId, submission);
    }
  }

  /** Takes the first queued session; undefined: none. */
  take(): Job | undefined {
    const [sessionId] = this.#queued;
    const submission = sessionId === undefined ? undefined : this.#submitted.get(sessionId);
    if (sessionId === undefined || submission === undefined) {
      return undefined;
    }
    this.#queued.delete(sessionId);
    this.#submitted.delete(sessionId);
    const job = new Job(sessionId, submission);
    this.jobs.set(sessionId, job);
    return job;
  }

  /** Counts the analysis of a job whose run has begun. */
  began(job: Job): void {
    if (!job.forgotten) {
      const now = performance.now();
      const history = this.histories.active(job.sessionId, now);
      history.runs += 1;
      history.beganAt = now;
    }
  }

  /** Ends a job, and submits its session again if necessary. Returns whether the session may have another run. */
  done(job: Job): boolean {
    const { sessionId } = job;
    this.jobs.delete(sessionId);
    if (job.failed !== undefined && !job.forgotten) {
      const now = performance.now();
      const history = this.histories.active(sessionId, now);
      history.failures = job.failed ? history.failures + 1 : 0;
      history.failedAt = now;
    }
    let submission = job.again;
    if (job.tooEarly && !job.forgotten) {
      submission = job.submission;
      submission.last = job.again?.last ?? submission.last;
    } else if (job.unavailable && !job.forgotten && !this.#released) {
      submission ??= job.submission;
    }
    if (submission !== undefined) {
      if (this.#exhausted(sessionId)) {
        return false;
      }
      this.#place(sessionId, submission);
    } else if (job.tooFewTurns && !job.forgotten) {
      if (this.#released) {
        this.#place(sessionId, job.submission);
      } else {
        this.#waitForTurns(sessionId, job.submission);
      }
    }
    return true;
  }

  /** Drops a session that is about to be deleted, with its past, and returns its job. */
  forget(sessionId: string): Job | undefined {
    this.#drop(sessionId);
    this.histories.forget(sessionId);
    const job = this.jobs.get(sessionId);
    if (job !== undefined) {
      job.again = undefined;
      job.forgotten = true;
    }
    return job;
  }

  /** Drops all submitted sessions, cancels all repetitions, and returns the number of sessions dropped. */
  dropSubmitted(): number {
    const dropped = this.#submitted.size;
    for (const sessionId of this.#submitted.keys()) {
      this.#drop(sessionId);
    }
    for (const job of this.jobs.values()) {
      job.again = undefined;
      job.tooEarly = false;
      job.tooFewTurns = false;
      job.unavailable = false;
    }
    return dropped;
  }

  #drop(sessionId: string): void {
    clearTimeout(this.#submitted.get(sessionId)?.timer);
    this.#submitted.delete(sessionId);
    this.#waiting.delete(sessionId);
    this.#queued.delete(sessionId);
  }

  /** Queues or holds back a submitted session. */
  #place(sessionId: string, submission: Submission): void {
    this.#submitted.set(sessionId, submission);
    this.#waiting.delete(sessionId);
    clearTimeout(submission.timer);
    const holdMs = this.#released ? 0 : this.#earliest(sessionId, submission) - performance.now();
    if (holdMs <= 0) {
      this.#queued.add(sessionId);
      this.#onQueued();
      return;
    }
    this.#queued.delete(sessionId);
    const release = (): void => {
      this.#place(sessionId, submission);
    };
    submission.timer = setTimeout(release, Math.min(Math.ceil(holdMs), MAX_TIMER_MS)).unref();
  }

  /** Keeps a session until its next submission. Beyond MAX_WAITING of them, drops the longest waiting one. */
  #waitForTurns(sessionId: string, submission: Submission): void {
    this.#submitted.set(sessionId, submission);
    this.#waiting.add(sessionId);
    const [longest] = this.#waiting;
    if (longest !== undefined && this.#waiting.size > MAX_WAITING) {
      this.#drop(longest);
    }
  }

  #earliest(sessionId: string, { first, last, notBefore = 0 }: Submission): number {
    return Math.max(earliest(this.#brakes, this.histories.get(sessionId), first, last), notBefore);
  }

  #exhausted(sessionId: string): boolean {
    if ((this.histories.get(sessionId)?.runs ?? 0) < this.#brakes.maxRuns) {
      return false;
    }
    // Remembered as long as it is submitted.
    this.histories.active(sessionId, performance.now());
    return true;
  }
}
