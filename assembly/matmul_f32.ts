/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in f32. Threads share panels.
 *
 * w is packed in panels of 8 outputs, [⌈N / 8⌉][K][8]: one k of a panel is two vectors. A tile has 6 rows, in the plain build 4: that is
 * for older runtimes too, and V8 11.3 keeps no more sums in registers. The last rows have tiles of their own.
 *
 *                 n0 n1 n2 n3   n4 n5 n6 n7
 *               ┌─────────────┬─────────────┐  w: 2 vectors a step of k
 *     x[m,k] ─► │     a0      │     b0      │  x: 1 splat
 *   x[m+1,k] ─► │     a1      │     b1      │  a, b: 12 sums; 15 of x86's 16 registers
 *      ⋮        │     ⋮       │     ⋮       │  12 products from 8 loads
 *   x[m+5,k] ─► │     a5      │     b5      │
 *               └─────────────┴─────────────┘
 *
 * Every output is one chain of sums over k = 0, 1, 2, …, whatever the tile: a row's bits do not depend on M, n or its neighbours. Many
 * rows go through a block of inputs at a time; between blocks their sums are in dst.
 */
import { finish, keep } from "./epilogue";
import { Matmul } from "./record";
import { share } from "./share";
import { fma } from "./simd";

/** Bytes of x that a pass over the panels goes through: they stay in the second-level cache. */
const BLOCK_BYTES: i32 = 1 << 20;

/** Inputs of a block: 8 KiB of a panel and 6 KiB of six rows stay in the first-level cache. */
export const F32_BLOCK: i32 = 256;

/** Rows of a pass, a multiple of 12; few rows would mean reading w from memory too often. */
export function rowsOfPass(rowBytes: i32): i32 {
  return max(BLOCK_BYTES / max(rowBytes, 1) / 12, 2) * 12;
}

export function matmul_f32(op: Matmul, t: i32, n: i32): void {
  const panels = (op.N + 7) >> 3, panelBytes = <usize>op.K << 5;
  const from = share(panels, t, n), to = share(panels, t + 1, n);
  const rows = rowsOfPass(op.K << 2);
  for (let m0 = 0; m0 < op.M; m0 += rows) {
    const m1 = min(m0 + rows, op.M);
    let p = from;
    if (m1 - m0 == 1) for (; p + 3 <= to; p += 3) tile_1x24(op, m0, p << 3, op.w + <usize>p * panelBytes);
    for (; p < to; p++) {
      const w = op.w + <usize>p * panelBytes;
      if (ASC_FEATURE_RELAXED_SIMD) {
        for (let k0 = 0; k0 < op.K; k0 += F32_BLOCK) rowsByF32(op, m0, m1, p << 3, k0, min(k0 + F32_BLOCK, op.K), w + (<usize>k0 << 5));
      } else rows_8(op, m0, m1, p << 3, 0, op.K, w); // sums that may begin with those of another block would not all get registers in V8 11.3
    }
  }
}

/** Rows m0 … m1 − 1 by inputs k0 … k1 − 1 of the panel at w, added to what inputs before k0 gave. */
export function rowsByF32(op: Matmul, m0: i32, m1: i32, j: i32, k0: i32, k1: i32, w: usize): void {
  rows_8(op, m0, m1, j, k0, k1, w);
}

// @ts-ignore: decorator
@inline function rows_8(op: Matmul, m0: i32, m1: i32, j: i32, k0: i32, k1: i32, w: usize): void {
  let m = m0;
  if (ASC_FEATURE_RELAXED_SIMD) for (; m + 6 <= m1; m += 6) tile(op, m, j, k0, k1, w, 6);
  else for (; m + 4 <= m1; m += 4) tile(op, m, j, k0, k1, w, 4);
  if (ASC_FEATURE_RELAXED_SIMD && m + 5 == m1) tile(op, m, j, k0, k1, w, 5);
  else if (ASC_FEATURE_RELAXED_SIMD && m + 4 == m1) tile(op, m, j, k0, k1, w, 4);
  else if (m + 3 == m1) tile(op, m, j, k0, k1, w, 3);
  else if (m + 2 == m1) tile(op, m, j, k0, k1, w, 2);
  else if (m < m1) tile(op, m, j, k0, k1, w, 1);
}

