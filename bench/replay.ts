/**
 * What guessed tokens would gain: answers of kosmos2-emoji, whose ids are known, through the real loop (generate/greedy.ts) with passes
 * of given times. Weights that nobody trained write no text to guess at, so a model that writes lends its texts to one of the real size.
 */
import { greedy } from "#src/generate/greedy.js";
import { agreed, Habits } from "#src/generate/guess.js";

/** Real answers, in the order that they were given, and how they came about. */
export interface Answers {
  answers: readonly { prompt: readonly number[]; ids: readonly number[] }[];
  /** What the habits are shown before the first (Kosmos2.load). */
  shown: readonly (readonly number[])[];
  noRepeatNgramSize: number;
  eosTokenId: readonly number[];
}

/**
 * The tokens behind each answer's first, which comes with the prompt.
 *
 * @param costs milliseconds of a pass of 1, 2, … rows
 */
export async function replay({ answers, shown, noRepeatNgramSize, eosTokenId }: Answers, costs: readonly number[]): Promise<{ ms: number; passes: number; tokens: number }> {
  const habits = new Habits(), all = { ms: 0, passes: 0, tokens: 0 };
  for (const ids of shown) habits.learn(ids);
  for (const { prompt, ids } of answers) {
    let known = 0;
    const loop = greedy([prompt], async ([step]) => {
      const guesses = known === 0 ? [] : step.ids.slice(1);
      if (known > 0) {
        all.ms += costs[guesses.length];
        all.passes++;
      }
      const made = agreed(guesses, ids.slice(known, known + guesses.length + 1).map((id) => ({ id }))).map(({ id }) => id);
      known += made.length;
      return [made];
    }, { maxNewTokens: ids.length, noRepeatNgramSize, eosTokenId, contextSize: Infinity, lookahead: costs.length - 1, habits, cost: (rows) => costs[rows - 1] });
    while (!(await loop.next()).done);
    all.tokens += ids.length - 1;
  }
  return all;
}
