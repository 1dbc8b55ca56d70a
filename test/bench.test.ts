/** What the benchmark makes of its samples; that it measures is shown by `npm run bench -- --tiny`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { beside, byRound, eachRound, interleave, type Rounds, type Time } from "../bench/measure.js";
import { replay } from "../bench/replay.js";

const ratio = (a: number, b: number) => b / a;

test("eachRound holds figures of one round against each other", () => {
  assert.deepEqual(eachRound([[1, 2, 4], [2, 6, 4]], ratio), [2, 3, 1]);
});

test("eachRound leaves out rounds that lack a figure, and holds one that was measured once against all", () => {
  const holes: Rounds = [];
  holes[1] = 6;
  holes[2] = 4;
  assert.deepEqual(eachRound([[1, 2, 4], holes], ratio), [3, 1]);
  assert.deepEqual(eachRound([[1, 2, 4], [undefined, 8, undefined]], ratio), [8, 4, 2]);
  assert.deepEqual(eachRound([[1, 2, 4], []], ratio), []);
});

test("interleave goes forwards and backwards, each task in the rounds that it takes part in", async () => {
  const order: string[] = [];
  const task = (name: string, takesPart?: (round: number) => boolean) => ({ times: [] as Time[], takesPart, measure: async () => [order.push(name)] });
  const tasks = [task("a"), task("b", (round) => round === 1), task("c")];
  await interleave(tasks, 3, (_, error) => assert.fail(String(error)));
  assert.equal(order.join(""), "accbaac");
  assert.deepEqual(Array.from(byRound(tasks[1].times)), [undefined, [4]]);
});

test("beside is what was seen last before and first after, whatever was seen at other times", () => {
  const look = (start: number, ...samples: number[]): Time => ({ round: 0, start, end: start + 1, samples });
  const looks = [look(0, 1), look(2, 2, 3), look(8, 4), look(10, 5)];
  assert.deepEqual(beside({ round: 0, start: 3, end: 8, samples: [] }, looks), [2, 3, 4]);
  assert.deepEqual(beside({ round: 0, start: 20, end: 21, samples: [] }, looks), [5]);
  assert.deepEqual(beside({ round: 0, start: 3, end: 8, samples: [] }, []), []);
});

test("replay charges each pass that the loop makes, and guesses only as far as they are worth it", async () => {
  const ids = Array.from({ length: 40 }, (_, i) => 10 + (i % 4)), answers = { answers: [{ prompt: [0, 1], ids }], shown: [], noRepeatNgramSize: 0, eosTokenId: [2] };
  const cheap = await replay(answers, [1, 1, 1, 1]), dear = await replay(answers, [1, 10, 10, 10]);
  assert.equal(cheap.tokens, 39);
  assert.ok(cheap.passes < 20, `${cheap.passes} passes`);
  assert.equal(cheap.ms, cheap.passes);
  assert.deepEqual(dear, { ms: 39, passes: 39, tokens: 39 });
});
