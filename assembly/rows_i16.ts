/**
 * Many rows of int16 by 16 outputs, a panel of 8 bits or of 4, by one level of Strassen's algorithm in Winograd's form: 7 products of quarters where
 * there are 8. Of whole numbers it is exact (sums between may pass 2³¹ and come back), so a row has the bits that it has alone. It works on one group of
 * 128 inputs at a time, since beyond it lie other scales. An eight is 8 rows:
 *
 *                 64 inputs   64                       8 outputs   8
 *               ┌─────────┬─────────┐               ┌─────────┬─────────┐
 *        4 rows │   A11   │   A12   │     64 inputs │   B11   │   B12   │      S1 = A21 + A22    T1 = B12 − B11
 *               ├─────────┼─────────┤       ·       ├─────────┼─────────┤      S2 = S1 − A11     T2 = B22 − T1
 *        4 rows │   A21   │   A22   │     64 inputs │   B21   │   B22   │      S3 = A11 − A21    T3 = B22 − B12
 *               └─────────┴─────────┘               └─────────┴─────────┘      S4 = A12 − S2     T4 = B21 − T2
 *
 *        P1 = A11 B11            U2 = P1 + S2 T2         C22 = U3 + S1 T1
 *        C11 = P1 + A12 B21      U3 = U2 + S3 T3         C12 = C22 + (U2 − U3) + S4 B22
 *                                C21 = U3 + A22 T4
 *
 * S and T fit into int16: |x| ≤ 8191, of which S4 adds four (quantize.ts), and T4 four of |w| ≤ 504. quantize makes S, once for all outputs; T is made as
 * a panel is widened, once for all rows. Both lie in the order in which they are multiplied, A11 A12 S2 S3 A22 S1 S4 by B11 B21 T2 T3 T4 T1 B22, in steps
 * of [4 rows][2 inputs] and of [8 outputs][2 inputs], and x by groups, then eights: one pointer each, which go from one end to the other. A step:
 *
 *                        n0 n1 n2 n3   n4 n5 n6 n7
 *                      ┌─────────────┬─────────────┐  w: 2 vectors of 8 int16
 *     x[m, k:k+2]   ─► │     a0      │     b0      │  x: 1 splat of a pair
 *     x[m+1, k:k+2] ─► │     a1      │     b1      │  a, b: 8 sums of pair products (dot_i16x8) in int32; they stay where they are
 *     x[m+2, k:k+2] ─► │     a2      │     b2      │  where one product's sum goes on with the next
 *     x[m+3, k:k+2] ─► │     a3      │     b3      │  64 products from 6 loads; 12 of x86's 16 registers
 *                      └─────────────┴─────────────┘
 *
 * The first rows, at most four, are in no eight, and met as few rows are: there an eight would be mostly zeros.
 *
 * f32 totals are in memory between groups: as locals V8 would keep some of them in registers throughout, and then has none left for
 * the sums, one of which it would store and load in every step.
 */
import { finishFrom, keep } from "./epilogue";
import { widenGroup as widenI4 } from "./matmul_i4";
import { fourScales, I8_STEP, panelBytes, SCALES } from "./pack";
import { scalesOfEight } from "./quantize";
import { EIGHT, Format, GROUP, Matmul, SCRATCH, singles } from "./record";
import { share } from "./share";
import { dotAdd, mulAdd } from "./simd";

/** Bytes from a quarter of w to the next, and of a widened group: 16 scales as f32, 7 quarters. */
export const QUARTER: usize = 1024;
const WIDE: usize = 64 + 7 * QUARTER;
/** A thread's scratch: two quarters of sums, a word that no one reads, zeros that totals begin with, a widened group, one that is not whole, totals. */
const TOUCHED: usize = 256, ZEROS: usize = 320, WIDENED: usize = ZEROS + 512, SPARE: usize = WIDENED + WIDE;
/** Eights of rows of a pass, and that are enough for two parts. */
const EIGHTS: i32 = 64, PARTED: i32 = 32;

