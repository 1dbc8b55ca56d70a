/** When an answer ends and what it may not repeat, as `generation_config.json` and the text config say it, and what a caller may say about it. */
import { Kosmos2Error } from "../errors.js";
import { tokenIds, type Kosmos2TextConfig } from "../model/config.js";
import { shown } from "../options.js";
import { readJson, type ModelFiles } from "../weights/files.js";

/**
 * Defaults of `generate`. The call's own option wins, then generation_config.json, then the text config, then the released
 * model's value (MODEL.md, "Generation"). A null in a file says nothing.
 */
export interface GenerationConfig {
  readonly bosTokenId: number;
  readonly padTokenId: number;
  /** Any of these ends an answer; none: only the length does. */
  readonly eosTokenId: readonly number[];
  /** No n tokens in a row twice, prompt included. 0: off. */
  readonly noRepeatNgramSize: number;
}

/**
 * @param text the model's text config, whose missing fields have the released values already
 * @param json what generation_config.json holds; undefined when there is none
 * @throws {Kosmos2Error} code `config-invalid`
 */
export function generationConfig(text: Kosmos2TextConfig, json?: unknown, file = "generation_config.json"): GenerationConfig {
  if (json !== undefined && (typeof json !== "object" || json === null || Array.isArray(json)))
    throw new Kosmos2Error("config-invalid", "load", `Cannot use "${file}": it holds ${shown(json)}; wanted an object`, { file, found: json });
  const said = (json ?? {}) as Readonly<Record<string, unknown>>;
  const ids = (field: string, otherwise: readonly number[], single: boolean, below = text.vocabSize): readonly number[] => {
    const found = said[field];
    if (found === undefined || found === null) return otherwise;
    const list = single && Array.isArray(found) ? undefined : tokenIds(found, below - 1);
    if (list) return list;
    const wanted = `${single ? "a whole number, 0 or more" : "an id or a list of ids"}, less than ${below}`;
    throw new Kosmos2Error("config-invalid", "load", `Cannot use "${file}": ${field} is ${shown(found)}; wanted ${wanted}`, { file, found, wanted });
  };
  const id = (field: string, otherwise: number, below?: number): number => ids(field, [otherwise], true, below)[0];
  return {
    bosTokenId: id("bos_token_id", text.bosTokenId),
    padTokenId: id("pad_token_id", text.padTokenId),
    eosTokenId: ids("eos_token_id", text.eosTokenId, false),
    noRepeatNgramSize: id("no_repeat_ngram_size", text.noRepeatNgramSize, 2 ** 31),
  };
}

/** The generation config of a model's folder; the file may be missing. */
export async function readGenerationConfig(files: ModelFiles, text: Kosmos2TextConfig, signal?: AbortSignal): Promise<GenerationConfig> {
  const json = await readJson(files, "generation_config.json", signal);
  return generationConfig(text, json, `${files.name}: generation_config.json`);
}

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

export const generateKeys = ["maxNewTokens", "noRepeatNgramSize", "eosTokenId", "lookahead", "signal"] as const;

/** Tokens guessed ahead unless a call says otherwise (bench/RESULTS.md has what it brings). */
const LOOKAHEAD = 3;

/** The settings of one call, whose options were checked. */
export function generateSettings(options: GenerateOptions, config: GenerationConfig) {
  const { maxNewTokens = 128, noRepeatNgramSize = config.noRepeatNgramSize, eosTokenId = config.eosTokenId, lookahead = LOOKAHEAD } = options;
  return { maxNewTokens, noRepeatNgramSize, eosTokenId: [eosTokenId ?? []].flat(), lookahead };
}
