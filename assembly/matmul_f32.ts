/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in f32. Threads share panels.
 *
 * w is packed in panels of 8 outputs, [⌈N / 8⌉][K][8]: one k of a panel is two vectors.
 *
 *                 n0 n1 n2 n3   n4 n5 n6 n7
 *               ┌─────────────┬─────────────┐  w: 2 vectors a step of k
 *     x[m,k] ─► │     a0      │     b0      │  x: 1 splat; the last 1 … 3 rows have tiles of their own
 *   x[m+1,k] ─► │     a1      │     b1      │  a, b: 8 sums; 11 of x86's 16 registers
 *   x[m+2,k] ─► │     a2      │     b2      │
 *   x[m+3,k] ─► │     a3      │     b3      │  8 products from 6 loads
 *               └─────────────┴─────────────┘
 *
 * Every output is one chain of sums over k = 0, 1, 2, …, whatever the tile: a row's bits do not depend on M, n or its neighbours.
 */
import { finish, keep } from "./epilogue";
import { Matmul } from "./record";
import { share } from "./share";
import { fma } from "./simd";

/** Bytes of x that a pass over the panels goes through: they stay in the second-level cache. */
const BLOCK_BYTES: i32 = 1 << 20;

/** Rows of a pass, a multiple of 4; few rows would mean reading w from memory too often. */
export function rowsOfPass(rowBytes: i32): i32 {
  return max(BLOCK_BYTES / max(rowBytes, 1), 16) & ~3;
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
      const j = p << 3, w = op.w + <usize>p * panelBytes;
      let m = m0;
      for (; m + 4 <= m1; m += 4) tile(op, m, j, w, 4);
      if (m + 3 == m1) tile(op, m, j, w, 3);
      else if (m + 2 == m1) tile(op, m, j, w, 2);
      else if (m < m1) tile(op, m, j, w, 1);
    }
  }
}

/** `rows` (1 … 4, a constant: the compiler makes a tile of each) by 8 outputs. */
// @ts-ignore: decorator
@inline function tile(op: Matmul, m: i32, j: i32, w: usize, rows: i32): void {
  const step = <usize>op.ldx << 2;
  let x0 = op.x + <usize>m * step, x1 = x0 + step, x2 = x1 + step, x3 = x2 + step;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (let end = x0 + (<usize>op.K << 2); x0 < end; ) {
    const wa = v128.load(w), wb = v128.load(w, 16);
    let s = v128.load32_splat(x0);
    a0 = fma(s, wa, a0); b0 = fma(s, wb, b0);
    if (rows > 1) { s = v128.load32_splat(x1); a1 = fma(s, wa, a1); b1 = fma(s, wb, b1); x1 += 4; }
    if (rows > 2) { s = v128.load32_splat(x2); a2 = fma(s, wa, a2); b2 = fma(s, wb, b2); x2 += 4; }
    if (rows > 3) { s = v128.load32_splat(x3); a3 = fma(s, wa, a3); b3 = fma(s, wb, b3); x3 += 4; }
    x0 += 4; w += 32;
  }
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), ldd = <usize>op.ldd << 2, count = op.N - j;
  keep(dst, a0, b0, count);
  if (rows > 1) keep(dst + ldd, a1, b1, count);
  if (rows > 2) keep(dst + 2 * ldd, a2, b2, count);
  if (rows > 3) keep(dst + 3 * ldd, a3, b3, count);
  finish(op, m, rows, j, 1);
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
