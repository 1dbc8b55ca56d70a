/**
 * dst[T, heads · d] = softmax(q kᵀ · scale) v, head by head. Row i sees the rows 0 … S − T + i when causal, else all S.
 * weights [heads, T, S] gets the probabilities (0 where a row does not see), unless its address is 0.
 *
 * Threads share tiles of 4 rows of a head, in order: a head's keys stay in the cache. A tile's scores lie in the thread's
 * scratch, 4 rows of S rounded up to 8: scratchBytes ≥ 16 · (S rounded up to 8).
 *
 *                   8 keys                           8 columns
 *             ┌───────┬───────┐  k: panels         ┌───────┬───────┐  v: row by row
 *   q[i,c] ─► │  a0   │  b0   │  [S/8][D][8]  p ─► │  a0   │  b0   │  [S][ldv]
 *   …         │  …    │  …    │               …    │  …    │  …    │
 * q[i+3,c] ─► │  a3   │  b3   │                    │  a3   │  b3   │
 *             └───────┴───────┘                    └───────┴───────┘
 *
 * A row's sums run over c, or over the rows it sees, from 0 upward, whatever the tile: its bits depend on itself alone. No fma:
 * the same bits in every build.
 */
import { Attention, BLOCK } from "./record";
import { share } from "./share";
import { exp, firstLanes, largest, mulAdd, sum } from "./simd";

export function attention(op: Attention, t: i32, n: i32): void {
  const tiles = (op.T + 3) >> 2, tasks = op.heads * tiles;
  const scratch = op.scratch + <usize>t * op.scratchBytes, stride = <usize>((op.S + 7) & ~7) << 2;
  const to = share(tasks, t + 1, n);
  for (let i = share(tasks, t, n); i < to; i++) {
    const h = i / tiles, row = (i % tiles) << 2, rows = min(4, op.T - row);
    scores(op, h, row, rows, scratch, stride);
    for (let r = 0; r < rows; r++) {
      softmax(scratch + <usize>r * stride, seen(op, row + r));
      if (op.weights) keep(op, h, row + r, scratch + <usize>r * stride);
    }
    mix(op, h, row, rows, scratch, stride);
  }
}

/** How many rows row `row` sees. */
function seen(op: Attention, row: i32): i32 {
  return op.causal ? op.S - op.T + row + 1 : op.S;
}

function keep(op: Attention, h: i32, row: i32, p: usize): void {
  const dst = op.weights + ((<usize>h * op.T + row) * op.S << 2), bytes = <usize>seen(op, row) << 2;
  memory.copy(dst, p, bytes);
  memory.fill(dst + bytes, 0, (<usize>op.S << 2) - bytes);
}

/** Scores of all panels that the last of the rows sees into; what lies beyond a row's own is never read. */
function scores(op: Attention, h: i32, row: i32, rows: i32, scratch: usize, stride: usize): void {
  const d = op.headWidth, ldq = <usize>op.ldq << 2;
  const q = op.q + ((<usize>row * op.ldq + h * d) << 2);
  const end = seen(op, row + rows - 1);
  for (let key = 0; key < end; key += 8, scratch += 32) {
    const block = <usize>load<u32>(op.keyTable + (<usize>(key / BLOCK) << 2)) + op.keyOffset;
    const keys = block + ((<usize>(key % BLOCK >> 3) * op.D + h * d) << 5);
    if (rows == 4) score_4x8(q, ldq, keys, d, op.scale, scratch, stride);
    else for (let r: usize = 0; r < <usize>rows; r++) score_1x8(q + r * ldq, keys, d, op.scale, scratch + r * stride);
  }
}

