/**
 * A contender: this project's engine. Products alone go through its recorder and its backend, phases through the engine's own
 * passes, captions and loading through the public API.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { Bench } from "tinybench";
import type { Backend } from "#src/backend/backend.js";
import { createWasmBackend } from "#src/backend/wasm/wasm.js";
import { pack } from "#src/cli/pack.js";
import type { Sequence } from "#src/engine.js";
import { bytesOf } from "#src/graph/memory.js";
import { Recorder, type StoredLinear } from "#src/graph/recorder.js";
import { formats, RECORD_BYTES, types, writeRecord } from "#src/graph/record.js";
import { tagOrder } from "#src/kosmos2.js";
import { Kosmos2Config } from "#src/model/config.js";
import { Kosmos2ForConditionalGeneration, type LoadOptions } from "#src/modeling.js";
import { Profiler, type ProfiledOperation } from "#src/profile.js";
import { Kosmos2Processor } from "#src/processor/processor.js";
import { tensor } from "#src/tensor.js";
import { type Format, packedBytes, panelOf } from "#src/weights/quant.js";
import { goldens, noGoldens, root } from "../test/support.js";
import type { Answers } from "./replay.js";
import { flags, serve } from "./serve.js";
import { syntheticModel } from "./synthetic.js";

const MB = 2 ** 20;
/** Weights that one-row products go round: four times a cache of 32 MiB. */
const COLD = 128 * MB;
/** Multiply-adds of a run at least, so that handing it over is not what is measured. */
const LEAST = 4e8;
/** How long a product runs before it counts, in milliseconds: the first of its kind until V8 has compiled it for good. */
const FIRST_WARM_UP = 2000, WARM_UP = 60;

/** A product of one of Kosmos-2's shapes, ready to run: `count` times with weights of its own each, in one run of the backend. */
interface Product {
  readonly backend: Backend;
  readonly records: Uint8Array;
  readonly operations: number;
  readonly count: number;
  readonly addresses: readonly number[];
}

const backends = new Map<number, Promise<Backend>>();
const products = new Map<string, Product>();
const warm = new Set<string>();
let model: Kosmos2ForConditionalGeneration | undefined;

/** The released sizes, or toy ones. */
const config = (tiny?: boolean): Kosmos2Config => (tiny ? Kosmos2Config.fromJSON({
  text_config: { layers: 2, embed_dim: 128, ffn_dim: 256, attention_heads: 4 },
  vision_config: { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4 },
}) : new Kosmos2Config());

/** Numbers in −1 … 1 that look random. */
function noise(length: number): Float32Array {
  let state = 2463534242;
  return Float32Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state / 2 ** 31;
  });
}

/** What the model does after a product of this shape, activation quantisation before it included. */
function epilogue(K: number, N: number): { activation?: "gelu" | "quick_gelu"; residual: boolean } {
  if (N === 4 * K) return { activation: K === 1024 ? "quick_gelu" : "gelu", residual: false };
  return { residual: N <= 2048 };
}

/** What a pack's bytes depend on besides sizes, in a word: the hash of a toy's. Another format, seed or rounding has another. */
async function fingerprint(dtype: Format, into: string): Promise<string> {
  const out = `${into}/toy-${dtype}`;
  rmSync(out, { recursive: true, force: true });
  await pack({ source: syntheticModel(config(true)), dtype, out });
  const hash = createHash("sha256").update(readFileSync(`${out}/model.safetensors`)).digest("hex");
  rmSync(out, { recursive: true });
  return hash.slice(0, 12);
}

async function prepare(dtype: Format, M: number, K: number, N: number, threads: number): Promise<Product> {
  if (!backends.has(threads)) backends.set(threads, createWasmBackend({ threads }));
  const backend = await backends.get(threads)!;
  const bytes = packedBytes(dtype, N, K);
  const cold = M <= 4 ? Math.ceil(COLD / bytes) : 1, count = Math.max(cold, Math.ceil(LEAST / (M * K * N)));
  const addresses: number[] = [];
  const alloc = (size: number): number => {
    addresses.push(backend.alloc(size));
    return addresses.at(-1)!;
  };

  // Weights: a few rows, packed as a load would pack them, again and again.
  const rows = Math.min(N, Math.ceil(2 ** 20 / K / panelOf(dtype)) * panelOf(dtype));
  const source = backend.alloc(rows * K * 4);
  backend.write(source, bytesOf(noise(rows * K).map((x) => x * 0.04)));
  const once = backend.alloc(packedBytes(dtype, rows, K)), list = new Uint8Array(RECORD_BYTES);
  writeRecord(new DataView(list.buffer), 0, "pack", { dst: once, format: formats[dtype], src: source, type: types.F32, N: rows, K });
  await backend.run(list, 1);
  const packed = (await backend.read(once, packedBytes(dtype, rows, K))).slice(), biases = bytesOf(noise(N));
  for (const address of [source, once]) backend.free(address);
  const weights: StoredLinear[] = [];
  for (let i = 0; i < Math.min(count, cold); i++) {
    const address = alloc(bytes), bias = alloc(N * 4);
    for (let at = 0; at < bytes; at += packed.length) backend.write(address + at, packed.subarray(0, bytes - at));
    backend.write(bias, biases);
    weights.push({ outputs: N, inputs: K, format: dtype, address, bytes, bias });
  }

  const g = new Recorder(threads, undefined);
  const { activation, residual } = epilogue(K, N);
  const before = residual ? g.input(noise(M * N), M, N) : undefined;
  const xs = noise(M * K);
  for (let i = 0; i < count; i++) g.linear(g.input(xs, M, K), weights[i % weights.length], { activation, residual: before });
  const pass = g.finish(), arena = alloc(pass.arenaBytes);
  const records = pass.at(arena, backend);
  return { backend, records, operations: pass.count, count, addresses };
}

