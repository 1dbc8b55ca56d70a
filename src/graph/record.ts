/**
 * How an operation is written down for the wasm kernels: the host's half of assembly/record.ts, word for word.
 * test/graph/record.test.ts compares the two files; what the fields mean stands there.
 */
import { activations, type Activation } from "./graph.js";

/** Bytes of one record in a list. */
export const RECORD_BYTES = 96;
/** Bytes of a record to what threads count in as they take their parts, and to whether they go on without waiting for each other. */
const TAKEN = RECORD_BYTES - 12, GOES_ON = RECORD_BYTES - 4;
/** Inputs of a scale in weights and activations of whole numbers. */
export const GROUP = 128;
/** Inputs of a share in 4-bit weights. */
export const SHARED = 32;
/** Bytes of a matmul's scratch for each thread. */
export const SCRATCH = 17408;
/** Bytes of a group of eight rows of int16 in quarters. */
export const EIGHT = 3584;
/** Key/value rows of a cache block. */
export const BLOCK = 32;
/** Columns of a head at most whose products of int16 stay below 2³¹. */
export const WIDEST_IN_INT16 = 64;

/**
 * Distance of two rows of `columns` numbers. Rows a multiple of 4 KiB apart would share one set of the first-level cache, and an attention
 * that goes down them would run at 0.6 of its speed (bench/RESULTS.md).
 */
export const strideOf = (columns: number): number => (columns % 1024 === 0 ? columns + 16 : columns);

/** Kernels, each with the code that its record begins with. */
export const kinds = {
  matmul_f32: 1, matmul_f16: 2, matmul_i8: 3, quantize: 4, layernorm: 5, l2normalize: 6, embed: 7, patches: 8, copy: 9,
  store_keys: 10, store_values: 11, attention: 12, argmax: 13, pack: 14, matmul_i4: 15, matmul_w8a8: 16, quantize_i8: 17, limit: 32,
} as const;
export type Kind = keyof typeof kinds;

/** Formats of packed weights (weights/quant.ts), of which `rows` is a plain row of f32; and of keys and values (cache.ts), `i16` of these alone. */
export const formats = { f32: 0, f16: 1, i8: 2, rows: 3, i4: 4, w8a8: 5, i16: 6 } as const;
/** Whether such weights are multiplied as whole numbers, activations too. */
export const inIntegers = (format: keyof typeof formats): boolean => format === "i8" || format === "i4" || format === "w8a8";
/** How many eights of rows products of a format are made of; 0 where there are too few rows for that to be worth it (bench/RESULTS.md). */
export function eightsOf(format: keyof typeof formats, rows: number): number {
  const least = format === "i8" ? 24 : format === "i4" ? 6 : Infinity;
  return rows < least ? 0 : Math.floor((rows + 3) / 8);
}
/** Rows that are in no eight: the first ones. */
const singles = (rows: number, eights: number): number => Math.max(rows - 8 * eights, 0);
/** Bytes in which a thread widens a matmul's weights once for all rows, or keeps sums. */
export function scratchBytes(format: keyof typeof formats, rows: number, inputs: number): number {
  if (format === "f32" || (format === "f16" && rows > 8)) return SCRATCH;
  if (format !== "i8" && format !== "i4") return 0;
  const eights = eightsOf(format, rows);
  return (eights && SCRATCH + 512 * Math.min(eights, 64)) + (format === "i4" ? 4 * singles(rows, eights) * Math.ceil(inputs / SHARED) : 0);
}
/** Bytes of `rows` int16 rows of which there are so many eights, `stride` numbers apart. */
export const int16Bytes = (rows: number, columns: number, stride: number, eights: number) =>
  2 * stride * singles(rows, eights) + eights * Math.ceil(columns / GROUP) * EIGHT;
/** Bytes of their scales: pairs, but of eights one number. */
export const scalesBytes = (rows: number, columns: number, eights: number) => 8 * Math.ceil(columns / GROUP) * (singles(rows, eights) + 4 * eights);
/** Bytes of an attention's scratch for each thread, which takes so many `tiles` of `T` rows over `seen` together (assembly/attention.ts). */
export function attentionScratch(T: number, seen: number, headWidth: number, tiles: number): number {
  const rows = T === 1 ? 1 : 4;
  return 320 + tiles * rows * (4 * (Math.ceil(seen / 32) * 32 + 16) + 8 * Math.ceil(headWidth / 8) * 8 + 16);
}
/** Bytes of a thread's scratch for quantize, and for layernorm. */
export const EIGHT_SCRATCH = 16 * GROUP + 64;
/** What a limit is the limit of. */
export const limits = { reading: 0, int16: 1, float32: 2, int8: 3 } as const;
/** Types of a checkpoint's numbers. */
export const types = { F32: 0, F16: 1, BF16: 2 } as const;

/** A word of a record; an address is a u32, and what has a `?` may be left out: 0, "none". Words after `kind` lie in the order written here. */
type Word = "address" | "address?" | "i32" | "i32?" | "u32" | "f32";
type Layout = Readonly<Record<string, Word>>;

const Matmul = {
  dst: "address", ldd: "i32", x: "address", ldx: "i32", w: "address", bias: "address?", residual: "address?", ldr: "i32",
  M: "i32", K: "i32", N: "i32", activation: "i32", scales: "address?", scratch: "address?", eights: "i32?",
} as const satisfies Layout;
const Quantize = {
  dst: "address", ldd: "i32", x: "address", ldx: "i32", M: "i32", K: "i32", scales: "address", eights: "i32?", scratch: "address?",
} as const satisfies Layout;
const Store = {
  x: "address", ldx: "i32", table: "address", offset: "address", position: "i32", M: "i32", D: "i32", headWidth: "i32", format: "u32",
} as const satisfies Layout;

