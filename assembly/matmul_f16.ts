/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in IEEE halves, finite. Threads take panels of few rows and share those of many.
 *
 * As matmul_f32 with panels [⌈N / 8⌉][K][8] of halves, which are widened once for many rows (rows_f32.ts), and in registers for few. A half
 * becomes f32 in four instructions: sign-extend, shift its exponent to where f32 has it, drop the copies of the sign, and multiply by 2¹¹²
 * for the other bias (subnormals come out right too).
 *
 *                 n0 n1 n2 n3   n4 n5 n6 n7
 *               ┌─────────────┬─────────────┐  w: 2 vectors a step of k, mask and 2¹¹² beside them
 *     x[m,k] ─► │     a0      │     b0      │  x: 1 splat
 *   x[m+1,k] ─► │     a1      │     b1      │  a, b: 8 sums; 13 of x86's 16 registers
 *   x[m+2,k] ─► │     a2      │     b2      │
 *   x[m+3,k] ─► │     a3      │     b3      │
 *               └─────────────┴─────────────┘
 */
import { finish, keep } from "./epilogue";
import { Format, Matmul } from "./record";
import { rowsByF32 } from "./rows_f32";
import { apartOf, share, streamsTo, takeStreams } from "./share";
import { fma } from "./simd";

export function matmul_f16(op: Matmul, t: i32, n: i32): void {
  const panels = (op.N + 7) >> 3;
  if (op.scratch) return rowsByF32(op, t, share(panels, t, n), share(panels, t + 1, n), Format.f16);
  const streams = op.M == 1 ? 2 : 1, apart = apartOf(panels, streams, n);
  for (let p = takeStreams(op, apart, streams, t, n); p >= 0; p = takeStreams(op, apart, streams, t, n)) {
    const to = streamsTo(p, apart, streams, n), here = min(to, panels);
    if (streams == 1) some(op, p, here);
    else both(op, p, here, min(to + apart, panels) - apart, apart);
  }
}

/** One row by panels from … to − 1, and by those `apart` further of from … there − 1. */
function both(op: Matmul, from: i32, to: i32, there: i32, apart: i32): void {
  let p = from;
  for (; p < there; p++) tile_1x16(op, p << 3, apart << 3, op.w + <usize>p * (<usize>op.K << 4));
  some(op, p, to);
}

function some(op: Matmul, from: i32, to: i32): void {
  for (let p = from; p < to; p++) {
    const j = p << 3, w = op.w + <usize>p * (<usize>op.K << 4);
    let m = 0;
    for (; m + 4 <= op.M; m += 4) tile(op, m, j, w, 4);
    if (m + 3 == op.M) tile(op, m, j, w, 3);
    else if (m + 2 == op.M) tile(op, m, j, w, 2);
    else if (m < op.M) tile(op, m, j, w, 1);
  }
}

// Half of each constant times `kind`, which is 2 here: V8 would build a constant anew at every use in a loop.
// @ts-ignore: decorator
@inline function maskOf(op: Matmul): v128 {
  return i32x4.splat(0x47fff000 * op.kind);
}

/** 2¹¹². */
// @ts-ignore: decorator
@inline function biasOf(op: Matmul): v128 {
  return i32x4.splat(0x3bc00000 * op.kind);
}

// @ts-ignore: decorator
@inline function four(bits: v128, mask: v128, bias: v128): v128 {
  return f32x4.mul(v128.and(i32x4.shl(bits, 13), mask), bias);
}

/** `inputs` steps of a panel's halves to f32. */
export function widen(op: Matmul, w: usize, inputs: i32, wide: usize): void {
  const mask = maskOf(op), bias = biasOf(op);
  for (const end = w + (<usize>inputs << 4); w < end; w += 16, wide += 32) {
    v128.store(wide, four(v128.load16x4_s(w), mask, bias)); v128.store(wide, four(v128.load16x4_s(w, 8), mask, bias), 16);
  }
}

/** `rows` (1 … 4, a constant: the compiler makes a tile of each) by 8 outputs. */
// @ts-ignore: decorator
@inline function tile(op: Matmul, m: i32, j: i32, w: usize, rows: i32): void {
  const step = <usize>op.ldx << 2, mask = maskOf(op), bias = biasOf(op);
  let x0 = op.x + <usize>m * step, x1 = x0 + step, x2 = x1 + step, x3 = x2 + step;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (let end = x0 + (<usize>op.K << 2); x0 < end; ) {
    const wa = four(v128.load16x4_s(w), mask, bias), wb = four(v128.load16x4_s(w, 8), mask, bias);
    let s = v128.load32_splat(x0);
    a0 = fma(s, wa, a0); b0 = fma(s, wb, b0);
    if (rows > 1) { s = v128.load32_splat(x1); a1 = fma(s, wa, a1); b1 = fma(s, wb, b1); x1 += 4; }
    if (rows > 2) { s = v128.load32_splat(x2); a2 = fma(s, wa, a2); b2 = fma(s, wb, b2); x2 += 4; }
    if (rows > 3) { s = v128.load32_splat(x3); a3 = fma(s, wa, a3); b3 = fma(s, wb, b3); x3 += 4; }
    x0 += 4; w += 16;
  }
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), ldd = <usize>op.ldd << 2, count = op.N - j;
  keep(dst, a0, b0, count);
  if (rows > 1) keep(dst + ldd, a1, b1, count);
  if (rows > 2) keep(dst + 2 * ldd, a2, b2, count);
  if (rows > 3) keep(dst + 3 * ldd, a3, b3, count);
  finish(op, m, rows, j, 1);
}

/** One row, two panels at once, `apart` outputs from each other: enough sums under way to hide an addition's latency. */
function tile_1x16(op: Matmul, j: i32, apart: i32, w0: usize): void {
  const mask = maskOf(op), bias = biasOf(op);
  let x = op.x, w1 = w0 + <usize>apart * (<usize>op.K << 1);
  let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0;
  for (let end = x + (<usize>op.K << 2); x < end; x += 4, w0 += 16, w1 += 16) {
    const s = v128.load32_splat(x);
    a0 = fma(s, four(v128.load16x4_s(w0), mask, bias), a0); b0 = fma(s, four(v128.load16x4_s(w0, 8), mask, bias), b0);
    a1 = fma(s, four(v128.load16x4_s(w1), mask, bias), a1); b1 = fma(s, four(v128.load16x4_s(w1, 8), mask, bias), b1);
  }
  const dst = op.dst + (<usize>j << 2), count = op.N - j;
  keep(dst, a0, b0, count);
  keep(dst + (<usize>apart << 2), a1, b1, count - apart);
  finish(op, 0, 1, j, 1);
  finish(op, 0, 1, j + apart, 1);
}
