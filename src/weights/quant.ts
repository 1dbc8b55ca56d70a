/**
 * The packed formats of a weight w[N, K], in plain TypeScript: the specification that the kernels (assembly/pack.ts,
 * assembly/matmul_*.ts) are tested against. Loading does not use the packing here: the pack kernel does it, threads together.
 *
 * All formats are panels of 8 outputs, i8 and i4 of 16; outputs past N are 0. One panel is
 *
 *   f32   [K][8] f32
 *   f16   [K][8] IEEE halves, rounded to nearest even; 65520 and more become infinite, which the loader refuses
 *   i8    for each GROUP inputs: 16 scales, then ⌈inputs / 2⌉ steps of 2 · [4][2 inputs][2] bytes: output n of an 8 beside n + 4.
 *         w = scale · number, −127 … 127. Of the first one the byte is number + 128, of the second number. Behind an odd last input there is 0
 *   i4    for each GROUP inputs: 16 scales, then for each 32 of them 16 int8 shares, −63 … 63, then ⌈inputs / 2⌉ steps of
 *         [4][2 inputs] u16: the lowest 4 bits are of output n of a 4, the next ones of n + 4, n + 8 and n + 12.
 *         w = scale · share · number, −8 … 7. The bits are those of number + 8, of the last output of number. Behind an odd last input there is 0.
 *         The sum of share · number · int16 of a group is exact: 63 · 8 · 8191 · 128 < 2³¹
 *   w8a8  for each GROUP inputs: 8 scales, then ⌈inputs / 4⌉ steps of [8 outputs][4 inputs] bytes 1 … 127;
 *         w = scale · (byte − 64). Behind the last input there is 64
 *
 * A scale is a u16, bits 30 … 15 of an f32: no sign, 8 bits of exponent, 8 of fraction. The others are cut off, less than 2⁻⁸ of it, so
 * that the largest number of a group is still ±limit: 127 · (1 + 2⁻⁸) < 127.5.
 *
 * Everything is in the byte order of wasm: little-endian.
 */
import { GROUP, SHARED } from "../graph/record.js";

/** From the most bytes to the least, and w8a8. */
export type Format = "f32" | "f16" | "i8" | "i4" | "w8a8";

/** Of formats with a byte for each weight: inputs of a step, and the largest number. */
const grouped = { i8: { step: 2, limit: 127 }, w8a8: { step: 4, limit: 63 } } as const;
export type Grouped = keyof typeof grouped;
export const isGrouped = (format: Format | "rows"): format is Grouped => Object.hasOwn(grouped, format);

/** Outputs of a panel. */
export const panelOf = (format: Format): number => (format === "i8" || format === "i4" ? 16 : 8);

/** The largest share. */
const SHARES = 63;

/** Bytes of a scale. */
const SCALE = 2;

/** Below this a group counts as zeros: 127 / largest would not be finite. */
const NOTHING = 2 ** -100;

/** Bytes of one panel of a weight with K inputs. */
export function panelBytes(format: Format, K: number): number {
  if (format === "f32" || format === "f16") return K * panelOf(format) * (format === "f32" ? 4 : 2);
  const last = K % GROUP;
  return Math.floor(K / GROUP) * groupBytes(format, GROUP) + (last === 0 ? 0 : groupBytes(format, last));
}

function groupBytes(format: Grouped | "i4", inputs: number): number {
  const outputs = panelOf(format);
  if (format === "i4") return outputs * SCALE + Math.ceil(inputs / SHARED) * outputs + Math.ceil(inputs / 2) * outputs;
  const { step } = grouped[format];
  return outputs * SCALE + Math.ceil(inputs / step) * step * outputs;
}

/** Bytes of a packed weight [N, K]. */
export function packedBytes(format: Format, N: number, K: number): number {
  return Math.ceil(N / panelOf(format)) * panelBytes(format, K);
}

/** @param w f32 [N, K], row-major */
export function pack(format: Format, w: Float32Array, N: number, K: number): Uint8Array {
  const bytes = new Uint8Array(packedBytes(format, N, K));
  const view = new DataView(bytes.buffer);
  if (isGrouped(format)) packBytes(format, view, w, N, K);
  else if (format === "i4") packI4(view, w, N, K);
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
  if (isGrouped(format)) {
    groups(format, N, K, (n, from, to, group, lane) => {
      const scale = scaleAt(view, group, lane), offset = offsetOf(format, lane);
      for (let k = from; k < to; k++) w[n * K + k] = scale * (((view.getInt8(group + placeByte(format, k - from, lane)) - offset) << 24) >> 24);
    });
  } else if (format === "i4") {
    groups("i4", N, K, (n, from, to, group, lane) => {
      const scale = scaleAt(view, group, lane);
      for (let k = from; k < to; k++) {
        w[n * K + k] = Math.fround(scale * view.getInt8(group + shareOfI4(k - from, lane))) * numberI4(view, group + placeI4(k - from, to - from, lane), lane);
      }
    });
  } else {
    each(N, K, (n, k, place) => {
      w[n * K + k] = format === "f32" ? view.getFloat32(place * 4, true) : fromF16(view.getUint16(place * 2, true));
    });
  }
  return w;
}

