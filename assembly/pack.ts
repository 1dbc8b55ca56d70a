/**
 * Rows of a checkpoint's matrix w[N, K] (F32, F16 or BF16, at any alignment) → panels of outputs, or plain f32 rows.
 * The same bits as src/weights/reference.ts; quant.ts beside it describes the formats. Threads share panels (rows for Format.rows).
 */
import { halves, toHalves } from "./half";
import { nearest, scaleOf } from "./quantize";
import { Format, GROUP, Pack, SHARED, Type } from "./record";
import { share } from "./share";
import { largest, loadPart, mulAdd, storePart, sum } from "./simd";

export function pack(op: Pack, t: i32, n: i32): void {
  if (op.format == Format.rows) {
    const to = share(op.N, t + 1, n);
    for (let row = share(op.N, t, n); row < to; row++) plainRow(op, rowOf(op, row), op.dst + (<usize>row * op.K << 2));
    return;
  }
  const width = op.format == Format.i8 || op.format == Format.i4 ? OUTPUTS : 8, panels = (op.N + width - 1) / width, bytes = panelBytes(op.format, op.K);
  const to = share(panels, t + 1, n);
  for (let p = share(panels, t, n); p < to; p++) {
    const dst = op.dst + <usize>p * bytes, rows = min(width, op.N - p * width);
    if (rows < width || op.format == Format.i4) memory.fill(dst, 0, bytes); // numbers of 4 bits are added to what is there
    for (let lane = 0; lane < rows; lane++) {
      const src = rowOf(op, p * width + lane);
      if (op.format == Format.f32) lane_f32(op, src, dst + (<usize>lane << 2));
      else if (op.format == Format.f16) lane_f16(op, src, dst + (<usize>lane << 1));
      else if (op.format == Format.i8) lane_i8(op, src, dst, lane);
      else if (op.format == Format.i4) lane_i4(op, src, dst, lane);
      else lane_w8a8(op, src, dst, lane);
    }
  }
}

export function panelBytes(format: u32, K: i32): usize {
  if (format == Format.f32) return <usize>K << 5;
  if (format == Format.f16) return <usize>K << 4;
  const rest = K % GROUP;
  if (format == Format.i4) return <usize>(K / GROUP) * I4_GROUP + (rest ? SCALES + shareBytes(rest) + <usize>((rest + 1) >> 1) * I4_STEP : 0);
  if (format == Format.w8a8) return <usize>(K / GROUP) * W8A8_GROUP + (rest ? W8A8_SCALES + <usize>((rest + 3) >> 2) * 32 : 0);
  return <usize>(K / GROUP) * I8_GROUP + (rest ? SCALES + <usize>((rest + 1) >> 1) * I8_STEP : 0);
}

/** Outputs of a panel of int8 or 4 bits, and bytes of a group's scales, there and of 8 outputs. */
export const OUTPUTS: i32 = 16, SCALES: usize = 32, W8A8_SCALES: usize = 16;

/** Four of them as f32: 16 bits that stand where an f32 has them. */
// @ts-ignore: decorator
@inline export function fourScales(p: usize): v128 {
  return i32x4.shl(v128.load16x4_u(p), 15);
}

// @ts-ignore: decorator
@inline export function scaleAt(p: usize): f32 {
  return reinterpret<f32>(<u32>load<u16>(p) << 15);
}

/** Puts the scale to p with which ±limit stands for `top`, rounded down to 16 bits, and returns what it is now. */
function putScale(p: usize, top: f32, limit: f32): f32 {
  store<u16>(p, reinterpret<u32>(scaleOf(top, limit)) >> 15);
  return scaleAt(p);
}

/** Bytes of two inputs in int8, and of a whole group. */
export const I8_STEP: usize = 32, I8_GROUP: usize = SCALES + <usize>(GROUP >> 1) * I8_STEP;

/** Where in a step of int8 the first input of an output lies; the second is two bytes further. */
// @ts-ignore: decorator
@inline export function laneOfI8(lane: i32): usize {
  return <usize>(((lane >> 3) << 4) + ((lane & 3) << 2) + ((lane >> 2) & 1));
}

/** What is added to an output's int8: 128 to those that are low bytes of 16-bit lanes. */
// @ts-ignore: decorator
@inline export function offsetOfI8(lane: i32): i32 {
  return lane & 4 ? 0 : 128;
}

/** Bytes of two inputs in 4 bits, and of a whole group; and of one in 7 bits. */
export const I4_STEP: usize = 16, I4_GROUP: usize = SCALES + (GROUP / SHARED) * OUTPUTS + <usize>(GROUP >> 1) * I4_STEP, W8A8_GROUP: usize = W8A8_SCALES + GROUP * 8;

/** How far up in its lanes a number of 4 bits is. */
// @ts-ignore: decorator
@inline export function shiftOfI4(lane: i32): i32 {
  return lane & 12;
}

/** What is added to it: 8, but not to those of the highest bits. */
// @ts-ignore: decorator
@inline export function offsetOfI4(lane: i32): i32 {
  return lane < 12 ? 8 : 0;
}

