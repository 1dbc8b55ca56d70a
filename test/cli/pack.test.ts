import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { pack, type PackOptions } from "#src/cli/pack.js";
import { verifyPack } from "#src/cli/verify-pack.js";
import { Kosmos2 } from "kosmos2-wasm";
import { Kosmos2Config } from "#src/model/config.js";
import { Checkpoint } from "#src/weights/checkpoint.js";
import { loadWeights } from "#src/weights/load.js";
import { packedBytes, panelBytes, type Format } from "#src/weights/quant.js";
import { openModel, type ModelSource } from "#src/weights/source.js";
import { modelTensors } from "#src/weights/tensors.js";
import { fixtures, root } from "../support.js";
import { PackingDevice } from "../weights/device.js";
import { tinyConfig, tinyFolder, tinyTensors } from "../weights/support.js";

const folder = mkdtempSync(join(tmpdir(), "kosmos2-pack-"));
after(() => rmSync(folder, { recursive: true }));
let count = 0;
const fresh = (): string => join(folder, String(count++));
const tiny = `${fixtures}tiny`;
/** Many small blocks and files. */
const small = { blockBytes: 1000, fileBytes: 20_000 };

async function made(options: Partial<PackOptions> = {}): Promise<string> {
  const out = fresh();
  await pack({ source: tiny, out, dtype: "i8", threads: 1, ...options });
  return out;
}

/** All files of a folder, by their hashes. */
const contents = (path: string): Record<string, string> =>
  Object.fromEntries(readdirSync(path).sort().map((name) => [name, createHash("sha256").update(readFileSync(join(path, name))).digest("hex")]));

/** What is in memory after loading: each tensor's bytes by name. */
async function loaded(source: ModelSource, dtype: Format, device = new PackingDevice()): Promise<Map<string, Uint8Array>> {
  const files = await openModel(source), config = await Kosmos2Config.fromFiles(files), checkpoint = await Checkpoint.open(files);
  const weights = await loadWeights(checkpoint, config, dtype, device, {});
  const bytes = new Map<string, Uint8Array>();
  for (const { name, role } of modelTensors(config)) {
    if (role === "rows") {
      const { address, rows, columns } = weights.rows(name);
      assert.equal(address % 64, 0, `${name} is aligned`);
      bytes.set(name, await device.read(address, rows * columns * 4));
    } else {
      const { address, format, outputs, inputs } = weights.matrix(name.replace(/\.weight$/, ""));
      assert.equal(address % 64, 0, `${name} is aligned`);
      bytes.set(name, await device.read(address, packedBytes(format, outputs, inputs)));
    }
  }
  weights.free();
  assert.equal(device.live.size, 0);
  await checkpoint.close();
  return bytes;
}

for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const) {
  test(`a pack of ${dtype} is in memory what loading its checkpoint as ${dtype} puts there`, async () => {
    for (const type of ["F32", "F16", "BF16"] as const) {
      const source = tinyFolder(tinyTensors(tinyConfig, type), 2), direct = await loaded(source, dtype);
      for (const [options, shared] of [[{}, true], [small, true], [{ blockBytes: 1, fileBytes: 600 }, false]] as const)
        assert.deepEqual(await loaded(await made({ source, dtype, ...options }), dtype, new PackingDevice(shared)), direct);
    }
    const tied = await loaded(tiny, dtype);
    assert.deepEqual(await loaded(await made({ dtype }), dtype), tied);
  });
}

