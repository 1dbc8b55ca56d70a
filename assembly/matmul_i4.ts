/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in 4 bits, x in int16 (quantize), each with a scale per GROUP inputs, w with
 * an int8 share of it per SHARED inputs. Threads take panels, two at a time.
 *
 * A panel of 8 outputs: for each group 8 scales of 16 bits, 8 int8 shares for each SHARED inputs, then ⌈inputs / 8⌉ steps of [8 outputs][2] u16 of four
 * numbers + 8. What is in a u16 is multiplied where it stands. One row, one step, half of the outputs:
 *
 *                      n0    n1    n2    n3
 *                   ┌─────┬─────┬─────┬─────┐
 *      w:           │ 6420│ 7531│     │     │   16 bytes: the input of each 4 bits
 *     x[0:2] ─► & 000f      a0                  1 splat of a pair each; dot_i16x8 of unsigned numbers
 *     x[2:4] ─► & 00f0      a1                  16 times too large
 *     x[4:6] ─► & 0f00      a2                  256 times
 *     x[6:8] ─► >> 12       a0
 *                   └─────┴─────┴─────┴─────┘
 *
 * After SHARED inputs a0 + a1 / 16 + a2 / 256 − 8 Σx, exact (15 · 256 · 8191 · 8 < 2³¹), is multiplied by the share and added to the
 * group's sum. For eights of rows two panels are widened to share · number in int16 once, into this thread's scratch (rows_i16.ts). Either way a
 * group's sum is the same integer: 63 · 8 · 8191 · 128 < 2³¹. Then sum · (scale of w · scale of x) is added in f32,
 * group after group, with two roundings in every build: the same bits for any tile, M, n and machine.
 */
import { finish, keep } from "./epilogue";
import { scaled, SEVERAL } from "./matmul_i8";
import { fourScales, I4_GROUP, panelBytes, SCALES, shareBytes } from "./pack";
import { Format, GROUP, Matmul, SHARED, singles } from "./record";
import { eights, partsOf, quarters, scratchOf } from "./rows_i16";
import { take, takenTo } from "./share";
import { dotAdd } from "./simd";

export function matmul_i4(op: Matmul, t: i32, n: i32): void {
  const sixteens = (op.N + 15) >> 4, rows = singles(op.M, op.eights), sums = op.scratch + <usize>n * scratchOf(op) + <usize>t * rows * sumsStep(op);
  for (let m = 0; m < rows; m++) sumsOf(op, m, sums + <usize>m * sumsStep(op));
  if (n == 1) return outputs(op, t, 0, 1, 0, sixteens, sums);
  const parts = partsOf(op, n);
  for (let p = take(op, sixteens, parts, t, n); p >= 0; p = take(op, sixteens, parts, t, n)) {
    const from = p & 0xffff;
    outputs(op, t, p >> 16, parts, from, takenTo(from, sixteens, parts, n), sums);
  }
}

/** Outputs 16 from … 16 to − 1 by one part of the eights of rows, as in matmul_i8. */
function outputs(op: Matmul, t: i32, part: i32, parts: i32, from: i32, to: i32, sums: usize): void {
  const rows = part ? 0 : singles(op.M, op.eights);
  if (rows) some(op, rows, from << 1, min(to << 1, (op.N + 7) >> 3), sums);
  if (op.eights) eights(op, t, part, parts, from, to, Format.i4);
}

/** The first `rows`, one after another, each time by SEVERAL bytes of panels, as in matmul_i8. */
function some(op: Matmul, rows: i32, from: i32, to: i32, sums: usize): void {
  const bytes = panelBytes(Format.i4, op.K), several = max(<i32>(SEVERAL / bytes), 1);
  for (let begin = from; begin < to; begin += several) {
    const end = min(begin + several, to);
    for (let m = 0; m < rows; m++) for (let p = begin; p < end; p++) row(op, m, p << 3, op.w + <usize>p * bytes, sums + <usize>m * sumsStep(op));
  }
  finish(op, 0, rows, from << 3, to - from); // at the end, as there
}

/** Bytes from one row's sums to the next's. */
// @ts-ignore: decorator
@inline function sumsStep(op: Matmul): usize {
  return <usize>((op.K + SHARED - 1) / SHARED) << 2;
}

/** −8 Σx of each SHARED inputs of row m, at `to`. */
function sumsOf(op: Matmul, m: i32, to: usize): void {
  const eights = i16x8.splat(-8);
  let x = op.x + (<usize>m * op.ldx << 1);
  for (let left = op.K; left > 0; left -= SHARED, to += 4) {
    let all = i32x4.splat(0);
    for (const end = x + (<usize>min(left, SHARED) << 1); x < end; x += 16) all = dotAdd(v128.load(x), eights, all);
    all = i32x4.add(all, v128.shuffle<i32>(all, all, 2, 3, 0, 1));
    store<i32>(to, i32x4.extract_lane(all, 0) + i32x4.extract_lane(all, 1));
  }
}

