/**
 * How an operation is written down: 24 words, the first of which says which operation it is. One class a layout; the host
 * writes the same words in the same order (src/graph/record.ts; test/graph/record.test.ts compares the two).
 *
 * Addresses (usize) and sizes are 32 bits wide. `ldx` is the distance between two rows of x, in elements. An address of 0 means "none".
 * M rows, K inputs, N outputs, D width, T rows now, S rows seen, d head width (`headWidth`).
 *
 * The last word is not 0 where the next record needs nothing of this one, and neither writes what the other reads or writes: a thread
 * goes on to it without waiting for the others.
 */

export const RECORD_BYTES: usize = 96;

/** Inputs of a scale in weights and activations of whole numbers (matmul_i8.ts, matmul_w8a8.ts). */
export const GROUP: i32 = 128;
/** Inputs of a share in 4-bit weights (matmul_i4.ts). */
export const SHARED: i32 = 32;
/** Bytes of a matmul's scratch for each thread (rows_i16.ts, rows_f32.ts). */
export const SCRATCH: usize = 17408;
/** Bytes of a group of eight rows of int16 in quarters (rows_i16.ts). */
export const EIGHT: usize = 3584;
/** Of M rows, how many are in none of the `eights`: the first ones. */
export function singles(M: i32, eights: i32): i32 {
  return max(M - (eights << 3), 0);
}

/** Key/value rows of a cache block (attention.ts): as few as one row meets at a time, since those of the last block that are not there are read too. */
export const BLOCK: i32 = 32;

export namespace Kind {
  export const matmul_f32: u32 = 1;
  export const matmul_f16: u32 = 2;
  export const matmul_i8: u32 = 3;
  export const quantize: u32 = 4;
  export const layernorm: u32 = 5;
  export const l2normalize: u32 = 6;
  export const embed: u32 = 7;
  export const patches: u32 = 8;
  export const copy: u32 = 9;
  export const store_keys: u32 = 10;
  export const store_values: u32 = 11;
  export const attention: u32 = 12;
  export const argmax: u32 = 13;
  export const pack: u32 = 14;
  export const matmul_i4: u32 = 15;
  export const matmul_w8a8: u32 = 16;
  export const quantize_i8: u32 = 17;
  export const limit: u32 = 32;
}

/** Formats of packed weights, and of keys and values: f32, f16, i16. */
export namespace Format {
  export const f32: u32 = 0;
  export const f16: u32 = 1;
  export const i8: u32 = 2;
  /** Not packed: a plain row of f32 (norms, biases, positions). */
  export const rows: u32 = 3;
  export const i4: u32 = 4;
  export const w8a8: u32 = 5;
  /** Keys and values alone. */
  export const i16: u32 = 6;
}

/** Types of a checkpoint's numbers. */
export namespace Type {
  export const F32: u32 = 0;
  export const F16: u32 = 1;
  export const BF16: u32 = 2;
}

/** What a limit is the limit of (limit.ts). */
export namespace Limits {
  export const reading: u32 = 0;
  export const int16: u32 = 1;
  export const float32: u32 = 2;
  export const int8: u32 = 3;
}

@unmanaged export class Record { kind: u32; }

/** Bytes to the two words that count pieces that were taken (share.ts): 0 when the host writes the record. */
export const TAKEN: usize = RECORD_BYTES - 12;

// @ts-ignore: decorator
@inline export function goesOn(list: usize): bool {
  return load<u32>(list, RECORD_BYTES - 4) != 0;
}

/**
 * dst[M, N] = act(x · wᵀ + bias) + residual. For int8 and 4 bits: x is int16 rows of quantize, with their scales, the last of them in as many
 * `eights` as it made; for w8a8 int8 rows of quantize_i8 with theirs.
 * scratch: threads · SCRATCH bytes for f32 always, for f16 where weights are widened once for all rows (0: as they are met, the same bits); for int8 and
 * 4 bits, where there are eights, threads · (SCRATCH + 512 · the lesser of eights and 64), and of 4 bits ⌈K / SHARED⌉ · 4 more for each thread and
 * each row that is in no eight; for w8a8 never.
 */
@unmanaged export class Matmul extends Record {
  dst: usize; ldd: i32; x: usize; ldx: i32; w: usize; bias: usize; residual: usize; ldr: i32;
  M: i32; K: i32; N: i32; activation: i32; scales: usize; scratch: usize; eights: i32;
}

