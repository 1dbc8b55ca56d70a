/**
 * dst[T, heads · d] = softmax(q kᵀ · scale) v, head by head, as attention makes it, but each row sees all S rows, d ≤ 64, and products are of
 * int16, twice as many an instruction as of f32: for pictures, beside weights of whole numbers. Text stays in f32, since its rows
 * come one by one and wait for memory.
 *
 *   q[i] · scale → ±4095, times a scale a row        [⌈d/4⌉ · 2][4 rows][2 columns]   a tile
 *   k[s]         → ±8191, times a scale a row        [⌈S/8⌉][⌈d/4⌉ · 2][8 rows][2 columns]
 *   v[s]         → ±8191, times a scale a row        [⌈d/8⌉][⌈S/4⌉ · 2][8 columns][2 rows]
 *   e[i] · v's   → 0 … 4095, times a scale for SEEN rows seen   [⌈S/4⌉ · 2][4 rows][2 rows seen]   a tile
 *
 * All integers are exact: 64 · 4095 · 8191 < 2³¹, of d products a score and of SEEN products a sum, which then is added in f32, block after
 * block. What rounding costs is some 2⁻¹³ of the largest number of a row. A row's bits depend on no other, and are the same in every build.
 *
 * Threads share tiles of 4 rows of a head, and each lays keys and values of the heads it needs out in its scratch: the numbers of
 * 2ˣ [TABLE bytes], scales of k and v [2][⌈S/8⌉ · 8], k, v, then a tile's scores [4][stride], q, e, scales of q, 1 / Σ e, scales of e, and
 * sums [⌈d/8⌉][4][8].
 */
import { divide, exponentials, keep, powersTable, strideOf, TABLE } from "./attention";
import { inverseOf, nearestBy, scaleOf } from "./quantize";
import { AttentionI16, SEEN } from "./record";
import { share } from "./share";
import { dotAdd, largest, loadFour, mulAdd } from "./simd";

/** What q, and e with the scales of v, are rounded to; and k and v. */
const NARROW: f32 = 4095, WIDE: f32 = 8191;

export function attention_i16(op: AttentionI16, t: i32, n: i32): void {
  const tiles = (op.T + 3) >> 2, table = op.scratch + <usize>t * op.scratchBytes, to = share(op.heads * tiles, t + 1, n);
  const room = <usize>((op.S + 7) & ~7), kScales = table + TABLE, vScales = kScales + (room << 2), k = vScales + (room << 2);
  const v = k + room * columns(op) * 2, tile = v + ((<usize>op.headWidth + 7) & ~7) * pairs(op) * 4;
  powersTable<f32>(table);
  for (let i = share(op.heads * tiles, t, n), head = -1; i < to; i++) {
    if (head != i / tiles) {
      head = i / tiles;
      layKeys(op, head, k, kScales, table);
      layValues(op, head, v, vScales, table);
      factors(op, vScales, scalesOf(op, tile));
    }
    attend(op, head, i % tiles << 2, k, kScales, v, vScales, tile, table);
  }
}

/** Columns of q and k in int16. */
// @ts-ignore: decorator
@inline function columns(op: AttentionI16): usize {
  return (<usize>op.headWidth + 3) & ~3;
}

/** Pairs of rows of v in int16. */
// @ts-ignore: decorator
@inline function pairs(op: AttentionI16): usize {
  return <usize>((op.S + 3) >> 2) << 1;
}

// @ts-ignore: decorator
@inline function four(x: usize, count: i32): v128 {
  return count > 0 ? loadFour(x, count) : f32x4.splat(0);
}

/** The largest of `count` numbers, sign aside. */
function top(x: usize, count: i32): f32 {
  let size = f32x4.splat(0);
  for (; count > 0; count -= 4, x += 16) size = f32x4.pmax(size, f32x4.abs(four(x, count)));
  return largest(size);
}

/** `count` numbers as pairs of int16, `step` bytes from one to the next, zeros up to a multiple of 4. @returns their scale */
function lay(x: usize, count: i32, dst: usize, step: usize, limit: f32, table: usize): f32 {
  const most = top(x, count), inverse = f32x4.splat(inverseOf(most, limit)), magic = v128.load32_splat(table);
  for (; count > 0; count -= 4, x += 16, dst += 2 * step) {
    const whole = nearestBy(f32x4.mul(four(x, count), inverse), magic), v = i16x8.narrow_i32x4_s(whole, whole);
    v128.store32_lane(dst, v, 0); v128.store32_lane(dst + step, v, 1);
  }
  return scaleOf(most, limit);
}

