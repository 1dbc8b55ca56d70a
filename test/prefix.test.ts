import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Kosmos2Error, Kosmos2ForConditionalGeneration, Kosmos2Processor, Prefix } from "kosmos2-wasm";
import { Engine } from "#src/engine.js";
import type { Choice } from "#src/graph/recorder.js";
import type { Text } from "#src/prefix.js";
import { openModel } from "#src/weights/source.js";
import { fixtures, random } from "./support.js";

let engine: Engine;
before(async () => (engine = await Engine.load(await openModel("kosmos2-emoji", {}), { dtype: "f32", threads: 2 })));
after(() => engine.dispose());

const D = 192;
/** A text as a processor makes it: bos, 64 image rows between tags, a prompt. */
function text(prompt: readonly number[], seed = 1): Text {
  const image = Array.from({ length: 64 }, (_, i) => 4 + i);
  return { ids: [0, 451, ...image, 452, ...prompt], places: [0, 0, ...image.map(() => 1), 0, ...prompt.map(() => 0)], images: random(64 * D, seed) };
}

/** The choice after a text, logits and all, the rows that had to be read for it, and the next two choices. */
async function ask(question: Text, prefix?: Prefix) {
  const reading = prefix ? engine.resume(prefix, question) : { sequence: engine.begin(), ...question };
  const { sequence } = reading, rows = reading.ids.length, resumed = sequence.cache.length > 0, choices: Choice[] = [];
  choices.push((await engine.choose([{ ...reading, banned: [[]] }]))[0][0]);
  if (prefix && !resumed) engine.keep(prefix, question, sequence);
  for (let i = 0; i < 2; i++) choices.push((await engine.choose([{ sequence, ids: [choices[i].id], banned: [[]] }]))[0][0]);
  engine.end(sequence);
  return { choices, rows };
}

test("a text that begins as one before reads only what is left, with the same bits", async () => {
  const prefix = new Prefix();
  for (const [i, prompt] of [[460, 25, 21, 27], [460, 30], [460], [455], Array.from({ length: 90 }, (_, n) => 100 + n)].entries()) {
    const wanted = await ask(text(prompt)), found = await ask(text(prompt), prefix);
    assert.deepEqual(found.choices, wanted.choices);
    assert.equal(found.rows, wanted.rows - (i ? 64 : 0));
  }
  prefix.dispose();
});

test("a beginning that is given up while it is being shared is shared all the same", async () => {
  const prefix = new Prefix(), question = text([460, 25, 21, 27]), wanted = await ask(question);
  await ask(question, prefix);
  const heap = (engine.backend as unknown as { heap: { alloc(bytes: number): number } }).heap, alloc = heap.alloc;
  let asked = 0;
  heap.alloc = (bytes) => {
    if (asked++ === 0) throw new Kosmos2Error("memory-exhausted", "memory", "Cannot get more");
    const address = alloc.call(heap, bytes);
    engine.backend.write(address, new Uint8Array(bytes).fill(0x3f)); // what was given up is used by others
    return address;
  };
  const found = await ask(question, prefix);
  heap.alloc = alloc;
  assert.deepEqual(found.choices, wanted.choices);
  assert.equal((await ask(question, prefix)).rows, wanted.rows); // it was given up
  prefix.dispose();
});

test("all whole blocks are shared that two texts have in common", async () => {
  const prefix = new Prefix(), long = Array.from({ length: 90 }, (_, n) => 100 + n);
  await ask(text(long), prefix);
  assert.equal((await ask(text([...long, 5]), prefix)).rows, 158 - 128);
  assert.equal((await ask(text([...long.slice(0, 70), 5]), prefix)).rows, 138 - 128);
  assert.equal((await ask(text([...long.slice(0, 50), 5]), prefix)).rows, 118 - 96);
  assert.equal((await ask(text(long.slice(0, 61)), prefix)).rows, 32); // the last row is read even where it is kept
  prefix.dispose();
});

test("nothing is shared with another picture, other tokens, another model or a short text", async () => {
  const prefix = new Prefix();
  await ask(text([460, 25]), prefix);
  const wanted = await ask(text([460, 25], 2));
  assert.deepEqual(await ask(text([460, 25], 2), prefix), wanted); // and this picture is kept instead
  assert.equal((await ask(text([460, 26], 2), prefix)).rows, wanted.rows - 64);
  assert.equal((await ask({ ids: Array.from({ length: 80 }, (_, i) => 4 + i) }, prefix)).rows, 80);
  assert.equal((await ask({ ids: [0, 5] }, prefix)).rows, 2);
  assert.equal(prefix.find({}, { ids: Array.from({ length: 80 }, (_, i) => 4 + i) }, D), undefined);
  prefix.dispose();
});

test("what is kept is given back: by dispose, by the prefixes used later, and when memory is short", async () => {
  const { backend } = engine, alloc = backend.alloc.bind(backend), free = backend.free.bind(backend);
  await ask(text([460, 25])); // the arena and the table of positions have grown
  const held = new Set<number>();
  let full = 0;
  backend.alloc = (bytes) => {
    if (full-- > 0) throw new Error("no more memory");
    const address = alloc(bytes);
    held.add(address);
    return address;
  };
  backend.free = (address) => void (held.delete(address), free(address));
  try {
    const prefixes = Array.from({ length: 7 }, () => new Prefix());
    for (const [i, prefix] of prefixes.entries()) await ask(text([460], i + 1), prefix);
    assert.equal(held.size, 3 * 4); // four kept, two blocks and a table each
    assert.equal((await ask(text([460, 25], 3), prefixes[2])).rows, 69); // dropped, read again, kept
    assert.equal((await ask(text([460, 26], 3), prefixes[2])).rows, 69 - 64);
    prefixes[2].dispose();
    assert.equal(held.size, 3 * 3);
    full = 1;
    const sequence = engine.begin();
    assert.equal(held.size, 1);
    engine.end(sequence);
    full = 1;
    assert.throws(() => engine.begin(), /no more memory/);
    for (const prefix of prefixes) prefix.dispose();
    assert.equal((await ask(text([460], 1), prefixes[0])).rows, 68);
    assert.equal(held.size, 0); // a prefix disposed of keeps nothing
  } finally {
    Object.assign(backend, { alloc, free });
  }
});

test("generate takes a prefix: same answers, batches and padding too", async () => {
  const model = await Kosmos2ForConditionalGeneration.fromPretrained("kosmos2-emoji"), processor = await Kosmos2Processor.fromPretrained("kosmos2-emoji");
  const prefix = new Prefix(), images = `${fixtures}emoji/keys.png`, texts = ["<grounding> An image of", "<grounding> Describe this image in detail:"];
  for (const inputs of [
    await processor.process({ text: texts[0], images }), await processor.process({ text: texts[1], images }),
    await processor.process({ text: texts, images: [images, images], padding: true }),
    await processor.process({ text: [texts[0], texts[0]], images: [images, `${fixtures}emoji/rocket.png`] }),
  ]) {
    const [wanted, found] = [await model.generate({ ...inputs, maxNewTokens: 30 }), await model.generate({ ...inputs, maxNewTokens: 30, prefix })];
    assert.deepEqual(found.newIds, wanted.newIds);
  }
  prefix.dispose();
  await model.dispose();
});
