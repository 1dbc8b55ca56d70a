/**
 * The end of every matmul: a tile keeps its sums in dst, then dst = act(dst + bias) + residual in place. In two steps, since V8
 * would store all sums in every turn of the tile's loop if a call followed while they are in registers. Rows in eights have their sums elsewhere (rows_i16.ts).
 */
import { activate } from "./activation";
import { Matmul } from "./record";
import { EXP_0, EXP_1, EXP_2, EXP_3, EXP_4, EXP_HIGH, EXP_LEAST, EXP_LOG2E, EXP_LOW, expBy, kept, loadFour, MAGIC, mulAdd, storePart } from "./simd";

/** Writes the first `count` (1 … 8, or more: 8) of a row's sums. */
// @ts-ignore: decorator
@inline export function keep(dst: usize, a: v128, b: v128, count: i32): void {
  if (count >= 8) {
    v128.store(dst, a);
    v128.store(dst, b, 16);
  } else {
    let v = a;
    if (count & 4) {
      v128.store(dst, a);
      v = b;
      dst += 16;
    }
    if (count & 2) {
      v128.store64_lane(dst, v, 0);
      v = v128.shuffle<i32>(v, v, 2, 3, 2, 3);
      dst += 8;
    }
    if (count & 1) v128.store32_lane(dst, v, 0);
  }
}

/** Rows m … m + rows − 1, outputs j … j + 8 · panels − 1. Nothing is read or written past column N. */
export function finish(op: Matmul, m: i32, rows: i32, j: i32, panels: i32): void {
  if (op.bias == 0 && op.activation == 0 && op.residual == 0) return;
  finishFrom(op, at(op.dst, op.ldd, m, j), op.ldd, m, rows, j, panels);
}

/** The same of sums that lie elsewhere, `lds` from a row to the next; they stay what they are. */
export function finishFrom(op: Matmul, sums: usize, lds: i32, m: i32, rows: i32, j: i32, panels: i32): void {
  const end = min(j + (panels << 3), op.N), step = <usize>lds << 2;
  if (op.activation == 1) return finishGelu(op, sums, step, m, rows, j, end);
  if (op.activation == 2) return finishQuickGelu(op, sums, step, m, rows, j, end);
  for (let i = j; i < end; i += 4, sums += 16) {
    const bias = biasOf(op, i, end), left = end - i, ldd = <usize>op.ldd << 2, ldr = <usize>op.ldr << 2;
    let from = sums, dst = at(op.dst, op.ldd, m, i), residual = op.residual ? at(op.residual, op.ldr, m, i) : 0;
    for (let row = 0; row < rows; row++, from += step, dst += ldd, residual += ldr) {
      let v = f32x4.add(loadFour(from, left), bias);
      if (op.activation) v = activate(v, op.activation);
      put(dst, op.residual ? f32x4.add(v, loadFour(residual, left)) : v, left);
    }
  }
}

// @ts-ignore: decorator
@inline function at(x: usize, ldx: i32, row: i32, column: i32): usize {
  return x + ((<usize>row * ldx + column) << 2);
}

/** Biases of outputs i … i + 3; −0 without, since v − 0 is v, also of −0. */
// @ts-ignore: decorator
@inline function biasOf(op: Matmul, i: i32, end: i32): v128 {
  return op.bias ? loadFour(op.bias + (<usize>i << 2), end - i) : f32x4.splat(-0.0);
}

// @ts-ignore: decorator
@inline function put(p: usize, v: v128, left: i32): void {
  if (left >= 4) v128.store(p, v);
  else storePart(p, v, left);
}

/**
 * u Φ(u) with the normal distribution's upper tail Q of |u|: u Q below 0 and u − u Q above, so that small results keep their digits.
 *
 * Q(a) = e^(−a²/2) · t P(t), t = 1 / (1 + 0.3 a), to 4e-7 relative plus the rounding of a² / 2: the factor beside the exponential is
 * smooth in t. P of degree 7 was fitted for the least largest relative error (1.2e-7 before rounding) on a ≤ 13.2, past which the
 * exponential is 0.
 */
