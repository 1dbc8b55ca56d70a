/**
 * attention's steps where keys and values are int16: its products are too, twice as many an instruction as of f32, and nothing is widened.
 *
 *   q[i] · scale → ±5792, times a scale a row             [⌈d/2⌉][4 rows or 1][2 columns]     a tile
 *   k[s]         → ±5792, times a scale a row             [⌈d/2⌉][BLOCK][2 columns]           store.ts
 *   v[s]         → ±8191, times a scale a row             [⌈d/32⌉][BLOCK/2][32 columns][2 rows]
 *   e[i] · v's   → 0 … 8191, times a scale for each block [BLOCK/2][4 rows or 1][2 rows seen] a thread
 *
 *                  8 keys, or columns of v
 *              ┌───────┬───────┐
 *   q[i]   ──► │  a0   │  b0   │  a pair of columns of q and k, or of rows seen of e and v, is a step; for a row by itself
 *    …         │  …    │  …    │  32 keys, or columns, a step
 *   q[i+3] ──► │  a3   │  b3   │
 *              └───────┴───────┘
 *
 * Sums of integers are exact: 64 · 5792 · 5792 < 2³¹ of a score's d ≤ 64 products, 32 · 8191 · 8191 < 2³¹ of a block's; blocks are added in f32, in
 * their order. The scale of e is of what this row sees of the block, so that a row's bits depend on no other. What it does not see has
 * an e of 0: whatever number is there adds nothing, and whatever scale counts for nothing. A row with NaN has a scale of NaN, and makes NaN of the
 * rows that see it, in its head.
 */
import { inversesOf, padded, part, queriesOf, rowsOf, seen, strideOf, sumsOf } from "./attention";
import { highest, layFour, layRow, rounded, VALUE } from "./int16";
import { inverseOf, scaleOf } from "./quantize";
import { Attention, BLOCK } from "./record";
import { dotAdd, kept, MAGIC, mulAdd, transpose } from "./simd";

/** Bytes of a block's scales, in front of its numbers. */
const SCALES: usize = BLOCK << 2;

/** Where a tile's scales of q are, and those of e in a block. */
// @ts-ignore: decorator
@inline function scalesOf(op: Attention, at: usize): usize {
  return inversesOf(op, at) + (rowsOf(op) << 2);
}

// @ts-ignore: decorator
@inline function blockScalesOf(op: Attention, at: usize): usize {
  return inversesOf(op, at) + (rowsOf(op) << 3);
}

/** q in int16, and in what scores are made of. */
export function begin_i16(op: Attention, h: i32, row: i32, at: usize): void {
  const d = op.headWidth, rows = rowsOf(op), ldq = <usize>op.ldq << 2, q = queriesOf(op, at), scales = scalesOf(op, at), magic = kept(op, MAGIC);
  const x = op.q + ((<usize>row * op.ldq + h * d) << 2), factor = op.scale * <f32>1.4426950408889634;
  memory.fill(sumsOf(op, at), 0, padded(op) * rows << 2);
  if (rows == 4 && row + 4 <= op.T) layFour(q, 16, scales, x, ldq, d, magic);
  else for (let r: usize = 0, there = min(<usize>(op.T - row), rows); r < there; r++) {
    store<f32>(scales + (r << 2), layRow(q + (r << 2), rows << 2, x + r * ldq, d, magic));
  }
  for (let r: usize = 0; r < rows; r++) store<f32>(scales + (r << 2), load<f32>(scales + (r << 2)) * factor);
}

/** Scores of what the tile's last row sees of the block of key `from`, and of a few more that nobody reads. */
export function scores_i16(op: Attention, h: i32, row: i32, from: i32, at: usize): void {
  const q = queriesOf(op, at), scales = scalesOf(op, at), stride = strideOf(op.S), count = min(seen(op, min(row + 4, op.T) - 1) - from, BLOCK);
  const k = part<i16>(op, op.keyTable, op.keyOffset, from / BLOCK, h), p = at + (<usize>from << 2), steps = <usize>(op.headWidth + 1) >> 1;
  if (op.T > 1) {
    for (let i: usize = 0, end = <usize>max(count, 0) << 2; i < end; i += 32) {
      products_4x8(q, k + SCALES + i, SCALES, steps, p + i, stride, scales, v128.load(k + i), v128.load(k + i, 16), false);
    }
  } else products_1x32(q, k + SCALES, steps, p, v128.load32_splat(scales), k, false);
}

