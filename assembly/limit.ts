/**
 * No operation of a model: what this machine can do at most, to hold the others against. Each thread by itself
 *
 *   Limits.reading    sums up its part of `count` blocks of 1 KiB from x on in two streams (share.ts), eight sums that don't wait for each other
 *   Limits.int16      `count` times 192 multiply-adds of int16 pairs, what int8 weights are multiplied by; in registers alone
 *   Limits.float32    `count` times 96 multiply-adds of f32, in one instruction where relaxed SIMD is on; in registers alone
 *   Limits.int8       `count` times 384 multiply-adds of bytes, as matmul_w8a8 makes them here: where it widens them, those of int16
 *
 * Each sum is fed back into its own product, so no compiler takes a product out of the loop, whose rounds are written out twice. x holds
 * 16 bytes of factors for int16 and int8, and 4 numbers below 1 behind them for f32: V8 would build a literal anew at each use. dst: 16 bytes
 * a thread, so that all is needed.
 */
import { AT_ONCE, dot as dotOfBytes, dotIsWhole, IN_HALVES } from "./matmul_w8a8";
import { Limit, Limits } from "./record";
import { share } from "./share";
import { fma } from "./simd";

export function limit(op: Limit, t: i32, n: i32): void {
  const dst = op.dst + (<usize>t << 4);
  if (op.what == Limits.reading) read(dst, op.x + (<usize>share(op.count, t, n) << 10), op.x + (<usize>share(op.count, t + 1, n) << 10));
  else if (op.what == Limits.int16) products(dst, v128.load(op.x), op.count);
  else if (op.what == Limits.int8) products_i8(dst, v128.load(op.x), op.count);
  else products_f32(dst, v128.load(op.x, 16), op.count);
}

/** Adds up what lies from `from` on to `end`, a multiple of 128 bytes further, in two streams, from the beginning and from the middle: more is read than in one. */
export function read(dst: usize, from: usize, end: usize): void {
  let a = i64x2.splat(0), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  const middle = from + ((end - from) >> 1);
  for (let second = middle; from < middle; from += 64, second += 64) {
    a = i64x2.add(a, v128.load(from));
    b = i64x2.add(b, v128.load(from, 16));
    c = i64x2.add(c, v128.load(from, 32));
    d = i64x2.add(d, v128.load(from, 48));
    e = i64x2.add(e, v128.load(second));
    f = i64x2.add(f, v128.load(second, 16));
    g = i64x2.add(g, v128.load(second, 32));
    h = i64x2.add(h, v128.load(second, 48));
  }
  v128.store(dst, i64x2.add(i64x2.add(i64x2.add(a, b), i64x2.add(c, d)), i64x2.add(i64x2.add(e, f), i64x2.add(g, h))));
}

// @ts-ignore: decorator
@inline function dot(c: v128, w: v128): v128 { return i32x4.add(c, i32x4.dot_i16x8_s(c, w)); }

function products(dst: usize, w: v128, count: i32): void {
  let a = i32x4.splat(1), b = i32x4.splat(2), c = i32x4.splat(3), d = i32x4.splat(4), e = i32x4.splat(5), f = i32x4.splat(6);
  let g = i32x4.splat(7), h = i32x4.splat(8), i = i32x4.splat(9), j = i32x4.splat(10), k = i32x4.splat(11), l = i32x4.splat(12);
  for (; count > 0; count--) {
    a = dot(a, w); b = dot(b, w); c = dot(c, w); d = dot(d, w); e = dot(e, w); f = dot(f, w);
    g = dot(g, w); h = dot(h, w); i = dot(i, w); j = dot(j, w); k = dot(k, w); l = dot(l, w);
    a = dot(a, w); b = dot(b, w); c = dot(c, w); d = dot(d, w); e = dot(e, w); f = dot(f, w);
    g = dot(g, w); h = dot(h, w); i = dot(i, w); j = dot(j, w); k = dot(k, w); l = dot(l, w);
  }
  v128.store(dst, all(a, b, c, d, e, f, g, h, i, j, k, l));
}