/**
 * dst: int16 [M, ldd], scales { scale: f32, −128 Σ of the group's numbers: i32 } [M, ⌈K / GROUP⌉]; columns K … ldd − 1 become 0.
 * With `eights` only the first max(M − 8 eights, 0) rows are that; behind them are, for each group, the eights of rows, in quarters of 8 rows by 128
 * inputs (rows_i16.ts), zeros past row M and column K; and behind those rows' scales, in the same order, eight f32 each. scratch: threads · GROUP · 16 bytes.
 * quantize_i8: dst int8, −64 Σ; no eights.
 */
@unmanaged export class Quantize extends Record { dst: usize; ldd: i32; x: usize; ldx: i32; M: i32; K: i32; scales: usize; eights: i32; scratch: usize; }

/**
 * f32 rows to dst (unless 0), int16 rows, or eights of them, and scales to quantized (unless 0) as quantize would make them, or int8 rows to bytes
 * (unless 0) as quantize_i8 would. `ldq` is the distance of either's rows. scratch: 64 bytes a thread more than quantize's.
 */
@unmanaged export class Layernorm extends Record {
  dst: usize; ldd: i32; x: usize; ldx: i32; gamma: usize; beta: usize; M: i32; D: i32; eps: f32; quantized: usize; ldq: i32; scales: usize; bytes: usize;
  eights: i32; scratch: usize;
}

@unmanaged export class L2normalize extends Record { dst: usize; ldd: i32; x: usize; ldx: i32; M: i32; D: i32; }

/**
 * ids: i32 [M], below 0: row −1 − id of images. positions: u32 [M], the address of each row's sinusoid. table: packed as a weight [vocab, D].
 * found (unless 0, and then no ids are looked at): what as many threads found for each row (Argmax), whose best it is.
 */
@unmanaged export class Embed extends Record {
  dst: usize; ldd: i32; ids: usize; table: usize; format: u32; images: usize; ldi: i32; positions: usize; M: i32; D: i32; scale: f32; found: usize;
}

/** dst: [(height / patch) · (width / patch), channels · patch²]. */
@unmanaged export class Patches extends Record { dst: usize; ldd: i32; pixels: usize; channels: i32; height: i32; width: i32; patch: i32; }

/** dst = x, or x + y. */
@unmanaged export class Copy extends Record { dst: usize; ldd: i32; x: usize; ldx: i32; y: usize; ldy: i32; M: i32; D: i32; }

/**
 * Rows of x become rows position … position + M − 1 of a cache. Its block b (BLOCK rows) is at table[b] + offset, in `format` f32, f16 or i16
 * (headWidth ≤ 64). Each head's columns are one piece, as store.ts says.
 */
@unmanaged export class Store extends Record { x: usize; ldx: i32; table: usize; offset: usize; position: i32; M: i32; D: i32; headWidth: i32; format: u32; }

/**
 * dst[T, heads · d] = softmax(q kᵀ · scale) v. Row i sees the rows 0 … past + i when causal, else all S.
 * Keys and values as store_keys and store_values write them. weights: f32 [heads, T, S], the probabilities (unless 0).
 * scratch: threads · scratchBytes bytes.
 */
@unmanaged export class Attention extends Record {
  dst: usize; ldd: i32; q: usize; ldq: i32; keyTable: usize; keyOffset: usize; valueTable: usize; valueOffset: usize; format: u32;
  T: i32; S: i32; heads: i32; headWidth: i32; causal: i32; scale: f32; weights: usize; scratch: usize; scratchBytes: i32;
}

/** dst: { id: u32, best: f32, second: f32 } of each thread's part of x[N] without the banned ids. banned: { id: u32, kept: f32 } [bans]. The lowest id wins a tie. */
@unmanaged export class Argmax extends Record { dst: usize; x: usize; N: i32; banned: usize; bans: i32; }

/**
 * Rows of a checkpoint's matrix [N, K], of Type `type` at `src` (any alignment), packed to `format` at dst, which is where the panel
 * of the first of them begins. Format.rows: N rows of K f32.
 */
@unmanaged export class Pack extends Record { dst: usize; format: u32; src: usize; type: u32; N: i32; K: i32; }

/** How often, and of what, see limit.ts. dst: 16 bytes a thread. */
@unmanaged export class Limit extends Record { dst: usize; x: usize; what: u32; count: i32; }
