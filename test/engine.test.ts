import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { Kosmos2Processor } from "kosmos2-wasm";
import { Engine, type Question, type Sequence } from "#src/engine.js";
import { greedy } from "#src/generate/greedy.js";
import { Habits } from "#src/generate/guess.js";
import { openModel } from "#src/weights/source.js";
import { goldens, noGoldens, random } from "./support.js";

const engines = new Map<string, Promise<Engine>>();
async function engine(dtype: "f32" | "f16" | "i8" | "i4" | "w8a8"): Promise<Engine> {
  if (!engines.has(dtype)) engines.set(dtype, openModel("kosmos2-emoji", {}).then((files) => Engine.load(files, { dtype, threads: 2 })));
  return engines.get(dtype)!;
}
after(async () => {
  for (const each of engines.values()) await (await each).dispose();
});

const texts = [[0, 460, 25, 21, 27, 455, 59], [0, 460, 30, 31, 32, 33, 34, 35, 36, 37, 38]];

for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const) {
  test(`${dtype}: tokens chosen behind guesses are those chosen one by one, with the same logits and bans, in batches too`, async () => {
    const e = await engine(dtype), length = 40;
    const bans = (row: number, at: number) => (at % 5 === row ? [at, 455, 5] : []);
    const plain = await Promise.all(texts.map(async (text, row) => {
      const sequence = e.begin(), choices = [];
      for (let ids = text; choices.length < length; ids = [choices.at(-1)!.id]) choices.push((await e.choose([{ sequence, ids, banned: [bans(row, choices.length)] }]))[0][0]);
      e.end(sequence);
      return choices;
    }));
    const chance = random(1000, 7);
    let at = 0;
    const made: (typeof plain)[number][] = [[], []], sequences: Sequence[] = texts.map(() => e.begin());
    for (let pass = 0; made.some((choices) => choices.length < length); pass++) {
      const questions: Question[] = texts.map((text, row) => {
        const next = made[row].length, guesses = [];
        for (let i = 0; next > 0 && i < pass % 4 && next + i + 1 < length; i++) guesses.push(chance[at++ % 1000] > -0.6 && plain[row][next + i] ? plain[row][next + i].id : 17);
        const sure = next ? [made[row][next - 1].id] : text;
        return { sequence: sequences[row], ids: [...sure, ...guesses], banned: [0, ...guesses].map((_, i) => bans(row, next + i)) };
      }).filter((_, row) => made[row].length < length);
      const rows = texts.map((_, row) => row).filter((row) => made[row].length < length);
      for (const [i, choices] of (await e.choose(questions)).entries()) made[rows[i]].push(...choices);
    }
    sequences.forEach((sequence) => e.end(sequence));
    assert.deepEqual(made, plain);
  });
}

for (const dtype of ["f32", "i8"] as const) {
  test(`${dtype}: a choice leaves out what no later row needs, and finds the very logits of a reading of all rows, in batches too`, async () => {
    const e = await engine(dtype), sequences = texts.map(() => e.begin());
    const chosen = await e.choose(texts.map((ids, row) => ({ sequence: sequences[row], ids, banned: row ? [[], []] : [[]] })));
    for (const [row, ids] of texts.entries()) {
      const sequence = e.begin(), { data, columns } = (await e.read([{ sequence, ids }], {})).get("logits")!;
      const at = ids.length - (row ? 2 : 1), logits = data.subarray(at * columns, (at + 1) * columns), best = logits.reduce((a, b) => Math.max(a, b));
      assert.deepEqual([chosen[row][0].id, chosen[row][0].logit], [logits.indexOf(best), best]);
      e.end(sequence);
    }
    sequences.forEach((sequence) => e.end(sequence));
  });
}

test("f32: captions of 60 scenes with guesses are the reference's, in fewer passes", { skip: noGoldens }, async () => {
  const e = await engine("f32"), processor = await Kosmos2Processor.fromPretrained("kosmos2-emoji"), habits = new Habits();
  const { cases } = JSON.parse(readFileSync(`${goldens}emoji/cases.json`, "utf8")) as { cases: { image: string; prompt: string; new_ids: number[] }[] };
  let passes = 0, tokens = 0;
  for (const { image, prompt, new_ids } of cases) {
    const { inputIds, imageEmbedsPositionMask, pixelValues } = await processor.process({ text: prompt, images: `${goldens}emoji/${image}` });
    const { embeds } = await e.see(pixelValues!.data, 224, 224), sequence = e.begin(), ids = [...inputIds.data], made: number[] = [];
    for await (const { id } of greedy([ids], async ([step]) => {
      passes++;
      const first = sequence.cache.length === 0 && { places: [...imageEmbedsPositionMask.data], images: embeds };
      return (await e.choose([{ sequence, ids: step.ids, banned: step.banned, ...first }])).map((choices) => choices.map(({ id }) => id));
    }, { maxNewTokens: 96, noRepeatNgramSize: 0, eosTokenId: [2], contextSize: e.contextSize, lookahead: 3, habits })) made.push(id);
    e.end(sequence);
    assert.deepEqual(made, new_ids, image);
    tokens += made.length;
  }
  assert.ok(passes < 0.7 * tokens, `${passes} passes for ${tokens} tokens`);
});