test("pack cuts a matrix that fits no file between its panels, and leaves the others whole", async () => {
  const out = await made({ fileBytes: 2000 }), checkpoint = await Checkpoint.open(await openModel(out));
  const name = "text_model.model.embed_tokens.weight", K = 32, parts = [...checkpoint.tensors].filter(([stored]) => stored.startsWith(name));
  assert.ok(parts.length > 2);
  assert.equal(parts.reduce((sum, [, { shape }]) => sum + shape[0], 0), Math.ceil(131 / 16));
  for (const [stored, { shape, start, end, file }] of parts) {
    assert.match(stored, /weight\/\d+$/);
    assert.equal(shape[1], panelBytes("i8", K));
    assert.deepEqual([checkpoint.headers.get(file)!.start, checkpoint.headers.get(file)!.end], [start, end], "alone in its file");
  }
  assert.ok(checkpoint.tensors.has("vision_model.model.encoder.layers.0.self_attn.q_proj.weight"));
  for (const [stored, { start }] of checkpoint.tensors) assert.equal(start % 64, 0, stored);
  await checkpoint.close();
});

test("pack is the same bytes for any threads, any shards of the source, and with what it need not", async () => {
  const one = contents(await made());
  assert.deepEqual(contents(await made({ threads: 2 })), one);
  const tensors = tinyTensors(), table = tensors.find(({ name }) => name === "text_model.model.embed_tokens.weight")!;
  const source = contents(await made({ source: tinyFolder(tensors), ...small }));
  assert.deepEqual(contents(await made({ source: tinyFolder(tensors, 3), ...small })), source);
  // a tied lm_head that is stored too
  const twin = { ...table, name: "text_model.lm_head.weight" };
  assert.deepEqual(contents(await made({ source: tinyFolder([...tensors, twin]), ...small })), source);
  const other = { ...twin, data: twin.data.map((byte) => byte ^ 1) };
  const two = await made({ source: tinyFolder([...tensors, other]) });
  assert.notDeepEqual((await loaded(two, "i8")).get(twin.name), (await loaded(two, "i8")).get(table.name));
});

test("Kosmos2 answers from a pack as from its checkpoint", async () => {
  const out = await made({ source: "kosmos2-emoji", dtype: "i8" });
  assert.deepEqual(Object.keys(contents(out)), readdirSync(`${root}models/kosmos2-emoji`).filter((name) => name !== "README.md").sort());
  const answers = [];
  for (const source of ["kosmos2-emoji", out]) {
    const kosmos = await Kosmos2.load(source, { threads: 2 });
    try {
      answers.push(await kosmos.caption(`${root}demo/pictures/keys.png`));
      assert.match(kosmos.model.description, /^i8,/);
    } finally {
      await kosmos.dispose();
    }
  }
  assert.deepEqual(answers[1].newIds, answers[0].newIds);
  assert.deepEqual(answers[1].entities, answers[0].entities);
  await assert.rejects(Kosmos2.load(out, { dtype: "f32" }), { code: "pack-dtype", message: /as f32: it is a pack of i8; leave dtype out/ });
});

test("pack goes on where it was stopped, whatever the moment, and ends in the same bytes", async () => {
  const options = { source: tiny, dtype: "i8", threads: 1, ...small } as const, whole = contents(await made(small));
  const out = fresh(), reason = new Error("enough"), starts: number[] = [];
  for (let rounds = 0; ; rounds++) {
    assert.ok(rounds < 100);
    const controller = new AbortController();
    let calls = 0;
    const error = await pack({
      ...options, out, signal: controller.signal,
      onProgress: ({ loaded }) => {
        if (calls++ === 0) starts.push(loaded);
        else if (calls === 8) controller.abort(reason);
      },
    }).then(() => undefined, (e: unknown) => e);
    if (!error) break;
    assert.equal(error, reason);
    assert.ok(!existsSync(out), "nothing has the pack's name before it is whole");
  }
  assert.ok(starts.length > 5 && starts.every((start, i) => i === 0 || start > starts[i - 1]), `${starts}`);
  assert.deepEqual(contents(out), whole);
  assert.deepEqual(readdirSync(folder).filter((name) => name.includes("incomplete")), []);
});

