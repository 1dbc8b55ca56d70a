/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in 4 bits, x in int16 (quantize), each with a scale per GROUP inputs, w with
 * an int8 share of it per SHARED inputs. Threads take panels (panels_i16.ts).
 *
 * A panel of 16 outputs: for each group 16 scales, 16 int8 shares for each SHARED inputs, then ⌈inputs / 2⌉ steps of [4][2 inputs] lanes of 16 bits. A
 * lane has the numbers of four outputs, each four further than the one before, all but the last one + 8: 4096 d + 256 (c + 8) + 16 (b + 8) + a + 8,
 * multiplied as it is, and shifted right by 4, 8 and 12. One step:
 *
 *                        n0 … n3      n4 … n7      n8 … n11    n12 … n15
 *                      ┌────────────┬────────────┬────────────┬────────────┐  w: 1 vector, and what the shifts make of it
 *     x[m, k:k+2]   ─► │     a      │     b      │     c      │     d      │  x: 1 splat of a pair
 *                      └────────────┴────────────┴────────────┴────────────┘  sums of pair products (dot_i16x8) in int32
 *
 * After SHARED inputs d is exact, and so are c − 16 d, b − 16 c, a − 16 b, modulo 2³², to which −8 Σx is added: they began with it. They are multiplied
 * by the share and added to the group's sum. For eights of rows a panel is widened to share · number in int16 once, into this thread's scratch
 * (rows_i16.ts). Either way a group's sum is the same integer: 63 · 8 · 8191 · 128 < 2³¹. Then sum · (scale of w · scale of x) is added in f32,
 * group after group, with two roundings in every build: the same bits for any tile, M, n and machine.
 */
import { lowest, scaled } from "./matmul_i8";
import { fourScales, I4_STEP, OUTPUTS, SCALES, shareBytes } from "./pack";
import { keepSixteen, product } from "./panels_i16";
import { GROUP, Matmul, SHARED, singles } from "./record";
import { quarters, scratchOf } from "./rows_i16";
import { dotAdd } from "./simd";

