/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in 7 bits, x in int8 (quantize_i8), each with a scale per GROUP inputs.
 * Threads share panels. For machines where the relaxed dot is one instruction. Elsewhere it is 1.05 times as fast as matmul_i8 with
 * relaxed SIMD (one row in cache: 1.7), 0.62 times without (bench/RESULTS.md).
 *
 * A panel of 8 outputs: for each group 8 scales of 16 bits, then ⌈inputs / 4⌉ steps of [8 outputs][4 inputs] bytes, w + 64: 1 … 127. One step:
 *
 *                        n0 n1 n2 n3   n4 n5 n6 n7
 *                      ┌─────────────┬─────────────┐  w: 2 vectors of 4 outputs × 4 inputs
 *     x[m, k:k+4]   ─► │     a0      │     b0      │  x: 1 splat of four; the last 1 … 3 rows have tiles of their own
 *     x[m+1, k:k+4] ─► │     a1      │     b1      │  a, b: 8 sums of four products in int32
 *     x[m+2, k:k+4] ─► │     a2      │     b2      │
 *     x[m+3, k:k+4] ─► │     a3      │     b3      │  32 · 4 products from 6 loads
 *                      └─────────────┴─────────────┘
 *
 * Sums begin at −64 Σ x of the group, which takes the 64 back (quantize_i8 has it ready). They are exact however the machine adds: a pair of
 * products is at most 2 · 127 · 127 < 2¹⁵, so none of the ways a relaxed dot may differ is ever met. Then, as in matmul_i8, sum · (scale
 * of w · scale of x) is added in f32, group after group: the same bits for any tile, M, n, build and machine.
 */
import { finish, keep } from "./epilogue";
import { scaled } from "./matmul_i8";
import { fourScales, panelBytes, W8A8_SCALES } from "./pack";
import { Format, GROUP, Matmul } from "./record";
import { rowsOfPass, share } from "./share";

/** How four products are added; the sums are the same. */
export const WIDENED: i32 = 0, IN_HALVES: i32 = 1, AT_ONCE: i32 = 2;

export function matmul_w8a8(op: Matmul, t: i32, n: i32): void {
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (dotIsWhole()) product(op, t, n, AT_ONCE);
    else inHalves(op, t, n);
  } else product(op, t, n, WIDENED);
}

/** A function of its own: inside the other one the compiler would make one tile of both, which asks at every product. */
function inHalves(op: Matmul, t: i32, n: i32): void {
  product(op, t, n, IN_HALVES);
}

/**
 * Whether a relaxed dot comes from an instruction that adds four products to a sum (AVX-VNNI, Arm's DotProd), seen by what it makes of an
 * operand of 8 bits. Where it is put together of several, pairs are cut to 16 bits on x86; two instructions that do just that are faster then.
 * V8 11.3's baseline compiler loses the sum (2 · 65534 comes of 65534 + 1): seen here too, and not used.
 */
// @ts-ignore: decorator
@inline export function dotIsWhole(): bool {
  const found = i32x4.extract_lane(i32x4.relaxed_dot_i8x16_i7x16_add_s(i8x16.splat(127), i8x16.splat(-1), i32x4.splat(1)), 0);
  return found == 4 * 127 * 255 + 1 || found == 1 - 4 * 127;
}

// @ts-ignore: decorator
@inline function product(op: Matmul, t: i32, n: i32, how: i32): void {
  const panels = (op.N + 7) >> 3, bytes = panelBytes(Format.w8a8, op.K);
  const from = share(panels, t, n), to = share(panels, t + 1, n);
  const rows = rowsOfPass(op.K);
  for (let m0 = 0; m0 < op.M; m0 += rows) {
    const m1 = min(m0 + rows, op.M);
    for (let p = from; p < to; p++) {
      const j = p << 3, w = op.w + <usize>p * bytes;
      let m = m0;
      for (; m + 4 <= m1; m += 4) tile(op, m, j, w, how, 4);
      if (m + 3 == m1) tile(op, m, j, w, how, 3);
      else if (m + 2 == m1) tile(op, m, j, w, how, 2);
      else if (m < m1) tile(op, m, j, w, how, 1);
    }
  }
}

/** Four numbers of x, four times. */
// @ts-ignore: decorator
@inline function fourOf(x: usize, how: i32): v128 {
  const v = v128.load32_splat(x);
  return how == WIDENED ? i16x8.extend_low_i8x16_s(v) : v;
}

/** Weights of 4 outputs, or widened those of the first 2. */
// @ts-ignore: decorator
@inline function weights(w: usize, how: i32): v128 {
  return how == WIDENED ? v128.load8x8_u(w) : v128.load(w);
}