function products_i8(dst: usize, w: v128, count: i32): void {
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (dotIsWhole()) productsOfBytes(dst, w, count, AT_ONCE);
    else inHalves(dst, w, count);
  } else products(dst, w, 2 * count);
}

/** A function of its own: inside the other one the compiler would make one loop of both, which asks at every product. */
function inHalves(dst: usize, w: v128, count: i32): void {
  productsOfBytes(dst, w, count, IN_HALVES);
}

// @ts-ignore: decorator
@inline function dots(c: v128, w: v128, ones: v128, how: i32): v128 { return dotOfBytes(c, c, w, w, ones, how); }

// @ts-ignore: decorator
@inline function productsOfBytes(dst: usize, w: v128, count: i32, how: i32): void {
  let a = i32x4.splat(1), b = i32x4.splat(2), c = i32x4.splat(3), d = i32x4.splat(4), e = i32x4.splat(5), f = i32x4.splat(6);
  let g = i32x4.splat(7), h = i32x4.splat(8), i = i32x4.splat(9), j = i32x4.splat(10), k = i32x4.splat(11), l = i32x4.splat(12);
  const o = i16x8.splat(<i16>(count > 0)); // no literal, which V8 would make anew for every use
  w = v128.and(w, i8x16.splat(127));
  for (; count > 0; count--) {
    a = dots(a, w, o, how); b = dots(b, w, o, how); c = dots(c, w, o, how); d = dots(d, w, o, how); e = dots(e, w, o, how); f = dots(f, w, o, how);
    g = dots(g, w, o, how); h = dots(h, w, o, how); i = dots(i, w, o, how); j = dots(j, w, o, how); k = dots(k, w, o, how); l = dots(l, w, o, how);
    a = dots(a, w, o, how); b = dots(b, w, o, how); c = dots(c, w, o, how); d = dots(d, w, o, how); e = dots(e, w, o, how); f = dots(f, w, o, how);
    g = dots(g, w, o, how); h = dots(h, w, o, how); i = dots(i, w, o, how); j = dots(j, w, o, how); k = dots(k, w, o, how); l = dots(l, w, o, how);
  }
  v128.store(dst, all(a, b, c, d, e, f, g, h, i, j, k, l));
}

function products_f32(dst: usize, w: v128, count: i32): void {
  let a = f32x4.splat(1), b = f32x4.splat(2), c = f32x4.splat(3), d = f32x4.splat(4), e = f32x4.splat(5), f = f32x4.splat(6);
  let g = f32x4.splat(7), h = f32x4.splat(8), i = f32x4.splat(9), j = f32x4.splat(10), k = f32x4.splat(11), l = f32x4.splat(12);
  for (; count > 0; count--) {
    a = fma(a, w, w); b = fma(b, w, w); c = fma(c, w, w); d = fma(d, w, w); e = fma(e, w, w); f = fma(f, w, w);
    g = fma(g, w, w); h = fma(h, w, w); i = fma(i, w, w); j = fma(j, w, w); k = fma(k, w, w); l = fma(l, w, w);
    a = fma(a, w, w); b = fma(b, w, w); c = fma(c, w, w); d = fma(d, w, w); e = fma(e, w, w); f = fma(f, w, w);
    g = fma(g, w, w); h = fma(h, w, w); i = fma(i, w, w); j = fma(j, w, w); k = fma(k, w, w); l = fma(l, w, w);
  }
  v128.store(dst, all(a, b, c, d, e, f, g, h, i, j, k, l));
}

// @ts-ignore: decorator
@inline function all(a: v128, b: v128, c: v128, d: v128, e: v128, f: v128, g: v128, h: v128, i: v128, j: v128, k: v128, l: v128): v128 {
  const s = v128.xor(v128.xor(v128.xor(a, b), v128.xor(c, d)), v128.xor(v128.xor(e, f), v128.xor(g, h)));
  return v128.xor(s, v128.xor(v128.xor(i, j), v128.xor(k, l)));
}
