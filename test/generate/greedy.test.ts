import assert from "node:assert/strict";
import { test } from "node:test";
import { agreed, Habits } from "#src/generate/guess.js";
import { type Choose, greedy, type GreedyOptions, type Step } from "#src/generate/greedy.js";
import { random } from "../support.js";

const options = { maxNewTokens: 5, noRepeatNgramSize: 0, eosTokenId: [2], contextSize: 100 };

async function all(prompts: number[][], choose: (steps: readonly Step[]) => number[], some: Partial<typeof options> = {}) {
  const tokens = greedy(prompts, async (steps) => choose(steps).map((id) => [id]), { ...options, ...some });
  const made: number[][] = prompts.map(() => []);
  for (;;) {
    const { done, value } = await tokens.next();
    if (done) return { made, stop: value };
    made[value.row].push(value.id);
  }
}

test("greedy reads a prompt whole, then one id at a time", async () => {
  const reads: (readonly number[])[] = [];
  await all([[7, 8, 9]], (steps) => steps.map(({ ids }) => (reads.push(ids), 5)), { maxNewTokens: 3 });
  assert.deepEqual(reads, [[7, 8, 9], [5], [5]]);
});

test("greedy ends each row by itself: end token, length, context", async () => {
  const { made, stop } = await all([[1], [1, 1], [1, 1, 1, 1]], (steps) => steps.map(({ row }) => (row === 0 ? 2 : 9)), { contextSize: 6 });
  assert.deepEqual(made, [[2], [9, 9, 9, 9], [9, 9]]);
  assert.deepEqual(stop, ["eos", "context", "context"]);
  assert.deepEqual((await all([[1]], () => [9])).stop, ["length"]);
});

test("greedy makes nothing when nothing may be made", async () => {
  assert.deepEqual(await all([[1]], () => assert.fail("not asked"), { maxNewTokens: 0 }), { made: [[]], stop: ["length"] });
  assert.deepEqual(await all([[1, 1]], () => assert.fail("not asked"), { contextSize: 2 }), { made: [[]], stop: ["context"] });
});

test("greedy tells which ids may not be chosen, prompt included", async () => {
  const banned: (readonly number[])[] = [];
  await all([[4, 5, 6, 4, 5]], (steps) => steps.map((step) => (banned.push(...step.banned), 7)), { noRepeatNgramSize: 3, maxNewTokens: 1 });
  assert.deepEqual(banned, [[6]]);
});

test("greedy foresees that a token is read next while there is room, and none was guessed lately", async () => {
  const nexts = async (some: Partial<GreedyOptions>, ids: (at: number) => number = () => 5) => {
    const found: boolean[] = [];
    const steps = greedy([[1, 2]], async ([{ next, banned }]) => (found.push(next), [banned.map((_, i) => ids(found.length + i))]), { ...options, ...some });
    while (!(await steps.next()).done);
    return found;
  };
  assert.deepEqual(await nexts({ maxNewTokens: 4 }), [true, true, true, false]);
  assert.deepEqual(await nexts({ maxNewTokens: 9, contextSize: 5 }), [true, true, false]);
  assert.deepEqual(await nexts({ maxNewTokens: 6, lookahead: 3, habits: new Habits() }, (at) => 10 + at), [false, false, true, true, true, false]);
  const habits = new Habits();
  for (let i = 0; i < 9; i++) habits.learn([7, 7, 7, 7]);
  assert.ok((await nexts({ maxNewTokens: 9, lookahead: 1, habits }, () => 7)).every((next) => !next), "each pass has a guess");
});

