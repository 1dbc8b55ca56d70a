/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in 4 bits, x in int16 (quantize), each with a scale per GROUP inputs, w with
 * an int8 share of it per SHARED inputs. Threads take panels, or where x is large share them.
 *
 * A panel of 8 outputs: for each group 8 f32 scales, 8 int8 shares for each SHARED inputs, then ⌈inputs / 8⌉ steps of [8 outputs][2] u16 of four
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
 * After SHARED inputs a0 + a1 / 16 + a2 / 256 − 8 Σx, exact (15 · 256 · 32767 · 8 < 2³¹), is multiplied by the share and added to the
 * group's sum. For FEW rows and more a panel is widened to share · number in int16 once, into this thread's scratch, and met by tiles of 4 rows as in
 * matmul_i8. Either way a group's sum is the same integer: 63 · 8 · 32767 · 128 < 2³¹. Then sum · (scale of w · scale of x) is added in f32,
 * group after group, with two roundings in every build: the same bits for any tile, M, n and machine.
 */
import { finish, keep } from "./epilogue";
import { scaled, SEVERAL } from "./matmul_i8";
import { panelBytes, shareBytes } from "./pack";
import { Format, GROUP, Matmul, SHARED } from "./record";
import { scratchOf, widened } from "./rows_i16";
import { take, takenTo } from "./share";

/** So many rows pay for widening a panel. */
const FEW: i32 = 6;

export function matmul_i4(op: Matmul, t: i32, n: i32): void {
  if (op.M >= FEW) return widened(op, t, n, Format.i4);
  const panels = (op.N + 7) >> 3, sums = op.scratch + <usize>t * scratchOf(op, Format.i4);
  for (let m = 0; m < op.M; m++) sumsOf(op, m, sums + <usize>m * sumsStep(op));
  if (n == 1) return some(op, 0, panels, sums);
  for (let p = take(op, panels, n); p < panels; p = take(op, panels, n)) some(op, p, takenTo(p, panels, n), sums);
}

/** One row after another, each time by SEVERAL bytes of panels, as in matmul_i8. */
function some(op: Matmul, from: i32, to: i32, sums: usize): void {
  const bytes = panelBytes(Format.i4, op.K);
  const several = max(<i32>(SEVERAL / bytes), 1);
  for (let begin = from; begin < to; begin += several) {
    const end = min(begin + several, to);
    for (let m = 0; m < op.M; m++) for (let p = begin; p < end; p++) row(op, m, p << 3, op.w + <usize>p * bytes, sums + <usize>m * sumsStep(op));
  }
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
    for (const end = x + (<usize>min(left, SHARED) << 1); x < end; x += 16) all = i32x4.add(all, i32x4.dot_i16x8_s(v128.load(x), eights));
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
    let shares = w + 32, a = i32x4.splat(0), b = a;
    w = shares + shareBytes(inputs);
    for (const end = x + (<usize>inputs << 1); x < end; ) {
      let a0 = v128.load32_splat(sums), b0 = a0, a1 = i32x4.splat(0), a2 = a1, b1 = a1, b2 = a1;
      const stop = min(x + (SHARED << 1), end);
      do {
        const va = v128.load(w), vb = v128.load(w, 16);
        let p = v128.load32_splat(x);
        a0 = i32x4.add(a0, i32x4.dot_i16x8_s(p, v128.and(va, low)));
        b0 = i32x4.add(b0, i32x4.dot_i16x8_s(p, v128.and(vb, low)));
        p = v128.load32_splat(x, 4);
        a1 = i32x4.add(a1, i32x4.dot_i16x8_s(p, v128.and(va, middle)));
        b1 = i32x4.add(b1, i32x4.dot_i16x8_s(p, v128.and(vb, middle)));
        p = v128.load32_splat(x, 8);
        a2 = i32x4.add(a2, i32x4.dot_i16x8_s(p, v128.and(va, high)));
        b2 = i32x4.add(b2, i32x4.dot_i16x8_s(p, v128.and(vb, high)));
        p = v128.load32_splat(x, 12);
        a0 = i32x4.add(a0, i32x4.dot_i16x8_s(p, i16x8.shr_u(va, 12)));
        b0 = i32x4.add(b0, i32x4.dot_i16x8_s(p, i16x8.shr_u(vb, 12)));
        x += 16; w += 32;
      } while (x < stop);
      const s = v128.load8x8_s(shares);
      sums += 4; shares += 8;
      a = i32x4.add(a, i32x4.mul(whole(a0, a1, a2), i32x4.extend_low_i16x8_s(s)));
      b = i32x4.add(b, i32x4.mul(whole(b0, b1, b2), i32x4.extend_high_i16x8_s(s)));
    }
    A = scaled(A, a, v128.load(scales), xScale);
    B = scaled(B, b, v128.load(scales, 16), xScale);
    xScale += 8;
  }
  keep(op.dst + ((<usize>m * op.ldd + j) << 2), A, B, op.N - j);
  finish(op, m, 1, j, 1);
}

/** What 4 bits in their three places sum up to. */
// @ts-ignore: decorator
@inline function whole(units: v128, sixteenths: v128, others: v128): v128 {
  return i32x4.add(units, i32x4.shr_s(i32x4.add(sixteenths, i32x4.shr_s(others, 4)), 4));
}

/** `inputs` of a panel as share · number in int16, [⌈inputs / 8⌉ · 4][8 outputs][2 inputs], each group behind its scales. */
export function widen(w: usize, inputs: i32, wide: usize, mask: i16): void {
  const low = i16x8.splat(mask), eight = i16x8.sub(low, i16x8.shr_u(low, 1));
  for (let left = inputs; left > 0; left -= GROUP) {
    const inputs = min(left, GROUP);
    v128.store(wide, v128.load(w)); v128.store(wide, v128.load(w, 16), 16);
    let shares = w + 32;
    w = shares + shareBytes(inputs); wide += 32;
    for (let k = 0; k < inputs; k += SHARED, shares += 8) {
      const s = v128.load8x8_s(shares);
      const sa = i8x16.shuffle(s, s, 0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7), sb = i8x16.shuffle(s, s, 8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 15, 14, 15);
      for (let end = min(k + SHARED, inputs), i = k; i < end; i += 8, w += 32, wide += 128) {
        widenHalf(v128.load(w), sa, wide, low, eight);
        widenHalf(v128.load(w, 16), sb, wide + 16, low, eight);
      }
    }
  }
}

// @ts-ignore: decorator
@inline function widenHalf(v: v128, s: v128, wide: usize, low: v128, eight: v128): void {
  v128.store(wide, i16x8.mul(s, i16x8.sub(v128.and(v, low), eight)));
  v128.store(wide, i16x8.mul(s, i16x8.sub(v128.and(i16x8.shr_u(v, 4), low), eight)), 32);
  v128.store(wide, i16x8.mul(s, i16x8.sub(v128.and(i16x8.shr_u(v, 8), low), eight)), 64);
  v128.store(wide, i16x8.mul(s, i16x8.sub(i16x8.shr_u(v, 12), eight)), 96);
}
