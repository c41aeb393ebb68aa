/** Background observer: runs an analysis over submitted sessions. */

import { AsyncResource } from "node:async_hooks";

import {
  atLeast,
  checked,
  type Checks,
  flag,
  kindOf,
  milliseconds,
  oneOf,
  positive,
  refusal,
  span,
  text,
} from "./arguments.js";
import { type Brakes, DEFAULT_BRAKES, NO_BRAKES } from "./brakes.js";
import * as calls from "./calls.js";
import {
  InvalidArgument,
  RunAlreadyFailed,
  RunAlreadyWritten,
  RunInFlight,
  RunNotFound,
  SessionDeleted,
  Unavailable,
  UsageError,
} from "./errors.js";
import { errorName, forLogs } from "./failures.js";
import { RepeatedWarnings, sessionDigest, warn } from "./logs.js";
import { DEFAULT_RUN_TIMEOUT_MS, ENDED_WITHOUT_NOTES, ObserverClient, type ObserverOptions } from "./observer.js";
import { type Holder, MAX_TIMER_MS, register, unregister, within } from "./pending.js";
import { CONNECTION } from "./primary.js";
import { ActiveRun, FAIL_TIMEOUT_MS } from "./runs.js";
import { type Job, Schedule } from "./schedule.js";
import type { BeginResult, NewNotes, Reading } from "./types.js";

const DEFAULT_MAX_CONCURRENT = 4;

/** Default time limit of an analysis. */
const DEFAULT_TIME_LIMIT_MS = 120_000;

/** Default lease of a run: how long a dead process keeps its sessions. Renewed every ten seconds. */
const DEFAULT_LEASE_MS = 30_000;

const RENEW_TIMEOUT_MS = 2000;

const DEFAULT_CLOSE_TIMEOUT_MS = 10_000;

/** How long a closing observer retries BeginRun. gRPC reconnects once a second. */
const BEGIN_TIMEOUT_AT_CLOSE_MS = 1500;

/** Number of queued sessions at which a sweep ends. The next one finds the others: the work is shared meanwhile. */
const MAX_QUEUED_BY_SWEEP = 1000;

/** Timeout of a page of due sessions. The sidecar scans its store for it. */
const DUE_TIMEOUT_MS = 10_000;

const CLOSED = "observer closed";
const OBSOLETE = "obsolete: a newer run was faster";
const NOTHING_NEW = "nothing new: another run was faster";

/** Errors of a renewal after which there is nothing to renew. */
const ENDED = [RunNotFound, RunAlreadyWritten, RunAlreadyFailed, SessionDeleted];

/** An analysis: returns the notes of a run, or nothing for no notes. */
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- for functions without a return
export type Analysis = (run: ActiveRun) => Promise<NewNotes | undefined | void> | NewNotes | undefined | void;

