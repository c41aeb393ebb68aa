/** The environment variables that clients read, and a warning about names that come close to one of them. */

const PREFIX = "SESSION_NOTES_";
const NAMES = ["TARGET", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"] as const;
const MOST_SLIPS = 2;

const warned = new Set<string>();

/** A variable's value, by its name without the prefix; undefined where it is absent or empty. */
export function variable(name: (typeof NAMES)[number]): string | undefined {
  return process.env[PREFIX + name] || undefined;
}

/**
 * Warns once of each variable that is probably meant for a client and has no effect. Names that are far from all of ours are
 * left alone: the sidecar has variables of its own, and Kubernetes sets `SESSION_NOTES_PORT` and its like for a service that is
 * called session-notes.
 */
export function warnOfMisspeltNames(): void {
  for (const name of Object.keys(process.env)) {
    if (!/^SESSION\w*$/i.test(name) || warned.has(name)) {
      continue;
    }
    const nearest = nearestTo(name.toUpperCase());
    if (nearest !== undefined && nearest !== name) {
      warned.add(name);
      process.emitWarning(
        `the environment variable ${name} is unknown and has no effect; is it ${nearest}?`,
        "SessionNotesWarning",
      );
    }
  }
}

function nearestTo(name: string): string | undefined {
  const known = NAMES.map((one) => PREFIX + one);
  if (known.includes(name)) {
    return name;
  }
  const [nearest] = known
    .map((one) => [one, slips(name, one)] as const)
    .filter(([, count]) => count <= MOST_SLIPS)
    .sort(([, one], [, other]) => one - other);
  return nearest?.[0] ?? known.findLast((one) => name.startsWith(`${one}_`));
}

/** How many letters to add, drop, change or swap with the next one to make one word of the other. */
function slips(one: string, other: string): number {
  let before: number[] = [];
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (let i = 1; i <= one.length; i++) {
    const above = before;
    before = row;
    row = [i];
    for (let j = 1; j <= other.length; j++) {
      const same = one[i - 1] === other[j - 1];
      const at = (cells: readonly number[], index: number) => cells[index] ?? Infinity;
      let count = Math.min(at(before, j) + 1, at(row, j - 1) + 1, at(before, j - 1) + (same ? 0 : 1));
      if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) {
        count = Math.min(count, at(above, j - 2) + 1);
      }
      row.push(count);
    }
  }
  return row.at(-1) ?? 0;
}
