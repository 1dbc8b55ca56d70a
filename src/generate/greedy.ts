/** The loop: ask for the best next token of each row that still runs, until all have ended. What a model is, is unknown here. */
import { bannedByNgrams } from "./ngram.js";

/** Why a row ended: an end token, `maxNewTokens`, or no room left in the context. */
export type Stop = "eos" | "length" | "context";

export interface GreedyOptions {
  maxNewTokens: number;
  /** 0: off. */
  noRepeatNgramSize: number;
  eosTokenId: readonly number[];
  /** Rows a sequence can have, prompt included. */
  contextSize: number;
}

/** One row's next step. */
export interface Step {
  readonly row: number;
  /** What the model has not read yet: the whole prompt at first, then one id. */
  readonly ids: readonly number[];
  /** Ids that may not be chosen. */
  readonly banned: readonly number[];
}

/** Rows may be answered in one pass, since a row's result doesn't depend on its company. */
export type Choose = (steps: readonly Step[]) => Promise<readonly number[]>;

/**
 * @param prompts ids of each row, without padding
 * @yields each new token as it is chosen, end tokens too, row by row
 * @returns why each row ended
 */
export async function* greedy(
  prompts: readonly (readonly number[])[], choose: Choose, options: GreedyOptions,
): AsyncGenerator<{ row: number; id: number }, Stop[]> {
  const rows = prompts.map((ids, row) => ({ row, all: [...ids], unread: [...ids], stop: undefined as Stop | undefined }));
  for (let made = 0; ; made++) {
    for (const each of rows) {
      if (each.stop) continue;
      if (made === options.maxNewTokens) each.stop = "length";
      else if (each.all.length >= options.contextSize) each.stop = "context";
    }
    const running = rows.filter((each) => !each.stop);
    if (running.length === 0) return rows.map((each) => each.stop!);
    const ids = await choose(running.map(({ row, all, unread }) => ({
      row, ids: unread, banned: bannedByNgrams(all, options.noRepeatNgramSize),
    })));
    for (const [i, each] of running.entries()) {
      each.all.push(ids[i]);
      each.unread = [ids[i]];
      if (options.eosTokenId.includes(ids[i])) each.stop = "eos";
      yield { row: each.row, id: ids[i] };
    }
  }
}
