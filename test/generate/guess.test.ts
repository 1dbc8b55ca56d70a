import assert from "node:assert/strict";
import { test } from "node:test";
import { agreed, guess, Habits, worthwhile } from "#src/generate/guess.js";
import { random } from "../support.js";

const none = () => [];
/** Tags as Kosmos-2 has them: phrase, /phrase, object, /object; corners are 100 and up. */
const PHRASE = 50, PHRASE_END = 51, OBJECT = 52, OBJECT_END = 53;
const entity = (word: number, corner: number) => [PHRASE, word, PHRASE_END, OBJECT, corner, corner + 40, OBJECT_END];

test("Habits learns the order of tags from what was written, whatever stands between them", () => {
  const habits = new Habits();
  assert.equal(habits.next([PHRASE_END], []), undefined);
  for (const i of [1, 2, 3]) habits.learn(entity(i, 100 + i));
  assert.deepEqual(habits.next([PHRASE, 9, PHRASE_END], []), { id: OBJECT, chance: 3 / 4 });
  assert.deepEqual(habits.next([OBJECT, 600, 700], []), { id: OBJECT_END, chance: 3 / 4 });
  assert.deepEqual(guess(habits, [PHRASE, 9, PHRASE_END], 4, none, []).ids.slice(0, 1), [OBJECT]);
});

test("Habits foretells nothing that is banned, and the second best in its place", () => {
  const habits = new Habits();
  habits.learn([1, 2, 3, 1, 2, 3, 9, 2, 4]);
  assert.equal(habits.next([1, 2], [])!.id, 3);
  assert.deepEqual(habits.next([1, 2], [3]), undefined);
  habits.learn([2, 4, 2, 4]);
  assert.equal(habits.next([1, 2], [3])!.id, 4); // two ids back say 3, one says 4 by now
});

test("Habits takes up what follows now instead of what followed once", () => {
  const habits = new Habits();
  habits.learn([1, 2]);
  for (let i = 0; i < 5; i++) habits.learn([1, 3]);
  assert.equal(habits.next([1], [])!.id, 3);
});

test("Habits learns only what it has not been told before: from the given place on", () => {
  const whole = new Habits(), bit = new Habits(), ids = [4, 5, 6, 4, 5, 6, 4];
  whole.learn(ids);
  for (let i = 1; i <= ids.length; i++) bit.learn(ids.slice(0, i), i - 1);
  for (let i = 1; i <= ids.length; i++) assert.deepEqual(bit.next(ids.slice(0, i), []), whole.next(ids.slice(0, i), []));
});

test("Habits forgets what it has not met for longest when there is no more room", () => {
  const habits = new Habits(3);
  habits.learn([1, 2]);
  habits.learn([3, 4]);
  habits.learn([1, 2]);
  habits.learn([5, 6]);
  habits.learn([7, 8]);
  assert.deepEqual([1, 3, 5, 7].map((id) => habits.next([id], [])?.id), [2, undefined, 6, 8]);
});

test("guess goes on as long as something is known, with the bans after each guess, and stops before an end", () => {
  const habits = new Habits();
  for (let i = 0; i < 3; i++) habits.learn([1, 2, 3, 4, 5]);
  const bans = (ids: readonly number[]) => (ids.length === 3 ? [4] : [9]);
  const all = guess(habits, [1], 9, bans, []);
  assert.deepEqual([all.ids, all.banned], [[2, 3], [[9], [9], [4]]]); // 4 is banned after three ids
  assert.deepEqual(guess(habits, [1], 9, none, []).ids, [2, 3, 4, 5]);
  assert.deepEqual(guess(habits, [1], 9, none, []).chances.map((chance) => chance.toFixed(4)), ["0.7500", "0.5625", "0.4219", "0.3164"]);
  assert.deepEqual(guess(habits, [1], 2, none, []).ids, [2, 3]);
  assert.deepEqual(guess(habits, [1], 0, none, []), { ids: [], chances: [], banned: [[]] });
  assert.deepEqual(guess(habits, [1], 9, none, [4]).ids, [2, 3]);
});

test("worthwhile takes the counts that give most tokens for the time, of all there are", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const chance = [...random(30, seed)].map((r) => (r + 1) / 2);
    const chances = Array.from({ length: 1 + (seed % 3) }, (_, text) => Array.from({ length: Math.floor(chance[text] * 4) }, (_, i) => chance[4 + 4 * text + i]).sort((a, b) => b - a));
    const times = chance.slice(16).map((c, i) => 1 + i * c * 0.6), cost = (rows: number) => times[rows];
    const pace = (counts: readonly number[]) =>
      (counts.length + counts.reduce((sum, count, i) => sum + chances[i].slice(0, count).reduce((a, b) => a + b, 0), 0)) / cost(counts.reduce((a, b) => a + b, counts.length));
    const every = chances.reduce<number[][]>((lists, list) => lists.flatMap((counts) => Array.from({ length: list.length + 1 }, (_, n) => [...counts, n])), [[]]);
    const best = Math.max(...every.map(pace));
    assert.ok(Math.abs(pace(worthwhile(chances, cost)) - best) < 1e-9, `seed ${seed}`);
  }
});

test("agreed keeps the choices up to the first wrong guess, and the one that shows it wrong", () => {
  const ids = (guesses: number[], choices: number[]) => agreed(guesses, choices.map((id) => ({ id }))).map(({ id }) => id);
  assert.deepEqual(ids([], [7]), [7]);
  assert.deepEqual(ids([7, 8], [7, 8, 9]), [7, 8, 9]);
  assert.deepEqual(ids([7, 8], [7, 6, 9]), [7, 6]);
  assert.deepEqual(ids([7, 8], [5, 8, 9]), [5]);
});
