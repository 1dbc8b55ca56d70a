/** What a caller may say about generating, and what it means. */
import { Kosmos2Error } from "../errors.js";
import type { GenerationConfig } from "./config.js";

/** How an answer is made. Files of the model give defaults for all but `maxNewTokens`. */
export interface GenerateOptions {
  /** Longest answer, in tokens. Default 128 */
  maxNewTokens?: number;
  /** No n tokens in a row twice, prompt included. 0: off. */
  noRepeatNgramSize?: number;
  /** Ids that end an answer. An empty list or null: only the length does. */
  eosTokenId?: number | readonly number[] | null;
  /** Tokens guessed ahead and checked in the same pass, at most. Changes how long an answer takes, never the answer. Default 3; 0: none. */
  lookahead?: number;
  signal?: AbortSignal;
}

/** Tokens guessed ahead unless a call says otherwise (bench/RESULTS.md has what it brings). */
const LOOKAHEAD = 3;

/** The settings of one call. @throws {Kosmos2Error} code `option-invalid` */
export function generateSettings(options: GenerateOptions, config: GenerationConfig) {
  const { maxNewTokens = 128, noRepeatNgramSize = config.noRepeatNgramSize, eosTokenId = config.eosTokenId, lookahead = LOOKAHEAD } = options;
  count("maxNewTokens", maxNewTokens);
  count("noRepeatNgramSize", noRepeatNgramSize);
  count("lookahead", lookahead);
  const eos = eosTokenId === null ? [] : typeof eosTokenId === "number" ? [eosTokenId] : eosTokenId;
  eos.forEach((id) => count("eosTokenId", id));
  return { maxNewTokens, noRepeatNgramSize, eosTokenId: eos, lookahead };
}

function count(option: string, found: unknown): void {
  if (Number.isSafeInteger(found) && (found as number) >= 0) return;
  throw new Kosmos2Error("option-invalid", "input", `Cannot generate with ${option} = ${JSON.stringify(found) ?? String(found)}: wanted a whole number, 0 or more`, {
    found, wanted: "a whole number, 0 or more",
  });
}

/** Refuses keys that nobody reads: a typing error would otherwise go unnoticed. @throws {Kosmos2Error} code `option-unknown` */
export function refuseUnknown(options: object, known: readonly string[], action: string): void {
  const unknown = Object.keys(options).filter((key) => !known.includes(key));
  if (unknown.length === 0) return;
  throw new Kosmos2Error("option-unknown", "input", `Cannot ${action} with option ${unknown.join(", ")}: known are ${known.join(", ")}`, {
    found: unknown, wanted: known,
  });
}

export const generateKeys = ["maxNewTokens", "noRepeatNgramSize", "eosTokenId", "lookahead", "signal"] as const;
