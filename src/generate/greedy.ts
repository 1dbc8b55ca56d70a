/**
 * The loop: ask for the best next token of each row that still runs, until all have ended. What a model is, is unknown here.
 *
 * Guessed tokens are read together with the last sure one, and the model's own choice after each says how many were right: several
 * tokens in one pass over the weights, and the very tokens that one pass each would choose.
 */
import { guess, type Guesses, type Habits, worthwhile } from "./guess.js";
import { bannedByNgrams } from "./ngram.js";

/** After so many passes without guesses it is thought that the next one has none either. */
const CALM = 3;

/** Why a row ended: an end token, `maxNewTokens`, or no room left in the context. */
export type Stop = "eos" | "length" | "context";

export interface GreedyOptions {
  maxNewTokens: number;
  /** 0: off. */
  noRepeatNgramSize: number;
  eosTokenId: readonly number[];
  /** Rows a sequence can have, prompt included. */
  contextSize: number;
  /** Tokens guessed ahead at most. Default 0 */
  lookahead?: number;
  /** What guesses are made from; learns from each answer. */
  habits?: Habits;
  /** Time of a pass of so many rows, in any unit: a guess must be worth it. Default: more rows cost nothing more */
  cost?: (rows: number) => number;
}

/** One row's next step. */
export interface Step {
  readonly row: number;
  /** What the model has not read yet: the whole prompt at first, then one id; and the guesses of what follows. */
  readonly ids: readonly number[];
  /** Ids that may not be chosen: after the last id that is no guess, and after each guess. */
  readonly banned: readonly (readonly number[])[];
  /** Whether the chosen id will most likely be read next, alone: there is room for it, and there were no guesses lately. */
  readonly next: boolean;
}

/**
 * What is chosen for each step: the token after its last sure id, then the tokens after guesses as long as those agree with what was
 * chosen before them (`agreed`). Rows may be answered in one pass, since a row's result doesn't depend on its company.
 */
export type Choose = (steps: readonly Step[]) => Promise<readonly (readonly number[])[]>;

/**
 * @param prompts ids of each row, without padding
 * @yields each new token, end tokens too: the first of every row, then the second …
 * @returns why each row ended
 */
export async function* greedy(
  prompts: readonly (readonly number[])[], choose: Choose, options: GreedyOptions,
): AsyncGenerator<{ row: number; id: number }, Stop[]> {
  const { maxNewTokens, contextSize, eosTokenId, habits, lookahead = 0, cost = () => 1 } = options;
  const bans = (ids: readonly number[]) => bannedByNgrams(ids, options.noRepeatNgramSize);
  const rows = prompts.map((ids, row) => ({ row, all: [...ids], read: 0, prompt: ids.length, stop: undefined as Stop | undefined }));
  const settle = (each: (typeof rows)[number]) => {
    if (each.all.length - each.prompt >= maxNewTokens) each.stop ??= "length";
    else if (each.all.length >= contextSize) each.stop ??= "context";
  };
  /** Passes since there was a guess. */
  let calm = lookahead > 0 ? 0 : Infinity;
  rows.forEach(settle);
  for (let given = 0; ; ) {
    const running = rows.filter((each) => !each.stop);
    if (running.length === 0) return rows.map((each) => each.stop!);
    const guesses = running.map(({ all, read, prompt }): Guesses => {
      const room = Math.min(prompt + maxNewTokens, contextSize) - all.length - 1; // one more is chosen than was guessed
      return habits && read > 0 ? guess(habits, all, Math.min(lookahead, room), bans, eosTokenId) : { ids: [], chances: [], banned: [bans(all)] };
    });
    const counts = worthwhile(guesses.map(({ chances }) => chances), cost);
    calm = counts.some((count) => count > 0) ? 0 : calm + 1;
    const chosen = await choose(running.map(({ row, all, read, prompt }, i) => ({
      row, ids: [...all.slice(read), ...guesses[i].ids.slice(0, counts[i])], banned: guesses[i].banned.slice(0, counts[i] + 1),
      next: calm >= CALM && all.length + 1 < Math.min(prompt + maxNewTokens, contextSize),
    })));
    for (const [i, each] of running.entries()) {
      each.read = each.all.length + chosen[i].length - 1;
      for (const id of chosen[i]) {
        each.all.push(id);
        habits?.learn(each.all, each.all.length - 1);
        if (eosTokenId.includes(id)) each.stop = "eos";
      }
      settle(each);
    }
    // A row that is ahead waits for the others: the order must not depend on guesses.
    for (; rows.every((each) => each.stop || each.all.length > each.prompt + given); given++) {
      const round = rows.filter((each) => each.all.length > each.prompt + given);
      if (round.length === 0) break;
      for (const { row, all, prompt } of round) yield { row, id: all[prompt + given] };
    }
  }
}
