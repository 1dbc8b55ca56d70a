/**
 * Rows of f32 by panels of 8 outputs in f32, which halves are widened to once for all rows. A tile has 6 rows, in the plain build 4: that
 * is for older runtimes too, and V8 11.3 keeps no more sums in registers. The last rows have tiles of their own.
 *
 *                 n0 n1 n2 n3   n4 n5 n6 n7
 *               ┌─────────────┬─────────────┐  w: 2 vectors a step of k
 *     x[m,k] ─► │     a0      │     b0      │  x: 1 splat
 *   x[m+1,k] ─► │     a1      │     b1      │  a, b: 12 sums; 15 of x86's 16 registers
 *      ⋮        │     ⋮       │     ⋮       │  12 products from 8 loads
 *   x[m+5,k] ─► │     a5      │     b5      │
 *               └─────────────┴─────────────┘
 *
 * Every output is one chain of sums over k = 0, 1, 2, …, whatever the tile: a row's bits do not depend on M, n or its neighbours.
 *
 * Rows go through a block of inputs at a time. Between blocks their sums are in a thread's scratch: rows of dst often lie a power of two
 * apart, which caches have few places for. Such a scratch (SCRATCH bytes) is a block of widened weights, the sums, 8 zeros that they begin
 * with, and a byte that no one reads.
 */
import { finish, keep } from "./epilogue";
import { widen } from "./matmul_f16";
import { panelBytes } from "./pack";
import { Format, Matmul, SCRATCH } from "./record";
import { fma } from "./simd";

/** Bytes of x that all panels go through, then the next: they stay in a third-level cache, beside w. */
const PASS_BYTES: i64 = 5 << 20;
/** Rows of a pass at most, a multiple of 12. */
const ROWS: i32 = 276;
/** Inputs of a block: what a second-level cache gives again for each tile, and of halves a first-level one. */
const BLOCK: i32 = 1024, NARROW_BLOCK: i32 = 256;

/** Rows from which on weights that come next are touched: of fewer the machine sees a stream as it is. */
const LEAST: i32 = 12;

const SUMS: usize = NARROW_BLOCK << 5, ZEROS: usize = SUMS + (ROWS << 5), UNREAD: usize = ZEROS + 64;

/** All rows by the panels from number `from` to number to − 1, of weights in `format` f32 or f16; t: the thread. */
export function rowsByF32(op: Matmul, t: i32, from: i32, to: i32, format: u32): void {
  const narrow = format == Format.f16, inputs = narrow ? NARROW_BLOCK : BLOCK, stepBytes = panelBytes(format, 1), lineSteps = narrow ? 4 : 2;
  const passes = max(max((op.M + ROWS - 1) / ROWS, <i32>((<i64>op.M * op.K * 4 + PASS_BYTES - 1) / PASS_BYTES)), 1);
  const rows = ((op.M + passes - 1) / passes + 11) / 12 * 12, end = op.w + <usize>to * stepBytes * op.K, scratch = op.scratch + <usize>t * SCRATCH;
  v128.store(scratch + ZEROS, f32x4.splat(0)); v128.store(scratch + ZEROS, f32x4.splat(0), 16);
  for (let m0 = 0; m0 < op.M; m0 += rows) {
    const m1 = min(m0 + rows, op.M), ahead: usize = m1 - m0 < LEAST ? 0 : <usize>inputs * stepBytes;
    let w = op.w + <usize>from * stepBytes * op.K;
    for (let p = from; p < to; p++) {
      for (let k0 = 0; k0 < op.K; k0 += inputs) {
        const k1 = min(k0 + inputs, op.K), next = w + <usize>(k1 - k0) * stepBytes;
        if (narrow) widen(op, w, k1 - k0, scratch);
        block(op, scratch, m0, m1, p << 3, k0, k1, narrow ? scratch : w, next, min(next + ahead, end), lineSteps);
        w = next;
      }
    }
  }
}

/**
 * Rows m0 … m1 − 1 by inputs k0 … k1 − 1 of a panel, here at w, added to what inputs before k0 gave. What is multiplied then, from `next`
 * to `last`, gets touched meanwhile, a line from time to time: the machine sees a stream, and has it near. A line is `lineSteps` steps.
 */
