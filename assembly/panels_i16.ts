/**
 * The order in which products of int16 rows with panels of 16 outputs are made, of bytes (W = u8, matmul_i8.ts) or of four numbers in 16 bits (W = u16,
 * matmul_i4.ts): many rows in eights (rows_i16.ts), few with the tiles of those files.
 *
 * Few rows wait for weights: what counts is that there are few instructions a byte, that x, which weights push out of the first-level cache, is
 * read seldom, and that memory is read in long streams (share.ts, bench/RESULTS.md). One row takes two panels of two streams at once, with x read
 * for 32 outputs. More than two rows go in pairs over half a megabyte of panels, one pair after another:
 *
 *     rows 0, 1  ─► panels 0 … 15   from memory, one stream
 *     rows 2, 3  ─► panels 0 … 15   from the second-level cache
 *     rows 0, 1  ─► panels 16 … 31
 */
import { finish, keep } from "./epilogue";
import { tile as tileOf4Bits } from "./matmul_i4";
import { tile as tileOfBytes } from "./matmul_i8";
import { OUTPUTS, panelBytes } from "./pack";
import { Format, Matmul, singles } from "./record";
import { eights, partsOf } from "./rows_i16";
import { apartOf, streamsTo, take, takenTo, takeStreams } from "./share";

/** Bytes of weights that stay in a second-level cache of 1 MiB until all rows have met them. */
const SEVERAL: usize = 17 << 15;

// @ts-ignore: decorator
@inline function formatOf<W>(): u32 {
  return sizeof<W>() == 1 ? Format.i8 : Format.i4;
}

/** All of a product; `sums` is for the tiles of 4 bits. */
export function product<W>(op: Matmul, t: i32, n: i32, sums: usize): void {
  const panels = (op.N + OUTPUTS - 1) / OUTPUTS;
  if (!op.eights) {
    const streams = op.M == 1 ? 2 : 1, apart = apartOf(panels, streams, n);
    for (let p = takeStreams(op, apart, streams, t, n); p >= 0; p = takeStreams(op, apart, streams, t, n)) {
      const to = streamsTo(p, apart, streams, n), here = min(to, panels);
      if (streams == 1) some<W>(op, op.M, p, here, sums);
      else both<W>(op, p, here, min(to + apart, panels) - apart, apart, sums);
    }
    return;
  }
  if (n == 1) return outputs<W>(op, t, 0, 1, 0, panels, sums);
  const parts = partsOf(op, n);
  for (let p = take(op, panels, parts, t, n); p >= 0; p = take(op, panels, parts, t, n)) {
    const from = p % panels;
    outputs<W>(op, t, p / panels, parts, from, takenTo(from, panels, parts, n), sums);
  }
}

/** Panels from … to − 1 by one part of the eights of rows; to the first part belong all rows that are in none. */
function outputs<W>(op: Matmul, t: i32, part: i32, parts: i32, from: i32, to: i32, sums: usize): void {
  const rows = part ? 0 : singles(op.M, op.eights);
  if (rows) some<W>(op, rows, from, to, sums);
  eights(op, t, part, parts, from, to, formatOf<W>());
}

/** One row by panels from … to − 1, and by those `apart` further of from … there − 1. */
function both<W>(op: Matmul, from: i32, to: i32, there: i32, apart: i32, sums: usize): void {
  one<W>(op, 0, from, to, there, apart, sums);
  finish(op, 0, 1, from * OUTPUTS, (to - from) * 2); // at the end: V8 13.6 inlines what is often called, and then has no registers left for the tiles' loops
  finish(op, 0, 1, (from + apart) * OUTPUTS, (there - from) * 2);
}

/** The same of row m, but for the end. */
function one<W>(op: Matmul, m: i32, from: i32, to: i32, there: i32, apart: i32, sums: usize): void {
  const bytes = panelBytes(formatOf<W>(), op.K);
  let p = from;
  for (; p < there; p++) tile<W>(op, m, p, bytes, sums, 1, 2, apart);
  for (; p < to; p++) tile<W>(op, m, p, bytes, sums, 1, 1, 0);
}

/** The first two of `rows`, then the next two, each time by `SEVERAL` bytes of panels: only the first two wait for memory, and what it fetches ahead is not broken off. */
function some<W>(op: Matmul, rows: i32, from: i32, to: i32, sums: usize): void {
  const bytes = panelBytes(formatOf<W>(), op.K), several = max(<i32>(SEVERAL / bytes), 1);
  for (let begin = from; begin < to; begin += several) {
    const end = min(begin + several, to), half = (end - begin) >> 1;
    let m = 0;
    for (; m + 2 <= rows; m += 2) for (let p = begin; p < end; p++) tile<W>(op, m, p, bytes, sums, 2, 1, 0);
    if (m < rows) one<W>(op, m, begin, end - half, begin + half, end - begin - half, sums);
  }
  finish(op, 0, rows, from * OUTPUTS, (to - from) * 2);
}

/**
 * `rows` (1 or 2) from row m on by the 16 outputs of panel p, of `bytes` bytes, or one row by those of 2 `panels`, the second one `apart` further. Both are
 * constants: the compiler makes a tile of each.
 */
// @ts-ignore: decorator
@inline function tile<W>(op: Matmul, m: i32, p: i32, bytes: usize, sums: usize, rows: i32, panels: i32, apart: i32): void {
  if (sizeof<W>() == 1) tileOfBytes(op, m, p, bytes, rows, panels, apart);
  else tileOf4Bits(op, m, p, bytes, sums, rows, panels, apart);
}

/** Where row m has the outputs of panel p. */
// @ts-ignore: decorator
@inline export function outputsOf(op: Matmul, m: i32, p: i32): usize {
  return op.dst + ((<usize>m * op.ldd + p * OUTPUTS) << 2);
}

/** Writes row m's sums of panel p, as many as there are outputs. */
// @ts-ignore: decorator
@inline export function keepSixteen(op: Matmul, m: i32, p: i32, a: v128, b: v128, c: v128, d: v128): void {
  const dst = outputsOf(op, m, p), count = op.N - p * OUTPUTS;
  keep(dst, a, b, count);
  if (count > 8) keep(dst + 32, c, d, count - 8);
}
