/**
 * What several kernels need of vectors: choices by feature, parts of a vector, functions of four numbers.
 *
 * All but `fma` gives the same bits in every build and on every machine. No literal tables, no Mathf: a module must have no data.
 */
import { Record } from "./record";

/** a · b + c, in one rounding where relaxed SIMD is on: only for the sums of matmul_f32 and matmul_f16. */
// @ts-ignore: decorator
@inline export function fma(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  else return f32x4.add(c, f32x4.mul(a, b));
}

/** a · b + c in two roundings. */
// @ts-ignore: decorator
@inline export function mulAdd(a: v128, b: v128, c: v128): v128 {
  return f32x4.add(c, f32x4.mul(a, b));
}

/** c and the sums of pairs of products of int16; nothing is rounded. */
// @ts-ignore: decorator
@inline export function dotAdd(a: v128, b: v128, c: v128): v128 {
  return i32x4.add(c, i32x4.dot_i16x8_s(a, b));
}

/**
 * `value` in all lanes, made of the kind, of which nothing is left: V8 would build a literal anew at each use, in three instructions,
 * but keeps this on the stack while a loop has no register for it.
 */
// @ts-ignore: decorator
@inline export function kept(op: Record, value: f32): v128 {
  return i32x4.splat((op.kind >> 8) + reinterpret<u32>(value));
}

/** The first `count` (1 … 3) numbers at p; the other lanes are 0. Reads no further. */
export function loadPart(p: usize, count: i32): v128 {
  if (count == 1) return v128.load32_zero(p);
  const v = v128.load64_zero(p);
  return count == 2 ? v : v128.load32_lane(p, v, 2, 8);
}

/** Four numbers at p, or the `left` (1 … 3) that there are. */
// @ts-ignore: decorator
@inline export function loadFour(p: usize, left: i32): v128 {
  return left >= 4 ? v128.load(p) : loadPart(p, left);
}

/** Writes the first `count` (1 … 3) lanes to p. */
export function storePart(p: usize, v: v128, count: i32): void {
  v128.store32_lane(p, v, 0);
  if (count > 1) v128.store32_lane(p, v, 1, 4);
  if (count > 2) v128.store32_lane(p, v, 2, 8);
}

/** All ones in the first `count` lanes. */
export function firstLanes(count: i32): v128 {
  return i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(count));
}

/** Four rows of four numbers become columns: `step` bytes from one to the next. */
// @ts-ignore: decorator
@inline export function transpose(a: v128, b: v128, c: v128, d: v128, dst: usize, step: usize): void {
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5), cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  v128.store(dst, v128.shuffle<i64>(ab, cd, 0, 2)); v128.store(dst + step, v128.shuffle<i64>(ab, cd, 1, 3));
  const ab2 = v128.shuffle<i32>(a, b, 2, 6, 3, 7), cd2 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(dst + 2 * step, v128.shuffle<i64>(ab2, cd2, 0, 2)); v128.store(dst + 3 * step, v128.shuffle<i64>(ab2, cd2, 1, 3));
}

// @ts-ignore: decorator
@inline export function sum(v: v128): f32 {
  return (f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 2)) + (f32x4.extract_lane(v, 1) + f32x4.extract_lane(v, 3));
}

// @ts-ignore: decorator
@inline export function largest(v: v128): f32 {
  const half = f32x4.pmax(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.pmax(half, v128.shuffle<i32>(half, half, 1, 0, 3, 2)), 0);
}

/**
 * eˣ to 2 ulp for x ≤ 88; 0 below −87, where subnormal numbers would begin, and for −∞. NaN stays NaN.
 *
 * x = n ln 2 + r, |r| ≤ ln 2 / 2; eʳ ≈ 1 + r + r² P(r) with P of degree 4, fitted for the least largest error (3e-9) by
 * reweighted least squares. Adding 1.5 · 2²³ rounds to n and leaves it in the low bits.
 */
export function exp(x: v128): v128 {
  return expBy(
    x, f32x4.splat(MAGIC), f32x4.splat(EXP_LOG2E), f32x4.splat(EXP_HIGH), f32x4.splat(EXP_LOW),
    f32x4.splat(EXP_4), f32x4.splat(EXP_3), f32x4.splat(EXP_2), f32x4.splat(EXP_1), f32x4.splat(EXP_0), f32x4.splat(1), f32x4.splat(EXP_LEAST),
  );
}

/** 1.5 · 2²³: added to a number, it leaves the nearest whole one in the low bits. */
export const MAGIC: f32 = 12582912;
export const EXP_LOG2E: f32 = 1.4426950216, EXP_LEAST: f32 = -87;
/** ln 2 in two parts, the first of 15 bits: its product with n is exact. */
export const EXP_HIGH: f32 = 0.693145751953125, EXP_LOW: f32 = 1.428606765e-6;
export const EXP_4: f32 = 0.00139506009872773, EXP_3: f32 = 0.008368953131139278, EXP_2: f32 = 0.04166620597243309, EXP_1: f32 = 0.166665181517601, EXP_0: f32 = 0.5;

/** exp, for who keeps its constants. */
// @ts-ignore: decorator
@inline export function expBy(
  x: v128, magic: v128, log2e: v128, high: v128, low: v128, p4: v128, p3: v128, p2: v128, p1: v128, p0: v128, one: v128, least: v128,
): v128 {
  const shifted = mulAdd(x, log2e, magic), n = f32x4.sub(shifted, magic);
  const r = f32x4.sub(f32x4.sub(x, f32x4.mul(n, high)), f32x4.mul(n, low));
  let p = mulAdd(p4, r, p3);
  p = mulAdd(p, r, p2); p = mulAdd(p, r, p1); p = mulAdd(p, r, p0);
  p = f32x4.add(mulAdd(p, f32x4.mul(r, r), r), one);
  return v128.andnot(i32x4.add(p, i32x4.shl(shifted, 23)), f32x4.lt(x, least));
}

/** 1 / (1 + e⁻ˣ), to a few ulp on both sides of 0: the exponential is never of a positive number. */
export function sigmoid(x: v128): v128 {
  const e = exp(f32x4.neg(f32x4.abs(x)));
  const top = v128.bitselect(e, f32x4.splat(1), f32x4.lt(x, f32x4.splat(0)));
  return f32x4.div(top, f32x4.add(e, f32x4.splat(1)));
}

/** tanh to 3 ulp: below 0.6 x + x³ P(x²), fitted as above (8e-8), since (1 − e) / (1 + e) with e = e^(−2 |x|) cancels there. */
export function tanh(x: v128): v128 {
  const size = f32x4.abs(x), square = f32x4.mul(x, x);
  let p = f32x4.splat(0.01564048044383526);
  p = mulAdd(p, square, f32x4.splat(-0.05223110690712929));
  p = mulAdd(p, square, f32x4.splat(0.13313521444797516));
  p = mulAdd(p, square, f32x4.splat(-0.33332622051239014));
  const small = mulAdd(f32x4.mul(p, square), x, x);
  const e = exp(f32x4.mul(size, f32x4.splat(-2))), one = f32x4.splat(1);
  const big = f32x4.div(f32x4.sub(one, e), f32x4.add(one, e));
  const sign = i32x4.splat(i32.MIN_VALUE);
  return v128.bitselect(small, v128.or(big, v128.and(x, sign)), f32x4.lt(size, f32x4.splat(0.6)));
}
