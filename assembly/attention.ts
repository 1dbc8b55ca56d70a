/**
 * dst[T, heads · d] = softmax(q kᵀ · scale) v, head by head. Row i sees the rows 0 … S − T + i when causal, else all S.
 * weights [heads, T, S] gets the probabilities (0 where a row does not see), unless its address is 0.
 *
 * Keys and values lie as store.ts writes them, in blocks of BLOCK rows, a head's part in one piece.
 *
 *                   8 keys                              8 columns
 *             ┌───────┬───────┐  k: [d][BLOCK] or     ┌───────┬───────┐  v: panels
 *   q[i,c] ─► │  a0   │  b0   │  [⌈d/2⌉][BLOCK][2] e ─► │  a0   │  b0   │  [⌈d/32⌉][BLOCK][32]
 *   …         │  …    │  …    │                   …   │  …    │  …    │
 * q[i+3,c] ─► │  a3   │  b3   │                       │  a3   │  b3   │
 *             └───────┴───────┘                       └───────┴───────┘
 *
 * Threads share tiles of 4 rows of a head. A thread takes several at once through the blocks, first for scores and then for values: tiles
 * of one head, for which a block stays in the first-level cache; or, when there is only one of each head (decoding), heads: their parts of
 * a block lie side by side, so memory is read in long pieces, which is half the time of many short ones (bench/RESULTS.md). For a
 * row by itself there are kernels that read 32 numbers a step.
 *
 * A row's sums run over c, or over the rows it sees, from 0 upward, whatever the tile: its bits depend on itself alone. No fma:
 * the same bits in every build. Scores are in powers of two (q is taken times log₂ e), e = 2^(score − largest); the sum of e divides the
 * result at the end. Rows of a tile that are not there are computed and not kept.
 *
 * In int16 three of the steps are attention_i16.ts'.
 *
 * Halves are read as f32 without moving their exponent's bias, so 2¹¹² too small (subnormals too); q and e are as much larger.
 *
 * The thread's scratch: the numbers of 2ˣ and e of a block in int16 [TABLE bytes], then for each tile, of R = 1 or 4 rows: scores [R][stride], q [d][R],
 * sums [⌈d/8⌉][R][8], 1 / Σ e [R], scales of q and of e in int16 [2][R]; q and sums have room for ⌈d/8⌉ · 8 columns, 0 behind the last of q. As many
 * tiles go together as there is room for (scratchBytes; src/graph/recorder.ts).
 */
import { begin_i16, mix_i16, scores_i16 } from "./attention_i16";
import { Attention, BLOCK, Format } from "./record";
import { share } from "./share";
import { firstLanes, largest, MAGIC, mulAdd, storePart, sum, transpose } from "./simd";
import { columns, headBytes, inHalves, inInt16 } from "./store";

export function attention(op: Attention, t: i32, n: i32): void {
  if (op.format == Format.i16) attend<i16>(op, t, n);
  else if (op.format == Format.f16) attend<u16>(op, t, n);
  else attend<f32>(op, t, n);
}

/** Bytes before the tiles in a thread's scratch: the numbers of 2ˣ, and e of a block in int16, which are the last of them. */
const TABLE: usize = 320, WEIGHTS: usize = 256;

/** K: how keys and values are stored, f32, u16 (halves) or i16. */
function attend<K>(op: Attention, t: i32, n: i32): void {
  const tiles = (op.T + 3) >> 2, tasks = op.heads * tiles, most = <i32>((<usize>op.scratchBytes - TABLE) / tileBytes(op));
  const scratch = op.scratch + <usize>t * op.scratchBytes, to = share(tasks, t + 1, n);
  powersTable<K>(scratch);
  for (let i = share(tasks, t, n); i < to; ) {
    const next = min(i + most, tiles > 1 ? min(to, (i / tiles + 1) * tiles) : to);
    together<K>(op, i, next, tiles, scratch + TABLE);
    i = next;
  }
}

