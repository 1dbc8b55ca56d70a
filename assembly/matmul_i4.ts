/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in 4 bits, x in int16 (quantize), each with a scale per GROUP inputs, w with
 * an int8 share of it per SHARED inputs. Threads take panels.
 *
 * A panel of 16 outputs: for each group 16 scales, 16 int8 shares for each SHARED inputs, then ⌈inputs / 8⌉ steps of [16 outputs][2] u16 of four
 * numbers + 8. What is in a u16 is multiplied where it stands. One row, one step, four of the outputs:
 *
 *                      n0    n1    n2    n3
 *                   ┌─────┬─────┬─────┬─────┐
 *      w:           │ 6420│ 7531│     │     │   16 bytes: the input of each 4 bits
 *     x[0:2] ─► & 000f      a                   1 splat of a pair each; dot_i16x8 of unsigned numbers
 *     x[2:4] ─► & 00f0      A                   16 times too large
 *   w >> 8:         │   64│   75│     │     │
 *     x[4:6] ─► & 000f      a
 *     x[6:8] ─► & 00f0      A
 *                   └─────┴─────┴─────┴─────┘
 *
 * After SHARED inputs a + A / 16 − 8 Σx, exact (15 · 16 · 8191 · 16 < 2³¹), is multiplied by the share and added to the group's sum. For eights of rows
 * a panel is widened to share · number in int16 once, into this thread's scratch (rows_i16.ts). Either way a
 * group's sum is the same integer: 63 · 8 · 8191 · 128 < 2³¹. Then sum · (scale of w · scale of x) is added in f32,
 * group after group, with two roundings in every build: the same bits for any tile, M, n and machine.
 */
import { finish, keep } from "./epilogue";
import { scaled, SEVERAL } from "./matmul_i8";
import { fourScales, I4_STEP, OUTPUTS, panelBytes, SCALES, shareBytes } from "./pack";
import { Format, GROUP, Matmul, SHARED, singles } from "./record";
import { eights, partsOf, quarters, scratchOf } from "./rows_i16";
import { take, takenTo } from "./share";
import { dotAdd } from "./simd";

export function matmul_i4(op: Matmul, t: i32, n: i32): void {
  const panels = (op.N + OUTPUTS - 1) / OUTPUTS, rows = singles(op.M, op.eights), sums = op.scratch + <usize>n * scratchOf(op) + <usize>t * rows * sumsStep(op);
  for (let m = 0; m < rows; m++) sumsOf(op, m, sums + <usize>m * sumsStep(op));
  if (n == 1) return outputs(op, t, 0, 1, 0, panels, sums);
  const parts = partsOf(op, n);
  for (let p = take(op, panels, parts, t, n); p >= 0; p = take(op, panels, parts, t, n)) {
    const from = p % panels;
    outputs(op, t, p / panels, parts, from, takenTo(from, panels, parts, n), sums);
  }
}

/** Panels from … to − 1 by one part of the eights of rows, as in matmul_i8. */
function outputs(op: Matmul, t: i32, part: i32, parts: i32, from: i32, to: i32, sums: usize): void {
  const rows = part ? 0 : singles(op.M, op.eights);
  if (rows) some(op, rows, from, to, sums);
  if (op.eights) eights(op, t, part, parts, from, to, Format.i4);
}

