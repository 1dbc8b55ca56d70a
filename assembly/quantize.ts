/**
 * dst[M, K] in int16 with x ≈ scale · dst: the largest number of a group becomes ±8191; and for each group its scale beside −128 Σ of its
 * int16, what half of matmul_i8's sums begin with. quantize_i8: the same in int8, ±127, and −64 Σ, for matmul_w8a8.
 * Columns K … ldd − 1 become 0 (ldd ≥ K rounded up to 8). Threads share groups, so that one row is work for all.
 *
 * 14 bits, since products of many rows add four of them in int16 (rows_i16.ts): off by 6e-5 of a group's largest, where int8 weights are by 4e-3.
 * For such products rows come in eights, of which sums of quarters are made here, once for all outputs. Of their scales there is only f32, eight rows side by
 * side and in the order in which they are met: one stream, where a pair of each row would be a cache line of its own.
 */
import { EIGHT, GROUP, Quantize, singles } from "./record";
import { share } from "./share";
import { kept, largest, loadFour, loadPart, MAGIC, transpose } from "./simd";

/** The largest of its int16. */
export const I16: f32 = 8191;

export function quantize(op: Quantize, t: i32, n: i32): void {
  const groups = (op.K + GROUP - 1) / GROUP, alone = singles(op.M, op.eights), pieces = (alone + op.eights) * groups, rows = op.scratch + <usize>t * EIGHT_ROWS;
  const to = share(pieces, t + 1, n);
  for (let i = share(pieces, t, n); i < to; i++) {
    const m = i / groups, g = i % groups;
    if (m < alone) group(op, m, g, op.dst + ((<usize>m * op.ldd + g * GROUP) << 1), op.ldd - g * GROUP, op.scales + (<usize>i << 3));
    else {
      const e = m - alone, scales = scalesOfEight(op.scales, alone, groups, op.eights, g, e);
      for (let row = 0; row < 8; row++) groupOfEight(op, alone + (e << 3) + row, g, rows + (<usize>row << 8), scales + (<usize>row << 2));
      quartersOf(rows, op.dst + <usize>alone * (<usize>op.ldd << 1) + <usize>(g * op.eights + e) * EIGHT);
    }
  }
}

/** Where the scales of group g of eight e are: f32, a row's beside the others', in the order in which they are met (rows_i16.ts), behind those of single rows. */
// @ts-ignore: decorator
@inline export function scalesOfEight(scales: usize, alone: i32, groups: i32, eights: i32, g: i32, e: i32): usize {
  return scales + ((<usize>alone * groups) << 3) + (<usize>(g * eights + e) << 5);
}

/** Group g of row m to dst and `scale`. If it is the row's last, zeros follow up to column `end` of the group. */
function group(op: Quantize, m: i32, g: i32, dst: usize, end: i32, scale: usize): void {
  integers(op, m, g, dst, end, scale, true);
}

/** The same for an eight: GROUP numbers, of the scale nothing but itself; a row past the last is zeros. */
function groupOfEight(op: Quantize, m: i32, g: i32, dst: usize, scale: usize): void {
  integers(op, m, g, dst, GROUP, scale, false);
}

// @ts-ignore: decorator
@inline function integers(op: Quantize, m: i32, g: i32, dst: usize, end: i32, scale: usize, alone: bool): void {
  const groups = (op.K + GROUP - 1) / GROUP, from = g * GROUP, count = m < op.M ? min(GROUP, op.K - from) : 0;
  const x = op.x + ((<usize>m * op.ldx + from) << 2);
  const whole = <usize>(count & ~3) << 2, rest = count & 3, most = kept(op, I16), magic = kept(op, MAGIC);
  let size = f32x4.splat(0), sums = size;
  for (let k: usize = 0; k < whole; k += 16) size = f32x4.pmax(size, f32x4.abs(v128.load(x + k)));
  if (rest) size = f32x4.pmax(size, f32x4.abs(loadPart(x + whole, rest)));
  const top = largest(size), inverse = f32x4.splat(inverseOf(top, I16));
  for (let k: usize = 0; k < whole; k += 16) {
    const four = store4(dst + (k >> 1), f32x4.mul(v128.load(x + k), inverse), most, magic);
    if (alone) sums = i32x4.add(sums, four);
  }
  if (rest) sums = i32x4.add(sums, store4(dst + (whole >> 1), f32x4.mul(loadPart(x + whole, rest), inverse), most, magic));
  storeScale(scale, top, sums, alone);
  if (g == groups - 1 || m >= op.M) clear(dst, count, end);
}

/** Bytes of a group of eight rows. */
export const EIGHT_ROWS: usize = 8 * 2 * GROUP;