/** Milliseconds of one pass of a phase, or of each pass of a decode: "decode@100", "decode@100 by 2" where a guess is read with each token. */
async function phase(what: string, tokens = 16): Promise<number[]> {
  const { engine, inputs } = ready();
  const [name, context, rows = "1"] = what.split(/@| by /);
  if (name === "resampler") return [await profiled("vision", undefined, ({ shape }) => shape.split("×").includes(String(engine.config.textConfig.embedDim)))];
  if (name === "vision") {
    const pixels = inputs.pixelValues.data as Float32Array, { imageSize } = engine.config.visionConfig;
    return [await timed(() => engine.see(pixels, imageSize, imageSize))];
  }
  // what untrained weights repeat says nothing about guesses
  if (name === "caption") return [await timed(() => model!.generate({ ...inputs, maxNewTokens: Number(context), eosTokenId: null, lookahead: 0 }))];

  if (name === "prefill") {
    const sequence = engine.begin();
    try {
      const { latentQueryNum } = engine.config, { embedDim } = engine.config.textConfig;
      const images = noise(latentQueryNum * embedDim);
      const reading = { sequence, ids: [...inputs.inputIds.data], places: [...inputs.imageEmbedsPositionMask.data], images };
      return [await timed(() => engine.choose([{ ...reading, banned: [[]] }]))];
    } finally {
      engine.end(sequence);
    }
  }
  const before = Number(context) - 8, sequence = await text(before), samples: number[] = [];
  // the first guess is always wrong, as its ban sees to: each pass is one token further on
  const guesses = Array.from({ length: Number(rows) - 1 }, (_, i) => 20 + i), banned = [guesses, ...guesses.map(() => [])];
  const alone = what.includes(" by "); // where tokens are guessed, threads can't go on to the next by themselves
  for (let i = 0, id = 10; i < tokens; i++) {
    const question = { sequence, ids: [id, ...guesses], banned, next: !alone && i < tokens - 1 };
    samples.push(await timed(async () => ([[{ id }]] = await engine.choose([question]))));
  }
  sequence.cache.length = sequence.known = before;
  return samples;
}

/** Texts that were read, by their length: reading one takes as long as all that is decoded behind it. */
const texts = new Map<number, Sequence>();

async function text(length: number): Promise<Sequence> {
  const { engine } = ready(), sequence = texts.get(length) ?? engine.begin();
  if (!texts.has(length)) await engine.choose([{ sequence, ids: prompt(length), banned: [[]] }]);
  texts.set(length, sequence);
  return sequence;
}

/** Milliseconds that a pass of a phase spends on some of its operations, each timed in the pass itself (src/profile.ts). */
async function profiled(what: string, tokens: number | undefined, counts: (operation: ProfiledOperation) => boolean): Promise<number> {
  const { engine } = ready(), [name] = what.split("@"); // what a decode reads before is another pass
  const profiler = new Profiler({ bandwidth: NaN, int16: NaN, int8: NaN, float32: NaN }); // the benchmark measures its own
  engine["passes"].profilers.add(profiler);
  try {
    await phase(what, tokens);
  } finally {
    engine["passes"].profilers.delete(profiler);
  }
  const { passes, operations } = profiler.finish("");
  return operations.reduce((sum, each) => sum + (each.pass === name && counts(each) ? each.ms : 0), 0) / passes.find(({ pass }) => pass === name)!.times;
}

/** The goldens' scenes and what is asked of each, or where those are not at hand the demo's pictures. */
function questions(): { text: string; images: string }[] {
  if (!noGoldens) {
    const { cases } = JSON.parse(readFileSync(`${goldens}emoji/cases.json`, "utf8")) as { cases: { image: string; prompt: string }[] };
    return cases.map(({ image, prompt }) => ({ text: prompt, images: `${goldens}emoji/${image}` }));
  }
  const pictures = readdirSync(`${root}demo/pictures`).filter((file) => /\.(png|jpg)$/.test(file)).map((file) => `${root}demo/pictures/${file}`);
  return ["<grounding> An image of", "<grounding> Describe this image in detail:"].flatMap((text) => pictures.map((images) => ({ text, images })));
}