/** One row by 8 outputs. */
function row(op: Matmul, m: i32, j: i32, w: usize, sums: usize): void {
  // The kind, 15, is the mask: V8 would build a constant anew at every use in a loop.
  const low = i16x8.splat(<i16>op.kind), middle = i16x8.shl(low, 4), high = i16x8.shl(low, 8);
  let x = op.x + (<usize>m * op.ldx << 1), xScale = op.scales + (<usize>m * ((op.K + GROUP - 1) / GROUP) << 3);
  let A = f32x4.splat(0), B = A;
  for (let left = op.K; left > 0; left -= GROUP) {
    const scales = w, inputs = min(left, GROUP);
    let shares = w + SCALES, a = i32x4.splat(0), b = a;
    w = shares + shareBytes(inputs);
    for (const end = x + (<usize>inputs << 1); x < end; ) {
      let a0 = v128.load32_splat(sums), b0 = a0, a1 = i32x4.splat(0), a2 = a1, b1 = a1, b2 = a1;
      const stop = min(x + (SHARED << 1), end);
      do {
        const va = v128.load(w), vb = v128.load(w, 16);
        let p = v128.load32_splat(x);
        a0 = dotAdd(p, v128.and(va, low), a0);
        b0 = dotAdd(p, v128.and(vb, low), b0);
        p = v128.load32_splat(x, 4);
        a1 = dotAdd(p, v128.and(va, middle), a1);
        b1 = dotAdd(p, v128.and(vb, middle), b1);
        p = v128.load32_splat(x, 8);
        a2 = dotAdd(p, v128.and(va, high), a2);
        b2 = dotAdd(p, v128.and(vb, high), b2);
        p = v128.load32_splat(x, 12);
        a0 = dotAdd(p, i16x8.shr_u(va, 12), a0);
        b0 = dotAdd(p, i16x8.shr_u(vb, 12), b0);
        x += 16; w += 32;
      } while (x < stop);
      const s = v128.load8x8_s(shares);
      sums += 4; shares += 8;
      a = i32x4.add(a, i32x4.mul(whole(a0, a1, a2), i32x4.extend_low_i16x8_s(s)));
      b = i32x4.add(b, i32x4.mul(whole(b0, b1, b2), i32x4.extend_high_i16x8_s(s)));
    }
    A = scaled(A, a, fourScales(scales), xScale);
    B = scaled(B, b, fourScales(scales + 8), xScale);
    xScale += 8;
  }
  keep(op.dst + ((<usize>m * op.ldd + j) << 2), A, B, op.N - j);
}

/** What 4 bits in their three places sum up to. */
// @ts-ignore: decorator
@inline function whole(units: v128, sixteenths: v128, others: v128): v128 {
  return i32x4.add(units, i32x4.shr_s(i32x4.add(sixteenths, i32x4.shr_s(others, 4)), 4));
}

/** Of 16 outputs, whose groups are at a and b, `inputs` of them, share · number in int16. */
export function widenGroup(op: Matmul, a: usize, b: usize, inputs: i32, wide: usize, spare: usize): void {
  const steps: usize = SCALES + shareBytes(inputs);
  if (inputs < GROUP) {
    // what lies behind them is multiplied by zeros, and being shares and numbers no larger than 2 · 504
    const bytes: usize = steps + <usize>((inputs + 7) >> 3) * 32;
    memory.copy(spare, a, bytes); memory.copy(spare + I4_GROUP, b, bytes);
    a = spare; b = spare + I4_GROUP;
  }
  v128.store(wide, fourScales(a)); v128.store(wide, fourScales(a + 8), 16); v128.store(wide, fourScales(b), 32); v128.store(wide, fourScales(b + 8), 48);
  wide += 64;
  for (let k: usize = 0; k < 256; k += 128, wide += 512) {
    // of 32 inputs and those 64 further
    widenShares(op, a + steps + k, b + steps + k, a + SCALES + (k >> 4), b + SCALES + (k >> 4), wide);
  }
}

function widenShares(op: Matmul, a: usize, b: usize, sharesA: usize, sharesB: usize, wide: usize): void {
  const low = i16x8.splat(<i16>op.kind), eight = i16x8.sub(low, i16x8.shr_u(low, 1));
  for (let half: usize = 0; half < 8; half += 4, a += 16, b += 16, wide += 16) {
    const s11 = twice(sharesA + half), s12 = twice(sharesB + half), s21 = twice(sharesA + half + 16), s22 = twice(sharesB + half + 16);
    for (let i: usize = 0; i < 128; i += 32) {
      let v11 = v128.load(a + i), v12 = v128.load(b + i), v21 = v128.load(a + i, 256), v22 = v128.load(b + i, 256);
      const to = wide + (i << 2);
      for (let pair: usize = 0; pair < 128; pair += 32) {
        quarters(to + pair, times(s11, v11, low, eight), times(s12, v12, low, eight), times(s21, v21, low, eight), times(s22, v22, low, eight));
        v11 = i16x8.shr_u(v11, 4); v12 = i16x8.shr_u(v12, 4); v21 = i16x8.shr_u(v21, 4); v22 = i16x8.shr_u(v22, 4);
      }
    }
  }
}

/** Four shares, each for the two inputs of an output. */
// @ts-ignore: decorator
@inline function twice(shares: usize): v128 {
  const s = i16x8.extend_low_i8x16_s(v128.load32_zero(shares));
  return v128.shuffle<i16>(s, s, 0, 0, 1, 1, 2, 2, 3, 3);
}

/** share · number of the low 4 bits of each lane. */
// @ts-ignore: decorator
@inline function times(share: v128, v: v128, low: v128, eight: v128): v128 {
  return i16x8.mul(share, i16x8.sub(v128.and(v, low), eight));
}