// @ts-ignore: decorator
@inline function block(op: Matmul, scratch: usize, m0: i32, m1: i32, j: i32, k0: i32, k1: i32, w: usize, next: usize, last: usize, lineSteps: i32): void {
  const height = ASC_FEATURE_RELAXED_SIMD ? 6 : 4, every = next < last ? (m1 - m0 + height - 1) / height * lineSteps : k1 - k0;
  const ldd = <usize>op.ldd << 2, fromStep: usize = k0 ? 32 : 0, toStep: usize = k1 < op.K ? 32 : ldd, count = k1 < op.K ? 8 : op.N - j;
  let from = scratch + (k0 ? SUMS : ZEROS), to = k1 < op.K ? scratch + SUMS : op.dst + <usize>m0 * ldd + (<usize>j << 2), m = m0;
  for (; m + height <= m1; m += height, from += <usize>height * fromStep, to += <usize>height * toStep) {
    next = tile(op, m, j, k0, k1, w, height, from, fromStep, to, toStep, count, next, last, every, scratch);
  }
  if (ASC_FEATURE_RELAXED_SIMD && m + 5 == m1) tile(op, m, j, k0, k1, w, 5, from, fromStep, to, toStep, count, next, last, every, scratch);
  else if (ASC_FEATURE_RELAXED_SIMD && m + 4 == m1) tile(op, m, j, k0, k1, w, 4, from, fromStep, to, toStep, count, next, last, every, scratch);
  else if (m + 3 == m1) tile(op, m, j, k0, k1, w, 3, from, fromStep, to, toStep, count, next, last, every, scratch);
  else if (m + 2 == m1) tile(op, m, j, k0, k1, w, 2, from, fromStep, to, toStep, count, next, last, every, scratch);
  else if (m < m1) tile(op, m, j, k0, k1, w, 1, from, fromStep, to, toStep, count, next, last, every, scratch);
}

/**
 * `rows` (1 … 6, a constant: the compiler makes a tile of each) by 8 outputs. Sums come from `from` and go `to`, where rows are so many bytes
 * apart. After `every` steps it touches a line.
 *
 * @returns the next line to touch
 */
// @ts-ignore: decorator
@inline function tile(
  op: Matmul, m: i32, j: i32, k0: i32, k1: i32, w: usize, rows: i32, from: usize, fromStep: usize, to: usize, toStep: usize, count: i32,
  next: usize, last: usize, every: i32, scratch: usize,
): usize {
  const step = <usize>op.ldx << 2;
  let x0 = op.x + <usize>m * step + (<usize>k0 << 2), x1 = x0 + step, x2 = x1 + step, x3 = x2 + step, x4 = x3 + step, x5 = x4 + step;
  // no choice of zeros here: after one V8 11.3 does not keep all sums in registers
  let a0 = v128.load(from), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, b0 = v128.load(from, 16), b1 = b0, b2 = b0, b3 = b0, b4 = b0, b5 = b0;
  if (rows > 1) { a1 = v128.load(from + fromStep); b1 = v128.load(from + fromStep, 16); }
  if (rows > 2) { a2 = v128.load(from + 2 * fromStep); b2 = v128.load(from + 2 * fromStep, 16); }
  if (rows > 3) { a3 = v128.load(from + 3 * fromStep); b3 = v128.load(from + 3 * fromStep, 16); }
  if (rows > 4) { a4 = v128.load(from + 4 * fromStep); b4 = v128.load(from + 4 * fromStep, 16); }
  if (rows > 5) { a5 = v128.load(from + 5 * fromStep); b5 = v128.load(from + 5 * fromStep, 16); }
  const end = x0 + (<usize>(k1 - k0) << 2);
  while (x0 < end) {
    const stop = min(x0 + (<usize>every << 2), end);
    do {
      const wa = v128.load(w), wb = v128.load(w, 16);
      let s = v128.load32_splat(x0);
      a0 = fma(s, wa, a0); b0 = fma(s, wb, b0);
      if (rows > 1) { s = v128.load32_splat(x1); a1 = fma(s, wa, a1); b1 = fma(s, wb, b1); x1 += 4; }
      if (rows > 2) { s = v128.load32_splat(x2); a2 = fma(s, wa, a2); b2 = fma(s, wb, b2); x2 += 4; }
      if (rows > 3) { s = v128.load32_splat(x3); a3 = fma(s, wa, a3); b3 = fma(s, wb, b3); x3 += 4; }
      if (rows > 4) { s = v128.load32_splat(x4); a4 = fma(s, wa, a4); b4 = fma(s, wb, b4); x4 += 4; }
      if (rows > 5) { s = v128.load32_splat(x5); a5 = fma(s, wa, a5); b5 = fma(s, wb, b5); x5 += 4; }
      x0 += 4; w += 32;
    } while (x0 < stop);
    if (next < last) {
      store<u8>(scratch + UNREAD, load<u8>(next)); // a load whose value goes nowhere would be left out
      next += 64;
    }
  }
  keep(to, a0, b0, count);
  if (rows > 1) keep(to + toStep, a1, b1, count);
  if (rows > 2) keep(to + 2 * toStep, a2, b2, count);
  if (rows > 3) keep(to + 3 * toStep, a3, b3, count);
  if (rows > 4) keep(to + 4 * toStep, a4, b4, count);
  if (rows > 5) keep(to + 5 * toStep, a5, b5, count);
  if (k1 == op.K) finish(op, m, rows, j, 1);
  return next;
}
