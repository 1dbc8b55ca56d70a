/**
 * Rows of a head in int16 with a scale for each, for attention in whole numbers: a number is int16 · scale, off by half a scale at most. A row with NaN has a
 * scale of NaN, and any int16.
 */
import { inverseOf, nearestBy, scaleOf } from "./quantize";
import { loadFour, loadPart, transpose } from "./simd";

/** The largest int16 of keys, and of what meets them: 64 · 5792 · 5792 < 2³¹ for the widest heads. */
export const KEY: f32 = 5792;
/** Of values, and of what meets them: BLOCK · 8191 · 8191 < 2³¹. */
export const VALUE: f32 = 8191;

/** The largest of `count` numbers, sign aside, or NaN if there is one: its bits are more than any number's. */
export function top(x: usize, count: i32): f32 {
  let most = i32x4.splat(0);
  for (; count >= 4; count -= 4, x += 16) most = i32x4.max_u(most, i32x4.shl(v128.load(x), 1));
  if (count > 0) most = i32x4.max_u(most, i32x4.shl(loadPart(x, count), 1));
  return highest(i32x4.shr_u(most, 1));
}

/** The largest of four that have no sign. */
// @ts-ignore: decorator
@inline export function highest(v: v128): f32 {
  const half = i32x4.max_u(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(i32x4.max_u(half, v128.shuffle<i32>(half, half, 1, 0, 3, 2)), 0);
}

/** Eight numbers as int16; NaN as any. */
// @ts-ignore: decorator
@inline export function rounded(a: v128, b: v128, inverse: v128, magic: v128): v128 {
  return i16x8.narrow_i32x4_s(nearestBy(f32x4.mul(a, inverse), magic), nearestBy(f32x4.mul(b, inverse), magic));
}

/** d columns of a key, or of what meets keys, two to a word, `step` bytes from one word to the next. @returns their scale */
export function layRow(dst: usize, step: usize, x: usize, d: i32, magic: v128): f32 {
  const most = top(x, d);
  layColumns(dst, step, x, d, f32x4.splat(inverseOf(most, KEY)), magic);
  return scaleOf(most, KEY);
}

function layColumns(dst: usize, step: usize, x: usize, d: i32, inverse: v128, magic: v128): void {
  for (; d >= 8; d -= 8, x += 32, dst += 4 * step) {
    const v = rounded(v128.load(x), v128.load(x, 16), inverse, magic);
    v128.store32_lane(dst, v, 0); v128.store32_lane(dst + step, v, 1); v128.store32_lane(dst + 2 * step, v, 2); v128.store32_lane(dst + 3 * step, v, 3);
  }
  for (; d > 0; d -= 2, x += 8, dst += step) {
    const v = loadFour(x, min(d, 2));
    v128.store32_lane(dst, rounded(v, v, inverse, magic), 0);
  }
}

/** The same of four rows, a word of each beside the others', and their scales. */
export function layFour(dst: usize, step: usize, scales: usize, x: usize, ldx: usize, d: i32, magic: v128): void {
  const x1 = x + ldx, x2 = x1 + ldx, x3 = x2 + ldx, a = top(x, d), b = top(x1, d), c = top(x2, d), e = top(x3, d);
  store<f32>(scales, scaleOf(a, KEY)); store<f32>(scales, scaleOf(b, KEY), 4); store<f32>(scales, scaleOf(c, KEY), 8); store<f32>(scales, scaleOf(e, KEY), 12);
  const ia = f32x4.splat(inverseOf(a, KEY)), ib = f32x4.splat(inverseOf(b, KEY)), ic = f32x4.splat(inverseOf(c, KEY)), ie = f32x4.splat(inverseOf(e, KEY));
  const whole = <usize>(d & ~7) << 2;
  for (let at: usize = 0; at < whole; at += 32, dst += 4 * step) {
    transpose(
      rounded(v128.load(x + at), v128.load(x + at, 16), ia, magic), rounded(v128.load(x1 + at), v128.load(x1 + at, 16), ib, magic),
      rounded(v128.load(x2 + at), v128.load(x2 + at, 16), ic, magic), rounded(v128.load(x3 + at), v128.load(x3 + at, 16), ie, magic), dst, step,
    );
  }
  if (d &= 7) {
    layColumns(dst, step, x + whole, d, ia, magic); layColumns(dst + 4, step, x1 + whole, d, ib, magic);
    layColumns(dst + 8, step, x2 + whole, d, ic, magic); layColumns(dst + 12, step, x3 + whole, d, ie, magic);
  }
}