/** Adds what the tile's rows see of the values of the block of key `from`, each what it sees. weights: room for e in int16. */
export function mix_i16(op: Attention, h: i32, row: i32, from: i32, at: usize, weights: usize): void {
  const d = op.headWidth, stride = strideOf(op.S), scales = blockScalesOf(op, at), magic = kept(op, MAGIC), count = min(seen(op, min(row + 4, op.T) - 1) - from, BLOCK);
  let v = part<i16>(op, op.valueTable, op.valueOffset, from / BLOCK, h), dst = sumsOf(op, at), c = 0;
  if (count <= 0) return;
  const e = at + (<usize>from << 2), sees = seen(op, row) - from, i0 = weighted(e, v, scales, sees);
  if (op.T == 1) {
    for (let i: usize = 0; i < 64; i += 16) v128.store(weights + i, rounded(v128.load(e + 2 * i), v128.load(e + 2 * i, 16), i0, magic));
    const scale = v128.load32_splat(scales);
    v += SCALES;
    for (; c + 24 < d; c += 32, v += BLOCK * 64, dst += 128) products_1x32(weights, v, BLOCK / 2, dst, scale, 0, true);
    for (; c < d; c += 8, v += 32, dst += 32) mix_1x8(weights, v, pairBytes(op, c), dst, scale);
  } else {
    const more = op.causal ? 1 : 0, e1 = e + stride, e2 = e1 + stride, e3 = e2 + stride, i1 = weighted(e1, v, scales + 4, sees + more);
    const i2 = weighted(e2, v, scales + 8, sees + 2 * more), i3 = weighted(e3, v, scales + 12, sees + 3 * more);
    for (let i: usize = 0; i < 128; i += 32) {
      transpose(
        rounded(v128.load(e + i), v128.load(e + i, 16), i0, magic), rounded(v128.load(e1 + i), v128.load(e1 + i, 16), i1, magic),
        rounded(v128.load(e2 + i), v128.load(e2 + i, 16), i2, magic), rounded(v128.load(e3 + i), v128.load(e3 + i, 16), i3, magic), weights + 2 * i, 16,
      );
    }
    const pairs = <usize>(count + 1) >> 1;
    v += SCALES;
    for (; c < d; c += 8, v += 32, dst += 128) {
      products_4x8(weights, v, pairBytes(op, c), pairs, dst, 32, scales, magic, magic, true);
      if ((c & 31) == 24) v += (BLOCK / 2 - 1) * 128;
    }
  }
}

/** Distance of two pairs of rows of values, in bytes: a panel has 32 columns, the last one what is left. */
// @ts-ignore: decorator
@inline function pairBytes(op: Attention, c: i32): usize {
  return min(padded(op) - <usize>(c & ~31), 32) << 2;
}

/**
 * A row's e of a block, of which it sees so many, in place times the scales of values; to `scale` what they will be times in int16. @returns the
 * inverse of that
 */
function weighted(e: usize, scales: usize, scale: usize, sees: i32): v128 {
  const top = highest(sees >= BLOCK ? times(e, scales, true) : times(e, scales, false));
  store<f32>(scale, scaleOf(top, VALUE));
  return f32x4.splat(inverseOf(top, VALUE));
}

/** Where not all (a constant) are seen, an e of 0 stays it. @returns the largest of each lane */
// @ts-ignore: decorator
@inline function times(e: usize, scales: usize, all: bool): v128 {
  const nothing = i32x4.splat(0);
  let most = nothing;
  for (const end = e + (BLOCK << 2); e < end; e += 64, scales += 64) {
    const a = timesFour(e, scales, all, nothing), b = timesFour(e + 16, scales + 16, all, nothing);
    const c = timesFour(e + 32, scales + 32, all, nothing), d = timesFour(e + 48, scales + 48, all, nothing);
    most = i32x4.max_u(most, i32x4.max_u(i32x4.max_u(a, b), i32x4.max_u(c, d)));
  }
  return most;
}

