/**
 * Rows of x become rows position … of a cache, whose block b (BLOCK rows) is at table[b] + offset. Each head's d columns are one piece of
 * a block, with room for ⌈d/8⌉ · 8. Threads share columns, so that one row is work for all.
 *
 *   store_keys     [heads] [BLOCK / 32][d][32]      panels of 32 rows, as attention makes 8 or 32 scores at once
 *   store_values   [heads] [⌈d/32⌉][BLOCK][32]      panels of 32 columns, as attention adds rows up; the last one as wide as what is left, in eights
 *
 * In f32, or in halves: rounded to the nearest, ±65504 at most, since one infinity would make a NaN of every row that sees it. Of eight
 * halves the first four are the lower parts of four words, the last four the upper. (Halves can't say NaN: a row that has it has a NaN
 * of its own in f32.)
 */
import { toHalves } from "./half";
import { BLOCK, Format, Store } from "./record";
import { share } from "./share";
import { loadPart, transpose } from "./simd";

export function store_keys(op: Store, t: i32, n: i32): void {
  const from = share(op.D, t, n), to = share(op.D, t + 1, n), d = op.headWidth, ldx = <usize>op.ldx << 2;
  for (let m = 0, rows = 1; m < op.M; m += rows) {
    const row = (op.position + m) % BLOCK;
    rows = row % 8 == 0 && m + 8 <= op.M ? 8 : 1;
    for (let c = from; c < to; ) {
      const h = c / d, end = min((h + 1) * d, to);
      const dst = block(op, m) + ((<usize>h * padded(op) * BLOCK + (((row >> 5) * d + c - h * d) << 5) + (row & 24)) << size(op));
      const x = op.x + ((<usize>m * op.ldx + c) << 2);
      if (rows == 8) eightKeys(op, dst, x, ldx, end - c);
      else oneKey(op, dst, x, row & 7, end - c);
      c = end;
    }
  }
}

/** `count` columns of 8 rows. */
function eightKeys(op: Store, dst: usize, x: usize, ldx: usize, count: i32): void {
  const step = <usize>32 << size(op), y = x + 4 * ldx;
  let at: usize = 0;
  for (; count >= 4; count -= 4, at += 16, dst += 4 * step) {
    const i = x + at, j = y + at;
    const a = v128.load(i), b = v128.load(i + ldx), c = v128.load(i + 2 * ldx), d = v128.load(i + 3 * ldx);
    const e = v128.load(j), f = v128.load(j + ldx), g = v128.load(j + 2 * ldx), h = v128.load(j + 3 * ldx);
    if (op.format == Format.f16) transpose(halfPair(a, e), halfPair(b, f), halfPair(c, g), halfPair(d, h), dst, step);
    else {
      transpose(a, b, c, d, dst, step);
      transpose(e, f, g, h, dst + 16, step);
    }
  }
  for (let row = 0; row < 8; row++) oneKey(op, dst, x + at + <usize>row * ldx, row, count);
}

/** `count` columns of row `row` of 8. */
function oneKey(op: Store, dst: usize, x: usize, row: i32, count: i32): void {
  if (op.format == Format.f16) {
    dst += (<usize>(row & 3) << 2) + (<usize>(row & 4) >> 1);
    for (; count >= 4; count -= 4, x += 16, dst += 256) {
      const v = saturated(v128.load(x));
      v128.store16_lane(dst, v, 0); v128.store16_lane(dst, v, 2, 64); v128.store16_lane(dst, v, 4, 128); v128.store16_lane(dst, v, 6, 192);
    }
    for (; count > 0; count--, x += 4, dst += 64) v128.store16_lane(dst, saturated(v128.load32_zero(x)), 0);
  } else for (dst += <usize>row << 2; count > 0; count--, x += 4, dst += 128) store<f32>(dst, load<f32>(x));
}

export function store_values(op: Store, t: i32, n: i32): void {
  const panels = <i32>(padded(op) >> 3), tasks = op.D / op.headWidth * panels;
  const from = share(tasks, t, n), to = share(tasks, t + 1, n);
  for (let m = 0; m < op.M; m++) {
    const x = op.x + (<usize>m * op.ldx << 2);
    const start = block(op, m), row = <usize>((op.position + m) % BLOCK);
    for (let i = from; i < to; i++) {
      const h = i / panels, c = i % panels << 3, rest = op.headWidth - c, v = x + (<usize>(h * op.headWidth + c) << 2);
      const panel = c & ~31, width = min(padded(op) - <usize>panel, 32);
      const dst = start + ((<usize>h * padded(op) + panel) * BLOCK + row * width + (c & 31) << size(op));
      const a = rest < 4 ? loadPart(v, rest) : v128.load(v);
      const b = rest > 7 ? v128.load(v, 16) : rest > 4 ? loadPart(v + 16, rest - 4) : f32x4.splat(0);
      if (op.format == Format.f16) v128.store(dst, halfPair(a, b));
      else {
        v128.store(dst, a); v128.store(dst, b, 16);
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

/** log₂ of a number's bytes. */
// @ts-ignore: decorator
@inline function size(op: Store): usize {
  return op.format == Format.f16 ? 1 : 2;
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
