/**
 * Many rows of int16 by 8 outputs, half a panel of 8 bits or one of 4, that are widened into a thread's scratch: weights are unpacked once for all
 * rows of a pass, and the loop that does the work has nothing in it but loads, products and sums. A scratch (SCRATCH bytes, a thread's own)
 * is a tile's 8 vectors of totals, then for each group of a block of inputs 8 f32 scales and ⌈inputs / 2⌉ steps of [8 outputs][2 inputs].
 * Of int8 the first tile widens what it multiplies.
 *
 *                        n0 n1 n2 n3   n4 n5 n6 n7
 *                      ┌─────────────┬─────────────┐  w: 2 vectors of 8 int16 a step
 *     x[m, k:k+2]   ─► │     a0      │     b0      │  x: 1 splat of a pair; the last 1 … 3 rows have tiles of their own
 *     x[m+1, k:k+2] ─► │     a1      │     b1      │  a, b: 8 sums of pair products (dot_i16x8) in int32
 *     x[m+2, k:k+2] ─► │     a2      │     b2      │
 *     x[m+3, k:k+2] ─► │     a3      │     b3      │  64 products from 6 loads; 12 of x86's 16 registers
 *                      └─────────────┴─────────────┘
 *
 * f32 totals are in memory between groups: as locals V8 would keep some of them in registers throughout, and then has none left for
 * the sums, one of which it would store and load in every step.
 */
import { finish, keep } from "./epilogue";
import { widen as widenI4 } from "./matmul_i4";
import { I8_OUTPUTS, I8_SCALES, I8_STEP, panelBytes } from "./pack";
import { Format, GROUP, Matmul, SCRATCH } from "./record";
import { share, take, takenTo } from "./share";
import { mulAdd } from "./simd";

/** Inputs of a block in int16: with four rows of x it is two thirds of a first-level cache of 32 KiB. */
const BLOCK: i32 = 8 * GROUP;
/** Rows of a pass, a multiple of 4: a block of them is 1 MiB of x. */
const ROWS: i32 = 512;
/** Bytes of x that a pass over the panels goes through: they stay in a second-level cache of 1 MiB, beside the sums. */
const PART_BYTES: i32 = 600000;
/** Totals, and a word that no one reads. */
const TOTALS: usize = 192;

/**
 * All rows, whose weights are in `format` i8 or i4 (a constant). Where x is small, threads take panels; else each has its own, and goes through
 * all of them with a part of the inputs, then with the next: x comes from the second-level cache, and no weight is widened twice.
 */
// @ts-ignore: decorator
@inline export function widened(op: Matmul, t: i32, n: i32, format: u32): void {
  const eights = (op.N + 7) >> 3, each = format == Format.i8 ? I8_OUTPUTS >> 3 : 1; // of a panel
  if (n > 1 && op.M <= ROWS && partOf(op.M) >= op.K) {
    const panels = (eights + each - 1) / each;
    for (let p = take(op, panels, n); p < panels; p = take(op, panels, n)) {
      strip(op, t, 0, op.M, 0, op.K, p * each, min(takenTo(p, panels, n) * each, eights), format);
    }
    return;
  }
  const from = share(eights, t, n), to = share(eights, t + 1, n);
  for (let m0 = 0; m0 < op.M; m0 += ROWS) {
    const m1 = min(m0 + ROWS, op.M), part = partOf(m1 - m0);
    for (let begin = 0; begin < op.K; begin += part) strip(op, t, m0, m1, begin, min(begin + part, op.K), from, to, format);
  }
}

/** Inputs of so many rows that a pass over the panels goes through. */
// @ts-ignore: decorator
@inline function partOf(rows: i32): i32 {
  return max(PART_BYTES / (rows << 1) / BLOCK, 1) * BLOCK;
}

/** Rows m0 … m1 − 1 by inputs begin … end − 1 of the eights of outputs from … to − 1. */
function strip(op: Matmul, t: i32, m0: i32, m1: i32, begin: i32, end: i32, from: i32, to: i32, format: u32): void {
  const bytes = panelBytes(format, op.K), each = format == Format.i8 ? I8_OUTPUTS >> 3 : 1;
  for (let p = from; p < to; ) {
    const panel = op.w + <usize>(p / each) * bytes, last = min((p / each + 1) * each, to);
    for (let k0 = begin; k0 < end; k0 += BLOCK) {
      const k1 = min(k0 + BLOCK, end), w = panel + panelBytes(format, k0);
      let next = w, nextBytes: usize = 0;
      if (k1 < end) {
        next = w + panelBytes(format, BLOCK);
        nextBytes = panelBytes(format, min(end - k1, BLOCK)) / <usize>(last - p);
      } else if (last < to) {
        next = panel + bytes + panelBytes(format, begin);
        nextBytes = panelBytes(format, min(end - begin, BLOCK)) / <usize>(last - p);
      }
      for (let i = p; i < last; i++, next += nextBytes) block(op, t, m0, m1, i << 3, k0, k1, w, <usize>(i % each) << 4, format, next, nextBytes);
    }
    p = last;
  }
}