/** Tiles from … to − 1. */
function together<K>(op: Attention, from: i32, to: i32, tiles: i32, scratch: usize): void {
  const bytes = tileBytes(op), mask = maskOf(op), end = seen(op, min((to - 1) % tiles * 4 + 4, op.T) - 1);
  let at = scratch;
  for (let i = from; i < to; i++, at += bytes) {
    if (inInt16<K>()) begin_i16(op, i / tiles, i % tiles << 2, at);
    else begin<K>(op, i / tiles, i % tiles << 2, at);
  }
  for (let b = 0; b < end; b += BLOCK) {
    at = scratch;
    for (let i = from; i < to; i++, at += bytes) {
      if (inInt16<K>()) scores_i16(op, i / tiles, i % tiles << 2, b, at);
      else scores<K>(op, i / tiles, i % tiles << 2, b, at, mask);
    }
  }
  at = scratch;
  for (let i = from; i < to; i++, at += bytes) weigh<K>(op, i / tiles, i % tiles << 2, at, scratch - TABLE);
  for (let b = 0; b < end; b += BLOCK) {
    at = scratch;
    for (let i = from; i < to; i++, at += bytes) {
      if (inInt16<K>()) mix_i16(op, i / tiles, i % tiles << 2, b, at, scratch - WEIGHTS);
      else mix<K>(op, i / tiles, i % tiles << 2, b, at, mask);
    }
  }
  at = scratch;
  for (let i = from; i < to; i++, at += bytes) finish<K>(op, i / tiles, i % tiles << 2, at, mask);
}

/** Rows of a tile. */
// @ts-ignore: decorator
@inline export function rowsOf(op: Attention): usize {
  return op.T == 1 ? 1 : 4;
}

/** Distance of two rows of scores, in bytes: whole steps of 32 keys, and a cache line so that no two rows share a set of the cache. */
// @ts-ignore: decorator
@inline export function strideOf(S: i32): usize {
  return <usize>(((S + 31) & ~31) + 16) << 2;
}

/** Columns of a head's values. */
// @ts-ignore: decorator
@inline export function padded(op: Attention): usize {
  return <usize>((op.headWidth + 7) & ~7);
}

function tileBytes(op: Attention): usize {
  return rowsOf(op) * (strideOf(op.S) + (padded(op) << 3) + 16);
}

/** Where q is in a tile's scratch. */
// @ts-ignore: decorator
@inline export function queriesOf(op: Attention, at: usize): usize {
  return at + rowsOf(op) * strideOf(op.S);
}

// @ts-ignore: decorator
@inline export function sumsOf(op: Attention, at: usize): usize {
  return at + rowsOf(op) * (strideOf(op.S) + (padded(op) << 2));
}

// @ts-ignore: decorator
@inline export function inversesOf(op: Attention, at: usize): usize {
  return at + rowsOf(op) * (strideOf(op.S) + (padded(op) << 3));
}

/**
 * Whether one row adds the values of all rows of a block, of those not there times 0: halves are finite, so that changes no bit, and memory is
 * read from one end to the other, which is sooner done than parts of it with gaps (bench/RESULTS.md). In int16 all rows do.
 */
// @ts-ignore: decorator
@inline function wholeBlocks<K>(op: Attention): bool {
  return inInt16<K>() || (inHalves<K>() && op.T == 1);
}

/** How many rows row `row` sees. */
// @ts-ignore: decorator
@inline export function seen(op: Attention, row: i32): i32 {
  return op.causal ? op.S - op.T + row + 1 : op.S;
}

/** Where head h has its part of block b. */
// @ts-ignore: decorator
@inline export function part<K>(op: Attention, table: usize, offset: usize, b: i32, h: i32): usize {
  return <usize>load<u32>(table + (<usize>b << 2)) + offset + <usize>h * headBytes<K>(op.headWidth);
}

/** 2¹¹² for halves. */
// @ts-ignore: decorator
@inline function bias<K>(): f32 {
  return inHalves<K>() ? reinterpret<f32>(0x77800000) : 1;
}

