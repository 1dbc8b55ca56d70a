import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { iou, verifyCaptions, withoutBoxes, type Captioner } from "#src/cli/verify/captions.js";
import { compare, globs, merge, readTensors, sameIds, skip, type Check } from "#src/cli/verify/check.js";
import { verifyModel, type Cases, type Model } from "#src/cli/verify/models.js";
import type { Tensor } from "kosmos2-wasm";
import { fixtures } from "../support.js";

test("globs mean a group, all below it, or any part of a path", () => {
  const chosen = (...patterns: string[]) => ["models/tiny/vision.layer.0", "models/tiny/greedy/ngram3", "models/odd/logits", "emoji/i8/text"].filter(globs(patterns));
  assert.deepEqual(chosen("models/tiny"), ["models/tiny/vision.layer.0", "models/tiny/greedy/ngram3"]);
  assert.deepEqual(chosen("greedy"), ["models/tiny/greedy/ngram3"]);
  assert.deepEqual(chosen("vision.*", "emoji"), ["models/tiny/vision.layer.0", "emoji/i8/text"]);
  assert.deepEqual(chosen("models/*/logits"), ["models/odd/logits"]);
  assert.deepEqual(chosen("models/*ogits"), []);
  assert.deepEqual(chosen("ti"), []);
  assert.equal(chosen().length, 4);
});

test("compare finds the worst number and its place, and takes NaN and another shape as infinitely far", () => {
  const wanted = { data: [1, 2, 3, 4, 5, 6], dims: [2, 3] };
  assert.deepEqual(compare("x", { data: [1, 2, 3, 4, 5.5, 6.25], dims: [2, 3] }, wanted, 0.5).failed, 0);
  const check = compare("x", { data: [1, 2, 3, 4, 6, 6.5], dims: [2, 3] }, wanted, 0.5);
  assert.deepEqual([check.failed, check.worst, check.messages], [1, 1, ["worst at [1, 1]: found 6, wanted 5"]]);
  assert.equal(compare("x", { data: [1, 2, 3, 4, 5, NaN], dims: [2, 3] }, wanted, 0.5).worst, Infinity);
  assert.equal(compare("x", { data: [1, 2, 3], dims: [1, 3] }, wanted, 0.5).failed, 1);
});

test("sameIds names the first difference, a missing and a superfluous id too", () => {
  assert.equal(sameIds("x", [1, 2], [1, 2]).failed, 0);
  assert.deepEqual(sameIds("x", [1, 3], [1, 2]).messages, ["id 1: found 3, wanted 2"]);
  assert.deepEqual(sameIds("x", [1], [1, 2]).messages, ["id 1: found none, wanted 2"]);
  assert.deepEqual(sameIds("x", [1, 2], [1]).messages, ["id 1: found 2, wanted none"]);
});

test("merge adds up cases and keeps the number that is worst for its limit", () => {
  const one = compare("a", { data: [1], dims: [1] }, { data: [1.5], dims: [1] }, 1), two = compare("b", { data: [1], dims: [1] }, { data: [1.25], dims: [1] }, 0.1);
  assert.deepEqual(merge("c", [one, two, skip("d", 3, "why")]), { name: "c", cases: 5, failed: 1, skipped: 3, messages: [...two.messages, "why"], worst: 0.25, limit: 0.1 });
});

const tiny = join(fixtures, "tiny");
const cases: Cases = JSON.parse(readFileSync(join(tiny, "cases.json"), "utf8"));
const read = readTensors(join(tiny, "cases.safetensors"));