function finishGelu(op: Matmul, sums: usize, step: usize, m: i32, rows: i32, j: i32, end: i32): void {
  const signs = kept(op, -0.0), one = kept(op, 1), k = kept(op, 0.3), minusHalf = kept(op, -0.5);
  const p7 = kept(op, 0.036088988184928894), p6 = kept(op, -0.1589343100786209), p5 = kept(op, 0.20934733748435974), p4 = kept(op, -0.05645092576742172);
  const p3 = kept(op, 0.13003303110599518), p2 = kept(op, 0.09946493804454803), p1 = kept(op, 0.12082633376121521), p0 = kept(op, 0.1196245402097702);
  const magic = kept(op, MAGIC), log2e = kept(op, EXP_LOG2E), high = kept(op, EXP_HIGH), low = kept(op, EXP_LOW), least = kept(op, EXP_LEAST);
  const e4 = kept(op, EXP_4), e3 = kept(op, EXP_3), e2 = kept(op, EXP_2), e1 = kept(op, EXP_1), e0 = kept(op, EXP_0);
  for (let i = j; i < end; i += 4, sums += 16) {
    const bias = biasOf(op, i, end), left = end - i, ldd = <usize>op.ldd << 2, ldr = <usize>op.ldr << 2;
    let from = sums, dst = at(op.dst, op.ldd, m, i), residual = op.residual ? at(op.residual, op.ldr, m, i) : 0;
    for (let row = 0; row < rows; row++, from += step, dst += ldd, residual += ldr) {
      const u = f32x4.add(loadFour(from, left), bias), size = v128.andnot(u, signs);
      const t = f32x4.div(one, mulAdd(size, k, one));
      let p = mulAdd(p7, t, p6);
      p = mulAdd(p, t, p5); p = mulAdd(p, t, p4); p = mulAdd(p, t, p3); p = mulAdd(p, t, p2); p = mulAdd(p, t, p1); p = mulAdd(p, t, p0);
      const e = expBy(f32x4.mul(f32x4.mul(u, u), minusHalf), magic, log2e, high, low, e4, e3, e2, e1, e0, one, least);
      const rest = f32x4.mul(size, f32x4.mul(f32x4.mul(p, t), e));
      const v = f32x4.sub(f32x4.pmax(u, signs), rest); // NaN stays NaN
      put(dst, op.residual ? f32x4.add(v, loadFour(residual, left)) : v, left);
    }
  }
}

/**
 * u σ(1.702 u) = u / (1 + 2ᵗ), t = −1.702 u / ln 2. t = n + f, |f| ≤ ½; 2ᶠ ≈ 1 + f P(f) with P of degree 4, fitted for the least largest
 * error (1e-7). Of t past 128 the power is infinite and the result −0, below −126 it is nothing beside 1.
 */
function finishQuickGelu(op: Matmul, sums: usize, step: usize, m: i32, rows: i32, j: i32, end: i32): void {
  const factor = kept(op, -2.4554669857025146), most = kept(op, 128), least = kept(op, -126), magic = kept(op, MAGIC), one = kept(op, 1);
  const p4 = kept(op, 0.0013264695880934596), p3 = kept(op, 0.009671508334577084), p2 = kept(op, 0.05550733953714371);
  const p1 = kept(op, 0.24022242426872253), p0 = kept(op, 0.6931470036506653);
  for (let i = j; i < end; i += 4, sums += 16) {
    const bias = biasOf(op, i, end), left = end - i, ldd = <usize>op.ldd << 2, ldr = <usize>op.ldr << 2;
    let from = sums, dst = at(op.dst, op.ldd, m, i), residual = op.residual ? at(op.residual, op.ldr, m, i) : 0;
    for (let row = 0; row < rows; row++, from += step, dst += ldd, residual += ldr) {
      const u = f32x4.add(loadFour(from, left), bias), t = f32x4.pmax(f32x4.pmin(f32x4.mul(u, factor), most), least);
      const shifted = f32x4.add(t, magic), f = f32x4.sub(t, f32x4.sub(shifted, magic));
      let p = mulAdd(p4, f, p3);
      p = mulAdd(p, f, p2); p = mulAdd(p, f, p1); p = mulAdd(p, f, p0); p = mulAdd(p, f, one);
      const v = f32x4.div(u, f32x4.add(one, i32x4.add(p, i32x4.shl(shifted, 23))));
      put(dst, op.residual ? f32x4.add(v, loadFour(residual, left)) : v, left);
    }
  }
}