/**
 * Makes one output of a panel zero, and its scales with it.
 *
 * @param panel the bytes of the panel alone
 * @param lane which of its outputs
 */
export function clearOutput(format: Format, panel: Uint8Array, K: number, lane: number): void {
  const clear = (at: number, bytes: number, value = 0) => panel.fill(value, at, at + bytes);
  const size = format === "f32" ? 4 : 2;
  if (format === "f32" || format === "f16") for (let k = 0; k < K; k++) clear((k * panelOf(format) + lane) * size, size);
  else
    groups(format, panelOf(format), K, (n, from, to, group) => {
      if (n !== lane) return;
      const inputs = to - from;
      clear(group + lane * SCALE, SCALE);
      if (isGrouped(format)) for (let k = 0; k < inputs; k++) clear(group + placeByte(format, k, lane), 1, offsetOf(format, lane));
      else
        for (let k = 0; k < inputs; k++) {
          const at = group + placeI4(k, inputs, lane), byte = at + (lane >> 3);
          clear(group + shareOfI4(k, lane), 1);
          clear(byte, 1, panel[byte] & (lane & 4 ? 15 : 240));
        }
    });
}

/** Calls `use` with every element and its place among the numbers of an f32 or f16 packing. */
function each(N: number, K: number, use: (n: number, k: number, place: number) => void): void {
  for (let n = 0; n < N; n++) {
    const panel = Math.floor(n / 8) * K * 8 + (n % 8);
    for (let k = 0; k < K; k++) use(n, k, panel + k * 8);
  }
}

/** Calls `use` with every group of a packing in groups: the inputs from … to − 1 of output n, which is a lane of its panel, and where the group begins. */
function groups(format: Grouped | "i4", N: number, K: number, use: (n: number, from: number, to: number, group: number, lane: number) => void): void {
  const outputs = panelOf(format);
  for (let n = 0; n < N; n++) {
    const panel = Math.floor(n / outputs) * panelBytes(format, K);
    for (let from = 0; from < K; from += GROUP) use(n, from, Math.min(from + GROUP, K), panel + (from / GROUP) * groupBytes(format, GROUP), n % outputs);
  }
}

/** Where in an i8 or w8a8 group its input i lies. */
export function placeByte(format: Grouped, i: number, lane: number): number {
  if (format === "i8") return 16 * SCALE + (i >> 1) * 32 + (lane >> 3) * 16 + (lane & 3) * 4 + (i & 1) * 2 + ((lane >> 2) & 1);
  return 8 * SCALE + (i >> 2) * 32 + lane * 4 + (i & 3);
}

/** What is added to the numbers of an output; a byte keeps the lowest 8 bits of it. */
export function offsetOf(format: Grouped, lane: number): number {
  if (format === "w8a8") return 64;
  return lane & 4 ? 0 : 128;
}

/** Where in an i4 group the share of input i lies. */
export const shareOfI4 = (i: number, lane: number): number => 16 * SCALE + Math.floor(i / SHARED) * 16 + lane;

/** Where in an i4 group of so many inputs the u16 lies that has the number of input i. */
export const placeI4 = (i: number, inputs: number, lane: number): number => 16 * SCALE + Math.ceil(inputs / SHARED) * 16 + (i >> 1) * 16 + (lane & 3) * 4 + (i & 1) * 2;

/** How far up in it that number is, and what is added to it. */
const inI4 = (lane: number) => ({ shift: lane & 12, offset: lane < 12 ? 8 : 0 });

/** The number of a lane in the u16 at `place`. */
export function numberI4(view: DataView, place: number, lane: number): number {
  const { shift, offset } = inI4(lane);
  return ((((view.getUint16(place, true) >> shift) & 15) - offset) << 28) >> 28;
}

/** The scale of a lane of the group that begins at `group`. */
export function scaleAt(view: DataView, group: number, lane: number): number {
  bits[0] = view.getUint16(group + lane * SCALE, true) << 15;
  return float[0];
}

/** Puts it there, rounded down, and returns what it is now. */
function putScale(view: DataView, group: number, lane: number, scale: number): number {
  float[0] = scale;
  view.setUint16(group + lane * SCALE, bits[0] >>> 15, true);
  return scaleAt(view, group, lane);
}

function packBytes(format: Grouped, view: DataView, w: Float32Array, N: number, K: number): void {
  const { step, limit } = grouped[format];
  groups(format, N, K, (n, from, to, group, lane) => {
    const scale = putScale(view, group, lane, scaleOf(w.subarray(n * K + from, n * K + to), limit).scale), offset = offsetOf(format, lane);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    for (let k = from; k < to; k++) view.setInt8(group + placeByte(format, k - from, lane), roundEven(Math.fround(w[n * K + k] * inverse)) + offset);
    for (let i = to - from; i % step !== 0; i++) view.setInt8(group + placeByte(format, i, lane), offset);
  });
}

