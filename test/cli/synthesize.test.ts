import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { synthesize, type SynthesizeOptions } from "#src/cli/synthesize.js";
import { Kosmos2Error } from "#src/errors.js";
import { Kosmos2Config } from "#src/model/config.js";
import { Checkpoint } from "#src/weights/checkpoint.js";
import { openModel } from "#src/weights/source.js";
import { findTensors } from "#src/weights/tensors.js";
import { tinyConfig } from "../weights/support.js";

const folder = mkdtempSync(join(tmpdir(), "kosmos2-synthesize-"));
after(() => rmSync(folder, { recursive: true }));
let count = 0;

async function made(options: Partial<SynthesizeOptions> = {}): Promise<string> {
  const out = join(folder, String(count++));
  await synthesize({ out, config: tinyConfig, seed: 5, ...options });
  return out;
}

async function tensor(out: string, name: string): Promise<Uint8Array> {
  const checkpoint = await Checkpoint.open(await openModel(out));
  const { file, start, end } = checkpoint.tensors.get(name)!;
  const bytes = new Uint8Array(end - start);
  await checkpoint.read(file, bytes, start);
  await checkpoint.close();
  return bytes;
}

const hash = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex");

test("synthesize writes a whole checkpoint: all tensors of its config, which reads back as it was", async () => {
  for (const config of [tinyConfig, Kosmos2Config.fromJSON({ ...tinyConfig.toJSON(), tie_word_embeddings: false })]) {
    const files = await openModel(await made({ config, shards: 3, dtype: "bf16", processor: "kosmos2-emoji" }));
    const read = await Kosmos2Config.fromFiles(files);
    assert.deepEqual([read.textConfig, read.visionConfig, read.dtype], [config.textConfig, config.visionConfig, "bfloat16"]);
    const checkpoint = await Checkpoint.open(files);
    findTensors(checkpoint, read, { warn: (line) => assert.equal(line, "") });
    await checkpoint.close();
    const names = await files.list!();
    assert.equal(names.filter((name) => name.endsWith(".safetensors")).length, 3);
    assert.ok(names.includes("tokenizer.json") && names.includes("preprocessor_config.json") && !names.some((name) => name.endsWith(".part")));
  }
});

test("synthesize gives the same bytes for the same seed, whatever the shards", async () => {
  const one = await made(), three = await made({ shards: 3 }), other = await made({ seed: 6 });
  // pinned: another value means that checkpoints made before can't be made again
  assert.equal(hash(join(one, "model.safetensors")), "4043ed9e9e2cf834fd4261db13c053ac6dd0d366e8781c9b4c3e8f27fd9227c7");
  const name = "text_model.model.layers.0.ffn.fc1.weight";
  assert.deepEqual(await tensor(one, name), await tensor(three, name));
  assert.notDeepEqual(await tensor(one, name), await tensor(other, name));
});

test("synthesize writes over nothing that is there, and says why a folder can't be made", async () => {
  const out = await made(), before = hash(join(out, "model.safetensors")), into = (out: string) => synthesize({ out, config: tinyConfig, seed: 7 });
  const refusal = (code: string, message: RegExp) => (error: unknown) => error instanceof Kosmos2Error && error.code === code && message.test(error.message);
  await assert.rejects(into(out), refusal("output-exists", /there and not empty; remove it, or give another folder$/));
  assert.equal(hash(join(out, "model.safetensors")), before);
  await assert.rejects(into(join(out, "config.json")), refusal("output-exists", /it is a file; give a folder$/));
  await assert.rejects(into(join(out, "config.json", "x")), refusal("output-exists", /it is a file/));
  await assert.rejects(into(join(folder, "x".repeat(300))), refusal("output-unwritable", /^Cannot write a checkpoint into ".*ENAMETOOLONG/));
  const empty = join(folder, "empty");
  mkdirSync(empty);
  assert.ok((await into(empty)) > 0);
});

test("synthesize rounds to bf16 what it writes as f32", async () => {
  const name = "vision_model.model.encoder.layers.0.mlp.fc1.weight";
  const f32 = new Float32Array((await tensor(await made(), name)).buffer);
  const bf16 = new Uint16Array((await tensor(await made({ dtype: "bf16" }), name)).buffer);
  assert.equal(bf16.length, f32.length);
  const value = new Float32Array(1), bits = new Uint32Array(value.buffer);
  f32.forEach((x, i) => {
    bits[0] = bf16[i] << 16;
    assert.ok(Math.abs(value[0] - x) <= Math.abs(x) * 2 ** -8, `${x} became ${value[0]}`); // 8 significant bits: half a unit of the last
  });
});

test("synthesized weights have the spread they should, and tails", async () => {
  const config = new Kosmos2Config({ ...tinyConfig, textConfig: { ...tinyConfig.textConfig, vocabSize: 3000, embedDim: 64 } });
  const x = new Float32Array((await tensor(await made({ config }), "text_model.model.embed_tokens.weight")).buffer);
  const mean = x.reduce((a, b) => a + b) / x.length, spread = Math.sqrt(x.reduce((a, b) => a + b * b) / x.length);
  // 192,000 numbers: the mean is known to 0.125 / √192000 = 0.0003 (4 of these), rows of sizes (1 + 0.15 z)² add √(1 + 6 · 0.15² + 2.7 · 0.15⁴) = 6.6 % to 1/√64
  assert.ok(Math.abs(mean) < 0.0012, `${mean}`);
  assert.ok(Math.abs(spread / 0.125 - 1.066) < 0.02, `${spread}`);
  const far = x.reduce((sum, value) => sum + (Math.abs(value) > 4 * 0.125 ? 1 : 0), 0) / x.length;
  assert.ok(far > 1e-3 && far < 1e-2, `${far} lie beyond 4 spreads; of a normal distribution 6e-5 would`);
});

test("synthesize leaves nothing half written when it is stopped", async () => {
  const out = join(folder, "stopped"), controller = new AbortController(), reason = new Error("enough");
  const running = synthesize({ out, config: tinyConfig, signal: controller.signal, onProgress: ({ loaded }) => { if (loaded > 1000) controller.abort(reason); } });
  await assert.rejects(running, (error) => error === reason);
  assert.deepEqual(readdirSync(out), []);
});

test("synthesize tells its progress in bytes of weights", async () => {
  const seen: { loaded: number; total: number }[] = [];
  const total = await synthesize({ out: join(folder, "progress"), config: tinyConfig, onProgress: (progress) => seen.push(progress) });
  assert.ok(seen.every((progress) => progress.total === total));
  assert.equal(seen.at(-1)!.loaded, total);
});
