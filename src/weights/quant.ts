/**
 * The packed formats of a weight w[N, K], in plain TypeScript: the specification that the kernels (assembly/pack.ts,
 * assembly/matmul_*.ts) are tested against. Loading does not use the packing here: the pack kernel does it, threads together.
 *
 * All formats are ⌈N / 8⌉ panels of 8 outputs; outputs past N are 0. One panel is
 *
 *   f32   [K][8] f32
 *   f16   [K][8] IEEE halves, rounded to nearest even; 65520 and more become infinite, which the loader refuses
 *   i8    for each GROUP inputs: 8 f32 scales, then ⌈inputs / 2⌉ steps of [8 outputs][2 inputs] int8, −127 … 127;
 *         w = scale · int8. An odd last input has 0 beside it
 *
 * Everything is in the byte order of wasm: little-endian.
 */
import { GROUP } from "../graph/record.js";

export type Format = "f32" | "f16" | "i8";

/** Outputs of a panel. */
export const PANEL = 8;

/** Below this a group counts as zeros: 127 / largest would not be finite. */
const NOTHING = 2 ** -100;

/** Bytes of one panel of a weight with K inputs. */
export function panelBytes(format: Format, K: number): number {
  if (format === "f32") return K * PANEL * 4;
  if (format === "f16") return K * PANEL * 2;
  const last = K % GROUP;
  return Math.floor(K / GROUP) * groupBytes(GROUP) + (last === 0 ? 0 : groupBytes(last));
}

const groupBytes = (inputs: number) => PANEL * 4 + Math.ceil(inputs / 2) * PANEL * 2;

/** Bytes of a packed weight [N, K]. */
export function packedBytes(format: Format, N: number, K: number): number {
  return Math.ceil(N / PANEL) * panelBytes(format, K);
}

/** @param w f32 [N, K], row-major */
export function pack(format: Format, w: Float32Array, N: number, K: number): Uint8Array {
  const bytes = new Uint8Array(packedBytes(format, N, K));
  const view = new DataView(bytes.buffer);
  if (format === "i8") packI8(view, w, N, K);
  else {
    each(N, K, (n, k, place) => {
      if (format === "f32") view.setFloat32(place * 4, w[n * K + k], true);
      else view.setUint16(place * 2, toF16(w[n * K + k]), true);
    });
  }
  return bytes;
}

/** What packed bytes are worth: f32 [N, K], row-major. */
export function unpack(format: Format, bytes: Uint8Array, N: number, K: number): Float32Array {
  const w = new Float32Array(N * K);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (format === "i8") {
    groups(N, K, (n, from, to, scaleAt, at) => {
      const scale = view.getFloat32(scaleAt, true);
      for (let k = from; k < to; k++) w[n * K + k] = scale * view.getInt8(at(k));
    });
  } else {
    each(N, K, (n, k, place) => {
      w[n * K + k] = format === "f32" ? view.getFloat32(place * 4, true) : fromF16(view.getUint16(place * 2, true));
    });
  }
  return w;
}

/**
 * Makes one output of a panel zero.
 *
 * @param panel the bytes of the panel alone
 * @param lane which of its outputs, 0 … 7
 */
export function clearOutput(format: Format, panel: Uint8Array, K: number, lane: number): void {
  const clear = (at: number, bytes: number) => panel.fill(0, at, at + bytes);
  const size = format === "f32" ? 4 : 2;
  if (format !== "i8") for (let k = 0; k < K; k++) clear((k * PANEL + lane) * size, size);
  else
    for (let from = 0; from < K; from += GROUP) {
      const group = (from / GROUP) * groupBytes(GROUP), steps = Math.ceil(Math.min(GROUP, K - from) / 2);
      clear(group + lane * 4, 4);
      for (let step = 0; step < steps; step++) clear(group + PANEL * 4 + (step * PANEL + lane) * 2, 2);
    }
}