/**
 * Rows m0 … m1 − 1 by inputs k0 … k1 − 1 (k0 % BLOCK == 0) of the packed panel, here at w, added to what inputs before k0 gave; `part`: which
 * bytes of an int8 step. What is widened then, `nextBytes` at `next`, gets touched meanwhile, a line from time to time: the machine sees a
 * stream, and has it near.
 */
function block(op: Matmul, t: i32, m0: i32, m1: i32, j: i32, k0: i32, k1: i32, w: usize, part: usize, format: u32, next: usize, nextBytes: usize): void {
  const wide = op.scratch + <usize>t * scratchOf(op, format) + TOTALS, groups = (k1 - k0 + GROUP - 1) / GROUP;
  const step = nextBytes / <usize>(((m1 - m0 + 3) >> 2) * groups), ahead = step * <usize>groups;
  let m = m0;
  if (format == Format.i4) widenI4(w, k1 - k0, wide, <i16>op.kind);
  else if (m + 4 > m1) widenI8(op, w + I8_SCALES + part, part, k1 - k0, wide);
  else {
    tile(op, m, j, k0, k1, wide, 4, w + I8_SCALES + part, part, true, next, step);
    m += 4; next += ahead;
  }
  for (; m + 4 <= m1; m += 4, next += ahead) tile(op, m, j, k0, k1, wide, 4, 0, 0, false, next, step);
  if (m + 3 == m1) tile(op, m, j, k0, k1, wide, 3, 0, 0, false, next, step);
  else if (m + 2 == m1) tile(op, m, j, k0, k1, wide, 2, 0, 0, false, next, step);
  else if (m < m1) tile(op, m, j, k0, k1, wide, 1, 0, 0, false, next, step);
  if (k1 == op.K && op.activation) finish(op, m0, m1 - m0, j, 1);
}

/** Bytes of each thread's scratch. */
// @ts-ignore: decorator
@inline export function scratchOf(op: Matmul, format: u32): usize {
  return format == Format.i4 ? max(SCRATCH, <usize>((op.K + 7) >> 3) << 7) : SCRATCH;
}

/** Of int8 weights, the first of which are at `narrow`, `part` bytes into their step. */
function widenI8(op: Matmul, narrow: usize, part: usize, inputs: i32, wide: usize): void {
  const low = inLanes(op, 255), offset = inLanes(op, 128);
  for (let left = inputs; left > 0; left -= GROUP, narrow += I8_SCALES) {
    copyScales(narrow, part, wide);
    wide += 32;
    const end = narrow + <usize>((min(left, GROUP) + 1) >> 1) * I8_STEP;
    for (; narrow < end; narrow += I8_STEP, wide += 32) {
      const v = v128.load(narrow);
      v128.store(wide, i16x8.sub(v128.and(v, low), offset)); v128.store(wide, i16x8.shr_s(v, 8), 16);
    }
  }
}

/** `value` in each lane of 16 bits; no literal, which V8 would make anew for every use. */
// @ts-ignore: decorator
@inline function inLanes(op: Matmul, value: i32): v128 {
  return i16x8.splat(<i16>((op.kind >> 8) + value));
}

/** The scales of 8 outputs of an int8 group whose numbers begin at `narrow`, `part` bytes into the first step. */
// @ts-ignore: decorator
@inline function copyScales(narrow: usize, part: usize, wide: usize): void {
  const scales = narrow + part - I8_SCALES;
  v128.store(wide, v128.load(scales)); v128.store(wide, v128.load(scales, 16), 16);
}

/** sum · (scale of w · scale of x) more, for four outputs of a row. */
// @ts-ignore: decorator
@inline function add(total: usize, sum: v128, wScale: v128, xScale: v128): void {
  v128.store(total, mulAdd(f32x4.convert_i32x4_s(sum), f32x4.mul(wScale, xScale), v128.load(total)));
}

// @ts-ignore: decorator
@inline function begin(total: usize, dst: usize, k0: i32): void {
  // past the last output this reads what belongs to others, and keep() writes none of it
  v128.store(total, k0 ? v128.load(dst) : f32x4.splat(0));
  v128.store(total, k0 ? v128.load(dst, 16) : f32x4.splat(0), 16);
}

// @ts-ignore: decorator
@inline function end(op: Matmul, total: usize, dst: usize, row: i32, j: i32, biasA: v128, biasB: v128, done: bool): void {
  let a = v128.load(total), b = v128.load(total, 16);
  if (done) {
    a = f32x4.add(a, biasA);
    b = f32x4.add(b, biasB);
    if (op.residual) {
      const residual = op.residual + ((<usize>row * op.ldr + j) << 2);
      a = f32x4.add(a, v128.load(residual));
      b = f32x4.add(b, v128.load(residual, 16));
    }
  }
  keep(dst, a, b, op.N - j);
}

