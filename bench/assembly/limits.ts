/**
 * What this machine can do at most from inside wasm: one loop that only reads, and loops that only multiply in registers.
 * No part of the package: bench/limits.ts measures with them, in the same run as everything else.
 *
 * Each product loop feeds every accumulator back into its own product, so no compiler can take a product out of the loop, and
 * nothing but products (and the additions they need) is in it. Weights are loaded from address 0 (48 bytes: int8, int8, f32 below 1,
 * so that sums stay normal): V8 would build a literal anew at each use.
 */
import { read } from "../../assembly/limit";

/** Adds up `bytes` (a multiple of 128) from `from` on, as `--profile` does; the sums go behind the weights. */
export function bandwidth(from: usize, bytes: usize): void {
  read(48, from, from + bytes);
}

/** The same in one stream from end to end: the plain loop. */
export function plain_sum(from: usize, bytes: usize): void {
  let a = i64x2.splat(0), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  for (const end = from + bytes; from < end; from += 128) {
    a = i64x2.add(a, v128.load(from)); b = i64x2.add(b, v128.load(from, 16)); c = i64x2.add(c, v128.load(from, 32)); d = i64x2.add(d, v128.load(from, 48));
    e = i64x2.add(e, v128.load(from, 64)); f = i64x2.add(f, v128.load(from, 80)); g = i64x2.add(g, v128.load(from, 96)); h = i64x2.add(h, v128.load(from, 112));
  }
  v128.store(48, i64x2.add(i64x2.add(i64x2.add(a, b), i64x2.add(c, d)), i64x2.add(i64x2.add(e, f), i64x2.add(g, h))));
}

/** Multiply-adds of one step of each loop below: 12 accumulators, 2 rounds. */
// @ts-ignore: decorator
@inline const ROUNDS = 2;

// @ts-ignore: decorator
@inline function mulAdd(c: v128, w: v128): v128 { return f32x4.add(f32x4.mul(c, w), w); }

/**
 * int16 pairs: 8 multiply-adds an instruction and its addition. Two products come before their two additions, and both rounds are written out: as
 * the loops below are, a core of Zen 4 makes 33 or 46 G a second, as it happens; so it makes 47. Returns multiply-adds done.
 */
export function peak_dot_i16(steps: i32): f64 {
  const w = v128.load(0);
  let a = i32x4.splat(1), b = i32x4.splat(2), c = i32x4.splat(3), d = i32x4.splat(4), e = i32x4.splat(5), f = i32x4.splat(6);
  let g = i32x4.splat(7), h = i32x4.splat(8), i = i32x4.splat(9), j = i32x4.splat(10), k = i32x4.splat(11), l = i32x4.splat(12);
  for (let n = steps; n > 0; n--) {
    const p0 = i32x4.dot_i16x8_s(a, w), q0 = i32x4.dot_i16x8_s(b, w); a = i32x4.add(a, p0); b = i32x4.add(b, q0);
    const p1 = i32x4.dot_i16x8_s(c, w), q1 = i32x4.dot_i16x8_s(d, w); c = i32x4.add(c, p1); d = i32x4.add(d, q1);
    const p2 = i32x4.dot_i16x8_s(e, w), q2 = i32x4.dot_i16x8_s(f, w); e = i32x4.add(e, p2); f = i32x4.add(f, q2);
    const p3 = i32x4.dot_i16x8_s(g, w), q3 = i32x4.dot_i16x8_s(h, w); g = i32x4.add(g, p3); h = i32x4.add(h, q3);
    const p4 = i32x4.dot_i16x8_s(i, w), q4 = i32x4.dot_i16x8_s(j, w); i = i32x4.add(i, p4); j = i32x4.add(j, q4);
    const p5 = i32x4.dot_i16x8_s(k, w), q5 = i32x4.dot_i16x8_s(l, w); k = i32x4.add(k, p5); l = i32x4.add(l, q5);
    const p6 = i32x4.dot_i16x8_s(a, w), q6 = i32x4.dot_i16x8_s(b, w); a = i32x4.add(a, p6); b = i32x4.add(b, q6);
    const p7 = i32x4.dot_i16x8_s(c, w), q7 = i32x4.dot_i16x8_s(d, w); c = i32x4.add(c, p7); d = i32x4.add(d, q7);
    const p8 = i32x4.dot_i16x8_s(e, w), q8 = i32x4.dot_i16x8_s(f, w); e = i32x4.add(e, p8); f = i32x4.add(f, q8);
    const p9 = i32x4.dot_i16x8_s(g, w), q9 = i32x4.dot_i16x8_s(h, w); g = i32x4.add(g, p9); h = i32x4.add(h, q9);
    const p10 = i32x4.dot_i16x8_s(i, w), q10 = i32x4.dot_i16x8_s(j, w); i = i32x4.add(i, p10); j = i32x4.add(j, q10);
    const p11 = i32x4.dot_i16x8_s(k, w), q11 = i32x4.dot_i16x8_s(l, w); k = i32x4.add(k, p11); l = i32x4.add(l, q11);
  }
  keep(a, b, c, d, e, f, g, h, i, j, k, l);
  return <f64>steps * (ROUNDS * 12 * 8);
}

