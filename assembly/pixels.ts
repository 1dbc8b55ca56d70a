/**
 * Pillow's 8-bit bicubic resize (MODEL.md, "Pixels"), a band of rows at a time: bytes in, sums of 22 fractional bits out. A module of its own,
 * since a processor needs no model. Tables and layout are made by the host (src/processor/resize.ts), which also says it plainly.
 *
 * A row goes three ways:
 *
 *     bytes ──unweave──► three planes of i16 ──weigh──► one line, u8 values in i32 ──gather──► sums of the output rows that see it
 *
 * The three planes are the colours of one row; of grey, which has one colour, they are three rows.
 */

@unmanaged class Job {
  /** The band: `rows` rows of `width` pixels of `channels` bytes, the first of which is row `row` of the picture. 32 bytes past it are read. */
  source: u32; channels: i32; width: i32; rows: i32; row: i32;
  /** Three planes of `planeBytes` each: a row as i16, and as much more as a last window needs. */
  planes: u32; planeBytes: i32;
  /** For each of `outWidth` outputs its first tap's byte in a plane, and `blocks` blocks of 8 taps: low 15 bits, then the rest. */
  starts: u32; taps: u32; blocks: i32; outWidth: i32;
  /** Three lines of `lineBytes`. */
  lines: u32; lineBytes: i32;
  /** For each of `outHeight` outputs its first and one past its last row; `weights`: `stride` i32 for each. */
  windows: u32; weights: u32; stride: i32; outHeight: i32;
  /** outHeight rows of `lineBytes`; and the first output that still waits for rows. */
  sums: u32; waiting: i32;
}

const X: i8 = -1; // i8x16.swizzle makes it 0

/** Bytes → planes. 8 pixels are a step; what follows the row lands in taps that weigh nothing. */
function unweave(job: Job, source: usize): void {
  const width = job.width, channels = job.channels, bytes = <usize>job.planeBytes;
  let to = <usize>job.planes;
  if (channels == 3) {
    for (let i = 0; i < width; i += 8, source += 24, to += 16) {
      const a = v128.load(source), b = v128.load(source, 8);
      v128.store(to, v128.or(
        i8x16.swizzle(a, i8x16(0, X, 3, X, 6, X, 9, X, 12, X, 15, X, X, X, X, X)), i8x16.swizzle(b, i8x16(X, X, X, X, X, X, X, X, X, X, X, X, 10, X, 13, X))));
      v128.store(to + bytes, v128.or(
        i8x16.swizzle(a, i8x16(1, X, 4, X, 7, X, 10, X, 13, X, X, X, X, X, X, X)), i8x16.swizzle(b, i8x16(X, X, X, X, X, X, X, X, X, X, 8, X, 11, X, 14, X))));
      v128.store(to + 2 * bytes, v128.or(
        i8x16.swizzle(a, i8x16(2, X, 5, X, 8, X, 11, X, 14, X, X, X, X, X, X, X)), i8x16.swizzle(b, i8x16(X, X, X, X, X, X, X, X, X, X, 9, X, 12, X, 15, X))));
    }
  } else {
    for (let i = 0; i < width; i += 8, source += 32, to += 16) {
      const a = v128.load(source), b = v128.load(source, 16);
      v128.store(to, v128.or(
        i8x16.swizzle(a, i8x16(0, X, 4, X, 8, X, 12, X, X, X, X, X, X, X, X, X)), i8x16.swizzle(b, i8x16(X, X, X, X, X, X, X, X, 0, X, 4, X, 8, X, 12, X))));
      v128.store(to + bytes, v128.or(
        i8x16.swizzle(a, i8x16(1, X, 5, X, 9, X, 13, X, X, X, X, X, X, X, X, X)), i8x16.swizzle(b, i8x16(X, X, X, X, X, X, X, X, 1, X, 5, X, 9, X, 13, X))));
      v128.store(to + 2 * bytes, v128.or(
        i8x16.swizzle(a, i8x16(2, X, 6, X, 10, X, 14, X, X, X, X, X, X, X, X, X)), i8x16.swizzle(b, i8x16(X, X, X, X, X, X, X, X, 2, X, 6, X, 10, X, 14, X))));
    }
  }
}

/** One row of grey bytes → one plane. */
function widen(source: usize, to: usize, width: i32): void {
  for (let i = 0; i < width; i += 8, source += 8, to += 16) v128.store(to, v128.load8x8_u(source));
}

/**
 * One output of each plane, as [plane 0, plane 1, plane 2, ?]: clamp((2²¹ + Σ q · v) >> 22).
 *
 *     q = high · 2¹⁵ + low        plane 0: l0 += dot(v, low)   h0 += dot(v, high)
 *                                 plane 1: l1, h1   plane 2: l2, h2
 *
 * A dot makes 4 sums of 2 products, so a block of 8 taps is 6 dots and 5 loads. Sums wrap at 2³² as they please: the last one fits.
 */
