/**
 * Rows of a checkpoint's matrix w[N, K] (F32, F16 or BF16, at any alignment) → panels of 8 outputs, or plain f32 rows.
 * The same bits as src/weights/quant.ts, where the formats are described. Threads share panels (rows for Format.rows).
 */
import { halves, toHalves } from "./half";
import { inverseOf, nearest, scaleOf } from "./quantize";
import { Format, GROUP, Pack, Type } from "./record";
import { share } from "./share";
import { largest, loadPart, storePart } from "./simd";

export function pack(op: Pack, t: i32, n: i32): void {
  if (op.format == Format.rows) {
    const to = share(op.N, t + 1, n);
    for (let row = share(op.N, t, n); row < to; row++) plainRow(op, rowOf(op, row), op.dst + (<usize>row * op.K << 2));
    return;
  }
  const panels = (op.N + 7) >> 3, bytes = panelBytes(op.format, op.K);
  const to = share(panels, t + 1, n);
  for (let p = share(panels, t, n); p < to; p++) {
    const dst = op.dst + <usize>p * bytes, rows = min(8, op.N - (p << 3));
    if (rows < 8) memory.fill(dst, 0, bytes);
    for (let lane = 0; lane < rows; lane++) {
      const src = rowOf(op, (p << 3) + lane);
      if (op.format == Format.f32) lane_f32(op, src, dst + (<usize>lane << 2));
      else if (op.format == Format.f16) lane_f16(op, src, dst + (<usize>lane << 1));
      else lane_i8(op, src, dst, lane);
    }
  }
}

export function panelBytes(format: u32, K: i32): usize {
  if (format == Format.f32) return <usize>K << 5;
  if (format == Format.f16) return <usize>K << 4;
  const rest = K % GROUP;
  return <usize>(K / GROUP) * (32 + GROUP * 8) + (rest ? 32 + <usize>((rest + 1) >> 1) * 16 : 0);
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

function lane_i8(op: Pack, src: usize, group: usize, lane: i32): void {
  for (let from = 0; from < op.K; from += GROUP, group += 32 + GROUP * 8) {
    const to = min(from + GROUP, op.K);
    let size = f32x4.splat(0);
    for (let k = from; k < to; k += 4) size = f32x4.pmax(size, f32x4.abs(four(op, src, k, to)));
    const top = largest(size), inverse = f32x4.splat(inverseOf(top, 127));
    store<f32>(group + (<usize>lane << 2), scaleOf(top, 127));
    let dst = group + (<usize>lane << 1);
    for (let k = from; k < to; k += 4, dst += 32) {
      let v = nearest(f32x4.mul(four(op, src, k, to), inverse));
      v = i16x8.narrow_i32x4_s(v, v);
      v = i8x16.narrow_i16x8_s(v, v);
      v128.store16_lane(dst, v, 0, 32);
      if (k + 2 < to) v128.store16_lane(dst, v, 1, 48);
    }
  }
}