/** What is left of halves that were moved to where f32 has their bits. Times `format`, which is 1: V8 would build a constant anew at every use in a loop. */
// @ts-ignore: decorator
@inline function maskOf(op: Attention): v128 {
  return i32x4.splat(0x8fffe000 * op.format);
}

/** 2¹³ for lower halves and 0 for upper ones: a product with it is a shift of a number with its sign. Made of the mask, for the reason it is. */
// @ts-ignore: decorator
@inline function factorOf(mask: v128): v128 {
  return i32x4.shl(i32x4.shr_u(mask, 31), 13);
}

/** The lower halves of four words. */
// @ts-ignore: decorator
@inline function lowerHalves(words: v128, mask: v128, factor: v128): v128 {
  return v128.and(i32x4.dot_i16x8_s(words, factor), mask);
}

// @ts-ignore: decorator
@inline function upperHalves(words: v128, mask: v128): v128 {
  return v128.and(i32x4.shr_s(words, 3), mask);
}

/** Of values: the first four of the `i`th (a constant) eight numbers at p. Eight halves are four words, the last four in their upper parts. */
// @ts-ignore: decorator
@inline function lower<K>(p: usize, i: usize, mask: v128, factor: v128): v128 {
  return isInteger<K>() ? lowerHalves(v128.load(p + 16 * i), mask, factor) : v128.load(p + 32 * i);
}

/** The last four. */
// @ts-ignore: decorator
@inline function upper<K>(p: usize, i: usize, mask: v128): v128 {
  return isInteger<K>() ? upperHalves(v128.load(p + 16 * i), mask) : v128.load(p + 32 * i + 16);
}

/** Of keys: the `i`th (a constant) four numbers at p, or the first halves of four words. */
// @ts-ignore: decorator
@inline function first<K>(p: usize, i: usize, mask: v128, factor: v128): v128 {
  return isInteger<K>() ? lowerHalves(v128.load(p + 16 * i), mask, factor) : v128.load(p + 16 * i);
}

/** The second halves. */
// @ts-ignore: decorator
@inline function second(p: usize, i: usize, mask: v128): v128 {
  return upperHalves(v128.load(p + 16 * i), mask);
}

/** a, sums of four rows, and the products of one more column, or of two: s and t are q's. */
// @ts-ignore: decorator
@inline function scored<K>(s: v128, t: v128, p: usize, i: usize, mask: v128, factor: v128, a: v128): v128 {
  a = mulAdd(s, first<K>(p, i, mask, factor), a);
  return isInteger<K>() ? mulAdd(t, second(p, i, mask), a) : a;
}

/** Distance of two rows of values, in bytes: a panel has 32 columns, the last one what is left. */
// @ts-ignore: decorator
@inline function rowBytes<K>(op: Attention, c: i32): usize {
  return min(padded(op) - <usize>(c & ~31), 32) * sizeof<K>();
}

/** q, in what scores are made of, columns side by side; rows that are not there are 0. */
function begin<K>(op: Attention, h: i32, row: i32, at: usize): void {
  const d = op.headWidth, rows = rowsOf(op), factor = op.scale * <f32>1.4426950408889634 * bias<K>();
  const ldq = <usize>op.ldq << 2;
  let x = op.q + ((<usize>row * op.ldq + h * d) << 2), q = queriesOf(op, at), c = 0;
  memory.fill(q + (<usize>d * rows << 2), 0, (2 * padded(op) - d) * rows << 2); // columns that are not there, and sums
  if (rows == 4 && row + 4 <= op.T) {
    const by = f32x4.splat(factor);
    for (; c + 4 <= d; c += 4, x += 16, q += 64) {
      const a = f32x4.mul(v128.load(x), by), b = f32x4.mul(v128.load(x + ldq), by);
      transpose(a, b, f32x4.mul(v128.load(x + 2 * ldq), by), f32x4.mul(v128.load(x + 3 * ldq), by), q, 16);
    }
  }
  for (; c < d; c++, x += 4, q += rows << 2) {
    for (let r: usize = 0; r < rows; r++) store<f32>(q + (r << 2), row + <i32>r < op.T ? load<f32>(x + r * ldq) * factor : 0);
  }
}