/** Eight rows of GROUP int16 as quarters and sums of quarters, in rows_i16.ts' order. */
export function quartersOf(rows: usize, dst: usize): void {
  for (let k: usize = 0; k < 128; k += 16) {
    quarter(rows + k, dst + 4 * k); quarter(rows + k + 128, dst + 4 * k + 512); // A11, A12
    quarter(rows + k + 1024, dst + 4 * k + 1536); quarter(rows + k + 1152, dst + 4 * k + 2048); // A21, where S3 will be, and A22
  }
  for (const end = dst + 512; dst < end; dst += 16) {
    const a11 = v128.load(dst), a12 = v128.load(dst, 512), a21 = v128.load(dst, 1536), s1 = i16x8.add(a21, v128.load(dst, 2048)), s2 = i16x8.sub(s1, a11);
    v128.store(dst, s2, 1024); v128.store(dst, i16x8.sub(a11, a21), 1536); v128.store(dst, s1, 2560); v128.store(dst, i16x8.sub(a12, s2), 3072);
  }
}

/** Eight inputs of four rows as pairs, [4][4 rows][2 inputs]. */
// @ts-ignore: decorator
@inline function quarter(x: usize, dst: usize): void {
  transpose(v128.load(x), v128.load(x, 256), v128.load(x, 512), v128.load(x, 768), dst, 16);
}

export function quantize_i8(op: Quantize, t: i32, n: i32): void {
  const groups = (op.K + GROUP - 1) / GROUP;
  const to = share(op.M * groups, t + 1, n);
  for (let i = share(op.M * groups, t, n); i < to; i++) {
    const m = i / groups, g = i % groups, from = g * GROUP, count = min(GROUP, op.K - from);
    const x = op.x + ((<usize>m * op.ldx + from) << 2), dst = op.dst + <usize>m * op.ldd + from;
    let size = f32x4.splat(0), sums = size;
    for (let k = 0; k < count; k += 4) size = f32x4.pmax(size, f32x4.abs(loadFour(x + (<usize>k << 2), count - k)));
    const top = largest(size), inverse = inverseOf(top, 127);
    for (let k = 0; k < count; k += 4) sums = i32x4.add(sums, store4bytes(dst + k, loadFour(x + (<usize>k << 2), count - k), inverse));
    storeScaleOfBytes(op.scales + (<usize>i << 3), top, sums);
    if (g == groups - 1) clearBytes(dst, count, op.ldd - from);
  }
}

/** Below 2⁻¹⁰⁰ a group counts as zeros: its inverse would not be finite. */
const NOTHING: f32 = 7.888609052210118e-31;

/** What a group's integers are times, when the largest of them, ±limit, stands for `top`. */
export function scaleOf(top: f32, limit: f32): f32 {
  return top < NOTHING ? 0 : top / limit;
}

export function inverseOf(top: f32, limit: f32): f32 {
  return top < NOTHING ? 0 : limit / top;
}

/** Four numbers to the nearest of int32, halves to even: adding 1.5 · 2²³ leaves it in the low bits. For |v| < 2²². */
// @ts-ignore: decorator
@inline export function nearest(v: v128): v128 {
  return nearestBy(v, f32x4.splat(MAGIC));
}

/** `nearest`, for who keeps MAGIC: V8 would build a literal anew at each use in a loop. */
// @ts-ignore: decorator
@inline export function nearestBy(v: v128, magic: v128): v128 {
  return i32x4.sub(f32x4.add(v, magic), magic);
}

/**
 * Four columns to the nearest int16, and returned in int32. A last part writes zeros into the padding. NaN becomes I16, which is `most`: in sums with
 * other rows, which are to stay right, there is no room for more.
 */
// @ts-ignore: decorator
@inline export function store4(dst: usize, v: v128, most: v128, magic: v128): v128 {
  const whole = nearestBy(f32x4.pmin(most, v), magic);
  v128.store64_lane(dst, i16x8.narrow_i32x4_s(whole, whole), 0);
  return whole;
}

/** Zeros from the first column that store4 did not write to column `end`. */
export function clear(dst: usize, count: i32, end: i32): void {
  const from = (count + 3) & ~3;
  if (from < end) memory.fill(dst + (<usize>from << 1), 0, <usize>(end - from) << 1);
}

/** Four columns as int8, and returned in int32. A last part writes zeros into the padding. */
export function store4bytes(dst: usize, v: v128, inverse: f32): v128 {
  const whole = nearest(f32x4.mul(v, f32x4.splat(inverse))), halves = i16x8.narrow_i32x4_s(whole, whole);
  v128.store32_lane(dst, i8x16.narrow_i16x8_s(halves, halves), 0);
  return whole;
}

/** The scale of a group of int16 whose largest number stands for `top`; of a row that is in no eight also −128 times what its four sums come to. */
export function storeScale(dst: usize, top: f32, sums: v128, alone: bool): void {
  store<f32>(dst, scaleOf(top, I16));
  if (alone) store<i32>(dst, -128 * sumOf(sums), 4);
}

/** The same of int8, −64 times. */
export function storeScaleOfBytes(dst: usize, top: f32, sums: v128): void {
  store<f32>(dst, scaleOf(top, 127));
  store<i32>(dst, -64 * sumOf(sums), 4);
}

function sumOf(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/** As clear, of int8. */
export function clearBytes(dst: usize, count: i32, end: i32): void {
  const from = (count + 3) & ~3;
  if (from < end) memory.fill(dst + from, 0, end - from);
}
