/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in int8, x in int16 (quantize), each with a scale per GROUP inputs.
 * Threads share panels.
 *
 * A panel of 8 outputs: for each group 8 f32 scales, then ⌈inputs / 2⌉ steps of [8 outputs][2 inputs]. One step:
 *
 *                        n0 n1 n2 n3   n4 n5 n6 n7
 *                      ┌─────────────┬─────────────┐  w: 16 bytes, widened to 2 vectors of 8 int16
 *     x[m, k:k+2]   ─► │     a0      │     b0      │  x: 1 splat of a pair; the last 1 … 3 rows have tiles of their own
 *     x[m+1, k:k+2] ─► │     a1      │     b1      │  a, b: 8 sums of pair products (dot_i16x8) in int32
 *     x[m+2, k:k+2] ─► │     a2      │     b2      │
 *     x[m+3, k:k+2] ─► │     a3      │     b3      │  16 · 4 products from 6 loads
 *                      └─────────────┴─────────────┘
 *
 * A group's sum is exact: 127 · 32767 · 128 < 2³¹. Then sum · (scale of w · scale of x) is added in f32, group after group, with
 * two roundings in every build: the same bits for any tile, M, n and machine.
 */
import { finish, keep } from "./epilogue";
import { panelBytes } from "./pack";
import { Format, GROUP, Matmul } from "./record";
import { widened } from "./rows_i16";
import { rowsOfPass, share } from "./share";
import { mulAdd } from "./simd";

export function matmul_i8(op: Matmul, t: i32, n: i32): void {
  if (op.scratch) return widened(op, t, n, Format.i8);
  const panels = (op.N + 7) >> 3, bytes = panelBytes(Format.i8, op.K);
  const from = share(panels, t, n), to = share(panels, t + 1, n);
  const rows = rowsOfPass(op.K << 1);
  for (let m0 = 0; m0 < op.M; m0 += rows) {
    const m1 = min(m0 + rows, op.M);
    for (let p = from; p < to; p++) {
      const j = p << 3, w = op.w + <usize>p * bytes;
      let m = m0;
      for (; m + 4 <= m1; m += 4) tile(op, m, j, w, 4);
      if (m + 3 == m1) tile(op, m, j, w, 3);
      else if (m + 2 == m1) tile(op, m, j, w, 2);
      else if (m < m1) tile_1x8(op, m, j, w);
    }
  }
}

/** sum · (scale of w · scale of x) + total, for four outputs of a row. */
// @ts-ignore: decorator
@inline export function scaled(total: v128, sum: v128, wScale: v128, xScale: usize): v128 {
  return mulAdd(f32x4.convert_i32x4_s(sum), f32x4.mul(wScale, v128.load32_splat(xScale)), total);
}

