/**
 * Packing, unpacking and quantising in plain TypeScript: what the kernels (assembly/pack.ts, quantize.ts, matmul_*.ts) are tested against. Not
 * in the package, as graph/reference.ts is not.
 */
import { GROUP, SHARED } from "../graph/record.js";
import {
  fromF16, grouped, groups, inI4, isGrouped, numberI4, offsetOf, packedBytes, placeByte, placeI4, SCALE, scaleAt, shareOfI4, type Format, type Grouped,
} from "./quant.js";

/** The largest share. */
const SHARES = 63;

/** Below this a group counts as zeros: 127 / largest would not be finite. */
const NOTHING = 2 ** -100;

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

/** Calls `use` with every element and its place among the numbers of an f32 or f16 packing. */
function each(N: number, K: number, use: (n: number, k: number, place: number) => void): void {
  for (let n = 0; n < N; n++) {
    const panel = Math.floor(n / 8) * K * 8 + (n % 8);
    for (let k = 0; k < K; k++) use(n, k, panel + k * 8);
  }
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