/** The words of each kernel's record; their order is their place. */
export const layouts = {
  matmul_f32: Matmul,
  matmul_f16: Matmul,
  matmul_i8: Matmul,
  matmul_w8a8: Matmul,
  quantize: Quantize,
  quantize_i8: Quantize,
  layernorm: {
    dst: "address?", ldd: "i32", x: "address", ldx: "i32", gamma: "address", beta: "address", M: "i32", D: "i32", eps: "f32",
    quantized: "address?", ldq: "i32", scales: "address?", bytes: "address?",
    eights: "i32?", scratch: "address?",
  },
  l2normalize: { dst: "address", ldd: "i32", x: "address", ldx: "i32", M: "i32", D: "i32" },
  embed: {
    dst: "address", ldd: "i32", ids: "address", table: "address", format: "u32", images: "address?", ldi: "i32",
    positions: "address", M: "i32", D: "i32", scale: "f32", found: "address?",
  },
  patches: { dst: "address", ldd: "i32", pixels: "address", channels: "i32", height: "i32", width: "i32", patch: "i32" },
  copy: { dst: "address", ldd: "i32", x: "address", ldx: "i32", y: "address?", ldy: "i32", M: "i32", D: "i32" },
  store_keys: Store,
  store_values: Store,
  attention: {
    dst: "address", ldd: "i32", q: "address", ldq: "i32", keyTable: "address", keyOffset: "address", valueTable: "address",
    valueOffset: "address", format: "u32", T: "i32", S: "i32", heads: "i32", headWidth: "i32", causal: "i32", scale: "f32",
    weights: "address?", scratch: "address", scratchBytes: "i32",
  },
  argmax: { dst: "address", x: "address", N: "i32", banned: "address?", bans: "i32" },
  pack: { dst: "address", format: "u32", src: "address", type: "u32", N: "i32", K: "i32" },
  matmul_i4: Matmul,
  limit: { dst: "address", x: "address", what: "u32", count: "i32" },
} as const satisfies Readonly<Record<Kind, Layout>>;

/** The same as lists: records are written for every token. */
const written = Object.fromEntries(Object.entries<Layout>(layouts).map(([kind, layout]) => [kind, { names: Object.keys(layout), words: Object.values(layout) }])) as
  unknown as Record<Kind, { readonly names: readonly string[]; readonly words: readonly Word[] }>;

type Optional<L> = { [F in keyof L]: L[F] extends `${string}?` ? F : never }[keyof L];
/** The fields of a kernel's record. Addresses are 0 … 2³² − 1. */
export type Fields<K extends Kind> =
  & { readonly [F in Exclude<keyof (typeof layouts)[K], Optional<(typeof layouts)[K]>>]: number }
  & { readonly [F in Optional<(typeof layouts)[K]>]?: number };

/** What a list's record number `index` says: its kernel and its words. */
export function readRecord(view: DataView, index: number): { kind: Kind; words: Record<string, number> } {
  let at = index * RECORD_BYTES;
  const code = view.getUint32(at, true), kind = (Object.keys(kinds) as Kind[]).find((name) => kinds[name] === code)!;
  const words: Record<string, number> = {};
  for (const [name, word] of Object.entries<Word>(layouts[kind])) {
    at += 4;
    words[name] = word === "f32" ? view.getFloat32(at, true) : word.startsWith("i32") ? view.getInt32(at, true) : view.getUint32(at, true);
  }
  return { kind, words };
}

const products = new Set<number>(Object.entries(kinds).filter(([kind]) => kind.startsWith("matmul_")).map(([, code]) => code));

/** How many of a list's records come before its first product. */
export function beforeProducts(view: DataView, count: number): number {
  let index = 0;
  while (index < count && !products.has(view.getUint32(index * RECORD_BYTES, true))) index++;
  return index;
}

/**
 * Writes the record number `index` of a list.
 *
 * @param view the memory, beginning where the list begins
 * @example
 *   writeRecord(new DataView(memory.buffer, list), 0, "copy", { dst, ldd: D, x, ldx: D, ldy: 0, M, D });
 */
export function writeRecord<K extends Kind>(view: DataView, index: number, kind: K, fields: Fields<K>): void {
  const given = fields as Readonly<Record<string, number | undefined>>;
  let at = index * RECORD_BYTES;
  view.setUint32(at, kinds[kind], true);
  view.setUint32(at + TAKEN, 0, true);
  view.setUint32(at + TAKEN + 4, 0, true);
  const { names, words } = written[kind];
  for (let i = 0; i < names.length; i++) {
    at += 4;
    const value = given[names[i]] ?? 0, word = words[i];
    if (word === "f32") view.setFloat32(at, value, true);
    else if (word === "i32" || word === "i32?") view.setInt32(at, value, true);
    else view.setUint32(at, value, true);
  }
}

/** Where in a list the word `name` of record `index` is, in bytes. */
export const placeOf = (index: number, kind: Kind, name: string): number => index * RECORD_BYTES + 4 * (1 + written[kind].names.indexOf(name));

/** Lets threads go on from record `index` to the next without waiting for each other. */
export function goOn(view: DataView, index: number): void {
  view.setUint32(index * RECORD_BYTES + GOES_ON, 1, true);
}

/** An activation's code in a matmul's record: its line in `activations`. */
export function activationCode(activation: Activation): number {
  return activations.findIndex((names) => (names as readonly string[]).includes(activation));
}
