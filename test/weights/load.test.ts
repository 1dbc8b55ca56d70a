import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Backend } from "#src/backend/backend.js";
import { createWasmBackend } from "#src/backend/wasm/wasm.js";
import { Kosmos2Config } from "#src/model/config.js";
import { Checkpoint } from "#src/weights/checkpoint.js";
import { loadWeights, packedWeightBytes, type WeightsOptions } from "#src/weights/load.js";
import { fromBF16, fromF16, packedBytes, type Format } from "#src/weights/quant.js";
import { pack } from "#src/weights/reference.js";
import { openModel, type ModelSource } from "#src/weights/source.js";
import { formatOf, modelTensors } from "#src/weights/tensors.js";
import { goldens, noGoldens } from "../support.js";
import { PackingDevice } from "./device.js";
import { stored, tinyConfig, tinyFolder, tinyTensors } from "./support.js";

const open = async (source: ModelSource) => Checkpoint.open(await openModel(source));

/** What a tensor is worth as it is stored. */
function worth(bytes: Uint8Array, dtype: string): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (dtype === "F32") return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(i * 4, true));
  return Float32Array.from({ length: bytes.length / 2 }, (_, i) => (dtype === "F16" ? fromF16 : fromBF16)(view.getUint16(i * 2, true)));
}

/** Loads, and compares every tensor's bytes in the device with what reference.ts makes of the whole tensor. */
async function loadsRight(source: ModelSource, config: Kosmos2Config, dtype: Format, device: Backend, options?: WeightsOptions): Promise<void> {
  const checkpoint = await open(source);
  const weights = await loadWeights(checkpoint, config, dtype, device, options);
  for (const spec of modelTensors(config)) {
    const { name, role, shape } = spec, wanted = formatOf(spec, dtype);
    const place = checkpoint.tensors.get(name) ?? checkpoint.tensors.get("text_model.model.embed_tokens.weight")!;
    const file = new Uint8Array(place.end - place.start);
    await checkpoint.read(place.file, file, place.start);
    const values = worth(file, place.dtype), N = shape[0], K = values.length / N;
    const table = "text_model.model.embed_tokens.weight", isTable = place === (checkpoint.tensors.get(table) ?? place);
    if (role === "matrix" && isTable && /embed_tokens|lm_head/.test(name)) values.fill(0, K, 2 * K); // padding, id 1, has no embedding
    if (wanted === "rows") {
      const { address, rows, columns } = weights.rows(name);
      assert.deepEqual([rows, columns], shape.length === 1 ? [1, N] : [N, K], name);
      assert.deepEqual(await device.read(address, values.length * 4), new Uint8Array(values.buffer), name);
    } else {
      const { address, format, outputs, inputs, bias } = weights.matrix(name.replace(/\.weight$/, ""));
      assert.deepEqual([format, outputs, inputs], [wanted, N, K], name);
      assert.deepEqual(await device.read(address, packedBytes(wanted, N, K)), pack(wanted, values, N, K), name);
      const biasName = name.replace(/weight$/, "bias");
      assert.equal(bias, checkpoint.tensors.has(biasName) ? weights.rows(biasName).address : 0);
    }
  }
  assert.equal(weights.bytes, packedWeightBytes(config, dtype));
  weights.free();
  weights.free();
  if (device instanceof PackingDevice) assert.equal(device.live.size, 0, "all is given back");
  await checkpoint.close();
}

for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const) {
  test(`loadWeights packs every tensor as ${dtype}, whatever its type, the chunks' size, the shards and the memory`, async () => {
    for (const type of ["F32", "F16", "BF16"] as const)
      for (const [chunkBytes, shards, shared] of [[1, 1, true], [1000, 3, true], [2 ** 20, 1, false], [333, 1, false]] as const)
        await loadsRight(tinyFolder(tinyTensors(tinyConfig, type), shards), tinyConfig, dtype, new PackingDevice(shared), { chunkBytes });
  });

  test(`loadWeights packs golden models as ${dtype}`, { skip: noGoldens }, async () => {
    for (const name of ["odd", "untied", "sharded-bf16"]) {
      const folder = `${goldens}models/${name}`;
      await loadsRight(folder, await Kosmos2Config.fromFiles(await openModel(folder)), dtype, new PackingDevice(), { chunkBytes: 50000 });
    }
  });
}

