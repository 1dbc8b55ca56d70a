/**
 * dst[M, D] = (x − mean) / √(variance + ε) · γ + β, row by row; variance biased, about the mean. Threads share groups, so that one row is
 * work for all; each works a row's mean and variance out for itself.
 * `quantized` gets the same numbers as quantize would make of dst, in eights too, `bytes` those of quantize_i8; dst then need not be kept (dst = 0).
 *
 * Columns run in a fixed order: 8 sums side by side, then those of the rest, then lanes pairwise.
 */
import { EIGHT, GROUP, Layernorm, singles } from "./record";
import { clear, clearBytes, EIGHT_ROWS, I16, inverseOf, nearest, quartersOf, scalesOfEight, store4, store4bytes, storeScale, storeScaleOfBytes } from "./quantize";
import { share } from "./share";
import { firstLanes, kept, largest, loadPart, MAGIC, mulAdd, storePart, sum } from "./simd";

export function layernorm(op: Layernorm, t: i32, n: i32): void {
  const groups = (op.D + GROUP - 1) / GROUP, alone = singles(op.M, op.eights), pieces = (alone + op.eights) * groups;
  let i = share(pieces, t, n);
  const to = share(pieces, t + 1, n);
  while (i < to) {
    const m = i / groups, from = i % groups, end = min(groups, from + to - i);
    if (m < alone) row(op, m, from, end, groups);
    else eight(op, m - alone, alone, from, end, groups, op.scratch + <usize>t * (EIGHT_ROWS + 64));
    i += end - from;
  }
}

/** Groups from … end − 1 of row m. */
function row(op: Layernorm, m: i32, from: i32, end: i32, groups: i32): void {
  const x = op.x + (<usize>m * op.ldx << 2), mean = meanOf(x, op.D), factor = factorOf(op, x, mean);
  for (let g = from; g < end; g++) {
    if (op.quantized) {
      const quantized = op.quantized + ((<usize>m * op.ldq + g * GROUP) << 1), scale = op.scales + ((<usize>m * groups + g) << 3);
      quantizedGroup(op, m, g, groups, quantized, op.ldq - g * GROUP, x, mean, factor, scale, true);
    } else if (op.bytes) bytesGroup(op, m, g, groups, x, mean, factor);
    else plainGroup(op, m, g, x, mean, factor);
  }
}

/** The same of eight rows, as quantize makes them. `rows`: room for a group of them, and their means and factors. */
function eight(op: Layernorm, e: i32, alone: i32, from: i32, end: i32, groups: i32, rows: usize): void {
  const first = alone + (e << 3), there = min(op.M - first, 8), known = rows + EIGHT_ROWS, x = op.x + (<usize>first * op.ldx << 2), step = <usize>op.ldx << 2;
  for (let i = 0; i < there; i++) {
    const mean = meanOf(x + <usize>i * step, op.D);
    store<f32>(known + (<usize>i << 3), mean);
    store<f32>(known + (<usize>i << 3), factorOf(op, x + <usize>i * step, mean), 4);
  }
  if (there < 8) memory.fill(rows, 0, EIGHT_ROWS);
  for (let g = from; g < end; g++) {
    const scales = scalesOfEight(op.scales, alone, groups, op.eights, g, e);
    for (let i = 0; i < there; i++) {
      const at = known + (<usize>i << 3);
      quantizedGroup(op, first + i, g, groups, rows + (<usize>i << 8), GROUP, x + <usize>i * step, load<f32>(at), load<f32>(at, 4), scales + (<usize>i << 2), false);
    }
    for (let i = there; i < 8; i++) store<f32>(scales + (<usize>i << 2), 0);
    quartersOf(rows, op.quantized + <usize>alone * (<usize>op.ldq << 1) + <usize>(g * op.eights + e) * EIGHT);
  }
}

function meanOf(x: usize, D: i32): f32 {
  return sumOf(x, D) / <f32>D;
}

