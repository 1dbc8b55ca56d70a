/** One measurement in a process of its own, whose peak memory is then that measurement's: `node child.js WHAT JSON`; the last line of stdout is what it found. */
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, statSync, writeSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type DtypeName, estimateMemory, Kosmos2, Kosmos2Error, Kosmos2ForConditionalGeneration } from "kosmos2-wasm";
import type { Backend } from "#src/backend/backend.js";
import { pack, type PackOptions } from "#src/cli/pack.js";
import type { Weights } from "#src/weights/load.js";
import { packedBytes } from "#src/weights/quant.js";
import { modelTensors } from "#src/weights/tensors.js";
import { fidelity } from "./fidelity.js";

interface Loading { source: string; dtype?: DtypeName; threads?: number }

/** What tests may look at and users may not. */
interface Inside { engine: { weights: Weights; backend: Backend & { memory?: WebAssembly.Memory } } }
const inside = (model: unknown): Inside["engine"] => (model as Inside).engine;

/** The most memory that this process ever had, in bytes. */
function peakBytes(): number {
  try {
    return 1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"))![1]);
  } catch { // no Linux; its number may be the parent's when that was larger
    return 1024 * process.resourceUsage().maxRSS;
  }
}

/** Bytes given to write() and asked of read() by this process or another, as Linux counts them; pipes and page cache too. */
export function transferred(pid: number | "self" = "self"): { written: number; read: number } {
  const io = readFileSync(`/proc/${pid}/io`, "utf8"), count = (what: string) => Number(new RegExp(`^${what}: (\\d+)`, "m").exec(io)![1]);
  return { written: count("wchar"), read: count("rchar") };
}

const median = (numbers: readonly number[]): number => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

const tasks = {
  /** Writes "loaded total" for each block, for who wants to kill it. */
  async pack(options: PackOptions) {
    const { bytes } = await pack({ ...options, onProgress: ({ loaded, total }) => void writeSync(1, `${loaded} ${total}\n`) });
    return { bytes, peakBytes: peakBytes(), written: transferred().written };
  },

  async caption({ source, picture, ...options }: Loading & { picture: string }) {
    const begun = performance.now(), first: number[] = [];
    const kosmos = await Kosmos2.load(source, options), loadMs = performance.now() - begun;
    const answer = kosmos.stream(picture, { maxNewTokens: 8 });
    for await (const _ of answer) first.push(performance.now() - begun);
    const { newIds } = await answer.result, peak = peakBytes(), { backend } = inside(kosmos.model);
    const { totalBytes, weightBytes } = await estimateMemory(source, { ...options, tokens: 96 });
    return { loadMs, firstMs: first[0], newIds, peakBytes: peak, description: kosmos.model.description, memoryBytes: backend.memory?.buffer.byteLength, weightBytes, estimateBytes: totalBytes };
  },

  /** Loading a pack and reading its bytes into such a memory, in turn; a memory is fresh each time, as it is for who loads a model. */
  async reading({ source, rounds, ...options }: Loading & { rounds: number }) {
    const files = readdirSync(source).filter((file) => file.endsWith(".safetensors")).map((file) => join(source, file)), bytes = files.reduce((sum, file) => sum + statSync(file).size, 0);
    const rest = async () => {
      await sleep(20); // threads end, and what they held can be collected
      (globalThis as unknown as { gc(): void }).gc();
      await sleep(20);
    };
    const timed = async (work: () => Promise<unknown>) => {
      const begun = performance.now();
      await work();
      return performance.now() - begun;
    };
    const load = async () => {
      const model = await Kosmos2ForConditionalGeneration.fromPretrained(source, options);
      return () => model.dispose();
    };
    const read = async (lanes: number, step: number) => {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true });
      memory.grow(Math.ceil(bytes / 65536));
      let address = 0;
      const reads: { file: Awaited<ReturnType<typeof open>>; at: number; into: Uint8Array }[] = [], opened = await Promise.all(files.map((file) => open(file)));
      for (const [i, file] of opened.entries()) {
        for (let at = 0, { size } = statSync(files[i]); at < size; at += step) {
          const into = new Uint8Array(memory.buffer, address, Math.min(step, size - at));
          reads.push({ file, at, into });
          address += into.length;
        }
      }
      let next = 0;
      await Promise.all(Array.from({ length: lanes }, async () => {
        while (next < reads.length) {
          const { file, at, into } = reads[next++];
          for (let done = 0; done < into.length; ) done += (await file.read(into, done, into.length - done, at + done)).bytesRead;
        }
      }));
      await Promise.all(opened.map((file) => file.close()));
    };
    const ways = { load: [] as number[], one: [] as number[], four: [] as number[] };
    for (let i = -1; i < rounds; i++) { // the first is not counted
      let end: (() => Promise<void>) | undefined;
      const ms = { load: await timed(async () => void (end = await load())), one: 0, four: 0 };
      await end!();
      await rest();
      ms.one = await timed(() => read(1, 2 ** 26));
      await rest();
      ms.four = await timed(() => read(4, 2 ** 23));
      await rest();
      if (i >= 0) for (const way of ["load", "one", "four"] as const) ways[way].push(ms[way]);
    }
    return { bytes, loadMs: median(ways.load), readMs: Math.min(median(ways.one), median(ways.four)), ways };
  },

  /** What is in memory after loading, and what it computes, as hashes. */
  async weights({ source, ...options }: Loading) {
    const model = await Kosmos2ForConditionalGeneration.fromPretrained(source, options), peak = peakBytes(), { weights, backend } = inside(model), hash = createHash("sha256");
    for (const { name } of modelTensors(model.config).filter(({ name }) => !(model.config.tieWordEmbeddings && name === "text_model.lm_head.weight"))) {
      const { address, bytes } = where(weights, name);
      for (let at = 0; at < bytes; at += 2 ** 26) hash.update(await backend.read(address + at, Math.min(2 ** 26, bytes - at)));
    }
    const ids = Int32Array.from({ length: 12 }, (_, i) => (i * i * 37) % model.config.textConfig.vocabSize);
    const { logits } = await model.forward({ inputIds: { type: "int32", dims: [1, ids.length], data: ids } });
    return { peakBytes: peak, weightBytes: weights.bytes, weights: hash.digest("hex"), logits: createHash("sha256").update(new Uint8Array(logits.data.buffer)).digest("hex") };
  },

  async fidelity({ source, reference, ...options }: Loading & { reference: string }) {
    return fidelity(await Kosmos2ForConditionalGeneration.fromPretrained(source, options), reference);
  },

  /** What is said to a model that can't fit. */
  async refusal({ source, ...options }: Loading) {
    const before = transferred().read;
    try {
      await Kosmos2.load(source, options);
      return {};
    } catch (error) {
      const { code, message, details } = error as Kosmos2Error;
      return { typed: error instanceof Kosmos2Error, code, message, details, read: transferred().read - before, peakBytes: peakBytes() };
    }
  },
};

function where(weights: Weights, name: string): { address: number; bytes: number } {
  try {
    const { address, rows, columns } = weights.rows(name);
    return { address, bytes: rows * columns * 4 };
  } catch {
    const { address, format, outputs, inputs } = weights.matrix(name.replace(/\.weight$/, ""));
    return { address, bytes: packedBytes(format, outputs, inputs) };
  }
}

if (process.argv[1]?.endsWith("child.js")) {
  const [what, json] = process.argv.slice(2);
  const found = await (tasks as unknown as Record<string, (options: unknown) => Promise<object>>)[what](JSON.parse(json));
  writeSync(1, `${JSON.stringify(found)}\n`);
  process.exit(0);
}

export type Tasks = typeof tasks;
