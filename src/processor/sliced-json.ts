/**
 * JSON.parse for a tokenizer.json, whose vocabulary of 64 thousand pieces would hold up everything else for 25 to 80 ms: the
 * vocabulary is parsed in slices, with a pause after each. Other layouts than the usual are parsed at one go.
 */
import { pause } from "../pause.js";

/** In characters; parsed in about 5 ms. */
const sliceLength = 2 ** 18;

/** @throws {SyntaxError} when `text` is not JSON */
export async function parseTokenizer(text: string, signal?: AbortSignal): Promise<unknown> {
  return (await parseSliced(text, signal)) ?? JSON.parse(text);
}

/** undefined when the text has no list of pairs under "vocab" that is its last list of lists. */
async function parseSliced(text: string, signal?: AbortSignal): Promise<unknown> {
  const open = /"vocab"\s*:\s*\[\s*(?=\[)/.exec(text);
  const last = /\](?=\s*\][^\]]*$)/.exec(text.slice(-4096));
  if (!open || !last || text.length < 2 * sliceLength) return undefined;
  const start = open.index + open[0].length;
  const end = text.length - Math.min(4096, text.length) + last.index + 1; // behind the last pair

  const vocab: unknown[] = [];
  try {
    const rest = JSON.parse(`${text.slice(0, start)}${text.slice(end)}`) as { model?: { vocab?: unknown } };
    if (!Array.isArray(rest.model?.vocab) || rest.model.vocab.length > 0) return undefined;
    for (let at = start; at < end; ) {
      await pause();
      signal?.throwIfAborted();
      const [pairs, next] = sliceOf(text, at, end);
      for (const pair of pairs) vocab.push(pair);
      at = next;
    }
    rest.model.vocab = vocab;
    return rest;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Pairs from `at`, and where the next begin. A "]," inside a piece leaves its quotes unbalanced, so a cut there can't be parsed. */
function sliceOf(text: string, at: number, end: number): [unknown[], number] {
  const gap = /\]\s*,/g;
  gap.lastIndex = at + sliceLength;
  for (let tries = 0; tries < 32; tries++) { // more than that: broken somewhere, which parsing the rest will say
    const found = gap.exec(text);
    if (!found || found.index >= end) break;
    try {
      return [JSON.parse(`[${text.slice(at, found.index + 1)}]`) as unknown[], gap.lastIndex];
    } catch {
      continue;
    }
  }
  return [JSON.parse(`[${text.slice(at, end)}]`) as unknown[], end];
}