function score_4x8(x0: usize, ldq: usize, k: usize, d: i32, scale: f32, dst: usize, stride: usize): void {
  let x1 = x0 + ldq, x2 = x1 + ldq, x3 = x2 + ldq;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (let end = x0 + (<usize>d << 2); x0 < end; ) {
    const ka = v128.load(k), kb = v128.load(k, 16);
    let s = v128.load32_splat(x0);
    a0 = mulAdd(s, ka, a0); b0 = mulAdd(s, kb, b0);
    s = v128.load32_splat(x1);
    a1 = mulAdd(s, ka, a1); b1 = mulAdd(s, kb, b1);
    s = v128.load32_splat(x2);
    a2 = mulAdd(s, ka, a2); b2 = mulAdd(s, kb, b2);
    s = v128.load32_splat(x3);
    a3 = mulAdd(s, ka, a3); b3 = mulAdd(s, kb, b3);
    x0 += 4; x1 += 4; x2 += 4; x3 += 4; k += 32;
  }
  const factor = f32x4.splat(scale);
  v128.store(dst, f32x4.mul(a0, factor)); v128.store(dst, f32x4.mul(b0, factor), 16);
  dst += stride;
  v128.store(dst, f32x4.mul(a1, factor)); v128.store(dst, f32x4.mul(b1, factor), 16);
  dst += stride;
  v128.store(dst, f32x4.mul(a2, factor)); v128.store(dst, f32x4.mul(b2, factor), 16);
  dst += stride;
  v128.store(dst, f32x4.mul(a3, factor)); v128.store(dst, f32x4.mul(b3, factor), 16);
}

function score_1x8(x: usize, k: usize, d: i32, scale: f32, dst: usize): void {
  let a = f32x4.splat(0), b = a;
  for (let end = x + (<usize>d << 2); x < end; x += 4, k += 32) {
    const s = v128.load32_splat(x);
    a = mulAdd(s, v128.load(k), a); b = mulAdd(s, v128.load(k, 16), b);
  }
  const factor = f32x4.splat(scale);
  v128.store(dst, f32x4.mul(a, factor)); v128.store(dst, f32x4.mul(b, factor), 16);
}

/** In place, over the first `count` numbers. There is room for whole vectors. */
function softmax(p: usize, count: i32): void {
  const end = p + (<usize>count << 2), rest = count & 3, whole = p + (<usize>(count & ~3) << 2), live = firstLanes(rest);
  const nothing = f32x4.splat(-Infinity);
  let top = nothing;
  for (let i = p; i < whole; i += 16) top = f32x4.pmax(top, v128.load(i));
  if (rest) top = f32x4.pmax(top, v128.bitselect(v128.load(whole), nothing, live));
  const highest = f32x4.splat(largest(top));
  let total = f32x4.splat(0);
  for (let i = p; i < end; i += 16) {
    let e = exp(f32x4.sub(v128.load(i), highest));
    if (i == whole) e = v128.and(e, live);
    v128.store(i, e);
    total = f32x4.add(total, e);
  }
  const all = f32x4.splat(sum(total));
  for (let i = p; i < end; i += 16) v128.store(i, f32x4.div(v128.load(i), all));
}

/** dst = the rows of v, weighted, block by block. Four rows go together as far as the first of them sees, then each by itself. */
function mix(op: Attention, h: i32, row: i32, rows: i32, p: usize, stride: usize): void {
  const d = op.headWidth, ldd = <usize>op.ldd << 2, ldv = <usize>op.ldv << 2;
  const dst = op.dst + ((<usize>row * op.ldd + h * d) << 2);
  for (let r: usize = 0; r < <usize>rows; r++) memory.fill(dst + r * ldd, 0, <usize>d << 2);
  const together = rows == 4 ? seen(op, row) : 0, end = seen(op, row + rows - 1);
  for (let from = 0; from < end; from += BLOCK, p += BLOCK << 2) {
    const v = <usize>load<u32>(op.valueTable + (<usize>(from / BLOCK) << 2)) + op.valueOffset + (<usize>(h * d) << 2);
    const common = max(min(together - from, BLOCK), 0);
    if (common) mix_4(dst, ldd, p, stride, v, ldv, common, d);
    for (let r = 0; r < rows; r++) {
      const count = min(seen(op, row + r) - from, BLOCK) - common;
      if (count > 0) mix_1(dst + <usize>r * ldd, p + <usize>r * stride + (<usize>common << 2), v + <usize>common * ldv, ldv, count, d);
    }
  }
}