/** Scores of what the tile's last row sees of the block of key `from`, and of a few more that nobody reads. */
function scores<K>(op: Attention, h: i32, row: i32, from: i32, at: usize, mask: v128): void {
  const d = op.headWidth, q = queriesOf(op, at), stride = strideOf(op.S), count = min(seen(op, min(row + 4, op.T) - 1) - from, BLOCK);
  const k = part<K>(op, op.keyTable, op.keyOffset, from / BLOCK, h), p = at + (<usize>from << 2);
  if (op.T > 1) {
    for (let i = 0; i < count; i += 8) score_4x8<K>(q, k + (<usize>i << 2), d, p + (<usize>i << 2), stride, mask);
  } else score_1x32<K>(q, k, d, p, mask);
}

/** Scores to exponentials. */
function weigh<K>(op: Attention, h: i32, row: i32, at: usize, table: usize): void {
  const rows = min(op.T - row, 4), stride = strideOf(op.S), end = seen(op, row + rows - 1) + BLOCK - 1 & -BLOCK;
  let inverses = inversesOf(op, at);
  for (let r = row; r < row + rows; r++, at += stride, inverses += 4) {
    const count = seen(op, r), total = exponentials(at, count, table);
    store<f32>(inverses, bias<K>() / total);
    if (wholeBlocks<K>(op)) for (let i = count + 3 & ~3; i < end; i += 4) v128.store(at + (<usize>i << 2), f32x4.splat(0));
    if (op.weights) keep(op.weights, op.T, op.S, h, r, at, count, <f32>1 / total);
  }
}

/** Adds the values that all rows of the tile see of the block of key `from`. */
function mix<K>(op: Attention, h: i32, row: i32, from: i32, at: usize, mask: v128): void {
  const d = op.headWidth, stride = strideOf(op.S), count = wholeBlocks<K>(op) ? BLOCK : min(seen(op, row) - from, BLOCK);
  let v = part<K>(op, op.valueTable, op.valueOffset, from / BLOCK, h), dst = sumsOf(op, at), c = 0;
  at += <usize>from << 2;
  if (op.T == 1) {
    for (; c + 24 < d; c += 32) {
      mix_1x32<K>(dst, at, v, count, mask);
      v += BLOCK * 32 * sizeof<K>(); dst += 128;
    }
    for (; c < d; c += 8) {
      mix_1x8<K>(dst, at, v, rowBytes<K>(op, c), count, mask);
      v += 8 * sizeof<K>(); dst += 32;
    }
  } else {
    for (; c < d; c += 8) {
      mix_4x8<K>(dst, at, stride, v, rowBytes<K>(op, c), count, mask);
      v += 8 * sizeof<K>(); dst += 128;
      if ((c & 31) == 24) v += <usize>(BLOCK - 1) * 32 * sizeof<K>();
    }
  }
}

/** Adds what only later rows of a tile see, and divides. */
function finish<K>(op: Attention, h: i32, row: i32, at: usize, mask: v128): void {
  const rows = min(op.T - row, 4), d = op.headWidth, step = rowsOf(op) << 5, first = seen(op, row);
  let sums = sumsOf(op, at), inverses = inversesOf(op, at), dst = op.dst + ((<usize>row * op.ldd + h * d) << 2);
  for (let r = row; r < row + rows; r++) {
    if (!inInt16<K>()) for (let key = first, end = seen(op, r); key < end; key++) addValues<K>(op, h, key, load<f32>(at + (<usize>key << 2)), sums, step, mask);
    divide(dst, sums, step, d, load<f32>(inverses));
    at += strideOf(op.S); sums += 32; inverses += 4; dst += <usize>op.ldd << 2;
  }
}

