/**
 * What passes cost: the time of each of their operations, taken in the pass itself, and how near the machine's limits it comes.
 *
 * While a profile is taken, thread 0 looks at its clock between two records. So an operation is timed with its own data in the caches
 * that it usually finds them in, and its time ends when the last thread is done with it.
 */
import type { Backend } from "./backend/backend.js";
import { formats, limits as codes, RECORD_BYTES, readRecord, writeRecord } from "./graph/record.js";
import { bytesOf } from "./graph/memory.js";
import { type Format, packedBytes } from "./weights/quant.js";

/** What the machine can do at most, all threads together, measured in the same minute. */
export interface Limits {
  /** Bytes read, a second. */
  bandwidth: number;
  /** Multiply-adds of int16 pairs, which int8 weights take. */
  int16: number;
  /** Multiply-adds of bytes, as the kernel of w8a8 makes them here: in one instruction, in two, or where SIMD is plain as int16. */
  int8: number;
  /** Multiply-adds of f32. */
  float32: number;
}

/** Which pass an operation belongs to: the picture's, the one that reads the prompt, or those that read on. */
export type PassName = "vision" | "prefill" | "decode";

/** All operations of one kind and shape in passes of one name. */
export interface ProfiledOperation {
  pass: PassName;
  /** As the kernels are called. */
  kind: string;
  /** Rows × inputs × outputs of a product, rows × columns of others. */
  shape: string;
  times: number;
  ms: number;
  /** The least time that the limits allow its multiply-adds and the weights it reads, or 0 for what has neither. */
  leastMs: number;
}

export interface Profile {
  /** What computed, for people. */
  description: string;
  limits: Limits;
  /** All that was profiled, with what happens between passes. */
  ms: number;
  passes: readonly { pass: PassName; times: number; ms: number }[];
  /** Those that took longest come first. */
  operations: readonly ProfiledOperation[];
}

/** Takes in passes while they run. */
export class Profiler {
  private readonly operations = new Map<string, ProfiledOperation>();
  private readonly passes = new Map<PassName, { pass: PassName; times: number; ms: number }>();
  private readonly since = performance.now();

  constructor(private readonly limits: Limits) {}

  /** @param laps milliseconds of each record */
  note(pass: PassName, records: Uint8Array, laps: Float64Array): void {
    const view = new DataView(records.buffer, records.byteOffset), all = this.passes.get(pass) ?? { pass, times: 0, ms: 0 };
    this.passes.set(pass, all);
    all.times++;
    laps.forEach((ms, i) => {
      const { kind, words } = readRecord(view, i), { M, K, N, D, T, heads, headWidth } = words;
      const shape = kind === "attention" ? `${T}×${heads * headWidth}` : [M, K, N, D].filter((size) => size !== undefined).join("×");
      const key = `${pass} ${kind} ${shape}`, known = this.operations.get(key) ?? { pass, kind, shape, times: 0, ms: 0, leastMs: 0 };
      this.operations.set(key, known);
      known.times++;
      known.ms += ms;
      known.leastMs += leastMs(kind, words, this.limits);
      all.ms += ms;
    });
  }

  finish(description: string): Profile {
    const slowest = <T extends { ms: number }>(all: Iterable<T>): T[] => [...all].sort((a, b) => b.ms - a.ms);
    return { description, limits: this.limits, ms: performance.now() - this.since, passes: [...this.passes.values()], operations: slowest(this.operations.values()) };
  }
}

function leastMs(kind: string, { M, K, N, T, S, heads, headWidth, causal, format }: Record<string, number>, { bandwidth, int16, int8, float32 }: Limits): number {
  if (kind === "attention") return (2000 * heads * headWidth * (causal ? T * (S - T) + (T * (T + 1)) / 2 : T * S)) / (format === formats.i16 ? int16 : float32);
  if (!kind.startsWith("matmul_")) return 0;
  const weights = kind.slice("matmul_".length) as Format;
  return 1000 * Math.max((M * K * N) / (weights.startsWith("f") ? float32 : weights === "w8a8" ? int8 : int16), packedBytes(weights, N, K) / bandwidth);
}

/** Runs that a limit is the best of, how long one takes about, and how long a loop runs before that, until V8 has compiled it for good; in milliseconds. */
const RUNS = 9, RUN_MS = 5, WARM_UP_MS = 100;

/**
 * Measures the limits.
 *
 * @param at weights to read, which should be more than fits a cache
 */
export async function measureLimits(backend: Backend, at: { address: number; bytes: number }): Promise<Limits> {
  const { threads } = backend, scratch = backend.alloc(64 + 16 * threads), record = new Uint8Array(RECORD_BYTES), laps = new Float64Array(1);
  try {
    backend.write(scratch, bytesOf(Uint8Array.from({ length: 16 }, (_, i) => 37 * i + 11)));
    backend.write(scratch + 16, bytesOf(new Float32Array(4).fill(0.4375)));
    const run = async (what: keyof typeof codes, count: number): Promise<number> => {
      writeRecord(new DataView(record.buffer), 0, "limit", { dst: scratch + 64, x: what === "reading" ? at.address : scratch, what: codes[what], count });
      await backend.run(record, 1, undefined, laps);
      return laps[0];
    };
    /** Pieces a second. */
    const best = async (what: keyof typeof codes, count: number): Promise<number> => {
      let ms = Infinity;
      for (let i = 0; i < RUNS; i++) ms = Math.min(ms, await run(what, count));
      return (1000 * count) / ms;
    };
    const warm = async (what: keyof typeof codes, count: number): Promise<void> => {
      for (const end = performance.now() + WARM_UP_MS; performance.now() < end; ) await run(what, count);
    };
    const products = async (what: "int16" | "int8" | "float32"): Promise<number> => {
      await warm(what, 5000);
      return best(what, Math.ceil((RUN_MS / 1000) * (await best(what, 20_000))));
    };
    await warm("reading", Math.min(1024, Math.floor(at.bytes / 1024)));
    return {
      bandwidth: 1024 * (await best("reading", Math.floor(at.bytes / 1024))),
      int16: 192 * threads * (await products("int16")),
      int8: 384 * threads * (await products("int8")),
      float32: 96 * threads * (await products("float32")),
    };
  } finally {
    backend.free(scratch);
  }
}
