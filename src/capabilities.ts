/** What a machine and its runtime are good for: what the backend sees of them, and how fast they are at products of w8a8, which is tried out. */
import { loadModule } from "#platform";
import { CONTROL, HEAP, type Kernels } from "./backend/wasm/control.js";
import { capabilities as seen, type Capabilities as Seen, type WasmOptions } from "./backend/wasm/wasm.js";
import { eightsOf, GROUP, int16Bytes, RECORD_BYTES, scratchBytes, writeRecord } from "./graph/record.js";
import { checkOptions } from "./options.js";
import { turns } from "./pause.js";
import { packedBytes } from "./weights/quant.js";

/** What this runtime offers, what is used of it, and why not more. */
export interface Capabilities extends Seen {
  /** How many times as fast as those of dtype i8 the products of dtype w8a8 are here, measured. */
  w8a8Speedup: number;
}

/** From here on w8a8 is worth what it loses: below, other work of a caption hides the difference. */
const WORTHWHILE = 1.5;

const wasmKeys = ["threads", "engine", "shared", "wasmUrl", "workerFactory", "worker", "maxBytes", "minBytes", "signal", "logger"];

/**
 * Says what this runtime offers and what an engine loaded with these options would use. Takes a few tenths of a second, on one thread.
 *
 * @throws {Kosmos2Error} code `engine-unsupported`, `shared-unsupported`, `option-unknown` or `option-invalid` for what was asked and can't be had
 * @example
 *   const { used, w8a8Speedup } = await capabilities();
 *   const kosmos = await Kosmos2.load("./kosmos-2-patch14-224", { dtype: w8a8Speedup > 1.5 ? "w8a8" : "i8" });
 */
export async function capabilities(options: WasmOptions = {}): Promise<Capabilities> {
  checkOptions(options, wasmKeys, "say what this runtime offers");
  const found = await seen(options), { engine } = found.used;
  const w8a8Speedup = await speedup(await loadModule(engine, options.wasmUrl, options.signal), options.signal);
  const times = `about ${w8a8Speedup.toFixed(1)}× as fast here in products as i8`;
  const why = w8a8Speedup >= WORTHWHILE
    ? `dtype w8a8 would be ${times}: 8-bit dots are one instruction`
    : `dtype w8a8 would not pay, it would be ${times}: ${engine === "relaxed" ? "8-bit dots take several instructions of this processor or runtime" : "without relaxed SIMD it widens what it multiplies"}`;
  return { ...found, w8a8Speedup, reasons: [...found.reasons, why] };
}

/** Rows, inputs and outputs of the products that are timed: all that they read stays in the second-level cache. */
const M = 64, K = 256, N = 256;
/** Products of one look at the clock, about a millisecond: browsers' clocks are coarse. */
const COUNT = 8;
/** Ends when nothing has become faster for so long: the runtime's optimising compiler has had its say. */
const SETTLED_MS = 80, MOST_MS = 600;

/** Best time of i8's products, divided by that of w8a8's. They are of zeros, which take no less time than other numbers. */
async function speedup(module: WebAssembly.Module, signal?: AbortSignal): Promise<number> {
  const lists = 2 * COUNT * RECORD_BYTES, x = HEAP + lists, eights = eightsOf("i8", M), scales = x + int16Bytes(M, K, K, eights);
  const dst = scales + 8 * M * (K / GROUP), scratch = dst + 4 * M * N, w = scratch + scratchBytes("i8", M, K);
  const memory = new WebAssembly.Memory({ initial: Math.ceil((w + packedBytes("i8", N, K)) / 65536) + 1, maximum: 65536 });
  const kernels = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Kernels;
  const shape = { dst, ldd: N, x, ldx: K, w, ldr: 0, M, K, N, activation: 0, scales };
  const ways = (["matmul_i8", "matmul_w8a8"] as const).map((kind, i) => {
    const list = HEAP + i * COUNT * RECORD_BYTES;
    for (let at = 0; at < COUNT; at++) writeRecord(new DataView(memory.buffer, list), at, kind, { ...shape, ...(kind === "matmul_i8" && { scratch, eights }) });
    return { list, best: Infinity };
  });
  const turn = turns(signal), start = performance.now();
  for (let now = start, faster = start; now - faster < SETTLED_MS && now - start < MOST_MS; ) {
    for (const way of ways) {
      const from = performance.now();
      kernels.run(way.list, COUNT, 0, 1, CONTROL);
      now = performance.now();
      if (now - from < way.best * 0.99) faster = now;
      way.best = Math.min(way.best, now - from);
    }
    await turn();
  }
  return ways[0].best / ways[1].best;
}
