/** Environment variables of the clients, and warnings about misspelt ones. */

const PREFIX = "SESSION_NOTES_";
const NAMES = ["TARGET", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"] as const;
const MAX_DISTANCE = 2;

const warned = new Set<string>();

/** Returns the value of a variable, given its name without the prefix; undefined if it is absent or empty. */
export function variable(name: (typeof NAMES)[number]): string | undefined {
  return process.env[PREFIX + name] || undefined;
}

/**
 * Warns once about each variable that is probably a misspelt client variable. Other names are ignored: the sidecar has its own
 * variables, and Kubernetes sets `SESSION_NOTES_PORT` and others for a service called session-notes.
 */
export function warnOfMisspelledNames(): void {
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
  const names = NAMES.map((suffix) => PREFIX + suffix);
  if (names.includes(name)) {
    return name;
  }
  const [nearest] = names
    .map((candidate) => [candidate, editDistance(name, candidate)] as const)
    .filter(([, distance]) => distance <= MAX_DISTANCE)
    .sort(([, left], [, right]) => left - right);
  return nearest?.[0] ?? names.findLast((candidate) => name.startsWith(`${candidate}_`));
}

/** Returns the edit distance between two words: insertions, deletions, substitutions and transpositions. */
function editDistance(left: string, right: string): number {
  let previous: number[] = [];
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const beforePrevious = previous;
    previous = row;
    row = [i];
    for (let j = 1; j <= right.length; j++) {
      const same = left[i - 1] === right[j - 1];
      const cell = (cells: readonly number[], index: number) => cells[index] ?? Infinity;
      let distance = Math.min(cell(previous, j) + 1, cell(row, j - 1) + 1, cell(previous, j - 1) + (same ? 0 : 1));
      if (i > 1 && j > 1 && left[i - 1] === right[j - 2] && left[i - 2] === right[j - 1]) {
        distance = Math.min(distance, cell(beforePrevious, j - 2) + 1);
      }
      row.push(distance);
    }
  }
  return row.at(-1) ?? 0;
}
