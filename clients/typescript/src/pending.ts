/**
 * Registry of pending work: turns and runs that the sidecar does not know yet.
 *
 * Recorders and background observers register here while they have any. `deleteSession` in this process then drops the pending work of
 * the session, and a process that is about to end stores pending turns first.
 */

/** An object with pending work. */
export interface Holder {
  /** The target of its client. */
  readonly target: string;
  /** Drops the pending work of a session that is about to be deleted. Resolves when no call for it is in flight. */
  readonly forget: (sessionId: string) => Promise<void>;
  /** Stores what can be stored, because the process is about to end. */
  readonly finish?: () => void;
}

const holders = new Set<Holder>();

/** Registers a holder that has pending work. */
export function register(holder: Holder): void {
  if (holders.size === 0) {
    process.on("beforeExit", finishAll);
  }
  holders.add(holder);
}

/** Removes a holder that has no pending work left. */
export function unregister(holder: Holder): void {
  holders.delete(holder);
  if (holders.size === 0) {
    process.off("beforeExit", finishAll);
  }
}

/** Drops the pending work of a session. Resolves when no call for it is in flight, or after the timeout. */
export async function forget(target: string, sessionId: string, timeoutMs: number): Promise<void> {
  const address = canonical(target);
  const calls = Array.from(holders)
    .filter((holder) => canonical(holder.target) === address)
    .map((holder) => holder.forget(sessionId));
  if (calls.length > 0) {
    await within(timeoutMs, Promise.all(calls));
  }
}

/** Waits for a promise, which must not reject, up to a timeout. Resolves to whether it was resolved in time. */
export async function within(timeoutMs: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, Math.max(0, Math.min(timeoutMs, MAX_TIMER_MS)), false);
  });
  const outcome = await Promise.race([promise.then(() => true), late]);
  clearTimeout(timer);
  return outcome;
}

/** The longest delay of a timer. A longer timer fires immediately. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

function finishAll(): void {
  for (const holder of holders) {
    holder.finish?.();
  }
}

/** Returns the same spelling for all targets of one sidecar. */
function canonical(target: string): string {
  return target
    .replace(/^unix:\/\//, "unix:")
    .replace(/^(?:dns:(?:\/\/[^/]*\/)?|ipv[46]:)/, "")
    .replace(/^(?:localhost|\[::1\])(?=:\d+$)/i, "127.0.0.1");
}