/** The first `rows`, one after another, each time by SEVERAL bytes of panels, as in matmul_i8. */
function some(op: Matmul, rows: i32, from: i32, to: i32, sums: usize): void {
  const bytes = panelBytes(Format.i4, op.K), several = max(<i32>(SEVERAL / bytes), 1);
  for (let begin = from; begin < to; begin += several) {
    const end = min(begin + several, to);
    for (let m = 0; m < rows; m++) for (let p = begin; p < end; p++) row(op, m, p * OUTPUTS, op.w + <usize>p * bytes, sums + <usize>m * sumsStep(op));
  }
  finish(op, 0, rows, from * OUTPUTS, (to - from) * 2); // at the end, as there
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

/** One row by 16 outputs. */
function row(op: Matmul, m: i32, j: i32, w: usize, sums: usize): void {
  // The kind, 15, is the mask: V8 would build a constant anew at every use in a loop.
  const low = i16x8.splat(<i16>op.kind), high = i16x8.shl(low, 4);
  let x = op.x + (<usize>m * op.ldx << 1), xScale = op.scales + (<usize>m * ((op.K + GROUP - 1) / GROUP) << 3);
  let totalA = f32x4.splat(0), totalB = totalA, totalC = totalA, totalD = totalA;
  for (let left = op.K; left > 0; left -= GROUP) {
    const scales = w, inputs = min(left, GROUP);
    let shares = w + SCALES, sumA = i32x4.splat(0), sumB = sumA, sumC = sumA, sumD = sumA;
    w = shares + shareBytes(inputs);
    for (const end = x + (<usize>inputs << 1); x < end; ) {
      let a = v128.load32_splat(sums), b = a, c = a, d = a, A = i32x4.splat(0), B = A, C = A, D = A;
      const stop = min(x + (SHARED << 1), end);
      do {
        let v = v128.load(w), p = v128.load32_splat(x), q = v128.load32_splat(x, 4);
        const r = v128.load32_splat(x, 8), s = v128.load32_splat(x, 12);
        a = dotAdd(p, v128.and(v, low), a); A = dotAdd(q, v128.and(v, high), A);
        v = i16x8.shr_u(v, 8);
        a = dotAdd(r, v128.and(v, low), a); A = dotAdd(s, v128.and(v, high), A);
        v = v128.load(w, 16);
        b = dotAdd(p, v128.and(v, low), b); B = dotAdd(q, v128.and(v, high), B);
        v = i16x8.shr_u(v, 8);
        b = dotAdd(r, v128.and(v, low), b); B = dotAdd(s, v128.and(v, high), B);
        v = v128.load(w, 32);
        c = dotAdd(p, v128.and(v, low), c); C = dotAdd(q, v128.and(v, high), C);
        v = i16x8.shr_u(v, 8);
        c = dotAdd(r, v128.and(v, low), c); C = dotAdd(s, v128.and(v, high), C);
        v = v128.load(w, 48);
        d = dotAdd(p, v128.and(v, low), d); D = dotAdd(q, v128.and(v, high), D);
        v = i16x8.shr_u(v, 8);
        d = dotAdd(r, v128.and(v, low), d); D = dotAdd(s, v128.and(v, high), D);
        x += 16; w += I4_STEP;
      } while (x < stop);
      const eight = v128.load8x8_s(shares), more = v128.load8x8_s(shares, 8);
      sums += 4; shares += OUTPUTS;
      sumA = i32x4.add(sumA, i32x4.mul(whole(a, A), i32x4.extend_low_i16x8_s(eight)));
      sumB = i32x4.add(sumB, i32x4.mul(whole(b, B), i32x4.extend_high_i16x8_s(eight)));
      sumC = i32x4.add(sumC, i32x4.mul(whole(c, C), i32x4.extend_low_i16x8_s(more)));
      sumD = i32x4.add(sumD, i32x4.mul(whole(d, D), i32x4.extend_high_i16x8_s(more)));
    }
    totalA = scaled(totalA, sumA, fourScales(scales), xScale); totalB = scaled(totalB, sumB, fourScales(scales + 8), xScale);
    totalC = scaled(totalC, sumC, fourScales(scales + 16), xScale); totalD = scaled(totalD, sumD, fourScales(scales + 24), xScale);
    xScale += 8;
  }
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2), count = op.N - j;
  keep(dst, totalA, totalB, count);
  if (count > 8) keep(dst + 32, totalC, totalD, count - 8);
}

/** What 4 bits in their two places sum up to. */
// @ts-ignore: decorator
@inline function whole(units: v128, sixteenths: v128): v128 {
  return i32x4.add(units, i32x4.shr_s(sixteenths, 4));
}

/** Of 16 outputs, whose group is at `from`, `inputs` of it, share · number in int16. */
export function widenGroup(op: Matmul, from: usize, inputs: i32, wide: usize, spare: usize): void {
  const steps: usize = SCALES + shareBytes(inputs);
  if (inputs < GROUP) {
    // what lies behind them is multiplied by zeros, and being shares and numbers no larger than 2 · 504
    memory.copy(spare, from, steps + <usize>((inputs + 7) >> 3) * I4_STEP);
    from = spare;
  }
  for (let i: usize = 0; i < SCALES; i += 8) v128.store(wide + 2 * i, fourScales(from + i));
  wide += 2 * SCALES;
  for (let k: usize = 0; k < 512; k += 256, wide += 512) widenShares(op, from + steps + k, from + SCALES + (k >> 4), wide); // 32 inputs and those 64 further
}

function widenShares(op: Matmul, w: usize, shares: usize, wide: usize): void {
  const low = i16x8.splat(<i16>op.kind), eight = i16x8.sub(low, i16x8.shr_u(low, 1));
  for (let half: usize = 0; half < 8; half += 4, w += 16, wide += 16) {
    const s11 = twice(shares + half), s12 = twice(shares + half + 8), s21 = twice(shares + half + 32), s22 = twice(shares + half + 40);
    for (let i: usize = 0; i < 256; i += I4_STEP) {
      let v11 = v128.load(w + i), v12 = v128.load(w + i, 32), v21 = v128.load(w + i, 512), v22 = v128.load(w + i, 544);
      const to = wide + (i << 1);
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