for (const options of [{ threads: 2 }, { shared: false }, { worker: false }])
  test(`loadWeights packs every tensor on the wasm backend with ${JSON.stringify(options)}`, async () => {
    const backend = await createWasmBackend(options);
    try {
      for (const type of ["F32", "F16", "BF16"] as const)
        for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const)
          await loadsRight(tinyFolder(tinyTensors(tinyConfig, type), 2), tinyConfig, dtype, backend, { chunkBytes: 1000 });
    } finally {
      await backend.dispose();
    }
  });

test("w8a8 holds what is multiplied often in 7 bits, and tables, patches, resampler and values in i8", () => {
  const name = ({ name }: { name: string }) => name.replace(/^.*layers\.\d+\./, "").replace(/\.weight$/, "");
  const formats = new Map(modelTensors(tinyConfig).filter(({ role }) => role === "matrix").map((spec) => [name(spec), formatOf(spec, "w8a8")]));
  assert.deepEqual([...formats].filter(([, format]) => format === "w8a8").map(([part]) => part).sort(),
    ["ffn.fc1", "ffn.fc2", "mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj"]);
  assert.ok([...formats.values()].every((format) => format === "w8a8" || format === "i8"));
});

test("loadWeights takes tensors that begin at odd places", async () => {
  const odd = { ...stored("odd", "F32", [1], new Float32Array(1)), name: "odd", dtype: "U8" as const, shape: [1], data: new Uint8Array(1) };
  await loadsRight(tinyFolder([odd, ...tinyTensors()]), tinyConfig, "f32", new PackingDevice());
});