/** Options of a BackgroundObserver. */
export interface BackgroundOptions extends Omit<ObserverOptions, "timeoutMs"> {
  /** The sidecar's address, as for `ObserverClient`. */
  readonly target?: string | undefined;
  /** An existing client, instead of `target`, `token`, `tls` and `observer`. It is not closed. */
  readonly client?: ObserverClient | undefined;
  /** Maximum number of concurrent analyses. Absent: 4. */
  readonly maxConcurrent?: number | undefined;
  /** Time limit of an analysis. Absent: 2 minutes. */
  readonly timeLimitMs?: number | undefined;
  /** How long the notes stay current. Absent: as long as the session. */
  readonly ttlMs?: number | undefined;
  /**
   * How long a run stays in flight if this process dies. Renewed while the analysis runs. Absent: 30 s. A sidecar of the first version
   * cannot renew it: there, a run stays in flight for its time limit and 10 s more.
   */
  readonly leaseMs?: number | undefined;
  /**
   * `all`: a run sees the whole transcript. `new`: only the turns that the current notes have not seen, together with these notes as
   * `run.current`. Absent: `all`.
   */
  readonly transcript?: "all" | "new" | undefined;
  /** Of these, a run sees at most this many turns, the newest. Absent: no maximum. */
  readonly maxTurns?: number | undefined;
  /**
   * Brake: shortest time between the begins of two runs of a session. Absent: 15 s. Those of other processes count, too, unless
   * `minNewTurns` is 0: one in flight always, one that has ended once there are notes.
   */
  readonly minIntervalMs?: number | undefined;
  /**
   * Brake: smallest number of turns that the current notes have not seen, checked when a submitted session may have a run. With none,
   * its submission is dropped; with too few, it waits for the next one. 0: not checked. Absent: 1.
   */
  readonly minNewTurns?: number | undefined;
  /**
   * Brake: how long a session must not have been submitted before its run begins. One that is submitted again and again is run after ten
   * times as long. Absent: 2 s.
   */
  readonly quietForMs?: number | undefined;
  /** Brake: largest number of runs of a session in this process. Further submissions are ignored. Absent: 500. */
  readonly maxRuns?: number | undefined;
  /** Whether absent brakes have these defaults, and failures delay the next run. False: they are off. Absent: true. */
  readonly brakes?: boolean | undefined;
}

/** Options of `BackgroundObserver.close`. */
export interface CloseOptions {
  /** How long to wait for the submitted sessions. Absent: 10 s. */
  readonly timeoutMs?: number | undefined;
  /** Whether sessions that wait are run now, whatever holds them back, or dropped. Absent: `run`. */
  readonly pending?: "run" | "drop" | undefined;
}

const BACKGROUND: Checks<BackgroundOptions> = {
  ...CONNECTION,
  target: text,
  observer: text,
  client: (name, content) => {
    if (!(content instanceof ObserverClient)) {
      throw refusal(name, `must be an ObserverClient, not ${kindOf(content)}`);
    }
  },
  maxConcurrent: atLeast(1),
  timeLimitMs: positive,
  ttlMs: positive,
  leaseMs: positive,
  transcript: oneOf("all", "new"),
  maxTurns: atLeast(1),
  minIntervalMs: span,
  minNewTurns: atLeast(0),
  quietForMs: span,
  maxRuns: atLeast(1),
  brakes: flag,
};
const CLOSE: Checks<CloseOptions> = { timeoutMs: milliseconds, pending: oneOf("run", "drop") };

/**
 * Runs an analysis over submitted sessions, concurrently in this process.
 *
 * Each session has at most one run at a time, which sees the transcript as of the moment it begins. A session that is submitted again
 * while it waits is run once. If it is submitted again during its run, it is run once more.
 *
 * Brakes hold back submitted sessions, because an analysis usually costs money. A session that is held back is run once as soon as they
 * permit it, or at `close`. After a failure, a session waits for 5 s or `minIntervalMs`, whichever is longer, and twice as long after
 * each further one, up to 15 minutes; a success ends this. A session whose run could not begin, or whose notes could not be
 * written, because the sidecar was unavailable stays submitted.
 *
 * If an analysis throws, returns no notes, or overruns `timeLimitMs`, its run is recorded as failed. Every failure, including an outage
 * of the sidecar, is a process warning without user data, and never reaches the caller of `submit`.
 *
 * `run.signal` is aborted when the time limit passes, when the observer is closed and when the session is deleted: pass it to your model
 * call. An analysis that ignores it occupies its place and its session until it returns; its result is discarded.
 *
 * @example
 * const observer = new BackgroundObserver(async (run) => {
 *   const summary = await model.ask(prompt(run.transcript), { signal: run.signal });
 *   return { summary };
 * });
 * observer.submit("session-1");
 * await observer.close();
 */
