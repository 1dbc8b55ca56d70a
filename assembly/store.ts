/**
 * Rows of x become rows position … of a cache, whose block b (BLOCK rows) is at table[b] + offset. Each head's d columns are one piece of
 * a block, with room for ⌈d/8⌉ · 8. Threads share heads, as they do an attention of one row, which so need not wait for all of them
 * (src/graph/recorder.ts).
 *
 *   store_keys     [heads] [d][BLOCK]             as attention makes 8 or 32 scores at once
 *     in halves    [heads] [⌈d/2⌉][BLOCK][2]      two columns of a row are a word: a row is written in half as many lines
 *   store_values   [heads] [⌈d/32⌉][BLOCK][32]    panels of 32 columns, as attention adds rows up; the last one as wide as what is left, in eights
 *
 * In f32, or in halves: rounded to the nearest, ±65504 at most, since one infinity would make a NaN of every row that sees it. Of eight
 * halves of values the first four are the lower parts of four words, the last four the upper. (Halves can't say NaN: a row that has it
 * has a NaN of its own in f32.)
 */
import { toHalves } from "./half";
import { BLOCK, Format, Store } from "./record";
import { share } from "./share";
import { loadFour, transpose } from "./simd";

/** Columns of a word of a key. K: f32 or u16 (halves). */
// @ts-ignore: decorator
@inline export function columns<K>(): usize {
  return isInteger<K>() ? 2 : 1;
}

export function store_keys(op: Store, t: i32, n: i32): void {
  if (op.format == Format.f16) storeKeys<u16>(op, t, n);
  else storeKeys<f32>(op, t, n);
}

function storeKeys<K>(op: Store, t: i32, n: i32): void {
  const d = op.headWidth, heads = op.D / d, to = share(heads, t + 1, n), ldx = <usize>op.ldx << 2;
  for (let m = 0, rows = 1; m < op.M; m += rows) {
    const row = (op.position + m) % BLOCK;
    rows = row % 4 == 0 && m + 4 <= op.M ? 4 : 1;
    const start = block(op, m) + (<usize>row << 2);
    for (let h = share(heads, t, n); h < to; h++) {
      const dst = start + <usize>h * padded(op) * BLOCK * sizeof<K>(), x = op.x + ((<usize>m * op.ldx + h * d) << 2);
      if (rows == 4) fourKeys<K>(dst, x, ldx, d);
      else oneKey<K>(dst, x, d);
    }
  }
}

/** A head's d columns of 4 rows; 128 bytes, BLOCK words, from one word of a row to the next. */
function fourKeys<K>(dst: usize, x: usize, ldx: usize, d: i32): void {
  const step = <i32>columns<K>() << 2;
  for (; d >= step; d -= step, x += <usize>step << 2, dst += 512) {
    transpose(fourWords<K>(x), fourWords<K>(x + ldx), fourWords<K>(x + 2 * ldx), fourWords<K>(x + 3 * ldx), dst, 128);
  }
  for (let row: usize = 0; row < 4; row++) oneKey<K>(dst + (row << 2), x + row * ldx, d);
}

function oneKey<K>(dst: usize, x: usize, d: i32): void {
  const step = <i32>columns<K>() << 2;
  for (; d >= step; d -= step, x += <usize>step << 2, dst += 512) {
    const v = fourWords<K>(x);
    v128.store32_lane(dst, v, 0); v128.store32_lane(dst, v, 1, 128); v128.store32_lane(dst, v, 2, 256); v128.store32_lane(dst, v, 3, 384);
  }
  for (; d > 0; d -= <i32>columns<K>(), x += columns<K>() << 2, dst += 128) {
    const v = loadFour(x, min(d, <i32>columns<K>()));
    v128.store32_lane(dst, isInteger<K>() ? narrow(v, v) : v, 0);
  }
}

// @ts-ignore: decorator
@inline function fourWords<K>(x: usize): v128 {
  const v = v128.load(x);
  return isInteger<K>() ? narrow(v, v128.load(x, 16)) : v;
}

/** Eight halves, one after another. */
// @ts-ignore: decorator
@inline function narrow(a: v128, b: v128): v128 {
  return i16x8.narrow_i32x4_u(saturated(a), saturated(b));
}

export function store_values(op: Store, t: i32, n: i32): void {
  if (op.format == Format.f16) storeValues<u16>(op, t, n);
  else storeValues<f32>(op, t, n);
}

function storeValues<K>(op: Store, t: i32, n: i32): void {
  const d = op.headWidth, heads = op.D / d, to = share(heads, t + 1, n);
  for (let m = 0; m < op.M; m++) {
    const start = block(op, m), row = <usize>((op.position + m) % BLOCK);
    for (let h = share(heads, t, n); h < to; h++) {
      let x = op.x + ((<usize>m * op.ldx + h * d) << 2);
      for (let c = 0; c < d; c += 8, x += 32) {
        const panel = <usize>c & ~31, width = min(padded(op) - panel, 32), rest = d - c;
        const dst = start + ((<usize>h * padded(op) + panel) * BLOCK + row * width + (c & 31)) * sizeof<K>();
        const a = loadFour(x, rest), b = rest > 4 ? loadFour(x + 16, rest - 4) : f32x4.splat(0);
        if (isInteger<K>()) v128.store(dst, halfPair(a, b));
        else {
          v128.store(dst, a); v128.store(dst, b, 16);
        }
      }
    }
  }
}

/** Four halves, one in each lane. */
// @ts-ignore: decorator
@inline function saturated(v: v128): v128 {
  return toHalves(f32x4.max(f32x4.min(v, f32x4.splat(65504)), f32x4.splat(-65504)));
}

/** Eight halves: the first four in the lower parts of words. */
// @ts-ignore: decorator
@inline function halfPair(a: v128, b: v128): v128 {
  return v128.or(saturated(a), i32x4.shl(saturated(b), 16));
}

// @ts-ignore: decorator
@inline function padded(op: Store): usize {
  return <usize>((op.headWidth + 7) & ~7);
}

/** Where the block of row m begins. */
// @ts-ignore: decorator
@inline function block(op: Store, m: i32): usize {
  return <usize>load<u32>(op.table + (<usize>((op.position + m) / BLOCK) << 2)) + op.offset;
}