/** Bytes of the shares of a 4-bit group's inputs. */
export function shareBytes(inputs: i32): usize {
  return <usize>((inputs + SHARED - 1) / SHARED) * OUTPUTS;
}

function sizeOf(type: u32): usize {
  return type == Type.F32 ? 4 : 2;
}

function rowOf(op: Pack, row: i32): usize {
  return op.src + <usize>row * op.K * sizeOf(op.type);
}

/** Numbers k … k + 3 of a row as f32, zeros from number `end` on. */
// @ts-ignore: decorator
@inline function four(op: Pack, src: usize, k: i32, end: i32): v128 {
  const p = src + <usize>k * sizeOf(op.type);
  if (k + 4 > end) return part(op.type, p, end - k);
  if (op.type == Type.F32) return v128.load(p);
  return widen(op.type, v128.load16x4_u(p));
}

/** The last 1 … 3 numbers. */
function part(type: u32, p: usize, count: i32): v128 {
  if (type == Type.F32) return loadPart(p, count);
  let bits = i32x4.replace_lane(i32x4.splat(0), 0, load<u16>(p));
  if (count > 1) bits = i32x4.replace_lane(bits, 1, load<u16>(p, 2));
  if (count > 2) bits = i32x4.replace_lane(bits, 2, load<u16>(p, 4));
  return widen(type, bits);
}

function widen(type: u32, bits: v128): v128 {
  return type == Type.F16 ? halves(bits) : i32x4.shl(bits, 16);
}

function plainRow(op: Pack, src: usize, dst: usize): void {
  for (let k = 0; k < op.K; k += 4, dst += 16) {
    const v = four(op, src, k, op.K);
    if (k + 4 <= op.K) v128.store(dst, v);
    else storePart(dst, v, op.K - k);
  }
}

function lane_f32(op: Pack, src: usize, dst: usize): void {
  for (let k = 0; k < op.K; k += 4, dst += 128) {
    const v = four(op, src, k, op.K), left = op.K - k;
    v128.store32_lane(dst, v, 0);
    if (left > 1) v128.store32_lane(dst, v, 1, 32);
    if (left > 2) v128.store32_lane(dst, v, 2, 64);
    if (left > 3) v128.store32_lane(dst, v, 3, 96);
  }
}

function lane_f16(op: Pack, src: usize, dst: usize): void {
  for (let k = 0; k < op.K; k += 4, dst += 64) {
    const v = toHalves(four(op, src, k, op.K)), left = op.K - k;
    v128.store16_lane(dst, v, 0);
    if (left > 1) v128.store16_lane(dst, v, 2, 16);
    if (left > 2) v128.store16_lane(dst, v, 4, 32);
    if (left > 3) v128.store16_lane(dst, v, 6, 48);
  }
}

/** 1 / scale. Its product with a number of the group is at most limit · (1 + 2⁻⁸), which rounds to ±limit. */
function reciprocal(scale: f32): f32 {
  return scale == 0 ? 0 : <f32>1 / scale;
}

function lane_i8(op: Pack, src: usize, group: usize, lane: i32): void {
  const offset = i32x4.splat(offsetOfI8(lane));
  for (let from = 0; from < op.K; from += GROUP, group += I8_GROUP) {
    const to = min(from + GROUP, op.K);
    let size = f32x4.splat(0);
    for (let k = from; k < to; k += 4) size = f32x4.pmax(size, f32x4.abs(four(op, src, k, to)));
    const inverse = f32x4.splat(reciprocal(putScale(group + (<usize>lane << 1), largest(size), 127)));
    let dst = group + SCALES + laneOfI8(lane);
    for (let k = from; k < to; k += 4, dst += 2 * I8_STEP) {
      const v = i32x4.add(nearest(f32x4.mul(four(op, src, k, to), inverse)), offset);
      v128.store8_lane(dst, v, 0); v128.store8_lane(dst, v, 4, 2);
      if (k + 2 < to) {
        v128.store8_lane(dst, v, 8, 32); v128.store8_lane(dst, v, 12, 34);
      }
    }
  }
}

function lane_i4(op: Pack, src: usize, group: usize, lane: i32): void {
  const offset = i32x4.splat(offsetOfI4(lane)), shift = shiftOfI4(lane);
  for (let from = 0; from < op.K; from += GROUP, group += I4_GROUP) {
    const to = min(from + GROUP, op.K);
    let size = f32x4.splat(0);
    for (let k = from; k < to; k += 4) size = f32x4.pmax(size, f32x4.abs(four(op, src, k, to)));
    const scale = putScale(group + (<usize>lane << 1), largest(size), 472.5); // 7.5 · 63
    let shares = group + SCALES + lane, dst = group + SCALES + shareBytes(to - from) + (<usize>(lane & 3) << 2);
    for (let k = from; k < to; k += SHARED, shares += OUTPUTS) {
      const end = min(k + SHARED, to), share = bestShare(op, src, k, end, scale);
      store<i8>(shares, share);
      const inverse = f32x4.splat(<f32>1 / (scale * <f32>share));
      for (let i = k; i < end; i += 4, dst += 2 * I4_STEP) {
        if (share == 0) continue;
        const numbers = v128.and(i32x4.add(nearest(number(four(op, src, i, end), inverse)), offset), i32x4.splat(15)), v = i32x4.shl(numbers, shift);
        add(dst, i32x4.extract_lane(v, 0) | (i32x4.extract_lane(v, 1) << 16));
        if (i + 2 < end) add(dst + I4_STEP, i32x4.extract_lane(v, 2) | (i32x4.extract_lane(v, 3) << 16));
      }
    }
  }
}