function addValues<K>(op: Attention, h: i32, key: i32, e: f32, sums: usize, step: usize, mask: v128): void {
  const factor = factorOf(mask);
  const v = part<K>(op, op.valueTable, op.valueOffset, key / BLOCK, h), s = f32x4.splat(e);
  for (let c = 0; c < op.headWidth; c += 8, sums += step) {
    const p = v + <usize>(c & ~31) * BLOCK * sizeof<K>() + <usize>(key % BLOCK) * rowBytes<K>(op, c) + <usize>(c & 31) * sizeof<K>();
    v128.store(sums, mulAdd(s, lower<K>(p, 0, mask, factor), v128.load(sums)));
    v128.store(sums, mulAdd(s, upper<K>(p, 0, mask), v128.load(sums, 16)), 16);
  }
}

function score_4x8<K>(q: usize, k: usize, d: i32, dst: usize, stride: usize, mask: v128): void {
  const factor = factorOf(mask);
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (let end = q + (<usize>d << 4); q < end; ) {
    let ka = first<K>(k, 0, mask, factor), kb = first<K>(k, 1, mask, factor), s = v128.load32_splat(q);
    a0 = mulAdd(s, ka, a0); b0 = mulAdd(s, kb, b0);
    s = v128.load32_splat(q, 4);
    a1 = mulAdd(s, ka, a1); b1 = mulAdd(s, kb, b1);
    s = v128.load32_splat(q, 8);
    a2 = mulAdd(s, ka, a2); b2 = mulAdd(s, kb, b2);
    s = v128.load32_splat(q, 12);
    a3 = mulAdd(s, ka, a3); b3 = mulAdd(s, kb, b3);
    if (isInteger<K>()) {
      q += 16;
      ka = second(k, 0, mask); kb = second(k, 1, mask); s = v128.load32_splat(q);
      a0 = mulAdd(s, ka, a0); b0 = mulAdd(s, kb, b0);
      s = v128.load32_splat(q, 4);
      a1 = mulAdd(s, ka, a1); b1 = mulAdd(s, kb, b1);
      s = v128.load32_splat(q, 8);
      a2 = mulAdd(s, ka, a2); b2 = mulAdd(s, kb, b2);
      s = v128.load32_splat(q, 12);
      a3 = mulAdd(s, ka, a3); b3 = mulAdd(s, kb, b3);
    }
    q += 16; k += 128;
  }
  v128.store(dst, a0); v128.store(dst, b0, 16);
  dst += stride;
  v128.store(dst, a1); v128.store(dst, b1, 16);
  dst += stride;
  v128.store(dst, a2); v128.store(dst, b2, 16);
  dst += stride;
  v128.store(dst, a3); v128.store(dst, b3, 16);
}

function mix_4x8<K>(dst: usize, p0: usize, stride: usize, v: usize, ldv: usize, count: i32, mask: v128): void {
  const factor = factorOf(mask);
  let p1 = p0 + stride, p2 = p1 + stride, p3 = p2 + stride;
  let a0 = v128.load(dst), b0 = v128.load(dst, 16), a1 = v128.load(dst, 32), b1 = v128.load(dst, 48);
  let a2 = v128.load(dst, 64), b2 = v128.load(dst, 80), a3 = v128.load(dst, 96), b3 = v128.load(dst, 112);
  for (let end = p0 + (<usize>count << 2); p0 < end; ) {
    const va = lower<K>(v, 0, mask, factor), vb = upper<K>(v, 0, mask);
    let s = v128.load32_splat(p0);
    a0 = mulAdd(s, va, a0); b0 = mulAdd(s, vb, b0);
    s = v128.load32_splat(p1);
    a1 = mulAdd(s, va, a1); b1 = mulAdd(s, vb, b1);
    s = v128.load32_splat(p2);
    a2 = mulAdd(s, va, a2); b2 = mulAdd(s, vb, b2);
    s = v128.load32_splat(p3);
    a3 = mulAdd(s, va, a3); b3 = mulAdd(s, vb, b3);
    p0 += 4; p1 += 4; p2 += 4; p3 += 4; v += ldv;
  }
  v128.store(dst, a0); v128.store(dst, b0, 16); v128.store(dst, a1, 32); v128.store(dst, b1, 48);
  v128.store(dst, a2, 64); v128.store(dst, b2, 80); v128.store(dst, a3, 96); v128.store(dst, b3, 112);
}

