/**
 * Times kernels on one thread: products at few and many rows, one-row products out of memory, attention, norms.
 *
 *     npm run build && node build/bench/kernels.js [plain|relaxed] [WORD…]     lines whose name contains a word
 *
 * Gop/s = 2 · M · N · K / s; GB/s = bytes of packed weights / s, where they are too many for any cache. Best of several.
 */
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { partBytes } from "#src/graph/cache.js";
import { attentionScratch, BLOCK, eightsOf, formats, scratchBytes, writeRecord, type Fields, type Kind } from "#src/graph/record.js";
import { packedBytes, type Format } from "#src/weights/quant.js";

const engine = process.argv[2] === "relaxed" ? "relaxed" : "plain";
const words = process.argv.slice(2).filter((word) => word !== "plain" && word !== "relaxed");

const bytes = readFileSync(new URL(`../../dist/wasm/${engine}.wasm`, import.meta.url));
if (!WebAssembly.validate(bytes)) setFlagsFromString("--experimental-wasm-relaxed-simd"); // Node 20

const WEIGHT_BYTES = 4e8;
const memory = new WebAssembly.Memory({ initial: Math.ceil((WEIGHT_BYTES + 1.2e8) / 65536), maximum: 65536 });
const module = new WebAssembly.Module(bytes);
const kernels = new WebAssembly.Instance(module, { env: { memory } }).exports as { run(list: number, count: number, t: number, n: number, control: number): number };

// Where things lie. Numbers are all alike: nothing here depends on them.
const LIST = 1024, X = 65536, SCALES = 16e6, OTHER = 20e6, SCRATCH = 40e6, DST = 48e6, W = 1e8;
new Float32Array(memory.buffer, X, (SCALES - X) / 4).fill(0.01);
new Float32Array(memory.buffer, SCALES, (DST - SCALES) / 4).fill(0.01);
new Float32Array(memory.buffer, W, WEIGHT_BYTES / 4).fill(0.01);

/** Best seconds of one run. */
function seconds<K extends Kind>(kind: K, fields: Fields<K>): number {
  writeRecord(new DataView(memory.buffer, LIST), 0, kind, fields);
  const from = performance.now();
  let best = Infinity;
  for (let i = 0; i < 5 || performance.now() - from < 400; i++) {
    const start = performance.now();
    kernels.run(LIST, 1, 0, 1, 64);
    best = Math.min(best, performance.now() - start);
  }
  return best / 1000;
}

function report(name: string, measure: () => string): void {
  if (words.length === 0 || words.some((word) => name.includes(word))) console.log(`${name.padEnd(44)} ${measure()}`);
}

function product(format: Format, M: number, K: number, N: number): number {
  const shape = { dst: DST, ldd: N, x: X, w: W, ldr: 0, M, K, N, activation: 0, ...(scratchBytes(format, M, K) > 0 && { scratch: SCRATCH }) };
  if (format === "f32" || format === "f16") return seconds(`matmul_${format}`, { ...shape, ldx: K });
  const ldx = Math.ceil(K / 8) * 8, eights = eightsOf(format, M);
  return seconds(`matmul_${format}`, { ...shape, ldx, scales: SCALES, eights }) +
    seconds(format === "w8a8" ? "quantize_i8" : "quantize", { dst: OTHER, ldd: ldx, x: X, ldx: K, M, K, scales: SCALES, eights, scratch: SCRATCH });
}

