import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Kosmos2Error, Kosmos2Processor, Kosmos2Tokenizer, boxOfPatches, extractEntities, patchesOfBox } from "kosmos2-wasm/processor";
import type { ImagePreprocessor, ProcessOptions, StreamedToken } from "kosmos2-wasm/processor";
import { stripTags } from "#src/processor/entities.js";
import { TextStream } from "#src/processor/stream.js";
import { tensor } from "#src/tensor.js";
import { fixtures, random } from "../support.js";

const { tokenizer } = await Kosmos2Processor.fromPretrained("kosmos2-emoji");
const seen: unknown[] = [];
const pictures: ImagePreprocessor = {
  async preprocess(images, options) {
    const count = Array.isArray(images) ? images.length : 1;
    seen.push(options);
    return { pixelValues: tensor("float32", new Float32Array(count * 3), [count, 3, 1, 1]), imageSizes: new Array(count).fill({ width: 60, height: 50 }) };
  },
};
const processor = new Kosmos2Processor(tokenizer, pictures);
const code = (wanted: string, words = /./) => (error: unknown) => {
  assert.ok(error instanceof Kosmos2Error && error.code === wanted, String(error));
  assert.match(error.message, words);
  return true;
};
const two = "<phrase> a key</phrase> and<phrase> a dog</phrase>";

test("process gives int32 tensors of a batch of one, pixels and upright sizes", async () => {
  const inputs = await processor.process({ text: "<grounding> An image of", images: "a.png", exif: false, maxPixels: 9 });
  assert.deepEqual([inputs.inputIds.type, inputs.inputIds.dims, inputs.inputIds.data.constructor], ["int32", [1, 71], Int32Array]);
  assert.deepEqual([...inputs.inputIds.data], [0, 451, ...Array.from({ length: 64 }, (_, i) => 4 + i), 452, 460, 25, 21, 27]);
  assert.deepEqual([...inputs.imageEmbedsPositionMask.data], [0, 0, ...new Array(64).fill(1), 0, 0, 0, 0, 0]);
  assert.deepEqual([inputs.pixelValues?.dims, inputs.imageSizes], [[1, 3, 1, 1], [{ width: 60, height: 50 }]]);
  assert.deepEqual(seen.at(-1), { signal: undefined, exif: false, maxPixels: 9, fetch: undefined, wasmUrl: undefined });
});

test("process of a real picture gives the fixture's prompt and 224 × 224 pixels", async () => {
  const [{ image, prompt, prompt_ids }] = JSON.parse(readFileSync(`${fixtures}emoji/cases.json`, "utf8")).cases;
  const whole = await Kosmos2Processor.fromPretrained("kosmos2-emoji");
  const inputs = await whole.process({ text: prompt, images: readFileSync(`${fixtures}emoji/${image}`) });
  assert.deepEqual([...inputs.inputIds.data], prompt_ids);
  assert.deepEqual(inputs.pixelValues?.dims, [1, 3, 224, 224]);
});

test("process passes image embeddings through and takes their count of rows", async () => {
  const imageEmbeds = tensor("float32", random(2 * 64 * 5), [2, 64, 5]);
  const inputs = await processor.process({ text: ["a", "a dog"], images: imageEmbeds });
  assert.equal(inputs.imageEmbeds, imageEmbeds);
  assert.deepEqual([inputs.pixelValues, inputs.imageSizes, inputs.inputIds.dims], [undefined, [null, null], [2, 69]]);
  for (const dims of [[2, 63, 5], [2, 3, 1, 1], [10]]) {
    const wrong = tensor("float32", new Float32Array(dims.reduce((a, b) => a * b)), dims);
    await assert.rejects(processor.process({ text: ["a", "b"], images: wrong }), code("image-embeds-invalid", /64/));
  }
  await assert.rejects(processor.process({ text: "a", images: imageEmbeds }), code("images-count"));
});

test("process of text alone has no pixels and a mask of zeros, of images alone nothing else", async () => {
  const text = await processor.process({ text: "An image of", images: null });
  assert.deepEqual(Object.keys(text).sort(), ["attentionMask", "imageEmbedsPositionMask", "imageSizes", "inputIds"]);
  assert.deepEqual([[...text.imageEmbedsPositionMask.data], text.imageSizes], [[0, 0, 0, 0], [null]]);
  assert.deepEqual(Object.keys(await processor.process({ images: ["a", "b"] })).sort(), ["imageSizes", "pixelValues"]);
});