/** Enough sums under way to hide an addition's latency, and memory read from one address to the next: the processor fetches ahead. */
function score_1x32<K>(q: usize, k: usize, d: i32, dst: usize, mask: v128): void {
  const factor = factorOf(mask);
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  for (let end = q + (<usize>d << 2); q < end; q += columns<K>() << 2, k += 128) {
    const s = v128.load32_splat(q), t = isInteger<K>() ? v128.load32_splat(q, 4) : s;
    a0 = scored<K>(s, t, k, 0, mask, factor, a0); a1 = scored<K>(s, t, k, 1, mask, factor, a1); a2 = scored<K>(s, t, k, 2, mask, factor, a2); a3 = scored<K>(s, t, k, 3, mask, factor, a3);
    a4 = scored<K>(s, t, k, 4, mask, factor, a4); a5 = scored<K>(s, t, k, 5, mask, factor, a5); a6 = scored<K>(s, t, k, 6, mask, factor, a6); a7 = scored<K>(s, t, k, 7, mask, factor, a7);
  }
  v128.store(dst, a0); v128.store(dst, a1, 16); v128.store(dst, a2, 32); v128.store(dst, a3, 48);
  v128.store(dst, a4, 64); v128.store(dst, a5, 80); v128.store(dst, a6, 96); v128.store(dst, a7, 112);
}

function mix_1x32<K>(dst: usize, p: usize, v: usize, count: i32, mask: v128): void {
  const factor = factorOf(mask);
  let a0 = v128.load(dst), b0 = v128.load(dst, 16), a1 = v128.load(dst, 32), b1 = v128.load(dst, 48);
  let a2 = v128.load(dst, 64), b2 = v128.load(dst, 80), a3 = v128.load(dst, 96), b3 = v128.load(dst, 112);
  for (let end = p + (<usize>count << 2); p < end; p += 4) {
    const s = v128.load32_splat(p);
    a0 = mulAdd(s, lower<K>(v, 0, mask, factor), a0); b0 = mulAdd(s, upper<K>(v, 0, mask), b0);
    a1 = mulAdd(s, lower<K>(v, 1, mask, factor), a1); b1 = mulAdd(s, upper<K>(v, 1, mask), b1);
    a2 = mulAdd(s, lower<K>(v, 2, mask, factor), a2); b2 = mulAdd(s, upper<K>(v, 2, mask), b2);
    a3 = mulAdd(s, lower<K>(v, 3, mask, factor), a3); b3 = mulAdd(s, upper<K>(v, 3, mask), b3);
    v += 32 * sizeof<K>();
  }
  v128.store(dst, a0); v128.store(dst, b0, 16); v128.store(dst, a1, 32); v128.store(dst, b1, 48);
  v128.store(dst, a2, 64); v128.store(dst, b2, 80); v128.store(dst, a3, 96); v128.store(dst, b3, 112);
}

function mix_1x8<K>(dst: usize, p: usize, v: usize, ldv: usize, count: i32, mask: v128): void {
  const factor = factorOf(mask);
  let a = v128.load(dst), b = v128.load(dst, 16);
  for (let end = p + (<usize>count << 2); p < end; p += 4, v += ldv) {
    const s = v128.load32_splat(p);
    a = mulAdd(s, lower<K>(v, 0, mask, factor), a); b = mulAdd(s, upper<K>(v, 0, mask), b);
  }
  v128.store(dst, a); v128.store(dst, b, 16);
}

/**
 * The numbers of 2ˣ, which is 2ⁿ 2ᶠ with |f| ≤ ½ and 2ᶠ ≈ 1 + f P(f), P of degree 4, fitted for the least largest relative error (1.1e-7) by
 * reweighted least squares; with rounding it is within 4 ulp, and 1 for 0. Adding 1.5 · 2²³ rounds to n and leaves it in the low bits, for
 * halves with 112 more. They lie in memory since V8 would build literals anew at each use.
 */