function packI4(view: DataView, w: Float32Array, N: number, K: number): void {
  groups("i4", N, K, (n, from, to, group, lane) => {
    const scale = putScale(view, group, lane, scaleOf(w.subarray(n * K + from, n * K + to), 7.5 * SHARES).scale);
    for (let first = from; first < to; first += SHARED) {
      const some = w.subarray(n * K + first, n * K + Math.min(first + SHARED, to));
      const share = bestShare(some, scale), numbers = nearestI4(some, Math.fround(scale * share)).numbers, { shift, offset } = inI4(lane);
      view.setInt8(group + shareOfI4(first - from, lane), share);
      if (share === 0) continue; // all bits are 0
      for (let i = 0; i < Math.ceil(some.length / 2) * 2; i++) {
        const place = group + placeI4(first - from + i, to - from, lane);
        view.setUint16(place, view.getUint16(place, true) | ((((numbers[i] ?? 0) + offset) & 15) << shift), true);
      }
    }
  });
}

/**
 * The share with which some weights lose the least: the first of the smallest sums of squared errors. A share below 0 gives the wider side
 * of −8 … 7 to numbers above 0. Tried are those that make the largest weight 8 / 1.15 … 8 / 0.8.
 */
function bestShare(w: Float32Array, scale: number): number {
  if (scale === 0) return 0;
  let largest = 0, least = Infinity, best = 0;
  for (const value of w) largest = Math.max(largest, Math.abs(value));
  const eighth = Math.fround(largest / Math.fround(8 * scale));
  const last = Math.min(SHARES, Math.ceil(Math.fround(eighth * Math.fround(1.15))));
  for (let share = Math.max(1, Math.floor(Math.fround(eighth * Math.fround(0.8)))); share <= last; share++) {
    for (const signed of [share, -share]) {
      const { error } = nearestI4(w, Math.fround(scale * signed));
      if (error < least) [least, best] = [error, signed];
    }
  }
  return best;
}

/** The numbers of −8 … 7 that are nearest to w / step, and the sum of their squared errors: four sums side by side, then lanes pairwise. */
function nearestI4(w: Float32Array, step: number): { numbers: number[]; error: number } {
  const inverse = Math.fround(1 / step), sums = new Float32Array(4), numbers: number[] = [];
  w.forEach((value, i) => {
    const number = Math.min(7, Math.max(-8, roundEven(Math.fround(value * inverse))));
    const off = Math.fround(value - Math.fround(number * step));
    numbers.push(number);
    sums[i & 3] += Math.fround(off * off);
  });
  return { numbers, error: Math.fround(Math.fround(sums[0] + sums[2]) + Math.fround(sums[1] + sums[3])) };
}

/** The scale that makes the largest of some numbers ±limit, and what to multiply them by; each rounded to f32. */
function scaleOf(x: Float32Array, limit: number): { scale: number; inverse: number } {
  let largest = 0;
  for (const value of x) largest = Math.max(largest, Math.abs(value));
  return largest < NOTHING ? { scale: 0, inverse: 0 } : { scale: Math.fround(largest / limit), inverse: Math.fround(limit / largest) };
}

/**
 * int16 activations, −8191 … 8191, as i8 and i4 meet them: x = scale · int16. What belongs to a group of a row is its scale, f32, and −128 Σ
 * of its numbers, i32, side by side.
 *
 * @param ldq distance of two rows, at least K; what lies between is 0
 * @returns rows [M, ldq], scales [M, ⌈K / GROUP⌉] and the bytes of both that the kernels read
 */
export const quantize = (x: Float32Array, M: number, K: number, ldq: number) => quantized(x, M, K, new Int16Array(M * ldq), ldq, 8191, -128);

/** int8 activations, −127 … 127, as w8a8 meets them: the same with −64 Σ. */
export const quantizeI8 = (x: Float32Array, M: number, K: number, ldq: number) => quantized(x, M, K, new Int8Array(M * ldq), ldq, 127, -64);

function quantized<Rows extends Int16Array | Int8Array>(x: Float32Array, M: number, K: number, rows: Rows, ldq: number, limit: number, times: number) {
  const perRow = Math.ceil(K / GROUP), scales = new Float32Array(M * perRow), pairs = new DataView(new ArrayBuffer(M * perRow * 8));
  for (let i = 0; i < M * perRow; i++) {
    const m = Math.floor(i / perRow), from = (i % perRow) * GROUP, to = Math.min(from + GROUP, K);
    const { scale, inverse } = scaleOf(x.subarray(m * K + from, m * K + to), limit);
    let sum = 0;
    for (let k = from; k < to; k++) sum += rows[m * ldq + k] = roundEven(Math.fround(x[m * K + k] * inverse));
    scales[i] = scale;
    pairs.setFloat32(i * 8, scale, true);
    pairs.setInt32(i * 8 + 4, times * sum, true);
  }
  return { rows, scales, pairs: new Uint8Array(pairs.buffer) };
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