/** What kosmos2-emoji says to them. */
async function answers(): Promise<Answers> {
  const processor = await Kosmos2Processor.fromPretrained("kosmos2-emoji"), writer = await Kosmos2ForConditionalGeneration.fromPretrained("kosmos2-emoji");
  try {
    const made = [];
    for (const question of questions()) {
      const inputs = await processor.process(question), { newIds } = await writer.generate(inputs);
      made.push({ prompt: [...inputs.inputIds.data], ids: newIds[0] });
    }
    const { noRepeatNgramSize, eosTokenId } = writer["engine"].generation;
    return { answers: made, shown: tagOrder.map((text) => processor.tokenizer.encode(text, { addSpecialTokens: false })), noRepeatNgramSize, eosTokenId };
  } finally {
    await writer.dispose();
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

const prompt = (length: number): number[] => Array.from({ length }, (_, i) => (i === 0 ? 0 : 10 + ((i * 7919) % 60000)));

/** The engine behind the model, and inputs of a usual prompt: 72 tokens, 64 of which are the picture's. */
function ready() {
  if (!model) throw new Error('Cannot measure a phase: load a model first ("load")');
  const c = model.config, { imageSize, numChannels } = c.visionConfig, T = 72;
  const place = (i: number) => (i >= 2 && i < 2 + c.latentQueryNum ? 1 : 0);
  return {
    engine: model["engine"],
    inputs: {
      inputIds: tensor("int32", Int32Array.from(prompt(T)), [1, T]),
      imageEmbedsPositionMask: tensor("int32", Int32Array.from({ length: T }, (_, i) => place(i)), [1, T]),
      pixelValues: tensor("float32", noise(numChannels * imageSize * imageSize), [1, numChannels, imageSize, imageSize]),
    },
  };
}

serve({
  about: () => ({ version: `node ${process.versions.node}, V8 ${process.versions.v8}`, settings: flags() }),

  /** Milliseconds of one product, measured for about `ms` milliseconds. */
  async kernel({ dtype, M, K, N, threads, ms }: { dtype: Format; M: number; K: number; N: number; threads: number; ms: number }): Promise<number[]> {
    const key = `${dtype} ${M}×${K}×${N} ${threads}`, kind = `${dtype} ${M === 1} ${threads}`;
    if (!products.has(key)) products.set(key, await prepare(dtype, M, K, N, threads));
    const { backend, records, operations, count } = products.get(key)!;
    const bench = new Bench({ time: ms, iterations: 2, warmupTime: warm.has(kind) ? WARM_UP : FIRST_WARM_UP, warmupIterations: 1, retainSamples: true, throws: true });
    warm.add(kind);
    // tinybench calls what isn't declared async once without waiting for it, to see what it returns
    bench.add(key, async () => {
      await backend.run(records, operations);
    });
    const [task] = await bench.run();
    if (!("latency" in task.result)) throw new Error(`Cannot measure ${key}: ${task.result.state}`);
    return task.result.latency.samples!.map((ms) => ms / count);
  },

  /** Frees the products' memory. */
  drop() {
    for (const { backend, addresses } of products.values()) for (const address of addresses) backend.free(address);
    products.clear();
  },

  /** Makes the pack of a model (and takes away what an earlier version made), unless it is there. Returns its folder. */
  async pack({ dtype, tiny, into: folder }: { dtype: Format; tiny?: boolean; into: string }): Promise<string> {
    const into = resolve(folder);
    mkdirSync(into, { recursive: true });
    const name = `kosmos2-${tiny ? "tiny-" : ""}${dtype}-`, out = `${into}/${name}${await fingerprint(dtype, into)}`;
    if (existsSync(out)) return out;
    for (const old of readdirSync(into)) if (old.startsWith(name)) rmSync(`${into}/${old}`, { recursive: true });
    await pack({ source: syntheticModel(config(tiny)), dtype, out });
    return out;
  },

  /** Loads a model of the released sizes, or a tiny one to try the benchmark itself, from a pack or from bfloat16. Returns milliseconds. */
  load: ({ dtype, threads, tiny, from }: { dtype: LoadOptions["dtype"]; threads: number; tiny?: boolean; from?: string }) =>
    timed(async () => (model = await Kosmos2ForConditionalGeneration.fromPretrained(from ?? syntheticModel(config(tiny)), { dtype, threads }))),

  phase: ({ what, tokens }: { what: string; tokens?: number }) => phase(what, tokens),

  /** Milliseconds of a phase's operations that are neither products nor attention. */
  others: async ({ what, tokens }: { what: string; tokens?: number }) => [await profiled(what, tokens, ({ kind }) => !/^(matmul|attention)/.test(kind))],

  answers,
});