/** A model that says what the references say, but for one stage. */
function replay(spoilt?: string): Model {
  const spoil = (name: string): Tensor => {
    const value = read(name);
    if (name === spoilt) value.data[value.data.length - 1] += 1;
    return value;
  };
  const rows = (parts: Tensor[], count: number): Tensor => ({ type: "float32", data: Float32Array.from(parts.flatMap((part) => [...part.data])), dims: [1, count, parts[0].dims.at(-1)!] });
  const vocab = cases.tensors["logits"].shape[2];
  const at = (ids: readonly number[]) => ids.filter((id) => id !== 1).join();
  /** Logits that chose the answers, placed after `before` rows of nothing. */
  const after = (before: number, answers: Tensor): Tensor => rows([{ type: "float32", data: new Float32Array(before * vocab), dims: [before, vocab] }, answers], before + answers.dims[0]);
  return {
    async forward({ inputIds, interpolatePosEncoding, pixelValues, stages = [] }) {
      const [batch, length] = inputIds.dims, ids = [...inputIds.data];
      const named = Object.fromEntries(stages.map((stage) => [stage, spoil(interpolatePosEncoding ? `interpolate.0.${stage}` : stage)]));
      if (!pixelValues) return { logits: spoil("text_only.logits"), stages: {} };
      if (batch > 1) {
        const all = cases.batch!.rows.map((row, k) => {
          const own = ids.slice(k * length, (k + 1) * length), real = own.filter((id) => id !== 1).length, left = own[0] === 1 || real === length;
          const answers = spoil(row.decode_logits), before = (left ? length - real : 0) + real - row.new_ids.length - 1;
          const whole = new Float32Array(length * vocab);
          whole.set(answers.data, before * vocab);
          return whole;
        });
        const embeds = cases.batch!.rows.map((row) => spoil(row.image_embeds));
        return {
          logits: { type: "float32", data: Float32Array.from(all.flatMap((one) => [...one])), dims: [batch, length, vocab] },
          imageEmbeds: { type: "float32", data: Float32Array.from(embeds.flatMap(({ data }) => [...data])), dims: [batch, ...embeds[0].dims.slice(1)] }, stages: {},
        };
      }
      const run = cases.greedy!.find(({ new_ids }) => at(ids) === at([...cases.prompt.input_ids, ...new_ids]));
      return { logits: run ? after(cases.prompt.input_ids.length - 1, spoil(run.teacher_forced_logits)) : spoil("logits"), stages: named };
    },
    async generate({ inputIds, noRepeatNgramSize, eosTokenId }) {
      const same = (options: { no_repeat_ngram_size: number; eos_token_id: number | null }) =>
        options.no_repeat_ngram_size === noRepeatNgramSize && String(eosTokenId) === String(options.eos_token_id ?? []);
      const answers = inputIds.dims[0] > 1 ? cases.batch!.rows : [cases.greedy!.find(({ options }) => same(options))!];
      return { newIds: answers.map((answer) => answer.new_ids) } as Awaited<ReturnType<Model["generate"]>>;
    },
    async startSession() {
      const { data, dims } = spoil("cached_decode.logits");
      let step = 0;
      const feed = async () => ({ type: "float32", data: data.slice(step * dims[1], ++step * dims[1]), dims: [1, dims[1]] }) as Tensor;
      return { feed, logits: spoil("logits"), dispose() {} };
    },
  };
}

const failing = (checks: readonly Check[]) => checks.filter(({ failed }) => failed).map(({ name }) => name);

test("verifyModel passes a model that gives the reference's values, all parts of it", async () => {
  const checks = await verifyModel(tiny, "tiny", () => true, async () => replay());
  assert.deepEqual(failing(checks), []);
  assert.deepEqual(checks.map(({ name }) => name.slice(5)), [
    "vision.embeddings", "vision.pre_layrnorm", "vision.layer.0", "vision.layer.1", "vision.post_layernorm", "vision.features", "projection.attention", "image_embeds",
    "text.embeddings", "text.cache.0.key", "text.cache.0.value", "text.attention.0", "text.layer.0", "text.layer.1", "text.final_norm", "logits",
    "cached_decode", "greedy/ngram3_noeos", "greedy/ngram0_noeos", "greedy/ngram3_eos", "text_only", "batch/left", "batch/right", "interpolate_pos_encoding/20x28",
  ]);
});

test("verifyModel fails exactly the part whose numbers are off", async () => {
  for (const [spoilt, ...parts] of [
    ["vision.layer.1", "vision.layer.1"], ["logits", "logits"], ["cached_decode.logits", "cached_decode"], ["text_only.logits", "text_only"],
    ["greedy.ngram3_eos.logits", "greedy/ngram3_eos"], ["batch.1.decode_logits", "batch/left", "batch/right"], ["batch.2.image_embeds", "batch/left", "batch/right"],
    ["interpolate.0.vision.features", "interpolate_pos_encoding/20x28"],
  ]) {
    assert.deepEqual(failing(await verifyModel(tiny, "tiny", () => true, async () => replay(spoilt))), parts.map((part) => `tiny/${part}`), spoilt);
  }
});

