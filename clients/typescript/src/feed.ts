/** Feed: the notes on one session as text for a prompt, whenever there is something new. */

import { checked, type Checks, kindOf, refusal, text, texts } from "./arguments.js";
import { InvalidArgument, Unavailable, UsageError } from "./errors.js";
import { errorName } from "./failures.js";
import { RepeatedWarnings, sessionDigest } from "./logs.js";
import { PROMPT, STORED_BOUNDS } from "./options.js";
import { PrimaryClient } from "./primary.js";
import { characters, DEFAULT_MAX_CHARS } from "./prompt.js";
import type { NotesBounds, PromptOptions, Reading } from "./types.js";

/** Options of a NotesFeed. */
export interface FeedOptions extends Omit<NotesBounds, "currentTurn">, PromptOptions {
  /** Names of the observers, all read in one call; an empty name: `default`. Absent: `default` only. */
  readonly observers?: readonly string[] | undefined;
}

const FEED: Checks<FeedOptions> = { ...STORED_BOUNDS, ...PROMPT, observers: observerNames };

/**
 * The notes on one session as text for the prompt of the primary's model, whenever there is something new.
 *
 * Each text replaces the previous one: it has the block of every observer with notes (see `asPrompt`), in the order of `observers`. Put
 * it at the end of the prompt, into the context of the current turn. What precedes it stays in the prompt cache, and so do the blocks
 * before the first one that changed: name the observers that change least first. A feed belongs to one conversation.
 *
 * `maxChars` applies to the whole text. Observers share it equally; a later one also gets what the earlier ones leave.
 *
 * @example
 * const feed = new NotesFeed(primary, "session-1", { maxTurnsBehind: 4 });
 * let advice = "";
 * advice = (await feed.next()) ?? advice; // before each answer
 */
export class NotesFeed {
  readonly #primary: PrimaryClient;
  readonly #sessionId: string;
  readonly #options: FeedOptions;
  readonly #observers: readonly string[];
  readonly #warnings = new RepeatedWarnings();
  /** The runs and the freshness behind the last text. */
  #given = "";
  #text = "";

  /**
   * @param primary Reads the notes. It is not closed.
   * @throws InvalidArgument An argument is invalid.
   */
  constructor(primary: PrimaryClient, sessionId: string, options: FeedOptions = {}) {
    this.#primary = checkedPrimary(primary);
    this.#sessionId = text("sessionId", sessionId);
    this.#options = { ...checked(options, FEED) };
    this.#observers = [...(options.observers ?? [""])];
  }

  /**
   * Resolves to the text if it has changed since the last one: a newer run, or notes that are no longer fresh. Empty: notes were
   * returned before, and there are none left. Null: nothing has changed, or the notes could not be read; the next call tries again.
   *
   * It never rejects because of the sidecar. An outage takes at most the client's `timeoutMs`. Rejects with InvalidArgument if the
   * sidecar rejects an argument, and with UsageError if the client is closed.
   */
  async next(): Promise<string | null> {
    try {
      const bounds = this.#options;
      return this.#changed(await this.#primary.notesOfObservers(this.#sessionId, this.#observers, bounds));
    } catch (error) {
      if (error instanceof InvalidArgument || error instanceof UsageError) {
        throw error;
      }
      if (!(error instanceof Unavailable)) {
        const problem = `no notes for the prompt: ${errorName(error)}`;
        this.#warnings.warn(`session ${sessionDigest(this.#sessionId)}`, problem);
      }
      return null;
    }
  }

  /** Returns the text of readings if it is new. */
  #changed(readings: readonly Reading[]): string | null {
    const given = JSON.stringify(readings.map((reading) => [reading.ready && reading.run.runId, reading.fresh]));
    if (given === this.#given) {
      return null;
    }
    this.#given = given;
    const { minSeverity, maxChars = DEFAULT_MAX_CHARS } = this.#options;
    let left = maxChars;
    const blocks: string[] = [];
    for (const [index, reading] of readings.entries()) {
      // An equal share of what is left, so that a block depends only on itself and on those before it.
      const share = Math.floor((left + 1) / (readings.length - index)) - 1;
      const block = reading.asPrompt({ minSeverity, maxChars: Math.max(0, share) });
      if (block !== "") {
        blocks.push(block);
        left -= characters(block) + 1;
      }
    }
    const before = this.#text;
    this.#text = blocks.join("\n");
    return this.#text === before ? null : this.#text;
  }
}

/** Checks the client of a feed or a tool. */
export function checkedPrimary(client: unknown): PrimaryClient {
  if (!(client instanceof PrimaryClient)) {
    throw refusal("primary", `must be a PrimaryClient, not ${kindOf(client)}`);
  }
  return client;
}

/** Checks the names of one or more observers. */
export function observerNames(name: string, observers: unknown): void {
  if (texts(name, observers).length === 0) {
    throw refusal(name, "must name at least one observer");
  }
}