/** Bytes of each thread's scratch. */
// @ts-ignore: decorator
@inline export function scratchOf(op: Matmul): usize {
  return op.eights ? SCRATCH + (<usize>min(op.eights, EIGHTS) << 9) : 0;
}

/** One part of the eights by outputs 16 from … 16 to − 1, of weights in `format` i8 or i4 (a constant). */
// @ts-ignore: decorator
@inline export function eights(op: Matmul, t: i32, part: i32, parts: i32, from: i32, to: i32, format: u32): void {
  const e0 = share(op.eights, part, parts), e1 = share(op.eights, part + 1, parts);
  memory.fill(op.scratch + <usize>t * scratchOf(op) + ZEROS, 0, 512);
  for (let p = from; p < to; p++) {
    for (let e = e0; e < e1; e += EIGHTS) strip(op, t, e, min(e + EIGHTS, e1), p, p + 1 < to, format);
  }
}

/**
 * In how many parts threads take the eights. With two, half of the threads keep to each half of the rows, as in quantize and layernorm: what they read is
 * in their own caches, not in those of a core far away, and half as much. Each half widens all weights, which enough rows make up for.
 */
// @ts-ignore: decorator
@inline export function partsOf(op: Matmul, n: i32): i32 {
  return n > 1 && op.eights >= PARTED ? 2 : 1;
}

/** Eights e0 … e1 − 1 by outputs 16 p … 16 p + 15. `more`: the next 16 follow. */
function strip(op: Matmul, t: i32, e0: i32, e1: i32, p: i32, more: bool, format: u32): void {
  const scratch = op.scratch + <usize>t * scratchOf(op), wide = scratch + WIDENED, first = singles(op.M, op.eights) + (e0 << 3);
  const groups = (op.K + GROUP - 1) / GROUP, bytes = panelBytes(format, op.K), groupBytes = panelBytes(format, GROUP);
  const panel = op.w + <usize>p * bytes;
  let x = op.x + <usize>singles(op.M, op.eights) * (<usize>op.ldx << 1) + <usize>e0 * EIGHT;
  for (let g = 0, w = panel; g < groups; g++, w += groupBytes, x += <usize>(op.eights - (e1 - e0)) * EIGHT) {
    const left = op.K - g * GROUP, last = left <= GROUP;
    if (format == Format.i4) widenI4(op, w, min(left, GROUP), wide, scratch + SPARE);
    else widenI8(op, w, min(left, GROUP), wide, scratch + SPARE);
    // What is widened then gets touched meanwhile, a line from time to time: the machine sees a stream, and has it near.
    let next = w, step: usize = 0;
    if (!last || more) {
      next = last ? panel + bytes : w + groupBytes;
      step = panelBytes(format, min(last ? op.K : left - GROUP, GROUP)) / <usize>((e1 - e0) * 7);
    }
    let scales = scalesOfEight(op.scales, singles(op.M, op.eights), groups, op.eights, g, e0), total = scratch + SCRATCH;
    for (let e = e0; e < e1; e++, x += EIGHT, scales += 32, next += 7 * step, total += 512) {
      products(x, wide, scales, g ? total : scratch + ZEROS, total, scratch, next, step);
      if (last) store8(op, first + ((e - e0) << 3), p << 4, total);
    }
  }
}

/** Of 16 outputs of int8, whose group is at `from`, `inputs` of it. */
function widenI8(op: Matmul, from: usize, inputs: i32, wide: usize, spare: usize): void {
  const low = inLanes(op, 255), offset = inLanes(op, 128);
  if (inputs < GROUP) {
    // what lies behind them is multiplied by zeros, and being bytes is no larger than weights are
    memory.copy(spare, from, SCALES + <usize>((inputs + 1) >> 1) * I8_STEP);
    from = spare;
  }
  for (let i: usize = 0; i < SCALES; i += 8) v128.store(wide + 2 * i, fourScales(from + i));
  from += SCALES; wide += 2 * SCALES;
  for (const end = from + QUARTER; from < end; from += I8_STEP, wide += 32) {
    const a = v128.load(from), b = v128.load(from, 16), c = v128.load(from, 1024), d = v128.load(from, 1040);
    quarters(
      wide, i16x8.sub(v128.and(a, low), offset), i16x8.sub(v128.and(b, low), offset), i16x8.sub(v128.and(c, low), offset), i16x8.sub(v128.and(d, low), offset),
    );
    quarters(wide + 16, i16x8.shr_s(a, 8), i16x8.shr_s(b, 8), i16x8.shr_s(c, 8), i16x8.shr_s(d, 8));
  }
}