/** f32 as two instructions: 4 multiply-adds. */
export function peak_mul_add(steps: i32): f64 {
  const w = v128.load(32);
  let a = f32x4.splat(1), b = f32x4.splat(2), c = f32x4.splat(3), d = f32x4.splat(4), e = f32x4.splat(5), f = f32x4.splat(6);
  let g = f32x4.splat(7), h = f32x4.splat(8), i = f32x4.splat(9), j = f32x4.splat(10), k = f32x4.splat(11), l = f32x4.splat(12);
  for (let n = steps; n > 0; n--) {
    for (let r = 0; r < ROUNDS; r++) {
      a = mulAdd(a, w); b = mulAdd(b, w); c = mulAdd(c, w); d = mulAdd(d, w); e = mulAdd(e, w); f = mulAdd(f, w);
      g = mulAdd(g, w); h = mulAdd(h, w); i = mulAdd(i, w); j = mulAdd(j, w); k = mulAdd(k, w); l = mulAdd(l, w);
    }
  }
  keep(a, b, c, d, e, f, g, h, i, j, k, l);
  return <f64>steps * (ROUNDS * 12 * 4);
}

/** f32 as one instruction where the processor has it: 4 multiply-adds. 0 in a build without relaxed SIMD. */
export function peak_relaxed_madd(steps: i32): f64 {
  if (ASC_FEATURE_RELAXED_SIMD) {
    const w = v128.load(32);
    let a = f32x4.splat(1), b = f32x4.splat(2), c = f32x4.splat(3), d = f32x4.splat(4), e = f32x4.splat(5), f = f32x4.splat(6);
    let g = f32x4.splat(7), h = f32x4.splat(8), i = f32x4.splat(9), j = f32x4.splat(10), k = f32x4.splat(11), l = f32x4.splat(12);
    for (let n = steps; n > 0; n--) {
      for (let r = 0; r < ROUNDS; r++) {
        a = f32x4.relaxed_madd(w, w, a); b = f32x4.relaxed_madd(w, w, b); c = f32x4.relaxed_madd(w, w, c); d = f32x4.relaxed_madd(w, w, d);
        e = f32x4.relaxed_madd(w, w, e); f = f32x4.relaxed_madd(w, w, f); g = f32x4.relaxed_madd(w, w, g); h = f32x4.relaxed_madd(w, w, h);
        i = f32x4.relaxed_madd(w, w, i); j = f32x4.relaxed_madd(w, w, j); k = f32x4.relaxed_madd(w, w, k); l = f32x4.relaxed_madd(w, w, l);
      }
    }
    keep(a, b, c, d, e, f, g, h, i, j, k, l);
    return <f64>steps * (ROUNDS * 12 * 4);
  } else return 0;
}

/** int8 by int7: 16 multiply-adds an instruction, which is one instruction of the processor or five. 0 without relaxed SIMD. */
export function peak_relaxed_dot(steps: i32): f64 {
  if (ASC_FEATURE_RELAXED_SIMD) {
    const w = v128.load(0), x = v128.load(16);
    let a = i32x4.splat(1), b = i32x4.splat(2), c = i32x4.splat(3), d = i32x4.splat(4), e = i32x4.splat(5), f = i32x4.splat(6);
    let g = i32x4.splat(7), h = i32x4.splat(8), i = i32x4.splat(9), j = i32x4.splat(10), k = i32x4.splat(11), l = i32x4.splat(12);
    for (let n = steps; n > 0; n--) {
      for (let r = 0; r < ROUNDS; r++) {
        a = dot8(x, w, a); b = dot8(x, w, b); c = dot8(x, w, c); d = dot8(x, w, d); e = dot8(x, w, e); f = dot8(x, w, f);
        g = dot8(x, w, g); h = dot8(x, w, h); i = dot8(x, w, i); j = dot8(x, w, j); k = dot8(x, w, k); l = dot8(x, w, l);
      }
    }
    keep(a, b, c, d, e, f, g, h, i, j, k, l);
    return <f64>steps * (ROUNDS * 12 * 16);
  } else return 0;
}

// @ts-ignore: decorator
@inline function dot8(x: v128, w: v128, c: v128): v128 { return i32x4.relaxed_dot_i8x16_i7x16_add_s(x, w, c); }

/** Stores what was computed, so that it had to be. */
// @ts-ignore: decorator
@inline function keep(a: v128, b: v128, c: v128, d: v128, e: v128, f: v128, g: v128, h: v128, i: v128, j: v128, k: v128, l: v128): void {
  let s = v128.xor(v128.xor(v128.xor(a, b), v128.xor(c, d)), v128.xor(v128.xor(e, f), v128.xor(g, h)));
  s = v128.xor(s, v128.xor(v128.xor(i, j), v128.xor(k, l)));
  v128.store(64, s);
}