/** Calls `use` with every element and its place among the numbers of an f32 or f16 packing. */
function each(N: number, K: number, use: (n: number, k: number, place: number) => void): void {
  for (let n = 0; n < N; n++) {
    const panel = Math.floor(n / PANEL) * K * PANEL + (n % PANEL);
    for (let k = 0; k < K; k++) use(n, k, panel + k * PANEL);
  }
}

/** Calls `use` with every group of an i8 packing: the inputs from … to − 1 of output n, and where their scale and each of them lies. */
function groups(N: number, K: number, use: (n: number, from: number, to: number, scaleAt: number, at: (k: number) => number) => void): void {
  for (let n = 0; n < N; n++) {
    const panel = Math.floor(n / PANEL) * panelBytes("i8", K), lane = n % PANEL;
    for (let from = 0; from < K; from += GROUP) {
      const group = panel + (from / GROUP) * groupBytes(GROUP);
      const at = (k: number) => group + PANEL * 4 + ((k - from) >> 1) * PANEL * 2 + lane * 2 + ((k - from) & 1);
      use(n, from, Math.min(from + GROUP, K), group + lane * 4, at);
    }
  }
}

function packI8(view: DataView, w: Float32Array, N: number, K: number): void {
  groups(N, K, (n, from, to, scaleAt, at) => {
    const { scale, inverse } = scaleOf(w.subarray(n * K + from, n * K + to), 127);
    view.setFloat32(scaleAt, scale, true);
    for (let k = from; k < to; k++) view.setInt8(at(k), roundEven(Math.fround(w[n * K + k] * inverse)));
  });
}

/** The scale that makes the largest of some numbers ±limit, and what to multiply them by; each rounded to f32. */
function scaleOf(x: Float32Array, limit: number): { scale: number; inverse: number } {
  let largest = 0;
  for (const value of x) largest = Math.max(largest, Math.abs(value));
  return largest < NOTHING ? { scale: 0, inverse: 0 } : { scale: Math.fround(largest / limit), inverse: Math.fround(limit / largest) };
}

/**
 * int16 activations: x = scale · int16 with a scale per row and GROUP columns, −32767 … 32767.
 *
 * @param ldq distance of two int16 rows, at least K; what lies between is 0
 * @returns rows [M, ldq] and scales [M, ⌈K / GROUP⌉]
 */
export function quantize(x: Float32Array, M: number, K: number, ldq: number): { rows: Int16Array; scales: Float32Array } {
  const perRow = Math.ceil(K / GROUP);
  const rows = new Int16Array(M * ldq), scales = new Float32Array(M * perRow);
  for (let m = 0; m < M; m++) {
    for (let g = 0; g < perRow; g++) {
      const from = g * GROUP, to = Math.min(from + GROUP, K);
      const { scale, inverse } = scaleOf(x.subarray(m * K + from, m * K + to), 32767);
      scales[m * perRow + g] = scale;
      for (let k = from; k < to; k++) rows[m * ldq + k] = roundEven(Math.fround(x[m * K + k] * inverse));
    }
  }
  return { rows, scales };
}

/** To the nearest whole number, halves to the even one, as wasm's `nearest`. */
function roundEven(x: number): number {
  const floor = Math.floor(x), rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The IEEE half nearest to x, halves to even. */
export function toF16(x: number): number {
  float[0] = x;
  const sign = (bits[0] >>> 16) & 0x8000, size = bits[0] & 0x7fffffff;
  if (size >= 0x47800000) return sign | (size > 0x7f800000 ? 0x7e00 : 0x7c00); // 65536 and more
  if (size < 0x38800000) { // below the smallest normal half: 0.5 has the spacing of subnormal halves, so adding it rounds to them
    float[0] = Math.abs(x);
    float[0] += 0.5;
    return sign | (bits[0] - 0x3f000000);
  }
  return sign | ((size - (112 << 23) + 0xfff + ((size >>> 13) & 1)) >>> 13);
}

/** What the bits of an IEEE half are worth. */
export function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1, exponent = (half >>> 10) & 31, fraction = half & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** What the bits of a bfloat16 are worth. */
export function fromBF16(half: number): number {
  bits[0] = half << 16;
  return float[0];
}
