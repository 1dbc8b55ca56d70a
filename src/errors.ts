/** The one error class of this package. */

/** What kind of trouble: which part of a program may want to handle it. */
export type ErrorKind = "load" | "download" | "integrity" | "memory" | "input" | "unsupported" | "state" | "worker";

/** The facts behind an error, for programs; the message says them for people. */
export interface ErrorDetails {
  tensor?: string;
  file?: string;
  found?: unknown;
  wanted?: unknown;
  neededBytes?: number;
  availableBytes?: number;
}

/**
 * Everything that can go wrong for a caller. `code` is stable and made for `switch`; the message names the action, what was
 * found and what was wanted, and the cure where there is one. An aborted call rejects with `signal.reason` instead.
 *
 * @example
 *   try { await Kosmos2.load("./model") }
 *   catch (error) { if (error instanceof Kosmos2Error && error.code === "weights-incomplete") console.error(error.details.tensor) }
 */
export class Kosmos2Error extends Error {
  override readonly name = "Kosmos2Error";

  constructor(
    readonly code: string,
    readonly kind: ErrorKind,
    message: string,
    readonly details: ErrorDetails = {},
    cause?: unknown,
  ) {
    super(message, cause === undefined ? undefined : { cause });
  }
}

/** The words of what is deepest behind an error: undici and others wrap it as "fetch failed". */
export function reason(error: unknown): string {
  let deepest = error as { message?: string; code?: string; cause?: unknown };
  while (deepest?.cause instanceof Error) deepest = deepest.cause as typeof deepest;
  return deepest?.message || deepest?.code || String(error);
}