function mix_4(dst: usize, ldd: usize, p: usize, stride: usize, v: usize, ldv: usize, count: i32, d: i32): void {
  let c = 0;
  for (; c + 8 <= d; c += 8) mix_4x8(dst + (<usize>c << 2), ldd, p, stride, v + (<usize>c << 2), ldv, count);
  for (let r = 0; r < 4 && c < d; r++, dst += ldd, p += stride) mixRest(dst, p, v, ldv, count, c, d);
}

function mix_4x8(dst: usize, ldd: usize, p0: usize, stride: usize, v: usize, ldv: usize, count: i32): void {
  let p1 = p0 + stride, p2 = p1 + stride, p3 = p2 + stride;
  const dst1 = dst + ldd, dst2 = dst1 + ldd, dst3 = dst2 + ldd;
  let a0 = v128.load(dst), b0 = v128.load(dst, 16), a1 = v128.load(dst1), b1 = v128.load(dst1, 16);
  let a2 = v128.load(dst2), b2 = v128.load(dst2, 16), a3 = v128.load(dst3), b3 = v128.load(dst3, 16);
  for (let end = p0 + (<usize>count << 2); p0 < end; ) {
    const va = v128.load(v), vb = v128.load(v, 16);
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
  v128.store(dst, a0); v128.store(dst, b0, 16);
  v128.store(dst1, a1); v128.store(dst1, b1, 16);
  v128.store(dst2, a2); v128.store(dst2, b2, 16);
  v128.store(dst3, a3); v128.store(dst3, b3, 16);
}

function mix_1(dst: usize, p: usize, v: usize, ldv: usize, count: i32, d: i32): void {
  let c = 0;
  for (; c + 16 <= d; c += 16) mix_1x16(dst + (<usize>c << 2), p, v + (<usize>c << 2), ldv, count);
  if (c + 8 <= d) {
    mix_1x8(dst + (<usize>c << 2), p, v + (<usize>c << 2), ldv, count);
    c += 8;
  }
  if (c < d) mixRest(dst, p, v, ldv, count, c, d);
}

function mix_1x16(dst: usize, p: usize, v: usize, ldv: usize, count: i32): void {
  let a0 = v128.load(dst), a1 = v128.load(dst, 16), a2 = v128.load(dst, 32), a3 = v128.load(dst, 48);
  for (let end = p + (<usize>count << 2); p < end; p += 4, v += ldv) {
    const s = v128.load32_splat(p);
    a0 = mulAdd(s, v128.load(v), a0); a1 = mulAdd(s, v128.load(v, 16), a1);
    a2 = mulAdd(s, v128.load(v, 32), a2); a3 = mulAdd(s, v128.load(v, 48), a3);
  }
  v128.store(dst, a0); v128.store(dst, a1, 16); v128.store(dst, a2, 32); v128.store(dst, a3, 48);
}

function mix_1x8(dst: usize, p: usize, v: usize, ldv: usize, count: i32): void {
  let a = v128.load(dst), b = v128.load(dst, 16);
  for (let end = p + (<usize>count << 2); p < end; p += 4, v += ldv) {
    const s = v128.load32_splat(p);
    a = mulAdd(s, v128.load(v), a); b = mulAdd(s, v128.load(v, 16), b);
  }
  v128.store(dst, a); v128.store(dst, b, 16);
}

/** Columns c … d − 1, fewer than 8, one by one: the next head's begin behind them. */
function mixRest(dst: usize, p: usize, v: usize, ldv: usize, count: i32, c: i32, d: i32): void {
  for (; c < d; c++) {
    const at = <usize>c << 2;
    let total = load<f32>(dst + at);
    for (let j: usize = 0; j < <usize>count; j++) total += load<f32>(p + (j << 2)) * load<f32>(v + j * ldv + at);
    store<f32>(dst + at, total);
  }
}