/** `rows` (1 … 4, a constant: the compiler makes a tile of each) by 8 outputs. */
// @ts-ignore: decorator
@inline function tile(op: Matmul, m: i32, j: i32, w: usize, rows: i32): void {
  const step = <usize>op.ldx << 1, scaleStep = <usize>((op.K + GROUP - 1) / GROUP) << 2;
  let x0 = op.x + <usize>m * step, x1 = x0 + step, x2 = x1 + step, x3 = x2 + step;
  let s0 = op.scales + <usize>m * scaleStep, s1 = s0 + scaleStep, s2 = s1 + scaleStep, s3 = s2 + scaleStep;
  let A0 = f32x4.splat(0), A1 = A0, A2 = A0, A3 = A0, B0 = A0, B1 = A0, B2 = A0, B3 = A0;
  for (let left = op.K; left > 0; left -= GROUP) {
    const wScaleA = v128.load(w), wScaleB = v128.load(w, 16);
    w += 32;
    let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, p1 = a0, p2 = a0, p3 = a0;
    const end = x0 + (<usize>min(left, GROUP) << 1);
    do {
      const p0 = v128.load32_splat(x0);
      if (rows > 1) p1 = v128.load32_splat(x1);
      if (rows > 2) p2 = v128.load32_splat(x2);
      if (rows > 3) p3 = v128.load32_splat(x3);
      let v = v128.load8x8_s(w);
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(p0, v));
      if (rows > 1) a1 = i32x4.add(a1, i32x4.dot_i16x8_s(p1, v));
      if (rows > 2) a2 = i32x4.add(a2, i32x4.dot_i16x8_s(p2, v));
      if (rows > 3) a3 = i32x4.add(a3, i32x4.dot_i16x8_s(p3, v));
      v = v128.load8x8_s(w, 8);
      b0 = i32x4.add(b0, i32x4.dot_i16x8_s(p0, v));
      if (rows > 1) b1 = i32x4.add(b1, i32x4.dot_i16x8_s(p1, v));
      if (rows > 2) b2 = i32x4.add(b2, i32x4.dot_i16x8_s(p2, v));
      if (rows > 3) b3 = i32x4.add(b3, i32x4.dot_i16x8_s(p3, v));
      x0 += 4; w += 16;
      if (rows > 1) x1 += 4;
      if (rows > 2) x2 += 4;
      if (rows > 3) x3 += 4;
    } while (x0 < end);
    A0 = scaled(A0, a0, wScaleA, s0); B0 = scaled(B0, b0, wScaleB, s0); s0 += 4;
    if (rows > 1) { A1 = scaled(A1, a1, wScaleA, s1); B1 = scaled(B1, b1, wScaleB, s1); s1 += 4; }
    if (rows > 2) { A2 = scaled(A2, a2, wScaleA, s2); B2 = scaled(B2, b2, wScaleB, s2); s2 += 4; }
    if (rows > 3) { A3 = scaled(A3, a3, wScaleA, s3); B3 = scaled(B3, b3, wScaleB, s3); s3 += 4; }
  }
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), ldd = <usize>op.ldd << 2, count = op.N - j;
  keep(dst, A0, B0, count);
  if (rows > 1) keep(dst + ldd, A1, B1, count);
  if (rows > 2) keep(dst + 2 * ldd, A2, B2, count);
  if (rows > 3) keep(dst + 3 * ldd, A3, B3, count);
  finish(op, m, rows, j, 1);
}

/** One row, four steps a turn: weights come from memory as fast as they can be taken, so that what counts is instructions a byte. */
function tile_1x8(op: Matmul, m: i32, j: i32, w: usize): void {
  let x = op.x + (<usize>m * op.ldx << 1), scales = op.scales + (<usize>m * ((op.K + GROUP - 1) / GROUP) << 2);
  let A = f32x4.splat(0), B = A;
  for (let left = op.K; left > 0; left -= GROUP) {
    const wScaleA = v128.load(w), wScaleB = v128.load(w, 16);
    w += 32;
    let a = i32x4.splat(0), b = a;
    const end = x + (<usize>min(left, GROUP) << 1);
    for (; x + 16 <= end; x += 16, w += 64) {
      const v = v128.load(x);
      let p = v128.shuffle<i32>(v, v, 0, 0, 0, 0);
      a = i32x4.add(a, i32x4.dot_i16x8_s(p, v128.load8x8_s(w))); b = i32x4.add(b, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 8)));
      p = v128.shuffle<i32>(v, v, 1, 1, 1, 1);
      a = i32x4.add(a, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 16))); b = i32x4.add(b, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 24)));
      p = v128.shuffle<i32>(v, v, 2, 2, 2, 2);
      a = i32x4.add(a, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 32))); b = i32x4.add(b, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 40)));
      p = v128.shuffle<i32>(v, v, 3, 3, 3, 3);
      a = i32x4.add(a, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 48))); b = i32x4.add(b, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 56)));
    }
    for (; x < end; x += 4, w += 16) {
      const p = v128.load32_splat(x);
      a = i32x4.add(a, i32x4.dot_i16x8_s(p, v128.load8x8_s(w))); b = i32x4.add(b, i32x4.dot_i16x8_s(p, v128.load8x8_s(w, 8)));
    }
    A = scaled(A, a, wScaleA, scales); B = scaled(B, b, wScaleB, scales);
    scales += 4;
  }
  keep(op.dst + ((<usize>m * op.ldd + j) << 2), A, B, op.N - j);
  finish(op, m, 1, j, 1);
}