// @ts-ignore: decorator
@inline
function weigh(p0: usize, bytes: usize, taps: usize, blocks: i32): v128 {
  const p1 = p0 + bytes, p2 = p1 + bytes;
  let l0 = i32x4.splat(0), l1 = l0, l2 = l0, h0 = l0, h1 = l0, h2 = l0;
  for (let at: usize = 0, end = <usize>blocks << 4; at < end; at += 16) {
    const low = v128.load(taps + 2 * at), high = v128.load(taps + 2 * at, 16);
    let v = v128.load(p0 + at);
    l0 = i32x4.add(l0, i32x4.dot_i16x8_s(v, low)); h0 = i32x4.add(h0, i32x4.dot_i16x8_s(v, high));
    v = v128.load(p1 + at);
    l1 = i32x4.add(l1, i32x4.dot_i16x8_s(v, low)); h1 = i32x4.add(h1, i32x4.dot_i16x8_s(v, high));
    v = v128.load(p2 + at);
    l2 = i32x4.add(l2, i32x4.dot_i16x8_s(v, low)); h2 = i32x4.add(h2, i32x4.dot_i16x8_s(v, high));
  }
  l0 = i32x4.add(l0, i32x4.shl(h0, 15)); l1 = i32x4.add(l1, i32x4.shl(h1, 15)); l2 = i32x4.add(l2, i32x4.shl(h2, 15));
  const pairs = i32x4.add(v128.shuffle<i32>(l0, l1, 0, 4, 1, 5), v128.shuffle<i32>(l0, l1, 2, 6, 3, 7));
  const third = i32x4.add(l2, v128.shuffle<i32>(l2, l2, 2, 3, 0, 1));
  const sum = i32x4.add(v128.shuffle<i32>(pairs, third, 0, 1, 4, 4), v128.shuffle<i32>(pairs, third, 2, 3, 5, 5));
  return i32x4.min_s(i32x4.max_s(i32x4.shr_s(i32x4.add(sum, i32x4.splat(1 << 21)), 22), i32x4.splat(0)), i32x4.splat(255));
}

/** Adds a line to every output row that sees row `row` of the picture. */
function gather(job: Job, line: usize, row: i32): void {
  const bytes = <usize>job.lineBytes, windows = <usize>job.windows;
  let out = job.waiting;
  while (out < job.outHeight && load<i32>(windows + (<usize>out << 3), 4) <= row) out++;
  job.waiting = out;
  for (; out < job.outHeight; out++) {
    const first = load<i32>(windows + (<usize>out << 3));
    if (first > row) break;
    const q = v128.load32_splat(<usize>job.weights + (<usize>out * <usize>job.stride + <usize>(row - first) << 2));
    const sums = <usize>job.sums + <usize>out * bytes;
    for (let at: usize = 0; at < bytes; at += 16) v128.store(sums + at, i32x4.add(v128.load(sums + at), i32x4.mul(q, v128.load(line + at))));
  }
}

/** The rows of a band. */
export function resize(job: Job): void {
  const grey = job.channels == 1, rows = job.rows, outWidth = job.outWidth, blocks = job.blocks;
  const planes = <usize>job.planes, planeBytes = <usize>job.planeBytes, starts = <usize>job.starts;
  const lines = <usize>job.lines, lineBytes = <usize>job.lineBytes, tapBytes = <usize>blocks << 5;
  const rowBytes = <usize>job.width * <usize>job.channels;
  for (let y = 0, n = grey ? 3 : 1; y < rows; y += n) {
    const source = <usize>job.source + <usize>y * rowBytes;
    if (n > rows - y) n = rows - y;
    if (grey) for (let i = 0; i < n; i++) widen(source + <usize>i * rowBytes, planes + <usize>i * planeBytes, job.width);
    else unweave(job, source);
    for (let x: usize = 0, to = lines, taps = <usize>job.taps; x < <usize>outWidth; x++, taps += tapBytes) {
      const v = weigh(planes + load<u32>(starts + (x << 2)), planeBytes, taps, blocks);
      if (grey) {
        v128.store32_lane(to, v, 0); v128.store32_lane(to + lineBytes, v, 1); v128.store32_lane(to + 2 * lineBytes, v, 2);
        to += 4;
      } else {
        v128.store(to, v); // the fourth number is overwritten by the next output
        to += 12;
      }
    }
    for (let i = 0; i < n; i++) gather(job, lines + <usize>i * lineBytes, job.row + y + i);
  }
}