/** Widened: weights of the other 2 of 4 outputs. */
// @ts-ignore: decorator
@inline function others(w: usize, how: i32): v128 {
  return how == WIDENED ? v128.load8x8_u(w, 8) : i32x4.splat(0);
}

// @ts-ignore: decorator
@inline export function dot(sum: v128, x: v128, w: v128, more: v128, ones: v128, how: i32): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (how == AT_ONCE) return i32x4.relaxed_dot_i8x16_i7x16_add_s(x, w, sum);
    return i32x4.add(sum, i32x4.dot_i16x8_s(i16x8.relaxed_dot_i8x16_i7x16_s(x, w), ones));
  } else {
    const a = i32x4.dot_i16x8_s(x, w), b = i32x4.dot_i16x8_s(x, more);
    return i32x4.add(sum, i32x4.add(v128.shuffle<i32>(a, b, 0, 2, 4, 6), v128.shuffle<i32>(a, b, 1, 3, 5, 7)));
  }
}

/** `rows` (1 … 4) by 8 outputs; `how` and `rows` are constants: the compiler makes a tile of each. */
// @ts-ignore: decorator
@inline function tile(op: Matmul, m: i32, j: i32, w: usize, how: i32, rows: i32): void {
  const step = <usize>op.ldx, scaleStep = <usize>((op.K + GROUP - 1) / GROUP) << 3;
  let x0 = op.x + <usize>m * step, x1 = x0 + step, x2 = x1 + step, x3 = x2 + step;
  let s0 = op.scales + <usize>m * scaleStep, s1 = s0 + scaleStep, s2 = s1 + scaleStep, s3 = s2 + scaleStep;
  let A0 = f32x4.splat(0), A1 = A0, A2 = A0, A3 = A0, B0 = A0, B1 = A0, B2 = A0, B3 = A0;
  const ones = i16x8.splat(<i16>(op.K > 0)); // no literal, which V8 would make anew for every use
  for (let left = op.K; left > 0; left -= GROUP) {
    const wScaleA = fourScales(w), wScaleB = fourScales(w + 8);
    w += W8A8_SCALES;
    let a0 = v128.load32_splat(s0, 4), b0 = a0, a1 = a0, a2 = a0, a3 = a0, b1 = a0, b2 = a0, b3 = a0, p1 = a0, p2 = a0, p3 = a0;
    if (rows > 1) { a1 = v128.load32_splat(s1, 4); b1 = a1; }
    if (rows > 2) { a2 = v128.load32_splat(s2, 4); b2 = a2; }
    if (rows > 3) { a3 = v128.load32_splat(s3, 4); b3 = a3; }
    const end = x0 + <usize>min(left, GROUP);
    do {
      const p0 = fourOf(x0, how);
      if (rows > 1) p1 = fourOf(x1, how);
      if (rows > 2) p2 = fourOf(x2, how);
      if (rows > 3) p3 = fourOf(x3, how);
      let v = weights(w, how), more = others(w, how);
      a0 = dot(a0, p0, v, more, ones, how);
      if (rows > 1) a1 = dot(a1, p1, v, more, ones, how);
      if (rows > 2) a2 = dot(a2, p2, v, more, ones, how);
      if (rows > 3) a3 = dot(a3, p3, v, more, ones, how);
      v = weights(w + 16, how); more = others(w + 16, how);
      b0 = dot(b0, p0, v, more, ones, how);
      if (rows > 1) b1 = dot(b1, p1, v, more, ones, how);
      if (rows > 2) b2 = dot(b2, p2, v, more, ones, how);
      if (rows > 3) b3 = dot(b3, p3, v, more, ones, how);
      x0 += 4; w += 32;
      if (rows > 1) x1 += 4;
      if (rows > 2) x2 += 4;
      if (rows > 3) x3 += 4;
    } while (x0 < end);
    A0 = scaled(A0, a0, wScaleA, s0); B0 = scaled(B0, b0, wScaleB, s0); s0 += 8;
    if (rows > 1) { A1 = scaled(A1, a1, wScaleA, s1); B1 = scaled(B1, b1, wScaleB, s1); s1 += 8; }
    if (rows > 2) { A2 = scaled(A2, a2, wScaleA, s2); B2 = scaled(B2, b2, wScaleB, s2); s2 += 8; }
    if (rows > 3) { A3 = scaled(A3, a3, wScaleA, s3); B3 = scaled(B3, b3, wScaleB, s3); s3 += 8; }
  }
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), ldd = <usize>op.ldd << 2, count = op.N - j;
  keep(dst, A0, B0, count);
  if (rows > 1) keep(dst + ldd, A1, B1, count);
  if (rows > 2) keep(dst + 2 * ldd, A2, B2, count);
  if (rows > 3) keep(dst + 3 * ldd, A3, B3, count);
  finish(op, m, rows, j, 1);
}