function factorOf(op: Layernorm, x: usize, mean: f32): f32 {
  return <f32>1 / sqrt(squaresOf(x, op.D, mean) / <f32>op.D + op.eps);
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

/** Columns k … k + 3 of the result, of which `rest` (1 … 4) are there; the others are 0, since γ and β are. */
// @ts-ignore: decorator
@inline function four(op: Layernorm, x: usize, k: i32, rest: i32, mean: v128, factor: v128): v128 {
  const at = <usize>k << 2, gamma = op.gamma + at, beta = op.beta + at;
  if (rest >= 4) return normed(v128.load(x + at), mean, factor, v128.load(gamma), v128.load(beta));
  return normed(loadPart(x + at, rest), mean, factor, loadPart(gamma, rest), loadPart(beta, rest));
}

// @ts-ignore: decorator
@inline function normed(v: v128, mean: v128, factor: v128, gamma: v128, beta: v128): v128 {
  return mulAdd(f32x4.mul(f32x4.sub(v, mean), factor), gamma, beta);
}

function plainGroup(op: Layernorm, m: i32, g: i32, x: usize, mean: f32, factor: f32): void {
  const dst = op.dst + (<usize>m * op.ldd << 2), to = min((g + 1) * GROUP, op.D), centre = f32x4.splat(mean), scale = f32x4.splat(factor);
  for (let k = g * GROUP; k < to; k += 4) keep(dst, k, to, four(op, x, k, to - k, centre, scale));
}

function keep(dst: usize, k: i32, to: i32, v: v128): void {
  const p = dst + (<usize>k << 2);
  if (k + 4 <= to) v128.store(p, v);
  else storePart(p, v, to - k);
}

/**
 * Group g to `quantized`, where it has room for so many numbers; what its row has none for becomes 0. A group's numbers are computed twice, for the
 * largest and for the integers: there need be no place for f32. Of rows in eights the scale is kept alone, as quantize does.
 */
function quantizedGroup(op: Layernorm, m: i32, g: i32, groups: i32, quantized: usize, room: i32, x: usize, mean: f32, factor: f32, scaleAt: usize, alone: bool): void {
  const from = g * GROUP, to = min(from + GROUP, op.D), whole = from + ((to - from) & ~3), rest = to - whole;
  const centre = f32x4.splat(mean), scale = f32x4.splat(factor), at = <usize>from << 2, end = <usize>whole << 2;
  const gamma = op.gamma, beta = op.beta;
  let size = f32x4.splat(0), sums = size;
  for (let i = at; i < end; i += 16) {
    size = f32x4.pmax(size, f32x4.abs(normed(v128.load(x + i), centre, scale, v128.load(gamma + i), v128.load(beta + i))));
  }
  if (rest) size = f32x4.pmax(size, f32x4.abs(four(op, x, whole, rest, centre, scale)));
  const top = largest(size), factors = f32x4.splat(inverseOf(top, I16)), most = kept(op, I16), magic = kept(op, MAGIC);
  for (let i = at; i < end; i += 16) {
    const v = normed(v128.load(x + i), centre, scale, v128.load(gamma + i), v128.load(beta + i));
    sums = i32x4.add(sums, store4(quantized + ((i - at) >> 1), f32x4.mul(v, factors), most, magic));
  }
  if (rest) sums = i32x4.add(sums, store4(quantized + (<usize>(whole - from) << 1), f32x4.mul(four(op, x, whole, rest, centre, scale), factors), most, magic));
  storeScale(scaleAt, top, sums, alone);
  if (op.dst) plainGroup(op, m, g, x, mean, factor);
  if (g == groups - 1) clear(quantized, to - from, room);
}

/** The same in int8. */
function bytesGroup(op: Layernorm, m: i32, g: i32, groups: i32, x: usize, mean: f32, factor: f32): void {
  const bytes = op.bytes + <usize>m * op.ldq;
  const from = g * GROUP, to = min(from + GROUP, op.D), whole = from + ((to - from) & ~3), rest = to - whole;
  const centre = f32x4.splat(mean), scale = f32x4.splat(factor), at = <usize>from << 2, end = <usize>whole << 2;
  const gamma = op.gamma, beta = op.beta;
  let size = f32x4.splat(0), sums = size;
  for (let i = at; i < end; i += 16) {
    size = f32x4.pmax(size, f32x4.abs(normed(v128.load(x + i), centre, scale, v128.load(gamma + i), v128.load(beta + i))));
  }
  if (rest) size = f32x4.pmax(size, f32x4.abs(four(op, x, whole, rest, centre, scale)));
  const top = largest(size), inverse = inverseOf(top, 127), factors = f32x4.splat(inverse);
  for (let i = at; i < end; i += 16) {
    const v = nearest(f32x4.mul(normed(v128.load(x + i), centre, scale, v128.load(gamma + i), v128.load(beta + i)), factors)), halves = i16x8.narrow_i32x4_s(v, v);
    v128.store32_lane(bytes + (i >> 2), i8x16.narrow_i16x8_s(halves, halves), 0);
    sums = i32x4.add(sums, v);
  }
  if (rest) sums = i32x4.add(sums, store4bytes(bytes + whole, four(op, x, whole, rest, centre, scale), inverse));
  storeScaleOfBytes(op.scales + ((<usize>m * groups + g) << 3), top, sums);
  if (op.dst) plainGroup(op, m, g, x, mean, factor);
  if (g == groups - 1) clearBytes(bytes, op.D, op.ldq);
}