test("verifyModel loads nothing when nothing of it is wanted", async () => {
  assert.deepEqual(await verifyModel(tiny, "tiny", () => false, () => assert.fail("loaded")), []);
});

const emoji = join(fixtures, "emoji");
const told = JSON.parse(readFileSync(join(emoji, "cases.json"), "utf8")).cases;

/** Says what the references say, but for what `change` does to case `k`. */
function parrot(change: (k: number, answer: Awaited<ReturnType<Captioner["answer"]>>, choices: number[]) => void = () => {}): Captioner {
  const find = (image: string, prompt: string) => told.findIndex((one: { image: string; prompt: string }) => image.endsWith(one.image) && one.prompt === prompt);
  const say = (k: number) => {
    const one = structuredClone(told[k]), choices: number[] = one.new_ids.slice();
    const answer = {
      promptIds: one.prompt_ids, newIds: one.new_ids, generatedText: one.generated_text, processedText: one.processed_text, caption: one.caption,
      entities: one.entities.map(([phrase, span, boxes]: [string, [number, number], number[][]]) => ({ phrase, span, boxes: boxes.map((normalized) => ({ normalized })) })),
    };
    change(k, answer, choices);
    return { answer, choices };
  };
  return { answer: async (image, prompt) => say(find(image, prompt)).answer, choices: async (image, prompt) => say(find(image, prompt)).choices };
}
const captions = (dtype: string, change?: Parameters<typeof parrot>[0]) => verifyCaptions(emoji, "emoji", dtype, () => true, async () => parrot(change));

test("verifyCaptions in f32 wants every id and every word", async () => {
  assert.deepEqual(failing(await captions("f32")), []);
  assert.deepEqual(failing(await captions("f32", (k, answer) => { if (k === 1) answer.newIds[0]++; })), ["emoji/f32/ids"]);
  assert.deepEqual(failing(await captions("f32", (k, answer) => { if (k === 2) answer.caption += "!"; })), ["emoji/f32/text"]);
});

test("verifyCaptions of a quantised model wants the same text without boxes, boxes near the reference's, and the clear choices", async () => {
  assert.deepEqual(failing(await captions("i8", (_, answer) => { answer.newIds.push(9); })), []);
  assert.deepEqual(failing(await captions("i8", (k, answer) => { if (k === 0) answer.processedText = answer.processedText.replace("panda", "dog"); })), ["emoji/i8/text"]);
  assert.deepEqual(failing(await captions("i8", (k, answer) => { if (k === 0) answer.processedText = answer.processedText.replace("_0804", "_0805"); })), []);
  assert.deepEqual(failing(await captions("i8", (k, answer) => { if (k === 2) answer.entities = answer.entities.slice(1); })), ["emoji/i8/boxes"]);
  const close = told[0].margins.findIndex((margin: number) => margin < 0.05), clear = told[0].margins.findIndex((margin: number) => margin > 0.05);
  assert.deepEqual(failing(await captions("i8", (k, _, choices) => { if (k === 0) choices[close]++; })), []);
  assert.deepEqual(failing(await captions("i8", (k, _, choices) => { if (k === 0) choices[clear]++; })), ["emoji/i8/choices"]);
});

test("iou is 1 for equal boxes, 0 for missing and distant ones, and right between", () => {
  assert.equal(iou([0, 0, 1, 1], [0, 0, 1, 1]), 1);
  assert.equal(iou([0.5, 0.5, 0.25, 0.25], [0.5, 0.5, 0.25, 0.25]), 1); // inverted, but the same
  assert.equal(iou(undefined, [0, 0, 1, 1]), 0);
  assert.equal(iou([0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]), 0);
  assert.equal(iou([0, 0, 1, 0.5], [0, 0, 1, 1]), 0.5);
  assert.equal(withoutBoxes("<phrase> a</phrase><object><patch_index_0001></object> b<object>cut"), "<phrase> a</phrase> b");
});