function layKeys(op: AttentionI16, h: i32, dst: usize, scales: usize, table: usize): void {
  let x = op.k + (<usize>(h * op.headWidth) << 2);
  for (let s: usize = 0; s < <usize>op.S; s++, x += <usize>op.ldk << 2) {
    store<f32>(scales + (s << 2), lay(x, op.headWidth, dst + (s >> 3) * columns(op) * 16 + ((s & 7) << 2), 32, WIDE, table));
  }
}

/** Two rows at a time, a third and fourth that are not there as zeros. */
function layValues(op: AttentionI16, h: i32, dst: usize, scales: usize, table: usize): void {
  const d = op.headWidth, ldv = <usize>op.ldv << 2, strip = pairs(op) << 5, magic = v128.load32_splat(table);
  let x = op.v + (<usize>(h * d) << 2);
  for (let s = 0, end = <i32>pairs(op) << 1; s < end; s += 2, x += 2 * ldv, dst += 32, scales += 8) {
    const da = s < op.S ? d : 0, db = s + 1 < op.S ? d : 0, a = top(x, da), b = top(x + ldv, db);
    store<f32>(scales, scaleOf(a, WIDE)); store<f32>(scales, scaleOf(b, WIDE), 4);
    const ia = f32x4.splat(inverseOf(a, WIDE)), ib = f32x4.splat(inverseOf(b, WIDE));
    let at = x, to = dst;
    for (let c = 0; c < d; c += 8, at += 32, to += strip) {
      const va = i16x8.narrow_i32x4_s(nearestBy(f32x4.mul(four(at, da - c), ia), magic), nearestBy(f32x4.mul(four(at + 16, da - c - 4), ia), magic));
      const vb = i16x8.narrow_i32x4_s(nearestBy(f32x4.mul(four(at + ldv, db - c), ib), magic), nearestBy(f32x4.mul(four(at + ldv + 16, db - c - 4), ib), magic));
      v128.store(to, v128.shuffle<i16>(va, vb, 0, 8, 1, 9, 2, 10, 3, 11)); v128.store(to, v128.shuffle<i16>(va, vb, 4, 12, 5, 13, 6, 14, 7, 15), 16);
    }
  }
}

/** Where the scales of e are in a tile's scratch. */
// @ts-ignore: decorator
@inline function scalesOf(op: AttentionI16, tile: usize): usize {
  return tile + 4 * strideOf(op.S) + (columns(op) << 3) + (pairs(op) << 4) + 32;
}

/** e is 1 at most, so its scale times v's is SEEN rows' largest of v's: scales of v become what e is multiplied by. */
function factors(op: AttentionI16, vScales: usize, eScales: usize): void {
  for (let s = 0; s < op.S; s += SEEN, eScales += 4, vScales += SEEN << 2) {
    const count = min(op.S - s, SEEN), most = top(vScales, count), inverse = f32x4.splat(inverseOf(most, NARROW));
    store<f32>(eScales, scaleOf(most, NARROW));
    for (let i = 0; i < count; i += 4) v128.store(vScales + (<usize>i << 2), f32x4.mul(v128.load(vScales + (<usize>i << 2)), inverse));
  }
}

