/**
 * Guesses how a text goes on, from how texts went on before: the tags of Kosmos-2, whose order hardly varies, and a model's stock
 * phrases. Nothing is known here of tags or words, only ids. A guess saves time or wastes some; the model checks it (greedy.ts), so
 * that no answer depends on one.
 */

/** What follows a context: the id that did most lately, how often it did, and how often the context was there. */
interface Habit {
  id: number;
  right: number;
  seen: number;
}

export class Habits {
  private readonly habits = new Map<string, Habit>();

  /** @param capacity contexts that are remembered; the ones not met for longest are forgotten */
  constructor(private readonly capacity = 8192) {}

  /** Takes in what followed what in ids[from …]. */
  learn(ids: readonly number[], from = 0): void {
    for (let i = Math.max(from, 1); i < ids.length; i++) {
      for (const context of contexts(ids, i)) {
        const habit = this.habits.get(context) ?? { id: ids[i], right: 0, seen: 0 };
        habit.seen++;
        if (habit.id === ids[i]) habit.right++;
        else if (2 * habit.right < habit.seen) [habit.id, habit.right] = [ids[i], 1];
        this.habits.delete(context); // the latest stand last
        this.habits.set(context, habit);
      }
    }
    for (const context of this.habits.keys()) {
      if (this.habits.size <= this.capacity) break;
      this.habits.delete(context);
    }
  }

  /** The likeliest next id that is not banned, and how sure that is (0 … 1); undefined when nothing is known. */
  next(ids: readonly number[], banned: readonly number[]): { id: number; chance: number } | undefined {
    let best: { id: number; chance: number } | undefined;
    for (const context of contexts(ids, ids.length)) {
      const habit = this.habits.get(context);
      if (!habit || banned.includes(habit.id)) continue;
      const chance = habit.right / (habit.seen + 1);
      if (chance > (best?.chance ?? 0)) best = { id: habit.id, chance };
    }
    return best;
  }
}

/** What may foretell ids[i]: the id before; the two before; the one three before, since `<object>` foretells `</object>` whatever corners are between. */
function* contexts(ids: readonly number[], i: number): Generator<string> {
  if (i >= 1) yield `1 ${ids[i - 1]}`;
  if (i >= 2) yield `2 ${ids[i - 2]} ${ids[i - 1]}`;
  if (i >= 3) yield `3 ${ids[i - 3]}`;
}

/** What may follow a text. */
export interface Guesses {
  readonly ids: readonly number[];
  /** For each, how likely it is right together with all before it: 0 … 1, never rising. */
  readonly chances: readonly number[];
  /** What may not follow the text, and each guess: one list more than there are guesses. */
  readonly banned: readonly (readonly number[])[];
}

/**
 * @param most guesses at most
 * @param bans what may not follow a text
 * @param ends ids behind which nothing is read: not guessed
 */
export function guess(
  habits: Habits, ids: readonly number[], most: number, bans: (ids: readonly number[]) => readonly number[], ends: readonly number[],
): Guesses {
  const text = [...ids], chances: number[] = [], banned = [bans(text)];
  for (let chance = 1; chances.length < most; ) {
    const next = habits.next(text, banned.at(-1)!);
    if (!next || ends.includes(next.id)) break;
    text.push(next.id);
    chances.push((chance *= next.chance));
    banned.push(bans(text));
  }
  return { ids: text.slice(ids.length), chances, banned };
}

/**
 * How many guesses of each text to check in one pass, so that most tokens are gained for the time.
 *
 * @param chances of each text's guesses
 * @param cost time of a pass of so many rows, in any unit
 * @example
 *   worthwhile([[0.9, 0.6]], (rows) => 1 + 0.7 * (rows - 1)) // [1]: 1.9 tokens in a time of 1.7; 2.5 in 2.4 would be slower
 */
export function worthwhile(chances: readonly (readonly number[])[], cost: (rows: number) => number): number[] {
  const likeliest = chances.flatMap((list, text) => list.map((chance) => ({ text, chance }))).sort((a, b) => b.chance - a.chance);
  let tokens = chances.length, best = tokens / cost(chances.length), taken = 0;
  for (const [i, { chance }] of likeliest.entries()) {
    tokens += chance;
    const pace = tokens / cost(chances.length + i + 1);
    if (pace > best) [best, taken] = [pace, i + 1];
  }
  const counts = chances.map(() => 0);
  for (const { text } of likeliest.slice(0, taken)) counts[text]++;
  return counts;
}

/** What was chosen after a row and its guesses, up to the first that was not what the next row had guessed. */
export function agreed<C extends { readonly id: number }>(guesses: readonly number[], choices: readonly C[]): C[] {
  let count = 1;
  while (count <= guesses.length && choices[count - 1].id === guesses[count - 1]) count++;
  return choices.slice(0, count);
}