// @ts-ignore: decorator
@inline function add(p: usize, bits: i32): void {
  store<i32>(p, load<i32>(p) | bits);
}

/** The share of weights k … end − 1 with which they lose the least, as reference.ts has it. */
function bestShare(op: Pack, src: usize, k: i32, end: i32, scale: f32): i32 {
  if (scale == 0) return 0;
  // From the format, 4: V8 would build a constant anew at every use in a loop.
  const eight = f32x4.splat(<f32>(op.format << 1)), seven = f32x4.sub(eight, f32x4.splat(1)), magic = f32x4.mul(eight, f32x4.splat(1572864)); // 1.5 · 2²³
  const w0 = four(op, src, k, end), w1 = fourOrNone(op, src, k + 4, end), w2 = fourOrNone(op, src, k + 8, end), w3 = fourOrNone(op, src, k + 12, end);
  const w4 = fourOrNone(op, src, k + 16, end), w5 = fourOrNone(op, src, k + 20, end), w6 = fourOrNone(op, src, k + 24, end), w7 = fourOrNone(op, src, k + 28, end);
  let size = f32x4.pmax(f32x4.pmax(f32x4.abs(w0), f32x4.abs(w1)), f32x4.pmax(f32x4.abs(w2), f32x4.abs(w3)));
  size = f32x4.pmax(size, f32x4.pmax(f32x4.pmax(f32x4.abs(w4), f32x4.abs(w5)), f32x4.pmax(f32x4.abs(w6), f32x4.abs(w7))));
  const eighth = largest(size) / (<f32>8 * scale), last = min<i32>(63, <i32>ceil(eighth * <f32>1.15));
  let least = f32.MAX_VALUE, best = 0;
  for (let share = max(1, <i32>floor(eighth * <f32>0.8)); share <= last; share++) {
    const size = scale * <f32>share, step = f32x4.splat(size), inverse = f32x4.splat(<f32>1 / size);
    // a negative share is −7 … 8 of the positive one
    let low = f32x4.neg(eight), high = seven;
    for (let sign = 1; sign >= -1; sign -= 2) {
      let error = loss(f32x4.splat(0), w0, inverse, step, low, high, magic);
      error = loss(error, w1, inverse, step, low, high, magic);
      error = loss(error, w2, inverse, step, low, high, magic);
      error = loss(error, w3, inverse, step, low, high, magic);
      error = loss(error, w4, inverse, step, low, high, magic);
      error = loss(error, w5, inverse, step, low, high, magic);
      error = loss(error, w6, inverse, step, low, high, magic);
      error = loss(error, w7, inverse, step, low, high, magic);
      const e = sum(error);
      if (e < least) { least = e; best = sign * share; }
      low = f32x4.neg(seven); high = eight;
    }
  }
  return best;
}

function fourOrNone(op: Pack, src: usize, k: i32, end: i32): v128 {
  return k < end ? four(op, src, k, end) : f32x4.splat(0);
}

/** error + (w − the nearest of low … high steps)². */
// @ts-ignore: decorator
@inline function loss(error: v128, w: v128, inverse: v128, step: v128, low: v128, high: v128, magic: v128): v128 {
  const number = f32x4.pmin(high, f32x4.pmax(low, f32x4.sub(f32x4.add(f32x4.mul(w, inverse), magic), magic)));
  const off = f32x4.sub(w, f32x4.mul(number, step));
  return mulAdd(off, off, error);
}

/** w / step, kept within −8 … 7. */
// @ts-ignore: decorator
@inline function number(w: v128, inverse: v128): v128 {
  return f32x4.pmin(f32x4.splat(7), f32x4.pmax(f32x4.splat(-8), f32x4.mul(w, inverse)));
}

function lane_w8a8(op: Pack, src: usize, group: usize, lane: i32): void {
  for (let from = 0; from < op.K; from += GROUP, group += W8A8_GROUP) {
    const to = min(from + GROUP, op.K);
    let size = f32x4.splat(0);
    for (let k = from; k < to; k += 4) size = f32x4.pmax(size, f32x4.abs(four(op, src, k, to)));
    const inverse = f32x4.splat(reciprocal(putScale(group + (<usize>lane << 1), largest(size), 63)));
    let dst = group + W8A8_SCALES + (<usize>lane << 2);
    for (let k = from; k < to; k += 4, dst += 32) {
      let v = i32x4.add(nearest(f32x4.mul(four(op, src, k, to), inverse)), i32x4.splat(64));
      v = i16x8.narrow_i32x4_s(v, v);
      v128.store32_lane(dst, i8x16.narrow_i16x8_u(v, v), 0);
    }
  }
}