test("process pads on the side it is told, without touching the ones of the image's mask", async () => {
  const batch = { text: ["a", "two keys and a dog"], images: ["a", "b"] };
  const left = await processor.process({ ...batch, paddingSide: "left" });
  const right = await processor.process(batch);
  const T = left.inputIds.dims[1];
  const pads = T - [...left.attentionMask.data.subarray(0, T)].filter(Boolean).length;
  assert.ok(pads > 0);
  assert.deepEqual([...left.inputIds.data.subarray(0, pads)], new Array(pads).fill(1));
  assert.deepEqual([...left.inputIds.data.subarray(pads, T)], [...right.inputIds.data.subarray(0, T - pads)]);
  assert.deepEqual([...left.imageEmbedsPositionMask.data.subarray(pads, T)], [...right.imageEmbedsPositionMask.data.subarray(0, T - pads)]);
  assert.deepEqual([...left.inputIds.data.subarray(T)], [...right.inputIds.data.subarray(T)]);
});

for (const [wanted, options, words] of [
  ["option-unknown", { text: "a", images: "a", colour: 1 }, /option colour:/],
  ["option-unknown", { text: "a", toString: 1 }, /option toString:/],
  ["option-invalid", { text: 5 }, /text/],
  ["option-invalid", { text: [] }, /text/],
  ["option-invalid", { text: "a", padding: "most" }, /"most"/],
  ["option-invalid", { text: "a", maxLength: 1.5 }, /1\.5/],
  ["option-invalid", { text: ["a"], padding: true, truncation: true, maxLength: 7, padToMultipleOf: 4 }, /multiple/],
  ["option-invalid", { text: "a", numImageTokens: 0 }, /numImageTokens/],
  ["input-missing", {}, /text nor images/],
  ["input-missing", { text: null, images: undefined }, /text nor images/],
  ["images-count", { text: "a", images: ["a", "b"] }, /1 texts meet 2 images/],
  ["bboxes-invalid", { text: two, bboxes: 5 }, /number/],
  ["bboxes-invalid", { text: [two], bboxes: [5] }, /number/],
  ["bboxes-count", { text: [two, two], bboxes: [null] }, /2 texts meet 1/],
  ["phrase-count", { text: two, bboxes: [null] }, /has 2.*has 1/],
  ["box-invalid", { text: two, bboxes: [[1, 2, 3], null] }, /\[1,2,3\]/],
  ["box-invalid", { text: two, bboxes: [{ patches: [1, 2] }, null] }, /patches/],
  ["box-inverted", { text: two, bboxes: [[0.5, 0, 0.5, 1], null] }, /x2 > x1/],
  ["box-out-of-range", { text: two, bboxes: [[0, 1024], null] }, /1023/],
  ["box-out-of-range", { text: two, bboxes: [[-1, 5], null] }, /-1/],
  ["box-out-of-range", { text: two, bboxes: [[0, 0, 1.2, 1], null] }, /leaves the image/],
  ["max-length-too-small", { text: "a", images: "a", maxLength: 66 }, /67/],
  ["max-length-too-small", { text: "a", images: "a", maxLength: 65, addSpecialTokens: false }, /66/],
  ["batch-ragged", { text: ["a", "a dog"] }, /padding: true/],
] as [string, ProcessOptions, RegExp][])
  test(`process refuses ${JSON.stringify(options)} with code ${wanted}`, () => assert.rejects(processor.process(options), code(wanted, words)));

test("what are no options, no ids and no text is refused with a code", async () => {
  for (const options of [undefined, null, "a"] as never[]) await assert.rejects(processor.process(options), code("option-invalid", /wanted an object/));
  await assert.rejects(processor.process({ text: "a", signal: {} as never }), code("option-invalid", /signal/));
  await assert.rejects(Kosmos2Processor.fromPretrained("kosmos2-emoji", { dtype: "i8" } as never), code("option-unknown", /dtype/));
  for (const ids of [undefined, null, 5, "5"] as never[]) {
    assert.throws(() => processor.decode(ids), code("option-invalid", /wanted a list of ids/));
    assert.throws(() => processor.batchDecode(ids), code("option-invalid", /wanted a list of lists of ids, or a tensor/));
    assert.throws(() => processor.batchDecode([ids]), code("option-invalid", /wanted a list of ids/));
  }
  assert.throws(() => processor.decode([5], { skip_special_tokens: true } as never), code("option-unknown", /skip_special_tokens/));
  for (const text of [undefined, null, 5] as never[]) {
    assert.throws(() => processor.postProcessGeneration(text), code("option-invalid", /wanted a string/));
    assert.throws(() => processor.escape(text), code("option-invalid", /wanted a string/));
  }
  for (const options of [null, { imageSize: {} }, { imageSize: 5 }, { cleanupAndExtract: 1 }] as never[]) assert.throws(() => processor.postProcessGeneration("a", options), code("option-invalid"));
  assert.deepEqual(processor.postProcessGeneration("a", { imageSize: null }), { caption: "a", entities: [] });
});

