import assert from "node:assert/strict";
import { test } from "node:test";
import { Checkpoint } from "#src/weights/checkpoint.js";
import type { ModelFiles } from "#src/weights/files.js";
import { openModel } from "#src/weights/source.js";
import { Kosmos2Config } from "#src/model/config.js";
import { findTensors, modelTensors, type Logger } from "#src/weights/tensors.js";
import { goldens, noGoldens } from "../support.js";
import { stored, tinyConfig, tinyFolder, tinyTensors } from "./support.js";

const text = (json: unknown): Uint8Array => new TextEncoder().encode(typeof json === "string" ? json : JSON.stringify(json));
const index = "model.safetensors.index.json";

/** Counts what is open. */
function watched(files: ModelFiles): ModelFiles & { opened: number; closed: number } {
  const watch = { name: files.name, list: files.list?.bind(files), opened: 0, closed: 0, async open(file: string, signal?: AbortSignal) {
    const source = await files.open(file, signal);
    if (!source) return undefined;
    watch.opened++;
    return { size: source.size, read: source.read.bind(source), close: async () => { watch.closed++; await source.close(); } };
  } };
  return watch;
}

async function refuses(folder: Record<string, Uint8Array>, code: string, words: RegExp): Promise<void> {
  const files = watched(await openModel(folder));
  await assert.rejects(Checkpoint.open(files), (error: { code: string; message: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    return true;
  });
  assert.equal(files.closed, files.opened, "all that was opened is closed");
}

test("Checkpoint.open finds the same tensors in one file and in shards", async () => {
  const tensors = tinyTensors();
  for (const shards of [1, 3]) {
    const checkpoint = await Checkpoint.open(await openModel(tinyFolder(tensors, shards)));
    assert.deepEqual([...checkpoint.tensors.keys()].sort(), tensors.map(({ name }) => name).sort());
    for (const { name, data } of tensors) {
      const { file, start, end } = checkpoint.tensors.get(name)!;
      const bytes = new Uint8Array(end - start);
      await checkpoint.read(file, bytes, start);
      assert.deepEqual(bytes, data);
    }
    await checkpoint.close();
  }
});

test("Checkpoint.open prefers the single file to an index, as Hugging Face does", async () => {
  const folder = { ...tinyFolder(tinyTensors()), [index]: text({ weight_map: { a: "../a.safetensors" } }) };
  assert.equal((await Checkpoint.open(await openModel(folder))).tensors.get("image_to_text_projection.latent_query")?.file, "model.safetensors");
});

test("Checkpoint.open refuses a broken folder, and closes what it opened", async () => {
  const folder = tinyFolder(tinyTensors(), 3), first = "model-1-of-3.safetensors";
  await refuses({ "config.json": text("{}"), "pytorch_model.bin": text("") }, "model-not-found",
    /it has no model.safetensors or model.safetensors.index.json; it holds config.json, pytorch_model.bin/);
  await refuses({ ...folder, [first]: folder[first].slice(0, -1) }, "weights-incomplete", /model-1-of-3.safetensors": it is \d+ bytes; wanted \d+: download/);
  const { [first]: _, ...without } = folder;
  await refuses(without, "weights-incomplete", /shard "model-1-of-3.safetensors", which its index names, is missing/);
  await refuses({ ...folder, [index]: text({ weight_map: { x: first } }) }, "weights-incomplete", /tensor "x" is missing from "model-1-of-3/);
  await refuses({ ...folder, [index]: text("{") }, "weights-index-invalid", /it is not JSON/);
  await refuses({ ...folder, [index]: text([]) }, "weights-index-invalid", /weight_map is not an object/);
  await refuses({ ...folder, [index]: text("null") }, "weights-index-invalid", /weight_map is not an object/);
  for (const path of ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "C:x.safetensors", "..", "", 3, null, "x.bin"])
    await refuses({ ...folder, [index]: text({ weight_map: { x: path } }) }, "weights-index-invalid", /wanted a .safetensors file of the same folder/);
});

test("Checkpoint.open stops when it is told to", async () => {
  const files = await openModel(tinyFolder(tinyTensors(), 3));
  await assert.rejects(Checkpoint.open(files, { signal: AbortSignal.abort("enough") }), (reason) => reason === "enough");
});

test("modelTensors lists the released model: 886 tensors, 1,664,485,376 numbers without the tied one", () => {
  const specs = modelTensors(new Kosmos2Config());
  assert.equal(specs.length, 886);
  const numbers = specs.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  assert.equal(numbers - 65037 * 2048, 1_664_485_376);
  for (const { bias } of specs) if (bias) assert.ok(specs.some(({ name, role }) => name === bias && role === "rows"));
});

test("findTensors ties lm_head to the embedding unless the checkpoint has one of its own", async () => {
  const lmHead = "text_model.lm_head.weight", embedding = "text_model.model.embed_tokens.weight";
  const find = async (tensors: Parameters<typeof tinyFolder>[0], config = tinyConfig) =>
    findTensors(await Checkpoint.open(await openModel(tinyFolder(tensors))), config);
  const names = ({ found }: Awaited<ReturnType<typeof find>>) => found.map(({ spec }) => spec.name);

  const tied = await find(tinyTensors());
  assert.deepEqual([...tied.aliases], [[lmHead, embedding]]);
  assert.ok(!names(tied).includes(lmHead));

  const both = [...tinyTensors(), stored(lmHead, "F32", [21, 12], new Float32Array(21 * 12))];
  assert.ok(names(await find(both)).includes(lmHead), "a stored lm_head is used");

  const other = await find(both.filter(({ name }) => name !== embedding));
  assert.deepEqual([...other.aliases], [[embedding, lmHead]], "of the pair the other one may have been saved");

  const untied = Kosmos2Config.fromJSON({ ...tinyConfig.toJSON(), tie_word_embeddings: false });
  await assert.rejects(find(tinyTensors(), untied), { code: "weights-incomplete", message: /"text_model.lm_head.weight" \[21,12\] is missing/ });
  assert.ok(names(await find(both, untied)).includes(lmHead));
});

test("findTensors names what is missing or of another shape or type, and tells of extras", async () => {
  const tensors = tinyTensors(), name = "image_to_text_projection.dense.weight";
  const change = (with_: (t: (typeof tensors)[number]) => (typeof tensors)[number] | undefined) =>
    tensors.flatMap((t) => (t.name === name ? with_(t) ?? [] : t));
  const find = async (list: typeof tensors, logger?: Logger) => findTensors(await Checkpoint.open(await openModel(tinyFolder(list))), tinyConfig, logger);
  await assert.rejects(find(change(() => undefined)), { code: "weights-incomplete", message: /tensor "image_to_text_projection.dense.weight" \[12,10\] is missing/ });
  await assert.rejects(find(change((t) => ({ ...t, shape: [10, 12] }))), { code: "weights-shape", message: /is \[10,12\]; wanted \[12,10\], as config.json says/ });
  await assert.rejects(find(change((t) => ({ ...t, dtype: "F64", shape: [12, 5], data: t.data }))), { code: "weights-shape" });
  await assert.rejects(find(change((t) => ({ ...t, dtype: "I32" }))), { code: "weights-dtype", message: /is I32; wanted F32, F16, BF16/ });

  const lines: string[] = [];
  const extra = (extraName: string) => stored(extraName, "F32", [1], new Float32Array(1));
  await find([...tensors, extra("vision_model.model.embeddings.position_ids"), extra("text_model.model.embed_positions.weights")], { warn: (line) => lines.push(line) });
  assert.equal(lines.length, 0);
  await find([...tensors, extra("strange")], { warn: (line) => lines.push(line) });
  assert.deepEqual(lines, ['Ignored in "given files": strange']);
});

test("findTensors finds all of every golden model", { skip: noGoldens }, async () => {
  for (const name of ["tiny", "odd", "heads64", "untied", "sharded-bf16", "f16"]) {
    const files = await openModel(`${goldens}models/${name}`);
    const checkpoint = await Checkpoint.open(files);
    const { found, aliases } = findTensors(checkpoint, await Kosmos2Config.fromFiles(files), { warn: (line) => { throw new Error(line); } });
    const expected = checkpoint.tensors.size - (name === "untied" ? 2 : 0);
    assert.equal(found.length, expected, name);
    assert.equal(aliases.size, name === "untied" ? 0 : 1);
    await checkpoint.close();
  }
});