/** `rows` (1 … 6, a constant: the compiler makes a tile of each) by 8 outputs. */
// @ts-ignore: decorator
@inline function tile(op: Matmul, m: i32, j: i32, k0: i32, k1: i32, w: usize, rows: i32): void {
  const step = <usize>op.ldx << 2;
  let x0 = op.x + <usize>m * step + (<usize>k0 << 2), x1 = x0 + step, x2 = x1 + step, x3 = x2 + step, x4 = x3 + step, x5 = x4 + step;
  const end = x0 + (<usize>(k1 - k0) << 2);
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), ldd = <usize>op.ldd << 2, count = op.N - j;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, b4 = a0, b5 = a0;
  if (k0) { // past the last output this reads what belongs to others, and keep() writes none of it
    a0 = v128.load(dst); b0 = v128.load(dst, 16);
    if (rows > 1) { a1 = v128.load(dst + ldd); b1 = v128.load(dst + ldd, 16); }
    if (rows > 2) { a2 = v128.load(dst + 2 * ldd); b2 = v128.load(dst + 2 * ldd, 16); }
    if (rows > 3) { a3 = v128.load(dst + 3 * ldd); b3 = v128.load(dst + 3 * ldd, 16); }
    if (rows > 4) { a4 = v128.load(dst + 4 * ldd); b4 = v128.load(dst + 4 * ldd, 16); }
    if (rows > 5) { a5 = v128.load(dst + 5 * ldd); b5 = v128.load(dst + 5 * ldd, 16); }
  }
  while (x0 < end) {
    const wa = v128.load(w), wb = v128.load(w, 16);
    let s = v128.load32_splat(x0);
    a0 = fma(s, wa, a0); b0 = fma(s, wb, b0);
    if (rows > 1) { s = v128.load32_splat(x1); a1 = fma(s, wa, a1); b1 = fma(s, wb, b1); x1 += 4; }
    if (rows > 2) { s = v128.load32_splat(x2); a2 = fma(s, wa, a2); b2 = fma(s, wb, b2); x2 += 4; }
    if (rows > 3) { s = v128.load32_splat(x3); a3 = fma(s, wa, a3); b3 = fma(s, wb, b3); x3 += 4; }
    if (rows > 4) { s = v128.load32_splat(x4); a4 = fma(s, wa, a4); b4 = fma(s, wb, b4); x4 += 4; }
    if (rows > 5) { s = v128.load32_splat(x5); a5 = fma(s, wa, a5); b5 = fma(s, wb, b5); x5 += 4; }
    x0 += 4; w += 32;
  }
  keep(dst, a0, b0, count);
  if (rows > 1) keep(dst + ldd, a1, b1, count);
  if (rows > 2) keep(dst + 2 * ldd, a2, b2, count);
  if (rows > 3) keep(dst + 3 * ldd, a3, b3, count);
  if (rows > 4) keep(dst + 4 * ldd, a4, b4, count);
  if (rows > 5) keep(dst + 5 * ldd, a5, b5, count);
  if (k1 == op.K) finish(op, m, rows, j, 1);
}

/** One row, three panels at once: enough sums under way to hide an addition's latency; a fourth would be too many registers. */
function tile_1x24(op: Matmul, m: i32, j: i32, w0: usize): void {
  const panelBytes = <usize>op.K << 5;
  let x = op.x + (<usize>m * op.ldx << 2), w1 = w0 + panelBytes, w2 = w1 + panelBytes;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, b0 = a0, b1 = a0, b2 = a0;
  for (let end = x + (<usize>op.K << 2); x < end; x += 4) {
    const s = v128.load32_splat(x);
    a0 = fma(s, v128.load(w0), a0); b0 = fma(s, v128.load(w0, 16), b0);
    a1 = fma(s, v128.load(w1), a1); b1 = fma(s, v128.load(w1, 16), b1);
    a2 = fma(s, v128.load(w2), a2); b2 = fma(s, v128.load(w2, 16), b2);
    w0 += 32; w1 += 32; w2 += 32;
  }
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), count = op.N - j;
  keep(dst, a0, b0, count);
  keep(dst + 32, a1, b1, count - 8);
  keep(dst + 64, a2, b2, count - 16);
  finish(op, m, 1, j, 3);
}