function powersTable<K>(table: usize): void {
  store<f32>(table, MAGIC + (inHalves<K>() ? 112 : 0));
  store<f32>(table, 0.6931470036506653, 4); store<f32>(table, 0.24022242426872253, 8); store<f32>(table, 0.05550733581185341, 12); store<f32>(table, 0.009671512991189957, 16); store<f32>(table, 0.001326472731307149, 20);
  store<f32>(table, 1, 24);
  store<f32>(table, -126, 28); // below it are subnormal numbers, which become 0
}

// @ts-ignore: decorator
@inline function power(x: v128, magic: v128, p0: v128, p1: v128, p2: v128, p3: v128, p4: v128, one: v128, least: v128): v128 {
  const shifted = f32x4.add(x, magic), f = f32x4.sub(x, f32x4.sub(shifted, magic)), f2 = f32x4.mul(f, f);
  let p = mulAdd(p4, f, p3);
  p = mulAdd(p, f2, mulAdd(p2, f, p1));
  p = mulAdd(p, f2, mulAdd(p0, f, one));
  return v128.andnot(i32x4.add(p, i32x4.shl(shifted, 23)), f32x4.lt(x, least));
}

/** Of the first `count` scores the powers of 2 of their distance to the largest, in place; for halves times 2¹¹². There is room for whole vectors. @returns their sum */
function exponentials(p: usize, count: i32, table: usize): f32 {
  const end = p + (<usize>count << 2), rest = count & 3, whole = p + (<usize>(count & ~3) << 2), live = firstLanes(rest);
  const nothing = f32x4.splat(-Infinity);
  let a = nothing, b = a, c = a, d = a, i = p;
  for (; i + 64 <= whole; i += 64) {
    a = f32x4.pmax(a, v128.load(i)); b = f32x4.pmax(b, v128.load(i, 16)); c = f32x4.pmax(c, v128.load(i, 32)); d = f32x4.pmax(d, v128.load(i, 48));
  }
  for (; i < whole; i += 16) a = f32x4.pmax(a, v128.load(i));
  if (rest) b = f32x4.pmax(b, v128.bitselect(v128.load(whole), nothing, live));
  const highest = f32x4.splat(largest(f32x4.pmax(f32x4.pmax(a, b), f32x4.pmax(c, d))));
  const magic = v128.load32_splat(table), p0 = v128.load32_splat(table, 4), p1 = v128.load32_splat(table, 8), p2 = v128.load32_splat(table, 12);
  const p3 = v128.load32_splat(table, 16), p4 = v128.load32_splat(table, 20), one = v128.load32_splat(table, 24), least = v128.load32_splat(table, 28);
  let total = f32x4.splat(0);
  for (i = p; i < whole; i += 16) {
    const e = power(f32x4.sub(v128.load(i), highest), magic, p0, p1, p2, p3, p4, one, least);
    total = f32x4.add(total, e);
    v128.store(i, e);
  }
  if (i < end) {
    const e = v128.and(power(f32x4.sub(v128.load(i), highest), magic, p0, p1, p2, p3, p4, one, least), live);
    total = f32x4.add(total, e);
    v128.store(i, e);
  }
  return sum(total);
}

/** A row's probabilities, into weights [heads, T, S]. */
function keep(weights: usize, T: i32, S: i32, h: i32, row: i32, p: usize, count: i32, factor: f32): void {
  const dst = weights + ((<usize>h * T + row) * S << 2), bytes = <usize>count << 2;
  for (let at: usize = 0; at < bytes; at += 4) store<f32>(dst + at, load<f32>(p + at) * factor);
  memory.fill(dst + bytes, 0, (<usize>S << 2) - bytes);
}

/** A row of the result from its sums, whose eights are `step` bytes apart. */
function divide(dst: usize, sums: usize, step: usize, d: i32, inverse: f32): void {
  const by = f32x4.splat(inverse);
  for (let c = 0; c < d; c += 4) {
    const v = f32x4.mul(v128.load(sums + <usize>(c >> 3) * step + (<usize>(c & 4) << 2)), by), at = dst + (<usize>c << 2);
    if (c + 4 <= d) v128.store(at, v);
    else storePart(at, v, d - c);
  }
}