/** A vector of each quarter of w. */
// @ts-ignore: decorator
@inline export function quarters(wide: usize, b11: v128, b12: v128, b21: v128, b22: v128): void {
  const t1 = i16x8.sub(b12, b11), t2 = i16x8.sub(b22, t1);
  v128.store(wide, b11); v128.store(wide, b21, QUARTER); v128.store(wide, t2, 2 * QUARTER); v128.store(wide, i16x8.sub(b22, b12), 3 * QUARTER);
  v128.store(wide, i16x8.sub(b21, t2), 4 * QUARTER); v128.store(wide, t1, 5 * QUARTER); v128.store(wide, b22, 6 * QUARTER);
}

/** `value` in each lane of 16 bits; no literal, which V8 would make anew for every use. */
// @ts-ignore: decorator
@inline function inLanes(op: Matmul, value: i32): v128 {
  return i16x8.splat(<i16>((op.kind >> 8) + value));
}

/** sum · (scale of w · scale of x) more than was, for four outputs of a row. */
// @ts-ignore: decorator
@inline function add(total: usize, was: usize, sum: v128, wScale: v128, xScale: v128, offset: usize): void {
  v128.store(total + offset, mulAdd(f32x4.convert_i32x4_s(sum), f32x4.mul(wScale, xScale), v128.load(was + offset)));
}

/**
 * A group of eight rows by 16 outputs, added to what totals were at `was`, [8 rows][16 outputs]. `sums`: two quarters to put aside. After each product it
 * touches a byte, the first at `next`, `nextStep` apart.
 */