/**
 * `rows` (1 … 4, a constant: the compiler makes a tile of each) by 8 outputs. `widen` (a constant too): of int8 weights at `narrow`, `part`
 * bytes into their step, whose int16 go to w. For each group it touches a byte, the first at `next`, `nextStep` apart.
 */
// @ts-ignore: decorator
@inline function tile(op: Matmul, m: i32, j: i32, k0: i32, k1: i32, w: usize, rows: i32, narrow: usize, part: usize, widen: bool, next: usize, nextStep: usize): void {
  const step = <usize>op.ldx << 1, scaleStep = <usize>((op.K + GROUP - 1) / GROUP) << 3, totals = w - TOTALS;
  const low = inLanes(op, 255), offset = inLanes(op, 128);
  let x0 = op.x + <usize>m * step + (<usize>k0 << 1), x1 = x0 + step, x2 = x1 + step, x3 = x2 + step;
  let scales = op.scales + <usize>m * scaleStep + (<usize>(k0 / GROUP) << 3);
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), ldd = <usize>op.ldd << 2;
  begin(totals, dst, k0);
  if (rows > 1) begin(totals + 32, dst + ldd, k0);
  if (rows > 2) begin(totals + 64, dst + 2 * ldd, k0);
  if (rows > 3) begin(totals + 96, dst + 3 * ldd, k0);
  for (let left = k1 - k0; left > 0; left -= GROUP) {
    const wScales = w;
    if (widen) copyScales(narrow, part, w);
    let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    w += 32;
    const end = w + (<usize>((min(left, GROUP) + 1) >> 1) << 5);
    do {
      let va = v128.load(widen ? narrow : w), vb: v128;
      if (widen) {
        vb = i16x8.shr_s(va, 8); va = i16x8.sub(v128.and(va, low), offset);
        v128.store(w, va); v128.store(w, vb, 16);
        narrow += I8_STEP;
      } else vb = v128.load(w, 16);
      let s = v128.load32_splat(x0);
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(s, va)); b0 = i32x4.add(b0, i32x4.dot_i16x8_s(s, vb));
      if (rows > 1) { s = v128.load32_splat(x1); a1 = i32x4.add(a1, i32x4.dot_i16x8_s(s, va)); b1 = i32x4.add(b1, i32x4.dot_i16x8_s(s, vb)); x1 += 4; }
      if (rows > 2) { s = v128.load32_splat(x2); a2 = i32x4.add(a2, i32x4.dot_i16x8_s(s, va)); b2 = i32x4.add(b2, i32x4.dot_i16x8_s(s, vb)); x2 += 4; }
      if (rows > 3) { s = v128.load32_splat(x3); a3 = i32x4.add(a3, i32x4.dot_i16x8_s(s, va)); b3 = i32x4.add(b3, i32x4.dot_i16x8_s(s, vb)); x3 += 4; }
      x0 += 4; w += 32;
    } while (w < end);
    const wScaleA = v128.load(wScales), wScaleB = v128.load(wScales, 16);
    let q = v128.load32_splat(scales);
    add(totals, a0, wScaleA, q); add(totals + 16, b0, wScaleB, q);
    if (rows > 1) { q = v128.load32_splat(scales + scaleStep); add(totals + 32, a1, wScaleA, q); add(totals + 48, b1, wScaleB, q); }
    if (rows > 2) { q = v128.load32_splat(scales + 2 * scaleStep); add(totals + 64, a2, wScaleA, q); add(totals + 80, b2, wScaleB, q); }
    if (rows > 3) { q = v128.load32_splat(scales + 3 * scaleStep); add(totals + 96, a3, wScaleA, q); add(totals + 112, b3, wScaleB, q); }
    scales += 8; narrow += I8_SCALES;
    store<u8>(totals + 128, load<u8>(next)); // a load whose value goes nowhere would be left out
    next += nextStep;
  }
  // Without an activation this is the end as well: a pass of its own over so narrow a strip would take 3 % of all.
  const done = k1 == op.K && op.activation == 0;
  let biasA = f32x4.splat(-0.0), biasB = biasA; // v − 0 is v, also of −0
  if (done && op.bias) {
    biasA = v128.load(op.bias + (<usize>j << 2));
    biasB = v128.load(op.bias + (<usize>j << 2), 16);
  }
  end(op, totals, dst, m, j, biasA, biasB, done);
  if (rows > 1) end(op, totals + 32, dst + ldd, m + 1, j, biasA, biasB, done);
  if (rows > 2) end(op, totals + 64, dst + 2 * ldd, m + 2, j, biasA, biasB, done);
  if (rows > 3) end(op, totals + 96, dst + 3 * ldd, m + 3, j, biasA, biasB, done);
}