test("pack believes of an earlier run only what its journal's hashes confirm", async () => {
  const whole = contents(await made(small));
  /** Stops a run in the middle, changes something, and says where the next one began. */
  const changed = async (change: (work: string, journal: string) => void, source: ModelSource = tiny): Promise<number> => {
    const out = fresh(), controller = new AbortController();
    const options = { source, dtype: "i8", threads: 1, out, ...small } as const;
    await assert.rejects(pack({ ...options, signal: controller.signal, onProgress: ({ loaded, total }) => { if (loaded > total / 2) controller.abort(new Error("stop")); } }), { message: "stop" });
    change(`${out}.incomplete`, `${out}.incomplete.journal`);
    let began = -1;
    await pack({ ...options, source: tiny, onProgress: ({ loaded }) => { if (began < 0) began = loaded; } });
    assert.deepEqual(contents(out), whole);
    return began;
  };
  const data = (work: string): string => join(work, readdirSync(work).sort()[0]);
  const untouched = await changed(() => {});
  assert.ok(untouched > 60_000, `${untouched}`);
  assert.ok(await changed((_, journal) => truncateSync(journal, statSync(journal).size - 10)) > 60_000, "a torn line is one block less");
  assert.ok(await changed((_, journal) => appendFileSync(journal, "of something else\n".repeat(3))) > 60_000);
  assert.equal(await changed((_, journal) => writeFileSync(journal, "")), 0);
  assert.equal(await changed((work) => rmSync(data(work))), 0);
  const bytes = (work: string) => readFileSync(data(work));
  assert.ok(await changed((work) => { const b = bytes(work); b[b.length - 1] ^= 1; writeFileSync(data(work), b); }) < untouched, "a wrong byte, and all behind it is done again");
  assert.ok(await changed((work) => truncateSync(data(work), bytes(work).length - 1)) < untouched);
  // another source: all is done again
  const other = fresh();
  cpSync(tiny, other, { recursive: true });
  const config = JSON.parse(readFileSync(join(other, "config.json"), "utf8"));
  writeFileSync(join(other, "config.json"), JSON.stringify({ ...config, note: "another" }));
  assert.equal(await changed(() => {}, other), 0);
});

test("pack ends in the same bytes when its process is killed again and again", { timeout: 240_000 }, async () => {
  const options = { source: "kosmos2-emoji", dtype: "f16", threads: 1, blockBytes: 40_000, fileBytes: 2_000_000 } as const;
  const whole = contents(await made(options)), out = fresh(), child = fileURLToPath(new URL("pack-child.js", import.meta.url));
  let kills = 0, ended = false;
  while (!ended) {
    const process_ = spawn(process.execPath, [child, JSON.stringify({ ...options, out })], { stdio: ["ignore", "pipe", "inherit"] });
    let heard = 0;
    process_.stdout.on("data", (text: Buffer) => {
      heard += text.length; // a byte a block
      if (kills < 5 && heard > 40) process_.kill("SIGKILL");
    });
    ended = await new Promise((resolve) => process_.on("exit", (code, signal) => resolve(signal !== "SIGKILL" && (assert.equal(code, 0), true))));
    if (!ended) kills++;
  }
  assert.equal(kills, 5);
  assert.deepEqual(contents(out), whole);
});

test("pack is done when it was killed after the folder got its name, and refuses any other folder that is there", async () => {
  const out = fresh(), options = { source: tiny, dtype: "i8", threads: 1, out } as const, journal = `${out}.incomplete.journal`;
  let lines = "";
  const first = await pack({ ...options, onProgress: ({ loaded, total }) => { if (loaded === total) lines = readFileSync(journal, "utf8"); } });
  await assert.rejects(pack(options), { code: "output-exists", message: /it is there and not empty; remove it, or give another folder/ });
  writeFileSync(journal, lines.slice(0, -10)); // not the end: this proves nothing
  await assert.rejects(pack(options), { code: "output-exists" });
  writeFileSync(journal, lines);
  assert.deepEqual(await pack(options), first);
  assert.ok(!existsSync(journal));
  const empty = fresh();
  mkdirSync(empty);
  await pack({ ...options, out: empty });
  assert.deepEqual(contents(empty), contents(out));
});

