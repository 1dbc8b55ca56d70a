import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, test } from "node:test";
import { pack } from "#src/cli/pack.js";
import { Engine } from "#src/engine.js";
import { Kosmos2Config } from "#src/model/config.js";
import { Checkpoint } from "#src/weights/checkpoint.js";
import { loadWeights, loadedDtype, packMemoryBytes } from "#src/weights/load.js";
import { findPacked, packInfo, planPack } from "#src/weights/packs.js";
import type { Format } from "#src/weights/quant.js";
import { parseHeader, type Dtype } from "#src/weights/safetensors.js";
import { openModel } from "#src/weights/source.js";
import { formatOf, modelTensors, shapeOf } from "#src/weights/tensors.js";
import { fixtures, random } from "../support.js";
import { PackingDevice } from "./device.js";
import { writeSafetensors } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kosmos2-packs-"));
after(() => rmSync(folder, { recursive: true }));

type Stored = { name: string; dtype: Dtype; shape: readonly number[]; data: Uint8Array };
type Files = Record<string, { metadata: Record<string, string>; entries: Record<string, Record<string, unknown>>; tensors: Stored[] }>;
type Raw = Record<string, Uint8Array>;

/** A pack's files, taken apart. */
async function apart(fileBytes?: number, source = `${fixtures}tiny`, dtype: Format = "i8"): Promise<{ files: Files; others: Raw }> {
  const out = join(folder, `${fileBytes} ${basename(source)} ${dtype}`);
  await pack({ source, out, dtype, threads: 1, fileBytes }).catch((error: { code: string }) => assert.equal(error.code, "output-exists"));
  const files: Files = {}, others: Raw = {};
  for (const name of readdirSync(out)) {
    const bytes = new Uint8Array(readFileSync(join(out, name)));
    if (!name.endsWith(".safetensors")) others[name] = bytes;
    else {
      const start = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true)), { tensors, metadata } = parseHeader(bytes.subarray(8, start), start, bytes.length, name);
      const { tensors: entries, ...rest } = metadata;
      files[name] = {
        metadata: rest, entries: JSON.parse(entries),
        tensors: [...tensors].map(([name, { dtype, shape, start, end }]) => ({ name, dtype, shape, data: bytes.slice(start, end) })),
      };
    }
  }
  return { files, others };
}

/** And together again; headers are padded as a pack's are. */
function together(files: Files, others: Raw): Raw {
  const whole: Raw = { ...others };
  for (const [name, { metadata, entries, tensors }] of Object.entries(files)) {
    let filler = "";
    do whole[name] = writeSafetensors(tensors, { ...metadata, tensors: JSON.stringify(entries), filler });
    while ((8 + Number(new DataView(whole[name].buffer).getBigUint64(0, true))) % 64 !== 0 && (filler += "--------"));
  }
  return whole;
}