/** A model that knows numbers only: mostly a function of the last two ids, now and then of the whole text, so that guesses are right and wrong. */
function fake(prompts: readonly (readonly number[])[], seed: number, vocabulary: number, end: number) {
  const texts: number[][] = prompts.map(() => []);
  const counts = { passes: 0, wrong: 0 };
  const hash = (ids: readonly number[]) => ids.reduce((h, id) => Math.imul(h ^ id, 0x01000193) + 0x9e3779b1, seed) >>> 8;
  const best = (text: readonly number[], banned: readonly number[]): number => {
    let id = hash(hash(text) % 7 === 0 ? text : text.slice(-2)) % vocabulary;
    if (id === end && hash(text) % 3) id++; // ends are rare
    for (let tries = 0; tries <= vocabulary && banned.includes(id); tries++) id = (id + 1) % (vocabulary + 1);
    return id;
  };
  const choose: Choose = async (steps) => {
    counts.passes++;
    return steps.map(({ row, ids, banned }) => {
      const guessed = ids.slice(ids.length - banned.length + 1), text = texts[row];
      text.push(...ids.slice(0, ids.length - guessed.length));
      const choices = banned.map((list, i) => ({ id: best([...text, ...guessed.slice(0, i)], list) }));
      const right = agreed(guessed, choices).map(({ id }) => id);
      text.push(...guessed.slice(0, right.length - 1));
      counts.wrong += choices.length - right.length;
      return right;
    });
  };
  return { choose, counts };
}

async function run(prompts: readonly (readonly number[])[], choose: Choose, options: GreedyOptions) {
  const tokens = greedy(prompts, choose, options), made: { row: number; id: number }[] = [];
  for (;;) {
    const { done, value } = await tokens.next();
    if (done) return { made, stop: value };
    made.push(value);
  }
}

test("greedy with guesses gives the tokens, the order and the stops of greedy without, whatever model, bans, ends, lengths and costs", async () => {
  const total = { passes: 0, plain: 0, wrong: 0 }, stops = new Set<string>();
  for (let seed = 1; seed <= 240; seed++) {
    const chance = [...random(40, seed)].map((r) => (r + 1) / 2), vocabulary = 4 + Math.floor(chance[0] * 12);
    const prompts = Array.from({ length: 1 + (seed % 3) }, (_, row) => Array.from({ length: 1 + Math.floor(chance[1 + row] * 9) }, (_, i) => Math.floor(chance[10 + i + row] * vocabulary)));
    const plain: GreedyOptions = {
      maxNewTokens: [0, 1, 2, 7, 60][seed % 5], noRepeatNgramSize: [0, 2, 3][seed % 3], eosTokenId: seed % 4 ? [1] : [], contextSize: seed % 2 ? 40 : 200,
    };
    const bare = fake(prompts, seed, vocabulary, 1), wanted = await run(prompts, bare.choose, plain);
    const habits = new Habits(seed % 6 === 0 ? 20 : undefined);
    const price = chance[5];
    for (const lookahead of [1, 3, 5]) {
      const model = fake(prompts, seed, vocabulary, 1); // the second and third know what the first has learnt
      assert.deepEqual(await run(prompts, model.choose, { ...plain, habits, lookahead, cost: (rows) => 1 + price * (rows - 1) }), wanted, `seed ${seed}, ${lookahead} ahead`);
      total.passes += model.counts.passes;
      total.plain += bare.counts.passes;
      total.wrong += model.counts.wrong;
    }
    for (const stop of wanted.stop) stops.add(stop);
  }
  assert.deepEqual([...stops].sort(), ["context", "eos", "length"]);
  assert.ok(total.wrong > 500 && total.passes < 0.9 * total.plain, `guesses are right and wrong: ${JSON.stringify(total)}`);
});

test("greedy never reads more rows than the context and the answer's length have room for", async () => {
  const habits = new Habits();
  habits.learn(new Array<number>(50).fill(5));
  for (const [contextSize, maxNewTokens] of [[10, 100], [100, 7]]) {
    let read = 0;
    const choose: Choose = async ([{ ids, banned }]) => {
      read += ids.length;
      return [banned.map(() => 5)];
    };
    const { made } = await run([[5, 5, 5]], choose, { ...options, contextSize, maxNewTokens, habits, lookahead: 8 });
    assert.equal(made.length, 7);
    assert.equal(read, 9); // all but the last token
  }
});