function products(x: usize, w: usize, scales: usize, was: usize, totals: usize, sums: usize, next: usize, nextStep: usize): void {
  let wScales = w;
  w += 64;
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (let product = 0; ; product++) {
    const end = w + QUARTER;
    do {
      const va = v128.load(w), vb = v128.load(w, 16);
      let s = v128.load32_splat(x);
      a0 = dotAdd(s, va, a0); b0 = dotAdd(s, vb, b0);
      s = v128.load32_splat(x, 4);
      a1 = dotAdd(s, va, a1); b1 = dotAdd(s, vb, b1);
      s = v128.load32_splat(x, 8);
      a2 = dotAdd(s, va, a2); b2 = dotAdd(s, vb, b2);
      s = v128.load32_splat(x, 12);
      a3 = dotAdd(s, va, a3); b3 = dotAdd(s, vb, b3);
      x += 16; w += 32;
    } while (w < end);
    store<u8>(sums + TOUCHED, load<u8>(next)); // a load whose value goes nowhere would be left out
    next += nextStep;
    if (product == 0) {
      keepSums(sums, a0, b0, a1, b1, a2, b2, a3, b3); // P1
      continue;
    }
    if (product == 2) {
      keepSums(sums + 128, a0, b0, a1, b1, a2, b2, a3, b3); // U2
      continue;
    }
    if (product == 3) {
      // U3, and what C12 has more than C22 before P3
      keepSums(sums, a0, b0, a1, b1, a2, b2, a3, b3);
      const u2 = sums + 128;
      keepSums(
        u2, i32x4.sub(v128.load(u2), a0), i32x4.sub(v128.load(u2, 16), b0), i32x4.sub(v128.load(u2, 32), a1), i32x4.sub(v128.load(u2, 48), b1),
        i32x4.sub(v128.load(u2, 64), a2), i32x4.sub(v128.load(u2, 80), b2), i32x4.sub(v128.load(u2, 96), a3), i32x4.sub(v128.load(u2, 112), b3),
      );
      continue;
    }
    // C11, C21, C22, C12
    const lower = product == 4 || product == 5, right = product > 4, at: usize = (lower ? 256 : 0) + (right ? 32 : 0);
    const rows = scales + (lower ? 16 : 0);
    let q = v128.load32_splat(rows);
    const wa = v128.load(wScales + (right ? 32 : 0)), wb = v128.load(wScales + (right ? 32 : 0), 16), to = totals + at, from = was + at;
    add(to, from, a0, wa, q, 0); add(to, from, b0, wb, q, 16);
    q = v128.load32_splat(rows, 4); add(to, from, a1, wa, q, 64); add(to, from, b1, wb, q, 80);
    q = v128.load32_splat(rows, 8); add(to, from, a2, wa, q, 128); add(to, from, b2, wb, q, 144);
    q = v128.load32_splat(rows, 12); add(to, from, a3, wa, q, 192); add(to, from, b3, wb, q, 208);
    if (product == 6) return;
    if (product == 5) {
      const more = sums + 128;
      a0 = i32x4.add(a0, v128.load(more)); b0 = i32x4.add(b0, v128.load(more, 16)); a1 = i32x4.add(a1, v128.load(more, 32)); b1 = i32x4.add(b1, v128.load(more, 48));
      a2 = i32x4.add(a2, v128.load(more, 64)); b2 = i32x4.add(b2, v128.load(more, 80)); a3 = i32x4.add(a3, v128.load(more, 96)); b3 = i32x4.add(b3, v128.load(more, 112));
    } else {
      a0 = v128.load(sums); b0 = v128.load(sums, 16); a1 = v128.load(sums, 32); b1 = v128.load(sums, 48);
      a2 = v128.load(sums, 64); b2 = v128.load(sums, 80); a3 = v128.load(sums, 96); b3 = v128.load(sums, 112);
    }
  }
}

// @ts-ignore: decorator
@inline function keepSums(to: usize, a0: v128, b0: v128, a1: v128, b1: v128, a2: v128, b2: v128, a3: v128, b3: v128): void {
  v128.store(to, a0); v128.store(to, b0, 16); v128.store(to, a1, 32); v128.store(to, b1, 48);
  v128.store(to, a2, 64); v128.store(to, b2, 80); v128.store(to, a3, 96); v128.store(to, b3, 112);
}

/** Totals of 8 rows from `row` on, those that there are, by outputs j … j + 15 to dst. An activation reads them here: rows of dst may share a set of the cache. */
function store8(op: Matmul, row: i32, j: i32, totals: usize): void {
  if (op.activation) return finishFrom(op, totals, 16, row, min(op.M - row, 8), j, 2);
  half(op, row, j, totals);
  if (j + 8 < op.N) half(op, row, j + 8, totals + 32);
}

/** Eight of the outputs, without an activation. */
function half(op: Matmul, row: i32, j: i32, totals: usize): void {
  let biasA = f32x4.splat(-0.0), biasB = biasA; // v − 0 is v, also of −0
  if (op.bias) {
    // past the last output this and residual read what belongs to others, and keep() writes none of it
    biasA = v128.load(op.bias + (<usize>j << 2));
    biasB = v128.load(op.bias + (<usize>j << 2), 16);
  }
  const rows = min(op.M - row, 8), ldd = <usize>op.ldd << 2;
  let dst = op.dst + ((<usize>row * op.ldd + j) << 2), residual = op.residual + ((<usize>row * op.ldr + j) << 2);
  for (let i = 0; i < rows; i++, totals += 64, dst += ldd, residual += <usize>op.ldr << 2) {
    let a = f32x4.add(v128.load(totals), biasA), b = f32x4.add(v128.load(totals, 16), biasB);
    if (op.residual) {
      a = f32x4.add(a, v128.load(residual));
      b = f32x4.add(b, v128.load(residual, 16));
    }
    keep(dst, a, b, op.N - j);
  }
}