async function refused(change: (files: Files, others: Raw) => void, code: string, words: RegExp, fileBytes?: number): Promise<void> {
  const { files, others } = await apart(fileBytes);
  change(files, others);
  const opened = await openModel(together(files, others)), device = new PackingDevice();
  await assert.rejects((async () => {
    const checkpoint = await Checkpoint.open(opened);
    await loadWeights(checkpoint, await Kosmos2Config.fromFiles(opened), loadedDtype(checkpoint, "auto"), device);
  })(), (error: { code: string; message: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    return true;
  });
  assert.equal(device.live.size, 0);
}

const single = "model.safetensors", fc1 = "text_model.model.layers.0.ffn.fc1.weight", bias = "text_model.model.layers.0.ffn.fc1.bias";

test("a pack taken apart and put together again is a pack", async () => {
  for (const fileBytes of [undefined, 2000]) {
    const { files, others } = await apart(fileBytes);
    const opened = await openModel(together(files, others)), checkpoint = await Checkpoint.open(opened), device = new PackingDevice();
    const weights = await loadWeights(checkpoint, await Kosmos2Config.fromFiles(opened), "i8", device);
    assert.equal(weights.bytes, packMemoryBytes(checkpoint));
    assert.equal(packInfo(checkpoint)!.dtype, "i8");
  }
});

test("loadWeights refuses packs that can't be right, by what they say and by their sizes", async () => {
  const one = (change: (file: Files[string]) => void) => (files: Files) => change(files[single]);
  const tensor = (name: string, change: (tensor: Stored) => void) => one(({ tensors }) => change(tensors.find((stored) => stored.name === name)!));
  await refused(one(({ metadata }) => { metadata.version = "2"; }), "pack-version", /it is a pack of version "2"; wanted 4: pack the checkpoint again/);
  await refused(one(({ metadata }) => { metadata.dtype = "i3"; }), "pack-invalid", /its dtype is "i3"; wanted f32, f16, i8, i4, w8a8/);
  await refused(one(({ metadata }) => { metadata.group_size = "32"; }), "pack-invalid", /its group_size is 32; wanted 128/);
  await refused(one(({ entries }) => { delete entries[fc1]; }), "pack-invalid", /"text_model.model.layers.0.ffn.fc1.weight" is not in its list/);
  for (const entry of [null, 1, {}, { format: "i8" }, { format: "i8", shape: [] }, { format: "i8", shape: [1.5, 2] }, { format: "x", shape: [1] }, { format: "i8", shape: [44, 32], of: "x" }])
    await refused(one(({ entries }) => { entries[fc1] = entry as never; }), "pack-invalid", /its list of tensors is not one/);
  await refused(one(({ entries }) => { entries[fc1].shape = [45, 32]; }), "weights-shape", /is \[45,32\]; wanted \[44,32\]/);
  await refused(one(({ entries }) => { entries[fc1].format = "f16"; }), "pack-invalid", /is \d+ bytes; wanted \d+ in all/);
  await refused(one(({ entries }) => { entries[fc1].format = "rows"; }), "pack-invalid", /is stored as rows; wanted a matrix/);
  await refused(one(({ entries }) => { entries[bias].format = "i8"; }), "pack-invalid", /is stored as i8; wanted rows/);
  await refused(tensor(fc1, (t) => { t.data = t.data.slice(64); t.shape = [t.data.length]; }), "pack-invalid", /\d+ bytes; wanted/);
  await refused(tensor(fc1, (t) => { t.data = new Uint8Array([...t.data, ...t.data]); t.shape = [t.data.length]; }), "pack-invalid", /wanted \d+ in all/);
  await refused(tensor(fc1, (t) => { t.dtype = "I8"; }), "pack-invalid", /has the type I8; wanted U8/);
  await refused(tensor(bias, (t) => { t.dtype = "U32"; }), "pack-invalid", /has the type U32; wanted F32/);
  await refused(tensor(bias, (t) => { t.data = t.data.slice(0, 64); t.shape = [16]; }), "pack-invalid", /wanted 176/);
  await refused(tensor(bias, (t) => { t.name = `${bias}x`; }), "pack-invalid", /is not in its list/);
  await refused(one(({ tensors }) => { tensors.unshift({ name: "__padding__/x", dtype: "U8", shape: [4], data: new Uint8Array(4) }); }), "pack-invalid", /wanted a multiple of 64/);
  await refused(one(({ tensors }) => { tensors.splice(tensors.findIndex(({ name }) => name === fc1), 1); }), "weights-incomplete", /tensor "text_model.model.layers.0.ffn.fc1.weight" \[44,32\] is missing from the pack/);
  await refused(one(({ tensors, entries }) => {
    tensors.push({ name: "other", dtype: "U8", shape: [64], data: new Uint8Array(64) });
    entries.other = { format: "i8", shape: [1, 1] };
  }), "pack-invalid", /has a tensor "other"/);
  await refused((_, others) => { others["config.json"] = new TextEncoder().encode(new TextDecoder().decode(others["config.json"]).replace('"ffn_dim": 44', '"ffn_dim": 40')); }, "weights-shape", /wanted \[40,32\], as config.json says/);
});

test("loadWeights refuses files of different packs, and parts that don't fit together", async () => {
  const second = "model-00002-of-";
  const nth = (files: Files, start: string) => files[Object.keys(files).find((name) => name.startsWith(start))!];
  const table = "text_model.model.embed_tokens.weight/1";
  const part = (files: Files) => Object.values(files).find(({ entries }) => entries[table])!;
  const at = 2000;
  await refused((files) => { nth(files, second).metadata.source_sha256 = "0"; }, "pack-invalid", /its source_sha256 is 0, that of "model-00001/, at);
  await refused((files) => { nth(files, second).metadata.format = "pt"; }, "pack-invalid", /it belongs to no pack, but others/, at);
  await refused((files) => { part(files).entries[table].panel = 1; }, "pack-invalid", /begins at panel \d; wanted/, at);
  await refused((files) => { part(files).entries[table].panel = -1; }, "pack-invalid", /its list of tensors is not one/, at);
  await refused((files) => { part(files).entries[table].of = fc1; }, "pack-invalid", /no model|alone|wanted/, at);
  await refused((files) => { part(files).entries[table].format = "f16"; }, "pack-invalid", /is f16, another part of it i8/, at);
  await refused((files) => { part(files).tensors.push({ name: "__padding__/x", dtype: "U8", shape: [64], data: new Uint8Array(64) }); }, "pack-invalid", /is a part, but not alone/, at);
  await refused((_, others) => {
    const index = JSON.parse(new TextDecoder().decode(others["model.safetensors.index.json"]));
    delete index.weight_map[table];
    others["model.safetensors.index.json"] = new TextEncoder().encode(JSON.stringify(index));
  }, "pack-invalid", /wanted/, at);
});

test("reading a pack that is stopped or fails leaves nothing behind", async () => {
  const { files, others } = await apart(), reason = new Error("enough");
  for (const shared of [true, false])
    for (const fail of ["signal", "read", "callback"] as const) {
      const opened = await openModel(together(files, others)), checkpoint = await Checkpoint.open(opened), device = new PackingDevice(shared), controller = new AbortController();
      let reading = 0;
      const read = checkpoint.read.bind(checkpoint);
      checkpoint.read = async (...args) => {
        reading++;
        await new Promise((resolve) => setTimeout(resolve, 2));
        if (fail === "read") throw (reading--, reason);
        await read(...args).finally(() => reading--);
      };
      const work = loadWeights(checkpoint, await Kosmos2Config.fromFiles(opened), "i8", device, {
        signal: controller.signal, onProgress: () => { if (fail === "signal") controller.abort(reason); else if (fail === "callback") throw reason; },
      });
      await assert.rejects(work, (error) => error === reason, fail);
      assert.deepEqual([device.live.size, reading], [0, 0]);
    }
});

test("planPack keeps files of the released model below 256 MiB", () => {
  const config = new Kosmos2Config(), specs = modelTensors(config).slice(0, -1);
  for (const [dtype, most] of [["i8", 1.8e9], ["w8a8", 1.8e9], ["f16", 3.4e9], ["f32", 6.8e9], ["i4", 1.1e9]] as const) {
    const plan = planPack(specs, dtype), sizes = plan.map((parts) => parts.reduce((sum, { bytes }) => sum + Math.ceil(bytes / 64) * 64, 0));
    assert.ok(sizes.every((size) => size <= 2 ** 28 - 2 ** 20), `${sizes}`);
    const total = sizes.reduce((a, b) => a + b);
    assert.ok(total < most && total > most * 0.9, `${dtype}: ${total} bytes in ${plan.length} files`);
    assert.ok(plan.length <= Math.ceil(total / (0.7 * 2 ** 28)), `${plan.length} files`);
  }
});

test("at least 85 % of the released model's matrices are 4-bit numbers in i4", () => {
  let all = 0, four = 0;
  for (const spec of modelTensors(new Kosmos2Config()).slice(0, -1).filter(({ role }) => role === "matrix")) {
    const { N, K } = shapeOf(spec), format = formatOf(spec, "i4");
    assert.ok(format === "i4" || format === "i8");
    all += N * K;
    if (format === "i4") four += N * K;
  }
  assert.ok(four >= 0.85 * all, `${four / all}`);
});

test("findPacked serves a tied pair by one table", async () => {
  const { files, others } = await apart(), opened = await openModel(together(files, others)), checkpoint = await Checkpoint.open(opened);
  const { found, aliases } = findPacked(checkpoint, packInfo(checkpoint)!, await Kosmos2Config.fromFiles(opened));
  assert.deepEqual([...aliases], [["text_model.lm_head.weight", "text_model.model.embed_tokens.weight"]]);
  assert.ok(!found.has("text_model.lm_head.weight"));
});

for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const)
  test(`${dtype}: a pack whose q, k and v are no neighbours, as those of before, gives the same bits by products that are not joined`, async () => {
    const { files, others } = await apart(undefined, "kosmos2-emoji", dtype), { tensors } = files[single];
    const made = await bits(together(files, others), dtype);
    for (const key of tensors.filter(({ name }) => name.endsWith("k_proj.weight"))) {
      const at = tensors.indexOf(key), [k, v, q, kBias, vBias, qBias] = tensors.slice(at, at + 6);
      tensors.splice(at, 6, q, qBias, k, kBias, v, vBias);
    }
    const wanted = await bits(together(files, others), dtype);
    assert.deepEqual(made.numbers, wanted.numbers);
    // two tokens; values of w8a8 are i8
    assert.deepEqual([wanted, made].map(({ joined }) => joined), [0, dtype === "w8a8" ? 0 : 8]);
  });

/** Stages of a picture, of a text and of tokens that follow, and how often q, k and v were one product. */
async function bits(source: Raw, dtype: Format) {
  const engine = await Engine.load(await openModel(source), { dtype, threads: 2 });
  try {
    const { result: numbers, profile } = await engine.profile(async () => {
      const seen = await engine.see(random(3 * 224 * 224, 5), 224, 224, { stages: ["vision.layer.0", "vision.layer.3", "vision.features"] });
      const sequence = engine.begin(), ids = Array.from({ length: 40 }, (_, i) => 5 + i), stages = ["text.cache.0.key", "text.cache.3.value", "text.attention.1", "text.layer.2"];
      const first = await engine.choose([{ sequence, ids, banned: [[]] }]);
      const row = await engine.read([{ sequence, ids: [7] }], { stages }), next = await engine.choose([{ sequence, ids: [8], banned: [[]] }]);
      engine.end(sequence);
      return [seen, first, row, next];
    });
    return { numbers, joined: profile.operations.reduce((sum, { shape, times }) => sum + (shape === "1×192×576" ? times : 0), 0) };
  } finally {
    await engine.dispose();
  }
}