export class BackgroundObserver implements AsyncDisposable {
  readonly #analyse: Analysis;
  readonly #client: ObserverClient;
  readonly #ownClient: boolean;
  readonly #maxConcurrent: number;
  readonly #timeLimitMs: number;
  readonly #ttlMs: number | undefined;
  readonly #leaseMs: number;
  readonly #newTurnsOnly: boolean;
  readonly #maxTurns: number | undefined;
  readonly #brakes: Brakes;
  readonly #schedule: Schedule;
  readonly #holder: Holder;
  readonly #warnings = new RepeatedWarnings();
  /** Runs the work outside of the caller's asynchronous context: a run does not belong to the request that submitted its session. */
  readonly #context = new AsyncResource("SessionNotesObserver");
  /** The runs in flight, and what ends their analyses. */
  readonly #running = new Map<ActiveRun, AbortController>();
  readonly #whenEmpty: (() => void)[] = [];
  /** Whether the sidecar renews leases, as far as is known. */
  #renews = false;
  #sweepMs: number | undefined;
  #sweepTimer: NodeJS.Timeout | undefined;
  #sweeping = false;
  #stoppedRetrying = false;
  #closing = false;
  #closed = false;

  /**
   * @param analyse Returns the notes of a run, or nothing for no notes.
   * @throws InvalidArgument An argument is invalid.
   */
  constructor(analyse: Analysis, options: BackgroundOptions = {}) {
    const given: unknown = analyse;
    if (typeof given !== "function") {
      throw refusal("analyse", `must be a function of a run, not ${kindOf(given)}`);
    }
    const { client, target, token, tls, observer } = checked(options, BACKGROUND);
    if (client !== undefined && (target || token || tls || observer)) {
      throw new InvalidArgument("pass either client, or target, token, tls and observer to create one");
    }
    this.#maxConcurrent = options.maxConcurrent ?? DEFAULT_MAX_CONCURRENT;
    this.#timeLimitMs = options.timeLimitMs ?? DEFAULT_TIME_LIMIT_MS;
    this.#ttlMs = options.ttlMs;
    // It ends after the time limit, so that an overrun can be recorded first.
    this.#leaseMs = Math.min(options.leaseMs ?? DEFAULT_LEASE_MS, this.#unrenewedMs);
    this.#newTurnsOnly = options.transcript === "new";
    this.#maxTurns = options.maxTurns;
    this.#brakes = brakesOf(options);
    this.#analyse = analyse;
    this.#ownClient = client === undefined;
    this.#client = client ?? new ObserverClient(target, { token, tls, observer });
    this.#schedule = new Schedule(this.#brakes, () => {
      this.#start();
    });
    this.#holder = { target: this.#client.target, forget: (sessionId) => this.#forget(sessionId) };
  }

  /**
   * Queues a session for an analysis, and returns immediately.
   *
   * @throws InvalidArgument The id is not text that can be sent.
   * @throws UsageError This observer is closed.
   */
  submit(sessionId: string): void {
    text("sessionId", sessionId);
    this.#mustBeOpen();
    register(this.#holder);
    if (!this.#schedule.submit(sessionId)) {
      this.#reportExhausted(sessionId);
    }
    this.#workEnded();
  }

  /**
   * Looks for due sessions now and every so often, and submits them, until `close`; keeps the process alive until then.
   *
   * This replaces `submit` where the observer is a process of its own, and finds sessions whose submission was lost. A session is due if
   * it meets the bounds of the brakes and has no run of this observer in flight. Several processes can sweep: each session is analysed by
   * one of them. Another call changes the interval.
   *
   * @throws InvalidArgument The interval is not above 0.
   * @throws UsageError This observer is closed.
   */
  sweep(everyMs: number): void {
    positive("everyMs", everyMs);
    this.#mustBeOpen();
    this.#sweepMs = everyMs;
    clearTimeout(this.#sweepTimer);
    if (!this.#sweeping) {
      void this.#context.runInAsyncScope(() => this.#sweep());
    }
  }

  /**
   * Stops accepting sessions, finishes the submitted ones, and resolves to whether all finished in time.
   *
   * After the timeout, waiting sessions are dropped, and runs in flight are aborted and recorded as failed, which takes up to 2 s more.
   * While the sidecar is unavailable, BeginRun is retried for up to 1.5 s.
   */
  async close(options: CloseOptions = {}): Promise<boolean> {
    const { pending = "run", timeoutMs = DEFAULT_CLOSE_TIMEOUT_MS } = checked(options, CLOSE);
    this.#closing = true;
    this.#sweepMs = undefined;
    clearTimeout(this.#sweepTimer);
    if (pending === "drop") {
      this.#schedule.dropSubmitted();
    }
    this.#schedule.releaseAll();
    const started = performance.now();
    let finished = await within(Math.min(timeoutMs, BEGIN_TIMEOUT_AT_CLOSE_MS), this.#empty());
    if (!finished && timeoutMs > BEGIN_TIMEOUT_AT_CLOSE_MS) {
      this.#stopRetrying();
      finished = await within(timeoutMs - (performance.now() - started), this.#empty());
    }
    this.#closed = true;
    this.#stopRetrying();
    const dropped = this.#schedule.dropSubmitted();
    if (dropped > 0) {
      warn(`the background observer was closed with ${dropped} sessions waiting`);
    }
    const ended = Array.from(this.#running, ([run, controller]) => {
      const recorded = run.failQuietly(CLOSED);
      controller.abort(new DOMException(CLOSED, "AbortError"));
      return recorded;
    });
    if (ended.length > 0) {
      await within(FAIL_TIMEOUT_MS, Promise.all(ended));
    }
    unregister(this.#holder);
    if (this.#ownClient) {
      this.#client.close();
    }
    return finished;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #mustBeOpen(): void {
    if (this.#closing) {
      throw new UsageError("this observer is closed");
    }
  }

  /** The lease of a run that cannot be renewed. */
  get #unrenewedMs(): number {
    return this.#timeLimitMs + DEFAULT_RUN_TIMEOUT_MS;
  }

  /** Resolves once no session is submitted or has a run. */
  #empty(): Promise<void> {
    return new Promise((resolve) => {
      this.#whenEmpty.push(resolve);
      this.#workEnded();
    });
  }

  #workEnded(): void {
    if (this.#schedule.empty) {
      unregister(this.#holder);
      for (const resolve of this.#whenEmpty.splice(0)) {
        resolve();
      }
    }
  }

  #stopRetrying(): void {
    this.#stoppedRetrying = true;
    for (const job of this.#schedule.jobs.values()) {
      job.stop.abort();
    }
  }

  async #forget(sessionId: string): Promise<void> {
    const job = this.#schedule.forget(sessionId);
    this.#workEnded();
    if (job?.run !== undefined) {
      job.run.sessionDeleted();
      this.#running.get(job.run)?.abort(new SessionDeleted("the session was deleted"));
    } else if (job !== undefined) {
      job.stop.abort();
      await job.begun;
    }
  }

  /** Begins jobs, up to the maximum. */
  #start(): void {
    while (this.#schedule.jobs.size < this.#maxConcurrent) {
      const job = this.#schedule.take();
      if (job === undefined) {
        return;
      }
      if (this.#stoppedRetrying) {
        job.stop.abort();
      }
      void this.#context.runInAsyncScope(() => this.#work(job));
    }
  }

  async #work(job: Job): Promise<void> {
    try {
      const run = await this.#begin(job);
      if (run !== undefined) {
        await this.#observe(job, run);
      }
    } catch (error) {
      // A bug in this class must not end the others' work.
      warn(`session ${sessionDigest(job.sessionId)}: ${errorName(error)} in the background observer`);
    }
    if (!this.#schedule.done(job)) {
      this.#reportExhausted(job.sessionId);
    }
    if (this.#closed) {
      this.#schedule.dropSubmitted();
    }
    this.#start();
    this.#workEnded();
  }

  /** Begins the run of a job. Undefined: it could not begin, or is not necessary. */
  async #begin(job: Job): Promise<ActiveRun | undefined> {
    try {
      if (await this.#isNotDue(job)) {
        return undefined;
      }
      const leaseMs = this.#renews ? this.#leaseMs : this.#unrenewedMs;
      const begun = await this.#client.send(
        calls.beginRun(job.sessionId, this.#client.observer, {
          leaseMs,
          // Several processes may have waited for the same moment.
          onlyIfIdle: job.swept || (this.#neededTurns(job) > 0 && this.#brakes.minIntervalMs > 0 && !this.#closing),
          afterCurrentNotes: this.#newTurnsOnly,
          includeCurrentNotes: true,
          maxTurns: this.#maxTurns,
        }),
        job.stop.signal,
      );
      const controller = new AbortController();
      const run = new ActiveRun(this.#client, job.sessionId, begun, controller.signal);
      if (job.forgotten) {
        // The run ends with its session.
        return undefined;
      }
      const unnecessary = this.#unnecessary(job, begun);
      if (unnecessary !== undefined) {
        await run.failQuietly(unnecessary);
        return undefined;
      }
      job.run = run;
      this.#schedule.began(job);
      this.#running.set(run, controller);
      // The version of the sidecar that returns `current` is the first one that renews leases.
      this.#renews = begun.current !== undefined;
      if (this.#renews) {
        // A lease that is too long, because this was not known, is replaced immediately.
        this.#renewLater(run, leaseMs > this.#leaseMs ? 0 : this.#leaseMs / 3);
      }
      return run;
    } catch (error) {
      if (error instanceof RunInFlight) {
        // Another process was faster. If the session was submitted, a later run sees what that run does not.
        if (!job.swept) {
          job.tooEarly = true;
          job.submission.afterRun = error.run.runId;
          job.submission.notBefore = performance.now() + this.#brakes.minIntervalMs;
        }
        return undefined;
      }
      job.failed = true;
      job.unavailable = error instanceof Unavailable && this.#staysSubmitted(job);
      if (!job.forgotten) {
        this.#warnings.warn(`session ${sessionDigest(job.sessionId)}`, `no run could begin: ${forLogs(error)}`);
      }
      return undefined;
    } finally {
      job.hasBegun();
    }
  }

  /** Whether a run is not necessary yet. Checked before it begins, so that it leaves no record. */
  async #isNotDue(job: Job): Promise<boolean> {
    const needed = this.#neededTurns(job);
    if (needed === 0) {
      return false;
    }
    const { sessionId, stop, swept } = job;
    // Unlike a primary, an observer can wait.
    const read = { ...calls.getNotes(sessionId, { observer: this.#client.observer }), retried: "outage" as const };
    const reading = await this.#client.send(read, stop.signal);
    if (swept && reading.latestRun?.runId !== job.submission.latestRun) {
      return true; // Another process ran the session while it waited here. A sweep finds it when it is due.
    }
    if (this.#isTooEarly(job, reading)) {
      job.tooEarly = true;
      return true;
    }
    let turnsBehind = reading.ready ? reading.turnsBehind : undefined;
    if (!reading.ready && (this.#brakes.minNewTurns > 1 || swept)) {
      turnsBehind = (await this.#client.send(calls.getSession(sessionId, false), stop.signal)).turnCount;
    }
    if (turnsBehind === undefined || turnsBehind >= needed) {
      return false;
    }
    job.tooFewTurns = turnsBehind > 0 && !swept;
    return true;
  }

  /**
   * Whether the latest run, of another process, began less than `minIntervalMs` ago. Unknown without current notes. Each run delays a
   * submission once at most, however the store's clock is set.
   */
  #isTooEarly({ submission, swept }: Job, reading: Reading): boolean {
    if (this.#closing || swept || !reading.ready || reading.snapshotAgeMs === undefined) {
      return false;
    }
    const { run, latestRun = run, snapshotAgeMs } = reading;
    const runLaterMs = run.beginTime && latestRun.beginTime ? Number(latestRun.beginTime) - Number(run.beginTime) : 0;
    const leftMs = this.#brakes.minIntervalMs - (snapshotAgeMs - runLaterMs);
    if (leftMs <= 0 || latestRun.runId === submission.afterRun) {
      return false;
    }
    submission.afterRun = latestRun.runId;
    submission.notBefore = performance.now() + leftMs;
    return true;
  }

  /** Returns how many new turns a session must have for a run. 0: any number, not checked. */
  #neededTurns(job: Job): number {
    const { minNewTurns } = this.#brakes;
    const needed = this.#closing ? Math.min(minNewTurns, 1) : minNewTurns;
    return job.swept ? Math.max(needed, 1) : needed;
  }

  /** Returns why a run that has begun ends without an analysis; undefined: it is necessary. */
  #unnecessary(job: Job, { run, current }: BeginResult): string | undefined {
    if (this.#closed) {
      return CLOSED;
    }
    if (job.swept && !run.observedTurn) {
      return NOTHING_NEW; // The session was deleted after it was found.
    }
    // Another run may have written its notes between the check and BeginRun.
    const nothingNew = current?.ready === true && current.turnsBehind === 0;
    return nothingNew && this.#neededTurns(job) > 0 ? NOTHING_NEW : undefined;
  }

  /** Returns whether a session stays submitted after an outage. The sweep finds its sessions again. */
  #staysSubmitted(job: Job): boolean {
    // Without pauses between the attempts, an outage would be a loop.
    return this.#brakes.backoff && !job.swept;
  }

  /** Analyses a run, and writes its notes or records its failure. */
  async #observe(job: Job, run: ActiveRun): Promise<void> {
    const overrun = `time limit of ${this.#timeLimitMs / 1000} s passed`;
    const limit = setTimeout(
      () => {
        void run.failQuietly(overrun).then((failed) => {
          if (failed) {
            this.#warnOf(run, overrun);
          }
        });
        this.#running.get(run)?.abort(new DOMException(overrun, "TimeoutError"));
      },
      Math.min(this.#timeLimitMs, MAX_TIMER_MS),
    ).unref();
    try {
      const failure = await this.#failureOf(run, limit);
      if (failure !== undefined) {
        await run.failQuietly(failure);
      }
    } finally {
      clearTimeout(limit);
      this.#running.delete(run);
      if (run.written) {
        job.failed = false;
      } else if (!run.obsolete) {
        job.failed = true;
        // Of a run that is still open, an outage lost the notes.
        job.unavailable = !run.ended && this.#staysSubmitted(job);
      }
    }
  }

  /** Analyses a run and writes its notes. Returns the failure to record; undefined: there is none. */
  async #failureOf(run: ActiveRun, limit: NodeJS.Timeout): Promise<string | undefined> {
    let notes: NewNotes | undefined;
    try {
      notes = (await this.#analyse(run)) ?? undefined;
    } catch (error) {
      // An analysis that ends because of its signal has been reported.
      if (!(run.ended && run.signal.aborted)) {
        // Only the class: the text of an error may contain what the user said.
        this.#warnOf(run, `the analysis threw ${errorName(error)}`);
      }
      return errorName(error);
    }
    if (run.ended) {
      return undefined;
    }
    if (notes === undefined) {
      if (run.obsolete) {
        return OBSOLETE;
      }
      this.#warnOf(run, "the analysis returned no notes");
      return ENDED_WITHOUT_NOTES;
    }
    clearTimeout(limit);
    return this.#write(run, notes);
  }

  /** Writes the notes of a run. Returns the failure to record; undefined: there is none. */
  async #write(run: ActiveRun, notes: NewNotes): Promise<string | undefined> {
    try {
      await run.write(notes, { ttlMs: this.#ttlMs });
      return undefined;
    } catch (error) {
      if (error instanceof SessionDeleted) {
        run.sessionDeleted();
      }
      if (error instanceof SessionDeleted || error instanceof Unavailable) {
        // A deleted session has no runs. Without a response, the lease expires instead.
        this.#warnOf(run, `the notes could not be written: ${forLogs(error)}`);
        return undefined;
      }
      this.#warnOf(run, `the notes were not written: ${forLogs(error)}`);
      return errorName(error);
    }
  }

  /** Renews the lease of a run after a delay, and so on until it ends. */
  #renewLater(run: ActiveRun, delayMs: number): void {
    const renew = async (): Promise<void> => {
      try {
        await run.renew({ leaseMs: this.#leaseMs, timeoutMs: RENEW_TIMEOUT_MS });
      } catch (error) {
        if (!this.#running.has(run) || ENDED.some((kind) => error instanceof kind)) {
          return;
        }
        this.#warnOf(run, `its lease was not renewed: ${forLogs(error)}`);
        this.#renewLater(run, this.#leaseMs / 10);
        return;
      }
      this.#renewLater(run, this.#leaseMs / 3);
    };
    setTimeout(
      () => {
        if (this.#running.has(run) && !run.ended) {
          void renew();
        }
      },
      Math.min(delayMs, MAX_TIMER_MS),
    ).unref();
  }

  async #sweep(): Promise<void> {
    this.#sweeping = true;
    const { minNewTurns, minIntervalMs, quietForMs } = this.#brakes;
    const bounds = { minTurnsBehind: Math.max(1, minNewTurns), minIntervalMs, minQuietMs: quietForMs };
    try {
      for await (const { sessionId, latestRun } of this.#client.dueSessions({ ...bounds, timeoutMs: DUE_TIMEOUT_MS })) {
        if (this.#isClosing()) {
          break;
        }
        register(this.#holder);
        if (!this.#schedule.sweep(sessionId, latestRun?.runId)) {
          this.#reportExhausted(sessionId);
        }
        this.#workEnded();
        if (this.#schedule.queued >= MAX_QUEUED_BY_SWEEP) {
          break;
        }
      }
    } catch (error) {
      if (!this.#isClosing()) {
        this.#warnings.warn("sweep", `the due sessions could not be listed: ${forLogs(error)}`);
      }
    }
    this.#sweeping = false;
    if (this.#sweepMs !== undefined) {
      this.#sweepTimer = setTimeout(() => void this.#sweep(), Math.min(this.#sweepMs, MAX_TIMER_MS));
    }
  }

  /** A function, because the answer changes while a sweep waits. */
  #isClosing(): boolean {
    return this.#closing;
  }

  #warnOf({ sessionId, number }: ActiveRun, problem: string): void {
    this.#warnings.warn(`session ${sessionDigest(sessionId)}, run ${number}`, problem);
  }

  #reportExhausted(sessionId: string): void {
    const history = this.#schedule.histories.get(sessionId);
    if (history !== undefined && !history.reported) {
      history.reported = true;
      const problem = `maxRuns of ${this.#brakes.maxRuns} reached, no further runs`;
      this.#warnings.warn(`session ${sessionDigest(sessionId)}`, problem);
    }
  }
}

function brakesOf(options: BackgroundOptions): Brakes {
  const others = (options.brakes ?? true) ? DEFAULT_BRAKES : NO_BRAKES;
  return {
    minIntervalMs: options.minIntervalMs ?? others.minIntervalMs,
    minNewTurns: options.minNewTurns ?? others.minNewTurns,
    quietForMs: options.quietForMs ?? others.quietForMs,
    maxRuns: options.maxRuns ?? others.maxRuns,
    backoff: others.backoff,
  };
}
