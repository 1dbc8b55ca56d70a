/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in int8, x in int16 (quantize), each with a scale per GROUP inputs.
 * Threads take panels (panels_i16.ts). Rows in eights: rows_i16.ts.
 *
 * A panel of 16 outputs: for each group 16 scales of 16 bits, then ⌈inputs / 2⌉ steps of 2 · [4][2 inputs] lanes of 16 bits. A lane has an output's number
 * + 128 in its low byte and that of the output four further in its high byte: 256 v + u + 128, multiplied as it is. One step:
 *
 *                        n0 n1 n2 n3   n4 n5 n6 n7   n8 … n11     n12 … n15
 *                      ┌─────────────┬─────────────┬────────────┬────────────┐  w: 2 vectors; shifted right by 8 they are the second one's
 *     x[m, k:k+2]   ─► │     a0      │     b0      │     c0     │     d0     │  x: 1 splat of a pair
 *     x[m+1, k:k+2] ─► │     a1      │     b1      │     c1     │     d1     │  16 sums of pair products (dot_i16x8) in int32;
 *                      └─────────────┴─────────────┴────────────┴────────────┘  32 · 2 products from 4 loads
 *
 * a and c begin at −128 Σ x of the group (quantize has it ready) and may overflow; a − 256 b is Σ x · u all the same, modulo 2³² and so
 * exactly: 127 · 8191 · 128 < 2³¹. Then sum · (scale of w · scale of x) is added in f32, group after group, with two roundings in every
 * build: the same bits for any tile, M, n and machine.
 */
import { keepSixteen, outputsOf, product } from "./panels_i16";
import { fourScales, I8_STEP, SCALES } from "./pack";
import { GROUP, Matmul } from "./record";
import { dotAdd, mulAdd } from "./simd";

export function matmul_i8(op: Matmul, t: i32, n: i32): void {
  product<u8>(op, t, n, 0);
}

/** sum · (scale of w · scale of x) + total, for four outputs of a row. */
// @ts-ignore: decorator
@inline export function scaled(total: v128, sum: v128, wScale: v128, xScale: usize): v128 {
  return mulAdd(f32x4.convert_i32x4_s(sum), f32x4.mul(wScale, v128.load32_splat(xScale)), total);
}

/** What is left of sums of lanes when those of the same lanes, shifted right by `bits`, are taken away: those of the lowest bits. */
// @ts-ignore: decorator
@inline export function lowest(all: v128, shifted: v128, bits: i32): v128 {
  return i32x4.sub(all, i32x4.shl(shifted, bits));
}

/** Something of each of the four lines that a group of x is in, asked for together: one by one, in the loop, each would be waited for behind weights. */
// @ts-ignore: decorator
@inline function lines(x: usize): i32 {
  return load<i32>(x) | load<i32>(x, 64) | load<i32>(x, 128) | load<i32>(x, 192);
}

/** `rows` or `panels`, as panels_i16.ts says. */
// @ts-ignore: decorator
@inline export function tile(op: Matmul, m: i32, p: i32, bytes: usize, rows: i32, panels: i32, apart: i32): void {
  const step = <usize>op.ldx << 1, scaleStep = <usize>((op.K + GROUP - 1) / GROUP) << 3, two = rows > 1 || panels > 1;
  let x0 = op.x + <usize>m * step, x1 = x0 + step, s0 = op.scales + <usize>m * scaleStep, s1 = rows > 1 ? s0 + scaleStep : s0;
  let w = op.w + <usize>p * bytes, w1 = w + <usize>apart * bytes, seen = 0;
  let A0 = f32x4.splat(0), B0 = A0, C0 = A0, D0 = A0, A1 = A0, B1 = A0, C1 = A0, D1 = A0;
  for (let left = op.K; left > 0; left -= GROUP) {
    const scales = w, scales1 = w1, end = x0 + (<usize>min(left, GROUP) << 1);
    w += SCALES;
    if (panels > 1) w1 += SCALES;
    if (rows > 1 && left >= GROUP) seen |= lines(x0) | lines(x1);
    let a0 = v128.load32_splat(s0, 4), b0 = i32x4.splat(0), c0 = a0, d0 = b0, a1 = b0, b1 = b0, c1 = b0, d1 = b0, p1 = b0;
    if (two) { a1 = v128.load32_splat(s1, 4); c1 = a1; }
    do {
      const p0 = v128.load32_splat(x0);
      if (rows > 1) p1 = v128.load32_splat(x1);
      let v = v128.load(w);
      a0 = dotAdd(p0, v, a0);
      if (rows > 1) a1 = dotAdd(p1, v, a1);
      v = i16x8.shr_s(v, 8);
      b0 = dotAdd(p0, v, b0);
      if (rows > 1) b1 = dotAdd(p1, v, b1);
      v = v128.load(w, 16);
      c0 = dotAdd(p0, v, c0);
      if (rows > 1) c1 = dotAdd(p1, v, c1);
      v = i16x8.shr_s(v, 8);
      d0 = dotAdd(p0, v, d0);
      if (rows > 1) d1 = dotAdd(p1, v, d1);
      if (panels > 1) {
        v = v128.load(w1);
        a1 = dotAdd(p0, v, a1);
        v = i16x8.shr_s(v, 8);
        b1 = dotAdd(p0, v, b1);
        v = v128.load(w1, 16);
        c1 = dotAdd(p0, v, c1);
        v = i16x8.shr_s(v, 8);
        d1 = dotAdd(p0, v, d1);
        w1 += I8_STEP;
      }
      x0 += 4; w += I8_STEP;
      if (rows > 1) x1 += 4;
    } while (x0 < end);
    let wa = fourScales(scales), wb = fourScales(scales + 8), wc = fourScales(scales + 16), wd = fourScales(scales + 24);
    A0 = scaled(A0, lowest(a0, b0, 8), wa, s0); B0 = scaled(B0, b0, wb, s0); C0 = scaled(C0, lowest(c0, d0, 8), wc, s0); D0 = scaled(D0, d0, wd, s0);
    if (two) {
      if (panels > 1) { wa = fourScales(scales1); wb = fourScales(scales1 + 8); wc = fourScales(scales1 + 16); wd = fourScales(scales1 + 24); }
      A1 = scaled(A1, lowest(a1, b1, 8), wa, s1); B1 = scaled(B1, b1, wb, s1); C1 = scaled(C1, lowest(c1, d1, 8), wc, s1); D1 = scaled(D1, d1, wd, s1);
      s1 += 8;
    }
    s0 += 8;
  }
  if (rows > 1) store<i32>(outputsOf(op, m, p), seen); // and the sums over it: loads whose values go nowhere would be left out
  keepSixteen(op, m, p, A0, B0, C0, D0);
  if (two) keepSixteen(op, rows > 1 ? m + 1 : m, panels > 1 ? p + apart : p, A1, B1, C1, D1);
}