test("loadWeights reads from a folder on the disk", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kosmos2-load-"));
  try {
    for (const [name, bytes] of Object.entries(tinyFolder(tinyTensors(), 2))) writeFileSync(join(folder, name), bytes);
    await loadsRight(folder, tinyConfig, "i8", new PackingDevice(), { chunkBytes: 500 });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("loadWeights tells its progress in bytes, the total known from the start", async () => {
  const seen: { loaded: number; total: number; file: string }[] = [];
  const checkpoint = await open(tinyFolder(tinyTensors(), 2));
  const size = [...checkpoint.tensors.values()].reduce((sum, { start, end }) => sum + end - start, 0);
  await loadWeights(checkpoint, tinyConfig, "i8", new PackingDevice(), { chunkBytes: 500, onProgress: (progress) => seen.push(progress) });
  assert.ok(seen.length > 5);
  assert.deepEqual([seen[0].loaded, seen.at(-1)!.loaded], [0, size]);
  assert.ok(seen.every(({ total }, i) => total === size && (i === 0 || seen[i].loaded >= seen[i - 1].loaded)));
  assert.deepEqual([...new Set(seen.map(({ file }) => file))], ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]);
});

test("loadWeights refuses numbers that are not finite, or too large for f16, saying where", async () => {
  const name = "text_model.model.layers.0.ffn.fc1.weight", vector = "image_to_text_projection.dense.bias";
  const load = async (tensor: string, type: "F32" | "F16" | "BF16", value: number, dtype: Format, at = 12 * 12 + 5) => {
    const tensors = tinyTensors(tinyConfig, type).map((t) => {
      if (t.name !== tensor) return t;
      const values = t.values.slice();
      values[at] = value;
      return stored(t.name, type, t.shape, values);
    });
    const device = new PackingDevice();
    await loadWeights(await open(tinyFolder(tensors)), tinyConfig, dtype, device).finally(() => {
      if (device.live.size) for (const address of [...device.live.keys()]) device.free(address);
    });
  };
  for (const type of ["F32", "F16", "BF16"] as const)
    for (const value of [NaN, Infinity, -Infinity])
      await assert.rejects(load(name, type, value, "i8"), { code: "weights-not-finite", message: /fc1.weight" holds (NaN|-?Infinity) at \[12, 5\]/ });
  await assert.rejects(load(vector, "F32", NaN, "f16", 3), { code: "weights-not-finite", message: /holds NaN at \[0, 3\]/ });
  for (const type of ["F32", "BF16"] as const) {
    await assert.rejects(load(name, type, -1e6, "f16"), { code: "weights-overflow", message: /holds -\d+ at \[12, 5\]; f16 holds at most 65504: load with dtype "i8" or "f32"/ });
    await load(name, type, 1e6, "i8");
    await load(name, type, 1e6, "f32");
    await load(name, type, 65280, "f16");
    await load(vector, type, 1e6, "f16", 3);
  }
  await assert.rejects(load(name, "F32", 65520, "f16"), { code: "weights-overflow" });
  await load(name, "F32", 65519.99, "f16"); // rounds to 65504
});

test("loadWeights gives everything back when it is stopped or something fails", async () => {
  const reason = new Error("enough");
  const attempt = async (prepare: (device: PackingDevice, controller: AbortController) => WeightsOptions | void, wrong?: (run: number) => void): Promise<unknown> => {
    const device = new PackingDevice(), controller = new AbortController();
    if (wrong) device.onRun = wrong;
    const options = prepare(device, controller) ?? {};
    const checkpoint = await open(tinyFolder(tinyTensors()));
    let reading = 0;
    const read = checkpoint.read.bind(checkpoint);
    checkpoint.read = async (...args) => {
      reading++;
      await new Promise((resolve) => setTimeout(resolve, 2));
      await read(...args).finally(() => reading--);
    };
    const error = await loadWeights(checkpoint, tinyConfig, "i8", device, { chunkBytes: 500, signal: controller.signal, ...options }).then(() => undefined, (e) => e);
    assert.deepEqual([device.live.size, device.running, reading], [0, false, 0]);
    return error;
  };
  assert.equal(await attempt((_, controller) => controller.abort(reason)), reason);
  for (let when = 0; when < 6; when++) {
    assert.equal(await attempt((_, controller) => {
      let calls = 0;
      return { onProgress: () => { if (calls++ === when) controller.abort(reason); } };
    }), reason, `stopped at call ${when}`);
    assert.equal(await attempt(() => {}, (run) => { if (run === when) throw reason; }), reason, `run ${when} fails`);
  }
  for (const room of [0, 1, 2]) assert.equal(await attempt((device) => {
    let left = room;
    const alloc = device.alloc.bind(device);
    device.alloc = (bytes) => { if (left-- === 0) throw reason; return alloc(bytes); };
  }), reason, "out of memory");
  assert.equal(await attempt(() => ({ onProgress: ({ loaded }) => { if (loaded > 1000) throw reason; } })), reason, "a callback throws");
});

test("loadWeights rejects with a typed error when a file shrinks under it", async () => {
  const folder = mkdtempSync(join(tmpdir(), "kosmos2-load-"));
  try {
    for (const [name, bytes] of Object.entries(tinyFolder(tinyTensors()))) writeFileSync(join(folder, name), bytes);
    const checkpoint = await open(folder), device = new PackingDevice();
    writeFileSync(join(folder, "model.safetensors"), new Uint8Array(9000));
    await assert.rejects(loadWeights(checkpoint, tinyConfig, "i8", device, { chunkBytes: 500 }), { code: "file-unreadable" });
    assert.equal(device.live.size, 0);
    await checkpoint.close();
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("Weights says so when it is asked for what a model doesn't have", async () => {
  const weights = await loadWeights(await open(tinyFolder(tinyTensors())), tinyConfig, "f32", new PackingDevice());
  assert.throws(() => weights.matrix("nothing"), /"nothing.weight": the model has no such tensor/);
  assert.throws(() => weights.rows("text_model.lm_head.weight"), /it is a packed matrix/);
  assert.throws(() => weights.matrix("text_model.model.layer_norm"), /it is a vector/);
  assert.equal(weights.matrix("text_model.lm_head").address, weights.matrix("text_model.model.embed_tokens").address);
});
