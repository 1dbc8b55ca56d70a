/** Whitespace as Python and Rust see it, and lengths as Python counts them: both differ from JavaScript's. */

/** Unicode's White_Space, Rust's idea: with U+0085, without U+FEFF and U+001C–1F. All are of one UTF-16 unit. */
export const isSpace = (char: string): boolean => /^\p{White_Space}$/u.test(char);
/** Python's idea: U+001C–1F too. */
const isPythonSpace = (char: string): boolean => /^[\p{White_Space}\x1c-\x1f]$/u.test(char);

/** How many whitespace characters `text` begins with. */
export function leadingSpace(text: string, space = isPythonSpace): number {
  let start = 0;
  while (start < text.length && space(text[start])) start++;
  return start;
}

/** How many whitespace characters `text` ends with. */
export function trailingSpace(text: string, space = isPythonSpace): number {
  let end = text.length;
  while (end > 0 && space(text[end - 1])) end--;
  return text.length - end;
}

/** Python's `strip`. */
export function strip(text: string): string {
  const start = leadingSpace(text);
  return text.slice(start, Math.max(start, text.length - trailingSpace(text)));
}

/** Rust's `trim_end`. */
export function trimEnd(text: string): string {
  return text.slice(0, text.length - trailingSpace(text, isSpace));
}

/** Length in code points. */
export function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