// @ts-ignore: decorator
@inline function timesFour(e: usize, scales: usize, all: bool, nothing: v128): v128 {
  const v = v128.load(e), product = f32x4.mul(v, v128.load(scales)), kept = all ? product : v128.and(product, f32x4.ne(v, nothing));
  v128.store(e, kept);
  return kept;
}

/** Of x [steps][4][2] and w, 8 pairs of each step, `bytes` apart, the 4 × 8 sums times a row's scale: and a or b, or (a constant) added to dst. */
// @ts-ignore: decorator
@inline function products_4x8(x: usize, w: usize, bytes: usize, steps: usize, dst: usize, stride: usize, scales: usize, a: v128, b: v128, more: bool): void {
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (const end = x + (steps << 4); x < end; x += 16, w += bytes) {
    const wa = v128.load(w), wb = v128.load(w, 16);
    let s = v128.load32_splat(x);
    a0 = dotAdd(s, wa, a0); b0 = dotAdd(s, wb, b0);
    s = v128.load32_splat(x, 4);
    a1 = dotAdd(s, wa, a1); b1 = dotAdd(s, wb, b1);
    s = v128.load32_splat(x, 8);
    a2 = dotAdd(s, wa, a2); b2 = dotAdd(s, wb, b2);
    s = v128.load32_splat(x, 12);
    a3 = dotAdd(s, wa, a3); b3 = dotAdd(s, wb, b3);
  }
  let s = v128.load32_splat(scales);
  put(dst, a0, s, a, more); put(dst + 16, b0, s, b, more);
  dst += stride; s = v128.load32_splat(scales, 4);
  put(dst, a1, s, a, more); put(dst + 16, b1, s, b, more);
  dst += stride; s = v128.load32_splat(scales, 8);
  put(dst, a2, s, a, more); put(dst + 16, b2, s, b, more);
  dst += stride; s = v128.load32_splat(scales, 12);
  put(dst, a3, s, a, more); put(dst + 16, b3, s, b, more);
}

/** Of x [steps][2] and w [steps][32][2] the 32 sums times `scale`: and what is at `others`, or (a constant) added to dst. */
// @ts-ignore: decorator
@inline function products_1x32(x: usize, w: usize, steps: usize, dst: usize, scale: v128, others: usize, more: bool): void {
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  for (const end = x + (steps << 2); x < end; x += 4, w += 128) {
    const s = v128.load32_splat(x);
    a0 = dotAdd(s, v128.load(w), a0); a1 = dotAdd(s, v128.load(w, 16), a1); a2 = dotAdd(s, v128.load(w, 32), a2); a3 = dotAdd(s, v128.load(w, 48), a3);
    a4 = dotAdd(s, v128.load(w, 64), a4); a5 = dotAdd(s, v128.load(w, 80), a5); a6 = dotAdd(s, v128.load(w, 96), a6); a7 = dotAdd(s, v128.load(w, 112), a7);
  }
  putBy(dst, 0, a0, scale, others, more); putBy(dst, 16, a1, scale, others, more); putBy(dst, 32, a2, scale, others, more); putBy(dst, 48, a3, scale, others, more);
  putBy(dst, 64, a4, scale, others, more); putBy(dst, 80, a5, scale, others, more); putBy(dst, 96, a6, scale, others, more); putBy(dst, 112, a7, scale, others, more);
}

// @ts-ignore: decorator
@inline function putBy(dst: usize, i: usize, sums: v128, scale: v128, others: usize, more: bool): void {
  put(dst + i, sums, scale, more ? scale : v128.load(others + i), more);
}

function mix_1x8(x: usize, w: usize, bytes: usize, dst: usize, scale: v128): void {
  let a = i32x4.splat(0), b = a;
  for (const end = x + (BLOCK << 1); x < end; x += 4, w += bytes) {
    const s = v128.load32_splat(x);
    a = dotAdd(s, v128.load(w), a); b = dotAdd(s, v128.load(w, 16), b);
  }
  put(dst, a, scale, a, true); put(dst + 16, b, scale, b, true);
}

// @ts-ignore: decorator
@inline function put(dst: usize, sums: v128, scale: v128, other: v128, more: bool): void {
  const v = f32x4.convert_i32x4_s(sums);
  v128.store(dst, more ? mulAdd(v, scale, v128.load(dst)) : f32x4.mul(v, f32x4.mul(scale, other)));
}
