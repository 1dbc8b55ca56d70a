import assert from "node:assert/strict";
import { test } from "node:test";
import { greedy, type Step } from "#src/generate/greedy.js";

const options = { maxNewTokens: 5, noRepeatNgramSize: 0, eosTokenId: [2], contextSize: 100 };

async function all(prompts: number[][], choose: (steps: readonly Step[]) => number[], some: Partial<typeof options> = {}) {
  const tokens = greedy(prompts, async (steps) => choose(steps), { ...options, ...some });
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
  await all([[4, 5, 6, 4, 5]], (steps) => steps.map((step) => (banned.push(step.banned), 7)), { noRepeatNgramSize: 3, maxNewTokens: 1 });
  assert.deepEqual(banned, [[6]]);
});