test("process without an image processor says so, and stops when it is told before it began", async () => {
  await assert.rejects(new Kosmos2Processor(tokenizer).process({ text: "a", images: "a" }), code("image-processor-missing"));
  await assert.rejects(processor.process({ text: "a", signal: AbortSignal.abort(new Error("no")) }), /^Error: no$/);
});

test("a user's own <image> and <phrase> are plain text after escape, in prompts with boxes too", async () => {
  const said = processor.escape("<image> </s><phrase>x</phrase>");
  const { inputIds } = await processor.process({ text: `${said}<phrase> a dog</phrase>`, images: "a", bboxes: [[1, 40]] });
  const ids = [...inputIds.data].slice(67);
  assert.deepEqual(ids.filter((id) => id >= 449 || id === 2).map((id) => tokenizer.idToToken(id)),
    ["<phrase>", "</phrase>", "<object>", "<patch_index_0001>", "<patch_index_0040>", "</object>"]);
});

test("batchDecode takes a tensor or lists of ids", () => {
  const wanted = ["<s> An image</s>", "<s> a</s><pad>"];
  const rows = [[0, 25, 21, 2], [0, 5, 2, 1]];
  assert.deepEqual(processor.batchDecode(rows), wanted);
  assert.deepEqual(processor.batchDecode(tensor("int32", Int32Array.from(rows.flat()), [2, 4])), wanted);
});

test("postProcessGeneration gives boxes in pixels, ordered and inside, when the size is known", () => {
  const text = "<image> x</image><grounding><phrase> A kite</phrase><object><patch_index_0863><patch_index_0044></object>";
  const { caption, entities } = processor.postProcessGeneration(text, { imageSize: { width: 640, height: 320 } });
  assert.equal(caption, "A kite");
  assert.deepEqual(entities, [{
    phrase: "A kite", span: [0, 6], range: [0, 6],
    boxes: [{ normalized: [0.984375, 0.828125, 0.390625, 0.046875], patches: [863, 44], pixels: [250, 15, 630, 265] }],
  }]);
  const below = "<phrase>x</phrase><object><patch_index_0><patch_index_99999></object>"; // a cell far under the grid
  assert.deepEqual(processor.postProcessGeneration(below, { imageSize: { width: 64, height: 64 } }).entities[0].boxes[0].pixels, [1, 1, 63, 64]);
  assert.equal(processor.postProcessGeneration(text, { cleanupAndExtract: false }), text.slice("<image> x</image>".length));
});

test("an entity's range cuts its phrase out of the caption, whatever comes before", () => {
  for (const before of ["", "  ", "é😀", " 5 < 6", "a<b\n", "\u3000<x> y ", "😀<phrase>😀</phrase><object><patch_index_1><patch_index_2></object> "]) {
    const { caption, entities } = extractEntities(`${before}<phrase> the 😀 dog </phrase><object><patch_index_1><patch_index_40></object> end`);
    const last = entities.at(-1)!;
    assert.equal(last.phrase, "the 😀 dog");
    assert.equal(caption.slice(...last.range), last.phrase);
    assert.equal([...caption].slice(...last.span).join(""), last.phrase);
  }
});

test("stripTags deletes what the regular expression <.*?> deletes, and stays fast on a line of nothing but <", () => {
  const bits = ["<", ">", "\n", "a", "<a>", "é", " "];
  for (let seed = 1; seed < 200; seed++) {
    const text = Array.from(random(20, seed), (value) => bits[Math.floor((value + 1) / 2 * bits.length) % bits.length]).join("");
    assert.equal(stripTags(text), text.replace(/<[^\n]*?>/g, ""), JSON.stringify(text));
  }
  const start = performance.now();
  for (const hostile of ["<".repeat(2e5), "<\n".repeat(2e5), "<phrase>".repeat(3e4)]) extractEntities(hostile);
  assert.ok(performance.now() - start < 2000);
});

test("patchesOfBox and boxOfPatches are inverse on all cells in order", () => {
  for (let from = 0; from < 1024; from += 37)
    for (let to = from; to < 1024; to += 41) {
      if (to % 32 < from % 32) continue;
      assert.deepEqual(patchesOfBox(boxOfPatches([from, to])), [from, to]);
    }
});

