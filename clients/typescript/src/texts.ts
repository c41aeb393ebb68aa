/** Text prepared for storage: valid Unicode of limited size. */

/** The end of a text that was cut. */
export const CUT = " […]";

/** Returns text as valid Unicode of at most `maxBytes` in UTF-8. A text that was cut ends with the mark, which counts as well. */
export function shortened(text: string, maxBytes: number, mark: string): string {
  // A text is at least as long in bytes.
  const bytes = Buffer.from(text.slice(0, maxBytes + 1).toWellFormed());
  if (bytes.length <= maxBytes) {
    return bytes.toString();
  }
  // Do not cut through a character.
  let end = Math.max(0, maxBytes - Buffer.byteLength(mark));
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) {
    end -= 1;
  }
  return bytes.toString("utf8", 0, end) + mark;
}
