/**
 * A contender that does no work of ours: it measures what this machine can do at most from inside wasm (assembly/limits.ts), on as
 * many threads as asked, each with an instance and a memory of its own. The same file is the threads.
 */
import { readFileSync } from "node:fs";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { relaxedSimd } from "wasm-feature-detect";
import { median } from "./measure.js";
import { flags, serve } from "./serve.js";

/** Both sums in GB/s, the others in multiply-adds, 10⁹ a second. 0: this runtime has no such instruction. */
export type Limit = Reading | "dot_i16" | "relaxed_dot" | "mul_add" | "relaxed_madd";
/** Bytes read: in two streams a thread, which is the most that we know how to read, or in one. */
export type Reading = (typeof readings)[number];
/** No limit, but what it says of the machine: nanoseconds from one thread's writing of a word to another's seeing it. */
export type Look = Limit | "handover";

const MB = 2 ** 20;
/** Bytes that all threads read together in one sample of the bandwidth; far above any cache, and no power of two: streams that are one apart hinder each other. */
const READ = 1040 * MB;
/** How often a word goes there and back in one sample. */
const HANDOVERS = 10_000;
/** How long one sample of a product loop takes, in milliseconds. */
const SAMPLE_MS = 15;

interface Kernels {
  bandwidth(from: number, bytes: number): void;
  plain_sum(from: number, bytes: number): void;
  peak_dot_i16(steps: number): number;
  peak_relaxed_dot(steps: number): number;
  peak_mul_add(steps: number): number;
  peak_relaxed_madd(steps: number): number;
}

const readings = ["bandwidth", "plain_sum"] as const;
const isReading = (limit: Limit): limit is Reading => (readings as readonly Limit[]).includes(limit);

if (isMainThread) {
  const threads: Worker[] = [];
  const ask = (order: object) => (worker: Worker) =>
    new Promise<number>((resolve, reject) => {
      worker.once("message", resolve);
      worker.once("error", reject);
      worker.postMessage(order);
    });

  async function handovers(workers: readonly Worker[], ms: number): Promise<number[]> {
    const samples: number[] = [], end = performance.now() + ms;
    do {
      const word = new Int32Array(new SharedArrayBuffer(4));
      // the one that began later has not waited for the other to begin
      samples.push(Math.min(...(await Promise.all(workers.slice(0, 2).map((worker, turn) => ask({ word, turn })(worker))))));
    } while (performance.now() < end);
    return samples.slice(Math.min(3, samples.length - 1)); // V8 compiles it in the first
  }

  serve({
    about: () => ({ version: `node ${process.versions.node}, V8 ${process.versions.v8}`, settings: flags() }),

    /** Samples of `limit` with `count` threads at once (handover: two), for about `ms` milliseconds. */
    async limit({ limit, count, ms }: { limit: Look; count: number; ms: number }): Promise<number[]> {
      while (threads.length < count) threads.push(new Worker(new URL(import.meta.url)));
      if (limit === "handover") return handovers(threads, ms);
      const workers = threads.slice(0, count), bytes = Math.floor(READ / count / 128) * 128;
      const order = isReading(limit) ? { limit, bytes } : { limit, ms: SAMPLE_MS };
      await Promise.all(workers.map(ask({ ...order, prepare: true })));
      const samples: number[] = [];
      const end = performance.now() + ms;
      do {
        const start = performance.now();
        const done = await Promise.all(workers.map(ask(order)));
        const seconds = (performance.now() - start) / 1000;
        // for products each thread gives its own rate: that of the slowest counts for all, as in a real product
        samples.push(isReading(limit) ? READ / seconds / 1e9 : Math.min(...done) * count);
      } while (performance.now() < end);
      return samples;
    },
  });
} else {
  const build = (await relaxedSimd()) ? "limits-relaxed" : "limits";
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const module = new WebAssembly.Module(readFileSync(new URL(`./${build}.wasm`, import.meta.url)));
  const kernels = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Kernels;
  const steps: Partial<Record<Limit, number>> = {};

  function values(): void {
    new Uint8Array(memory.buffer, 0, 32).forEach((_, i, bytes) => (bytes[i] = 37 * i + 11));
    new Float32Array(memory.buffer, 32, 4).fill(0.4375);
  }

  /** Waits for its turn and gives it back; nanoseconds of one way. */
  function handover(word: Int32Array, turn: number): number {
    const start = performance.now();
    for (let i = 0; i < HANDOVERS; i++) {
      while (Atomics.load(word, 0) !== turn);
      Atomics.store(word, 0, 1 - turn);
    }
    return ((performance.now() - start) * 1e6) / (2 * HANDOVERS);
  }

  function rate(limit: Exclude<Limit, Reading>, count: number): number {
    const start = performance.now();
    const products = kernels[`peak_${limit}`](count);
    return products / (performance.now() - start) / 1e6;
  }

  interface Order { limit: Limit; bytes?: number; ms?: number; prepare?: boolean; word?: Int32Array; turn?: number }

  parentPort!.on("message", ({ limit, bytes = 0, ms = 0, prepare, word, turn = 0 }: Order) => {
    if (word) return parentPort!.postMessage(handover(word, turn));
    values();
    if (isReading(limit)) {
      const from = 65536, missing = from + bytes - memory.buffer.byteLength;
      if (missing > 0) {
        memory.grow(Math.ceil(missing / 65536));
        new Uint8Array(memory.buffer).fill(7, from); // pages that were never written are all one page
        for (let i = 0; i < 4000; i++) for (const name of readings) kernels[name](from, 32768); // until V8 has compiled it for good
      }
      if (!prepare) kernels[limit](from, bytes);
      return parentPort!.postMessage(0);
    }
    if (!steps[limit]) {
      const end = performance.now() + 100;
      while (performance.now() < end) rate(limit, 2000);
      const rates = Array.from({ length: 5 }, () => rate(limit, 20_000));
      const best = median(rates);
      steps[limit] = best ? Math.ceil((20_000 * ms * 1e6 * best) / kernels[`peak_${limit}`](20_000)) : 1;
    }
    parentPort!.postMessage(prepare ? 0 : rate(limit, steps[limit]));
  });
}
