/**
 * dst[M, D] = (x − mean) / √(variance + ε) · γ + β, row by row; variance biased, about the mean. Threads share rows.
 * `quantized` gets the same numbers as quantize would make of dst, which then need not be kept (dst = 0).
 *
 * Columns run in a fixed order: 8 sums side by side, then those of the rest, then lanes pairwise.
 */
import { GROUP, Layernorm } from "./record";
import { clear, inverseOf, scaleOf, store4 } from "./quantize";
import { share } from "./share";
import { firstLanes, largest, loadPart, mulAdd, storePart, sum } from "./simd";

export function layernorm(op: Layernorm, t: i32, n: i32): void {
  const to = share(op.M, t + 1, n);
  for (let m = share(op.M, t, n); m < to; m++) {
    const x = op.x + (<usize>m * op.ldx << 2);
    const mean = sumOf(x, op.D) / <f32>op.D;
    const factor = <f32>1 / sqrt(squaresOf(x, op.D, mean) / <f32>op.D + op.eps);
    if (op.quantized) quantizedRow(op, m, x, mean, factor);
    else plainRow(op, m, x, mean, factor);
  }
}

function sumOf(x: usize, D: i32): f32 {
  let a = f32x4.splat(0), b = a, k = 0;
  for (; k + 8 <= D; k += 8, x += 32) {
    a = f32x4.add(a, v128.load(x));
    b = f32x4.add(b, v128.load(x, 16));
  }
  if (k + 4 <= D) {
    a = f32x4.add(a, v128.load(x));
    k += 4; x += 16;
  }
  if (k < D) b = f32x4.add(b, loadPart(x, D - k));
  return sum(f32x4.add(a, b));
}

/** The sum of (x − mean)². */
function squaresOf(x: usize, D: i32, mean: f32): f32 {
  const centre = f32x4.splat(mean);
  let a = f32x4.splat(0), b = a, k = 0, v: v128;
  for (; k + 8 <= D; k += 8, x += 32) {
    v = f32x4.sub(v128.load(x), centre); a = mulAdd(v, v, a);
    v = f32x4.sub(v128.load(x, 16), centre); b = mulAdd(v, v, b);
  }
  if (k + 4 <= D) {
    v = f32x4.sub(v128.load(x), centre); a = mulAdd(v, v, a);
    k += 4; x += 16;
  }
  if (k < D) {
    v = v128.and(f32x4.sub(loadPart(x, D - k), centre), firstLanes(D - k)); b = mulAdd(v, v, b);
  }
  return sum(f32x4.add(a, b));
}

/** Columns k … k + 3 of the result; past the end 0, since γ and β are. */
// @ts-ignore: decorator
@inline function four(op: Layernorm, x: usize, k: i32, mean: f32, factor: f32): v128 {
  const at = <usize>k << 2, gamma = op.gamma + at, beta = op.beta + at;
  if (k + 4 <= op.D) return normed(v128.load(x + at), mean, factor, v128.load(gamma), v128.load(beta));
  const rest = op.D - k;
  return normed(loadPart(x + at, rest), mean, factor, loadPart(gamma, rest), loadPart(beta, rest));
}

// @ts-ignore: decorator
@inline function normed(v: v128, mean: f32, factor: f32, gamma: v128, beta: v128): v128 {
  return mulAdd(f32x4.mul(f32x4.sub(v, f32x4.splat(mean)), f32x4.splat(factor)), gamma, beta);
}

function plainRow(op: Layernorm, m: i32, x: usize, mean: f32, factor: f32): void {
  const dst = op.dst + (<usize>m * op.ldd << 2);
  for (let k = 0; k < op.D; k += 4) keep(dst, k, op.D, four(op, x, k, mean, factor));
}

function keep(dst: usize, k: i32, D: i32, v: v128): void {
  const p = dst + (<usize>k << 2);
  if (k + 4 <= D) v128.store(p, v);
  else storePart(p, v, D - k);
}

/** Computes each group twice, for its largest number and for its integers: there need be no place for f32. */
function quantizedRow(op: Layernorm, m: i32, x: usize, mean: f32, factor: f32): void {
  const dst = op.dst + (<usize>m * op.ldd << 2), quantized = op.quantized + (<usize>m * op.ldq << 1);
  const groups = (op.D + GROUP - 1) / GROUP;
  for (let g = 0; g < groups; g++) {
    const from = g * GROUP, to = min(from + GROUP, op.D);
    let size = f32x4.splat(0);
    for (let k = from; k < to; k += 4) {
      const v = four(op, x, k, mean, factor);
      if (op.dst) keep(dst, k, op.D, v);
      size = f32x4.pmax(size, f32x4.abs(v));
    }
    const top = largest(size), inverse = inverseOf(top, 32767);
    store<f32>(op.scales + ((<usize>m * groups + g) << 2), scaleOf(top, 32767));
    for (let k = from; k < to; k += 4) store4(quantized + (<usize>k << 1), four(op, x, k, mean, factor), inverse);
  }
  clear(quantized, op.D, op.ldq);
}