/** A tile: rows row … row + 3 of head h, those that are there. */
function attend(op: AttentionI16, h: i32, row: i32, k: usize, kScales: usize, v: usize, vScales: usize, scores: usize, table: usize): void {
  const d = op.headWidth, S = op.S, rows = min(op.T - row, 4), stride = strideOf(op.S), panel = columns(op) << 4;
  const q = scores + 4 * stride, e = q + (columns(op) << 3), qScales = e + (pairs(op) << 4), inverses = qScales + 16, eScales = scalesOf(op, scores);
  const sums = eScales + ((<usize>((S + SEEN - 1) / SEEN << 2) + 63) & ~63), ldq = <usize>op.ldq << 2, strip = pairs(op) << 5;
  let x = op.q + ((<usize>row * op.ldq + h * d) << 2);
  const magic = v128.load32_splat(table);
  if (rows < 4) {
    memory.fill(q, 0, columns(op) << 3);
    memory.fill(e, 0, pairs(op) << 4);
    memory.fill(qScales, 0, 32); // and 1 / Σ e
  }
  for (let r: usize = 0; r < <usize>rows; r++, x += ldq) {
    store<f32>(qScales + (r << 2), lay(x, d, q + (r << 2), 16, NARROW, table) * (op.scale * <f32>1.4426950408889634));
  }

  for (let s = 0, p = scores; s < S; s += 8, p += 32, k += panel, kScales += 32) {
    products(q, k, panel, p, stride, qScales, v128.load(kScales), v128.load(kScales, 16), false);
  }

  for (let r: usize = 0; r < <usize>rows; r++) {
    const p = scores + r * stride, total = exponentials(p, S, table);
    store<f32>(inverses + (r << 2), <f32>1 / total);
    if (op.weights) keep(op.weights, op.T, S, h, row + <i32>r, p, S, <f32>1 / total);
    let to = e + (r << 2);
    for (let s: usize = 0; s < pairs(op) << 3; s += 16, to += 32) {
      const whole = nearestBy(f32x4.mul(v128.load(p + s), v128.load(vScales + s)), magic), v = i16x8.narrow_i32x4_s(whole, whole);
      v128.store32_lane(to, v, 0); v128.store32_lane(to, v, 1, 16);
    }
  }

  for (let c = 0, to = sums; c < d; c += 8, to += 128, v += strip) {
    memory.fill(to, 0, 128);
    for (let s = 0; s < S; s += SEEN) {
      const at = <usize>s << 4, end = min(at + (SEEN << 4), strip), scale = v128.load32_splat(eScales + (<usize>(s / SEEN) << 2));
      products(e + (at >> 1), v + at, end - at, to, 32, inverses, scale, scale, true);
    }
  }
  let dst = op.dst + ((<usize>row * op.ldd + h * d) << 2);
  for (let r: usize = 0; r < <usize>rows; r++, dst += <usize>op.ldd << 2) divide(dst, sums + (r << 5), 128, d, 1);
}

/** Of x [steps][4][2] and `bytes` of w [steps][8][2] the 4 × 8 sums, times a row's scale and a or b, set or (a constant) added to dst. */
// @ts-ignore: decorator
@inline function products(x: usize, w: usize, bytes: usize, dst: usize, step: usize, scales: usize, a: v128, b: v128, more: bool): void {
  let a0 = i32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (const end = w + bytes; w < end; ) {
    const va = v128.load(w), vb = v128.load(w, 16);
    let s = v128.load32_splat(x);
    a0 = dotAdd(s, va, a0); b0 = dotAdd(s, vb, b0);
    s = v128.load32_splat(x, 4);
    a1 = dotAdd(s, va, a1); b1 = dotAdd(s, vb, b1);
    s = v128.load32_splat(x, 8);
    a2 = dotAdd(s, va, a2); b2 = dotAdd(s, vb, b2);
    s = v128.load32_splat(x, 12);
    a3 = dotAdd(s, va, a3); b3 = dotAdd(s, vb, b3);
    x += 16; w += 32;
  }
  put(dst, a0, b0, v128.load32_splat(scales), a, b, more);
  put(dst + step, a1, b1, v128.load32_splat(scales, 4), a, b, more);
  put(dst + 2 * step, a2, b2, v128.load32_splat(scales, 8), a, b, more);
  put(dst + 3 * step, a3, b3, v128.load32_splat(scales, 12), a, b, more);
}

// @ts-ignore: decorator
@inline function put(dst: usize, u: v128, v: v128, by: v128, a: v128, b: v128, more: bool): void {
  u = f32x4.convert_i32x4_s(u); v = f32x4.convert_i32x4_s(v);
  v128.store(dst, more ? mulAdd(u, f32x4.mul(by, a), v128.load(dst)) : f32x4.mul(u, f32x4.mul(by, a)));
  v128.store(dst, more ? mulAdd(v, f32x4.mul(by, b), v128.load(dst, 16)) : f32x4.mul(v, f32x4.mul(by, b)), 16);
}