test("pack refuses what it can't hold, a pack, and a place that it can't write to", async () => {
  const tensors = tinyTensors().map((tensor) => {
    if (!tensor.name.endsWith("layers.0.ffn.fc1.weight")) return tensor;
    const data = tensor.data.slice();
    new DataView(data.buffer).setFloat32(40, 70000, true);
    return { ...tensor, data };
  });
  await assert.rejects(made({ source: tinyFolder(tensors), dtype: "f16" }), { code: "weights-overflow", message: /holds 70000 at \[0, 10\]; f16 holds at most 65504/ });
  await made({ source: tinyFolder(tensors), dtype: "i8" });
  await assert.rejects(made({ source: await made() }), { code: "pack-source" });
  const file = fresh();
  writeFileSync(file, "");
  await assert.rejects(pack({ source: tiny, out: file, dtype: "i8" }), { code: "output-exists", message: /it is a file/ });
  await assert.rejects(pack({ source: tiny, out: join(file, "below"), dtype: "i8" }), { code: /output-/ as never });
});

test("pack writes down where its source is from", async () => {
  const commit = "0123456789abcdef0123456789abcdef01234567", snapshot = join(fresh(), "snapshots", commit);
  cpSync(tiny, snapshot, { recursive: true });
  for (const [options, wanted] of [[{ source: snapshot }, commit], [{ source: snapshot, revision: "main" }, "main"], [{}, undefined]] as const) {
    const checkpoint = await Checkpoint.open(await openModel(await made(options)));
    assert.equal([...checkpoint.headers.values()][0].metadata.source_revision, wanted);
    await checkpoint.close();
  }
});

test("verifyPack finds every tensor right, and says which one isn't", async () => {
  for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const) {
    for (const options of [{}, { fileBytes: 2000 }]) {
      const { ok, tensors, relativeError } = await verifyPack({ pack: await made({ dtype, ...options }), against: tiny });
      assert.ok(ok, JSON.stringify(tensors.filter(({ problem }) => problem)));
      assert.equal(tensors.length, modelTensors(await Kosmos2Config.fromPretrained(tiny)).length - 1);
      // uniform errors of half a step: i8 1 / 254 of the largest, w8a8 1 / 126, i4 1 / 15, / √3; f16 2⁻¹² / √3 and less
      const limits = { f32: 0, f16: 2 ** -11 / Math.sqrt(3), i8: 0.01, w8a8: 0.02, i4: 0.08 };
      assert.ok(dtype === "f32" ? relativeError === 0 : relativeError > 0 && relativeError < limits[dtype], `${dtype}: ${relativeError}`);
    }
  }
  const out = await made(), path = join(out, "model.safetensors"), bytes = readFileSync(path);
  const checkpoint = await Checkpoint.open(await openModel(out)), name = "text_model.model.layers.1.ffn.fc1.weight";
  const { start } = checkpoint.tensors.get(name)!;
  await checkpoint.close();
  bytes[start + 100] ^= 64;
  writeFileSync(path, bytes);
  const damaged = await verifyPack({ pack: out, against: tiny });
  assert.deepEqual([damaged.ok, damaged.tensors.filter(({ problem }) => problem).map(({ name }) => name)], [false, [name]]);
  assert.match(damaged.tensors.find((tensor) => tensor.name === name)!.problem!, /damaged/);
  // another source of the same shapes
  const other = fresh();
  cpSync(tiny, other, { recursive: true });
  const source = readFileSync(join(other, "model.safetensors"));
  source[source.length - 1] ^= 1;
  writeFileSync(join(other, "model.safetensors"), source);
  const foreign = await verifyPack({ pack: await made(), against: other });
  assert.equal(foreign.tensors.filter(({ problem }) => problem).length, 1);
  assert.match(foreign.problems[0], /the source's hash is [0-9a-f]{64}; the pack was made of/);
});
