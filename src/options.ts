/** What callers hand in, looked at in one way before any work: are the names known, are the values of their kind. */
import { Kosmos2Error } from "./errors.js";

/** What was found, as a message shows it: short, and what JSON has no word for by its own name. */
export function shown(found: unknown): string {
  let text: string | undefined;
  if (typeof found === "string" || (typeof found === "object" && found !== null)) {
    try {
      text = JSON.stringify(found, (_, part: unknown) => ArrayBuffer.isView(part) ? part.constructor.name
        : typeof part === "bigint" || (typeof part === "number" && !Number.isFinite(part)) ? String(part) : part);
    } catch {
      // it holds itself
    }
  }
  text ??= typeof found === "function" ? "a function" : String(found);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/** Whether a value will do, and what would. */
export type Kind = readonly [will: (value: unknown) => boolean, wanted: string];

const whole = (value: unknown, least: number): boolean => Number.isSafeInteger(value) && (value as number) >= least;
const typed = (type: string, wanted: string): Kind => [(value) => typeof value === type, wanted];
const has = (method: string, wanted: string): Kind => [(value) => typeof (value as Record<string, unknown> | null)?.[method] === "function", wanted];

export const anything: Kind = [() => true, ""]; // looked at where it is used
export const text = typed("string", "a string"), flag = typed("boolean", "true or false"), callable = typed("function", "a function");
export const aboveZero: Kind = [(value) => typeof value === "number" && value > 0, "a number above 0"];
export const count = (least: number): Kind => [(value) => whole(value, least), `a whole number, ${least} or more`];
export const orNull = ([will, wanted]: Kind): Kind => [(value) => value === null || will(value), wanted];
export const aborts = orNull(has("throwIfAborted", "an AbortSignal"));
const object: Kind = [(value) => typeof value === "object" && value !== null && !Array.isArray(value), "an object"];

/** An option means the same wherever it is taken. Those that aren't here are looked at where they are used. */
const kinds: Readonly<Record<string, Kind>> = {
  signal: aborts,
  logger: has("warn", "an object with warn(message)"),
  prefix: has("find", "a Prefix"),
  onProgress: callable, fetch: callable, workerFactory: callable,
  prompt: text,
  exif: flag, maxPixels: aboveZero,
  maxNewTokens: count(0), noRepeatNgramSize: count(0), lookahead: count(0),
  eosTokenId: orNull([(value) => [value].flat().every((id) => whole(id, 0)), "an id, a list of ids, or null"]),
  stages: [(value) => Array.isArray(value), "a list of names"],
};

/** @throws {Kosmos2Error} code `option-invalid` unless the value will do */
export function check(action: string, name: string, value: unknown, [will, wanted]: Kind): void {
  if (will(value)) return;
  throw new Kosmos2Error("option-invalid", "input", `Cannot ${action} with ${name} = ${shown(value)}: wanted ${wanted}`, { found: value, wanted });
}

/**
 * Refuses names that nobody reads, since a typing error would otherwise go unnoticed, and values of another kind.
 *
 * @param own kinds of options that are this action's alone
 * @throws {Kosmos2Error} codes `option-unknown`, `option-invalid`
 */
export function checkOptions(options: unknown, known: readonly string[], action: string, own: Readonly<Record<string, Kind>> = {}): void {
  check(action, "options", options, object);
  const given = Object.entries(options as object), unknown = given.map(([name]) => name).filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new Kosmos2Error("option-unknown", "input", `Cannot ${action} with option ${unknown.join(", ")}: known are ${known.join(", ")}`, {
      found: unknown, wanted: known,
    });
  }
  for (const [name, value] of given) if (value !== undefined) check(action, name, value, own[name] ?? kinds[name] ?? anything);
}
