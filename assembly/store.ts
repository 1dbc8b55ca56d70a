/**
 * Rows of x become rows position … of a cache, whose block b (BLOCK rows) is at table[b] + offset. Each head's d columns are one piece of
 * a block, with room for ⌈d/8⌉ · 8. Threads share heads, as they do an attention of one row, which so need not wait for all of them
 * (src/graph/recorder.ts).
 *
 *   store_keys     [heads] [d][BLOCK]                 as attention makes 8 or 32 scores at once
 *     in 16 bits   [heads] [⌈d/2⌉][BLOCK][2]          two columns of a row are a word: a row is written in half as many lines
 *   store_values   [heads] [⌈d/32⌉][BLOCK][32]        panels of 32 columns, as attention adds rows up; the last one as wide as what is left, in eights
 *     in int16     [heads] [⌈d/32⌉][BLOCK/2][32][2]   pairs of rows, as attention multiplies them; of one that is not there yet any number
 *
 * In f32, or in halves: rounded to the nearest, ±65504 at most, since one infinity would make a NaN of every row that sees it. Of eight
 * halves of values the first four are the lower parts of four words, the last four the upper. (Halves can't say NaN: a row that has it
 * has a NaN of its own in f32.) In int16 a row of a head has a scale (int16.ts): [BLOCK] f32 in front of the head's numbers, and so read in one stream with
 * them.
 */
import { toHalves } from "./half";
import { layFour, layRow, rounded, top, VALUE } from "./int16";
import { inverseOf, scaleOf } from "./quantize";
import { BLOCK, Format, Store } from "./record";
import { share } from "./share";
import { kept, loadFour, MAGIC, transpose } from "./simd";

// @ts-ignore: decorator
@inline export function inHalves<K>(): bool {
  return isInteger<K>() && !isSigned<K>();
}

// @ts-ignore: decorator
@inline export function inInt16<K>(): bool {
  return isInteger<K>() && isSigned<K>();
}

/** Columns of a word of a key. K: f32, u16 (halves) or i16. */
// @ts-ignore: decorator
@inline export function columns<K>(): usize {
  return isInteger<K>() ? 2 : 1;
}

/** Bytes of the scales in front of a head's part of a block. */
// @ts-ignore: decorator
@inline function scaleBytes<K>(): usize {
  return inInt16<K>() ? BLOCK * 4 : 0;
}

/** Bytes of a head's part of a block. */
// @ts-ignore: decorator
@inline export function headBytes<K>(headWidth: i32): usize {
  return scaleBytes<K>() + <usize>((headWidth + 7) & ~7) * BLOCK * sizeof<K>();
}

export function store_keys(op: Store, t: i32, n: i32): void {
  if (op.format == Format.i16) storeKeys<i16>(op, t, n);
  else if (op.format == Format.f16) storeKeys<u16>(op, t, n);
  else storeKeys<f32>(op, t, n);
}

function storeKeys<K>(op: Store, t: i32, n: i32): void {
  const d = op.headWidth, heads = op.D / d, to = share(heads, t + 1, n), ldx = <usize>op.ldx << 2, magic = kept(op, MAGIC);
  for (let m = 0, rows = 1; m < op.M; m += rows) {
    const row = (op.position + m) % BLOCK;
    rows = row % 4 == 0 && m + 4 <= op.M ? 4 : 1;
    const start = block(op, m) + (<usize>row << 2);
    for (let h = share(heads, t, n); h < to; h++) {
      const scales = start + <usize>h * headBytes<K>(d), dst = scales + scaleBytes<K>(), x = op.x + ((<usize>m * op.ldx + h * d) << 2);
      if (inInt16<K>()) {
        if (rows == 4) layFour(dst, 128, scales, x, ldx, d, magic);
        else store<f32>(scales, layRow(dst, 128, x, d, magic));
      } else if (rows == 4) fourKeys<K>(dst, x, ldx, d);
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
  if (op.format == Format.i16) storePairs(op, t, n);
  else if (op.format == Format.f16) storeValues<u16>(op, t, n);
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
        const a = loadFour(x, rest), b = secondFour(x, rest);
        if (isInteger<K>()) v128.store(dst, halfPair(a, b));
        else {
          v128.store(dst, a); v128.store(dst, b, 16);
        }
      }
    }
  }
}

/** Values in int16: two rows of a pair at once, where both are there. */
function storePairs(op: Store, t: i32, n: i32): void {
  const d = op.headWidth, heads = op.D / d, to = share(heads, t + 1, n), ldx = <usize>op.ldx << 2, magic = kept(op, MAGIC);
  for (let m = 0, rows = 1; m < op.M; m += rows) {
    const row = <usize>((op.position + m) % BLOCK), start = block(op, m) + (row << 2);
    rows = row % 2 == 0 && m + 2 <= op.M ? 2 : 1;
    for (let h = share(heads, t, n); h < to; h++) {
      const scales = start + <usize>h * headBytes<i16>(d), part = scales - (row << 2) + scaleBytes<i16>();
      let x = op.x + ((<usize>m * op.ldx + h * d) << 2);
      const first = top(x, d), inverse = f32x4.splat(inverseOf(first, VALUE));
      let other = inverse;
      store<f32>(scales, scaleOf(first, VALUE));
      if (rows == 2) {
        const second = top(x + ldx, d);
        store<f32>(scales, scaleOf(second, VALUE), 4);
        other = f32x4.splat(inverseOf(second, VALUE));
      }
      for (let c = 0; c < d; c += 8, x += 32) {
        const panel = <usize>c & ~31, width = min(padded(op) - panel, 32), rest = d - c;
        const dst = part + ((panel * BLOCK + (row & ~1) * width + ((c & 31) << 1)) << 1);
        const a = eight(x, rest, inverse, magic);
        if (rows == 2) {
          const b = eight(x + ldx, rest, other, magic);
          v128.store(dst, v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11)); v128.store(dst, v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15), 16);
        } else {
          const to = dst + ((row & 1) << 1);
          v128.store16_lane(to, a, 0); v128.store16_lane(to, a, 1, 4); v128.store16_lane(to, a, 2, 8); v128.store16_lane(to, a, 3, 12);
          v128.store16_lane(to, a, 4, 16); v128.store16_lane(to, a, 5, 20); v128.store16_lane(to, a, 6, 24); v128.store16_lane(to, a, 7, 28);
        }
      }
    }
  }
}

/** The first eight of `rest` numbers in int16, zeros where there are fewer. */
// @ts-ignore: decorator
@inline function eight(x: usize, rest: i32, inverse: v128, magic: v128): v128 {
  return rounded(loadFour(x, rest), secondFour(x, rest), inverse, magic);
}

/** The last four of eight numbers at x, or what there is of them when there are `rest`. */
// @ts-ignore: decorator
@inline function secondFour(x: usize, rest: i32): v128 {
  return rest > 4 ? loadFour(x + 16, rest - 4) : f32x4.splat(0);
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