export function matmul_i4(op: Matmul, t: i32, n: i32): void {
  const rows = singles(op.M, op.eights), sums = op.scratch + <usize>n * scratchOf(op) + <usize>t * rows * sumsStep(op);
  for (let m = 0; m < rows; m++) sumsOf(op, m, sums + <usize>m * sumsStep(op));
  product<u16>(op, t, n, sums);
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

/** 16 higher + lower, in each lane. */
// @ts-ignore: decorator
@inline function up(lower: v128, higher: v128): v128 {
  return i32x4.add(lower, i32x4.shl(higher, 4));
}

/** sum + share · numbers, of shares widened to 32 bits. */
// @ts-ignore: decorator
@inline function shared(sum: v128, numbers: v128, shares: v128): v128 {
  return i32x4.add(sum, i32x4.mul(numbers, shares));
}

/** `rows` or `panels`, as panels_i16.ts says; `sums`: those of all rows. */
// @ts-ignore: decorator
@inline export function tile(op: Matmul, m: i32, p: i32, bytes: usize, sums: usize, rows: i32, panels: i32, apart: i32): void {
  const step = <usize>op.ldx << 1, scaleStep = <usize>((op.K + GROUP - 1) / GROUP) << 3, two = rows > 1 || panels > 1;
  let x0 = op.x + <usize>m * step, x1 = x0 + step, s0 = op.scales + <usize>m * scaleStep, s1 = rows > 1 ? s0 + scaleStep : s0;
  let w = op.w + <usize>p * bytes, w1 = w + <usize>apart * bytes;
  const sums1 = rows > 1 ? sumsStep(op) : 0;
  sums += <usize>m * sumsStep(op);
  let A0 = f32x4.splat(0), B0 = A0, C0 = A0, D0 = A0, A1 = A0, B1 = A0, C1 = A0, D1 = A0;
  for (let left = op.K; left > 0; left -= GROUP) {
    const scales = w, scales1 = w1, inputs = min(left, GROUP), end = x0 + (<usize>inputs << 1), numbers = SCALES + shareBytes(inputs);
    let shares = w + SCALES, shares1 = w1 + SCALES;
    w += numbers;
    if (panels > 1) w1 += numbers;
    let sumA0 = i32x4.splat(0), sumB0 = sumA0, sumC0 = sumA0, sumD0 = sumA0, sumA1 = sumA0, sumB1 = sumA0, sumC1 = sumA0, sumD1 = sumA0;
    while (x0 < end) {
      const stop = min(x0 + (SHARED << 1), end);
      let c0 = v128.load32_splat(sums), b0 = up(c0, c0), a0 = up(c0, b0), d0 = i32x4.splat(0), c1 = c0, b1 = b0, a1 = a0, d1 = d0, p1 = c0;
      if (rows > 1) { c1 = v128.load32_splat(sums + sums1); b1 = up(c1, c1); a1 = up(c1, b1); }
      do {
        const p0 = v128.load32_splat(x0);
        if (rows > 1) p1 = v128.load32_splat(x1);
        let v = v128.load(w);
        a0 = dotAdd(p0, v, a0);
        if (rows > 1) a1 = dotAdd(p1, v, a1);
        v = i16x8.shr_s(v, 4);
        b0 = dotAdd(p0, v, b0);
        if (rows > 1) b1 = dotAdd(p1, v, b1);
        v = i16x8.shr_s(v, 4);
        c0 = dotAdd(p0, v, c0);
        if (rows > 1) c1 = dotAdd(p1, v, c1);
        v = i16x8.shr_s(v, 4);
        d0 = dotAdd(p0, v, d0);
        if (rows > 1) d1 = dotAdd(p1, v, d1);
        if (panels > 1) {
          v = v128.load(w1);
          a1 = dotAdd(p0, v, a1);
          v = i16x8.shr_s(v, 4);
          b1 = dotAdd(p0, v, b1);
          v = i16x8.shr_s(v, 4);
          c1 = dotAdd(p0, v, c1);
          v = i16x8.shr_s(v, 4);
          d1 = dotAdd(p0, v, d1);
          w1 += I4_STEP;
        }
        x0 += 4; w += I4_STEP;
        if (rows > 1) x1 += 4;
      } while (x0 < stop);
      let eight = v128.load8x8_s(shares), more = v128.load8x8_s(shares, 8);
      sumA0 = shared(sumA0, lowest(a0, b0, 4), i32x4.extend_low_i16x8_s(eight)); sumB0 = shared(sumB0, lowest(b0, c0, 4), i32x4.extend_high_i16x8_s(eight));
      sumC0 = shared(sumC0, lowest(c0, d0, 4), i32x4.extend_low_i16x8_s(more)); sumD0 = shared(sumD0, d0, i32x4.extend_high_i16x8_s(more));
      if (two) {
        if (panels > 1) { eight = v128.load8x8_s(shares1); more = v128.load8x8_s(shares1, 8); }
        sumA1 = shared(sumA1, lowest(a1, b1, 4), i32x4.extend_low_i16x8_s(eight)); sumB1 = shared(sumB1, lowest(b1, c1, 4), i32x4.extend_high_i16x8_s(eight));
        sumC1 = shared(sumC1, lowest(c1, d1, 4), i32x4.extend_low_i16x8_s(more)); sumD1 = shared(sumD1, d1, i32x4.extend_high_i16x8_s(more));
      }
      sums += 4; shares += OUTPUTS;
      if (panels > 1) shares1 += OUTPUTS;
    }
    let wa = fourScales(scales), wb = fourScales(scales + 8), wc = fourScales(scales + 16), wd = fourScales(scales + 24);
    A0 = scaled(A0, sumA0, wa, s0); B0 = scaled(B0, sumB0, wb, s0); C0 = scaled(C0, sumC0, wc, s0); D0 = scaled(D0, sumD0, wd, s0);
    if (two) {
      if (panels > 1) { wa = fourScales(scales1); wb = fourScales(scales1 + 8); wc = fourScales(scales1 + 16); wd = fourScales(scales1 + 24); }
      A1 = scaled(A1, sumA1, wa, s1); B1 = scaled(B1, sumB1, wb, s1); C1 = scaled(C1, sumC1, wc, s1); D1 = scaled(D1, sumD1, wd, s1);
      s1 += 8;
    }
    s0 += 8;
  }
  keepSixteen(op, m, p, A0, B0, C0, D0);
  if (two) keepSixteen(op, rows > 1 ? m + 1 : m, panels > 1 ? p + apart : p, A1, B1, C1, D1);
}

/** Of 16 outputs, whose group is at `from`, `inputs` of it, share · number in int16. */
export function widenGroup(op: Matmul, from: usize, inputs: i32, wide: usize, spare: usize): void {
  const steps: usize = SCALES + shareBytes(inputs);
  if (inputs < GROUP) {
    // what lies behind them is multiplied by zeros, and being shares and numbers no larger than 2 · 504
    memory.copy(spare, from, steps + <usize>((inputs + 1) >> 1) * I4_STEP);
    from = spare;
  }
  for (let i: usize = 0; i < SCALES; i += 8) v128.store(wide + 2 * i, fourScales(from + i));
  wide += 2 * SCALES;
  for (let k: usize = 0; k < 512; k += 256, wide += 512) widenShares(op, from + steps + k, from + SCALES + (k >> 4), wide); // 32 inputs and those 64 further
}

function widenShares(op: Matmul, w: usize, shares: usize, wide: usize): void {
  const low = i16x8.splat(<i16>op.kind), eight = i16x8.sub(low, i16x8.shr_u(low, 1)), end = w + 256;
  let s11 = twice(shares), s12 = twice(shares + 8), s21 = twice(shares + 32), s22 = twice(shares + 40);
  for (let from = w, to = wide; from < end; from += I4_STEP, to += 32) {
    const v = v128.load(from), u = v128.load(from, 512);
    quarters(to, times(s11, v, low, eight), times(s12, i16x8.shr_u(v, 8), low, eight), times(s21, u, low, eight), times(s22, i16x8.shr_u(u, 8), low, eight));
  }
  s11 = twice(shares + 4); s12 = twice(shares + 12); s21 = twice(shares + 36); s22 = twice(shares + 44);
  for (let from = w, to = wide + 16; from < end; from += I4_STEP, to += 32) {
    const v = v128.load(from), u = v128.load(from, 512);
    quarters(to, times(s11, i16x8.shr_u(v, 4), low, eight), i16x8.mul(s12, i16x8.shr_s(v, 12)), times(s21, i16x8.shr_u(u, 4), low, eight), i16x8.mul(s22, i16x8.shr_s(u, 12)));
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