console.log(`${engine}, Node ${process.version}, V8 ${process.versions.v8}`);
const weights = ["f32", "f16", "i8", "i4", "w8a8"] as const;
for (const [K, N] of [[192, 768], [1024, 4096], [2048, 2048]] as const) for (const M of [1, 5, 72, 257]) for (const format of weights) {
  report(`matmul_${format} ${M}×${K}×${N}`, () => `${((2 * M * K * N) / product(format, M, K, N) / 1e9).toFixed(1)} Gop/s`);
}
for (const K of [2048, 8192]) for (const format of weights) {
  report(`matmul_${format} 1×${K} from memory`, () => {
    const N = 16 * Math.floor(WEIGHT_BYTES / packedBytes(format, 16, K)), time = product(format, 1, K, N);
    return `${(packedBytes(format, N, K) / time / 1e9).toFixed(1)} GB/s, ${((N * K) / time / 1e9).toFixed(1)} G weights/s`;
  });
}
for (const [T, S, heads, causal] of [[257, 257, 16, 0], [72, 72, 32, 1], [1, 300, 32, 1]] as const) for (const format of ["f32", "f16", "i16"] as const) {
  report(`attention ${T}×${S}, ${heads} heads of 64 in ${format}`, () => {
    const D = heads * 64, tables = LIST + 1024, blocks = Math.ceil(S / BLOCK), bytes = partBytes({ heads, headWidth: 64, format });
    for (let b = 0; b < 2 * blocks; b++) new DataView(memory.buffer).setUint32(tables + 4 * b, W + b * bytes, true);
    const time = seconds("attention", {
      dst: DST, ldd: D, q: X, ldq: D, keyTable: tables, keyOffset: 0, valueTable: tables + 4 * blocks, valueOffset: 0, format: formats[format],
      T, S, heads, headWidth: 64, causal, scale: 1 / 8, scratch: OTHER, scratchBytes: attentionScratch(T, S, 64, T === 1 ? 16 : 4),
    });
    const pairs = causal ? T * S - (T * (T - 1)) / 2 : T * S;
    return `${((4 * pairs * D) / time / 1e9).toFixed(1)} Gop/s, ${(time * 1e6).toFixed(0)} µs`;
  });
}
const perElement = (time: number, count: number) => `${((time * 1e9) / count).toFixed(2)} ns an element`;
report("layernorm 257×1024", () => perElement(seconds("layernorm", { dst: DST, ldd: 1024, x: X, ldx: 1024, gamma: OTHER, beta: OTHER, M: 257, D: 1024, eps: 1e-5, ldq: 0 }), 257 * 1024));
report("layernorm 257×1024 to int16", () => perElement(seconds("layernorm", {
  ldd: 1024, x: X, ldx: 1024, gamma: OTHER, beta: OTHER, M: 257, D: 1024, eps: 1e-5, quantized: DST, ldq: 1024, scales: SCALES,
}), 257 * 1024));
report("layernorm 257×1024 to int8", () => perElement(seconds("layernorm", {
  ldd: 1024, x: X, ldx: 1024, gamma: OTHER, beta: OTHER, M: 257, D: 1024, eps: 1e-5, bytes: DST, ldq: 1024, scales: SCALES,
}), 257 * 1024));
report("quantize 257×4096", () => perElement(seconds("quantize", { dst: DST, ldd: 4096, x: X, ldx: 4096, M: 257, K: 4096, scales: SCALES }), 257 * 4096));
for (const activation of [0, 1, 2]) {
  report(`activation ${activation}, K = 1`, () => perElement(seconds("matmul_f32", { dst: DST, ldd: 4096, x: X, ldx: 1, w: W, ldr: 0, M: 257, K: 1, N: 4096, activation, scratch: SCRATCH }), 257 * 4096));
}
for (const format of [0, 1, 2, 4, 5] as const) {
  report(`pack F16 to format ${format}`, () => perElement(seconds("pack", { dst: W, format, src: X, type: 1, N: 1024, K: 2048 }), 1024 * 2048));
}
report("argmax of 65037", () => `${(seconds("argmax", { dst: DST, x: X, N: 65037, bans: 0 }) * 1e6).toFixed(0)} µs`);
for (const kind of ["store_keys", "store_values"] as const) for (const format of ["f32", "f16", "i16"] as const) {
  report(`${kind} 64×2048 in ${format}`, () => `${(seconds(kind, { x: X, ldx: 2048, table: LIST + 1024, offset: 0, position: 0, M: 64, D: 2048, headWidth: 64, format: formats[format] }) * 1e6).toFixed(0)} µs`);
}