/** Ids of texts as models make them, and such that the clean-up changes much. */
function* answers(): Generator<number[]> {
  const marks = ["▁", "▁.", ".", "▁'", "'", "▁n", "n", "t", "'t", "s", "m", "▁s", "r", "e", "▁v", "v", "▁?", ",", "<phrase>", "</phrase>", "</s>", "<unk>", "▁a", "▁image", "▁dog"];
  const ids = marks.map((mark) => tokenizer.tokenToId(mark)).filter((id) => id !== undefined);
  assert.ok(ids.length >= 12, `only ${ids.length} of the marks are tokens`);
  for (let seed = 1; seed < 400; seed++) yield Array.from(random(3 + (seed % 12), seed), (value) => ids[Math.floor((value + 1) / 2 * ids.length) % ids.length]);
}

test("decodeStream's texts put together are the decoded whole behind the prompt, wherever the prompt ends", async () => {
  let held = 0, cut = 0;
  for (const ids of answers()) {
    const at = ids.length >> 1;
    const prompt = [1, 0, ...ids.slice(0, at)]; // a pad in front
    const inputs = {
      inputIds: tensor("int32", Int32Array.from(prompt), [1, prompt.length]),
      attentionMask: tensor("int32", Int32Array.from(prompt, (_, i) => Math.min(i, 1)), [1, prompt.length]),
    };
    const out = [];
    for await (const piece of processor.decodeStream(inputs, ids.slice(at).map((id) => ({ row: 0, id })))) out.push(piece);
    assert.deepEqual(out.map(({ id }) => id), ids.slice(at));
    const whole = processor.decode([...prompt, ...ids.slice(at)], { skipSpecialTokens: true });
    const before = processor.decode(prompt, { skipSpecialTokens: true });
    let same = 0;
    while (same < before.length && before[same] === whole[same]) same++;
    if (same < before.length) cut++;
    assert.equal(out.map(({ text }) => text).join(""), whole.slice(same), JSON.stringify([before, whole]));
    if (out.some(({ text }, i) => text === "" && i < out.length - 1)) held++;
  }
  assert.ok(held > 10 && cut > 2, `${held} held back, ${cut} prompts changed by the answer`); // else nothing was tried
});

test("every space that the clean-up may still take out is held back", () => {
  const text = ["x"];
  for (const mark of [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're", "  ' m", " n ' t"]) text.push(...mark, "y");
  const letters = { piece: (id: number) => text[id], cleansUp: true };
  const stream = new TextStream(letters, []);
  const out = text.map((_, id) => stream.push(id)).join("") + stream.end();
  assert.equal(out, "x.y?y!y,y'yn'ty'my'sy'vey'rey'myn'ty");
});

test("the longest of equally cut texts says how far a batch with images is padded", async () => {
  const text = ["two keys and a dog and a panda", "two keys and a dog and a panda, a panda"]; // both are cut to 70 at first
  const lengths = await Promise.all([text, [...text].reverse()].map(async (text) =>
    (await processor.process({ text, images: ["a", "b"], padding: "max_length", maxLength: 70 })).inputIds.dims[1]));
  const whole = text.map((text) => 67 + tokenizer.encode(text, { addSpecialTokens: false }).length);
  assert.deepEqual(lengths, whole.reverse()); // Hugging Face reads the last of them again, and whole
});

test("decodeStream passes a token on as soon as its text is settled, row by row", async () => {
  const a = tokenizer.tokenToId("▁a")!, image = tokenizer.tokenToId("▁image")!, stop = tokenizer.tokenToId("▁.")!, space = tokenizer.tokenToId("▁")!;
  const log: string[] = [];
  async function* model(): AsyncGenerator<StreamedToken> {
    for (const [row, id] of [[0, a], [1, image], [0, space], [1, a], [0, stop]]) {
      log.push(`made ${row}`);
      yield { row, id };
    }
    log.push("ended");
  }
  const inputs = { inputIds: tensor("int32", Int32Array.of(0, 5, 0, 5), [2, 2]) };
  for await (const { row, text } of processor.decodeStream(inputs, model())) log.push(`${row}:${text}`);
  assert.deepEqual(log, ["made 0", "0: a", "made 1", "1: image", "made 0", "made 1", "1: a", "made 0", "0:", "0: .", "ended"]); // "▁" waits for what follows it
});

test("leaving decodeStream's loop ends the source", async () => {
  let ended = false;
  async function* model(): AsyncGenerator<StreamedToken> {
    try {
      for (;;) yield { row: 0, id: 5 };
    } finally {
      ended = true;
    }
  }
  for await (const _ of processor.decodeStream({ inputIds: tensor("int32", Int32Array.of(0), [1, 1]) }, model())) break;
  assert.ok(ended);
});

test("Kosmos2Tokenizer is what the subpath gives", () => assert.ok(tokenizer instanceof Kosmos2Tokenizer));
