/**
 * The graph that computes nothing: it writes operations down, finds out how long each result is needed, lays all results out in
 * one arena, and gives the list of records (record.ts) that a backend carries out in one go.
 *
 * Numbers are not changed by what is kept: a tap only makes a result live to the end of the pass.
 */
import type { Activation, Graph, KeysValues, Linear, Matrix, Norm, Past, Tokens } from "./graph.js";
import { type Cache, type CacheFormat, partBytes } from "./cache.js";
import type { SinusoidTable } from "./sinusoids.js";
import { bytesOf, type Memory } from "./memory.js";
import {
  activationCode, attentionScratch, BLOCK, EIGHT_SCRATCH, eightsOf, type Fields, formats, goOn, inIntegers, int16Bytes, type Kind, placeOf, RECORD_BYTES, scalesBytes, scratchBytes, strideOf,
  WIDEST_IN_INT16, writeRecord,
} from "./record.js";

/** A packed weight in the backend's memory. */
export interface StoredLinear extends Linear {
  readonly format: "f32" | "f16" | "i8" | "i4" | "w8a8";
  readonly address: number;
  readonly bytes: number;
  /** f32, 0 for none. */
  readonly bias: number;
}

export interface StoredNorm extends Norm {
  readonly gamma: number;
  readonly beta: number;
}

/** Bytes that live in the arena from the operation that makes them to the last that needs them. */
class Slot {
  /** Where in the arena, once that is laid out. */
  address = 0;
  /** Last operation that needs them; Infinity for results that are kept. */
  last: number;
  read = false;
  constructor(public bytes: number, readonly first: number) {
    this.last = first;
  }
}

/** Rows of f32 in a slot. */
class Rows implements Matrix {
  /** The layernorm that makes exactly these rows, if one does: it can make them as int16 or int8 as well. */
  norm: Operation | undefined;
  constructor(
    readonly slot: Slot | undefined,
    readonly offset: number,
    readonly rows: number,
    readonly columns: number,
    readonly stride = columns,
  ) {}
}

/** Rows that lie at a fixed address: weights. */
export function storedRows(address: number, rows: number, columns: number): Matrix {
  return new Rows(undefined, address, rows, columns);
}

/** int16 rows with their scales: what int8 and 4-bit weights meet; int8 rows with theirs: what w8a8 meets. */
interface Quantized {
  readonly size: 1 | 2;
  readonly eights: number;
  readonly numbers: Place;
  readonly stride: number;
  readonly scales: Place;
}

interface Place {
  readonly slot: Slot | undefined;
  readonly offset: number;
}

interface Operation {
  readonly kind: Kind;
  readonly index: number;
  readonly fields: Record<string, number | Late>;
  readonly places: Record<string, Place>;
}

/** A whole number that is asked for whenever the records are written: it changes from token to token, and nothing else does. */
type Late = () => number;

/** One set of cached or fresh keys and values for each sequence. */
interface Seen extends KeysValues {
  /** Columns of a head, as they were stored. */
  readonly headWidth: number;
  readonly sequences: readonly {
    readonly rows: number;
    readonly seen: Late;
    /** At most so many will be seen. */
    readonly room: number;
    readonly causal: boolean;
    readonly keyTable: Place;
    readonly keyOffset: number;
    readonly valueTable: Place;
    readonly valueOffset: number;
    readonly format: CacheFormat;
    /** What the tables point at, and so must live. */
    readonly behind: Record<string, Place>;
  }[];
}

/** Keys and values of one pass alone. */
interface Fresh extends KeysValues {
  readonly k: Matrix;
  readonly v: Matrix;
}

/** Caches with the rows that this pass adds to each. */
export class Batch implements Past {
  readonly rows: readonly number[];
  /** Rows of each sequence that are not in its cache yet: the pass before, which is under way, adds them. */
  before: readonly number[] | undefined;
  /** `position` and `seen` are one for all layers, so that a pass that runs again asks them once. */
  readonly sequences: readonly { readonly cache: Cache; readonly rows: number; readonly position: Late; readonly seen: Late }[];

  constructor(sequences: readonly { readonly cache: Cache; readonly rows: number }[]) {
    this.rows = sequences.map((sequence) => sequence.rows);
    this.sequences = sequences.map(({ cache, rows }, i) => {
      const position = () => cache.length + (this.before?.[i] ?? 0);
      return { cache, rows, position, seen: () => position() + rows };
    });
  }
}

/** Tiles that one thread of an attention takes together: of one head, or heads of a single tile, whose parts of a block are then one long piece. */
const TILES = 4, HEADS = 16;

/** How many that are, of `T` rows. */
const tilesOf = (T: number, heads: number, threads: number): number => Math.min(T > 4 ? TILES : HEADS, Math.ceil((heads * Math.ceil(T / 4)) / threads));

const align8 = (count: number): number => Math.ceil(count / 8) * 8;

/**
 * A recorded pass: records and what to write before them, once its arena has an address. It can be run again for other tokens:
 * ids, positions, bans and the caches' lengths are read when `at` is called.
 */
export interface Pass {
  readonly arenaBytes: number;
  /** Number of records. */
  readonly count: number;
  /** Writes the inputs into the arena's first bytes and gives the records, which the next call overwrites. */
  at(arena: number, memory: Pick<Memory, "write">): Uint8Array;
  /** Where in the arena each kept result is, and its shape. */
  readonly kept: ReadonlyMap<string, { offset: number; rows: number; columns: number; stride: number }>;
}

/** What a pass reads that may go on with what the one before chooses: then `found` is where `argmax` left that, and ids count for nothing. */
export interface NextTokens extends Tokens {
  readonly found?: number;
}

/** A pass is recorded for a few more rows than there are, so that it serves for many tokens. */
export const roomFor = (rows: number) => Math.ceil(rows / 256) * 256;

/** Bans that a pass has room for at least, in each row. */
export const BANS = 64;

/** The best token of a row of logits. */
export interface Choice {
  id: number;
  logit: number;
  /** The runner-up's logit. */
  second: number;
}

/** Words of what a thread finds in its part of a row: id (u32), best and second logit. */
const FIND = 3;

/**
 * What the threads found in each row (`Recorder.argmax`), put together in their order: the lowest id wins a tie.
 *
 * @param finds [rows · threads, 3]
 */
export function chosen(finds: Float32Array, threads: number): Choice[] {
  const ids = new Uint32Array(finds.buffer, finds.byteOffset, finds.length), part = FIND * threads;
  return Array.from({ length: finds.length / part }, (_, row) => {
    const best: Choice = { id: ids[row * part], logit: finds[row * part + 1], second: finds[row * part + 2] };
    for (let at = row * part + FIND; at < (row + 1) * part; at += FIND) {
      const logit = finds[at + 1];
      best.second = Math.max(best.second, finds[at + 2], Math.min(best.logit, logit));
      if (logit > best.logit) Object.assign(best, { id: ids[at], logit });
    }
    return best;
  });
}

const align = (bytes: number) => Math.ceil(bytes / 64) * 64;
/** Kernels may read 64 bytes past an end. */
const slotBytes = (bytes: number) => align(bytes + 64);

/** A multiple of the outputs of a panel in all formats: behind so many, the next weight's panels are the next panels. */
const PANEL = 16;

/** Whether a thread's part of the second of two operations uses nothing that another thread makes in the first. */
function apart(first: Operation, { kind, fields, places }: Operation): boolean {
  const { dst, scratch, to } = first.places, after = (name: string) => first.kind.startsWith(name);
  // threads share stores by heads, and an attention of one row too: each stores itself what it sees
  const one = kind === "attention" && fields.T === 1 && after("store_");
  return (one || ["matmul_", "store_"].some((name) => kind.startsWith(name) && after(name))) &&
    [dst, scratch, to].every((made) => !made?.slot || Object.values(places).every(({ slot }) => slot !== made.slot));
}

export class Recorder implements Graph {
  private readonly operations: Operation[] = [];
  /** Where in the records each late number stands, in bytes. */
  private readonly late = new Map<Late, number[]>();
  private readonly results: Slot[] = [];
  private readonly inputs: { slot: Slot; fill: (arena: number) => Uint8Array }[] = [];
  private readonly kept = new Map<string, Rows>();
  /** What was made of rows in whole numbers. */
  private readonly whole = new Map<Rows, Quantized[]>();
  /** The last operation, if it is a product that another can join: of what, by which weight last, and where that one's outputs are. */
  private open: { operation: Operation; x: Rows; w: StoredLinear; dst: Rows } | undefined;

  /**
   * @param threads how many will share each operation
   * @param integers whether keys and values of a pass alone are kept in int16
   * @param wanted which taps to keep
   */
  constructor(
    private readonly threads: number,
    private readonly positions: SinusoidTable | undefined,
    private readonly integers = false,
    private readonly wanted: (tap: string) => boolean = () => false,
  ) {}

  /** Numbers from outside, row-major. */
  input(data: Float32Array, rows: number, columns: number): Matrix {
    return new Rows(this.inputBytes(data.byteLength, () => bytesOf(data)).slot, 0, rows, columns);
  }

  /** Keeps a result under a name. */
  keep(name: string, x: Matrix): void {
    const rows = x as Rows;
    this.kept.set(name, rows);
    if (rows.slot) rows.slot.last = Infinity;
  }

  tap(name: string, x: Matrix): void {
    if (this.wanted(name)) this.keep(name, x);
  }

  linear(x: Matrix, w: Linear, options: { activation?: Activation; residual?: Matrix } = {}): Matrix {
    const from = x as Rows, weight = w as StoredLinear, residual = options.residual as Rows | undefined;
    if (x.columns !== w.inputs) {
      throw new RangeError(`Cannot multiply x[${x.rows}, ${x.columns}] by w[${w.outputs}, ${w.inputs}]ᵀ: ${x.columns} columns meet ${w.inputs}`);
    }
    if (residual && (residual.rows !== x.rows || residual.columns !== w.outputs)) {
      throw new RangeError(`Cannot add [${residual.rows}, ${residual.columns}] to a product [${x.rows}, ${w.outputs}]`);
    }
    const alone = x.rows !== 1 || residual || options.activation, joined = alone ? undefined : this.joined(from, weight);
    if (joined) return joined;
    const dst = this.rowsOf(x.rows, w.outputs);
    const shape = {
      ldd: dst.stride, M: x.rows, K: w.inputs, N: w.outputs, w: weight.address, bias: weight.bias,
      activation: activationCode(options.activation ?? "linear"), ldr: residual?.stride ?? 0,
    };
    const also: Record<string, Place> = residual ? { residual } : {};
    const bytes = this.threads * scratchBytes(weight.format, x.rows, w.inputs);
    if (bytes > 0) also.scratch = { slot: this.slot(bytes), offset: 0 };
    let operation: Operation;
    if (inIntegers(weight.format)) {
      const eights = eightsOf(weight.format, x.rows), q = this.quantized(from, weight.format === "w8a8" ? 1 : 2, eights);
      operation = this.record(`matmul_${weight.format}`, { ...shape, ldx: q.stride, eights }, { dst, x: q.numbers, scales: q.scales, ...also });
    } else {
      operation = this.record(`matmul_${weight.format}`, { ...shape, ldx: from.stride }, { dst, x: from, ...also });
    }
    if (!alone) this.open = { operation, x: from, w: weight, dst };
    return dst;
  }

  /**
   * One row waits for weights, which are read faster in longer streams (bench/RESULTS.md): where those of its next product (v, q) lie behind those of the
   * last (k), that one is widened. Each output is the same sum.
   */
  private joined(x: Rows, w: StoredLinear): Rows | undefined {
    if (this.open?.x !== x) return undefined;
    const { operation, w: last, dst: { slot, offset, columns } } = this.open;
    const follows = last.address + last.bytes === w.address && (last.bias && last.bias + 4 * last.outputs) === w.bias;
    if (!follows || last.format !== w.format || last.outputs % PANEL !== 0) return undefined;
    const dst = new Rows(slot, offset + 4 * columns, 1, w.outputs);
    operation.fields.N = dst.offset / 4 + w.outputs;
    slot!.bytes = slotBytes(dst.offset + 4 * w.outputs);
    this.open = { operation, x, w, dst };
    return dst;
  }

  layernorm(x: Matrix, w: Norm): Matrix {
    if (x.columns !== w.width) throw new RangeError(`Cannot norm rows of ${x.columns}: the norm is ${w.width} wide`);
    const { gamma, beta, eps } = w as StoredNorm;
    const dst = this.rowsOf(x.rows, x.columns);
    dst.norm = this.record(
      "layernorm",
      { ldd: dst.stride, ldx: (x as Rows).stride, gamma, beta, M: x.rows, D: x.columns, eps },
      { dst, x: x as Rows },
    );
    return dst;
  }

  l2normalize(x: Matrix): Matrix {
    const dst = this.rowsOf(x.rows, x.columns);
    this.record("l2normalize", { ldd: dst.stride, ldx: (x as Rows).stride, M: x.rows, D: x.columns }, { dst, x: x as Rows });
    return dst;
  }

  /** Stored when an attention says in how many heads. */
  keysValues(k: Matrix, v: Matrix): KeysValues {
    return { width: k.columns, k, v } as Fresh;
  }

  private store({ k, v, width }: Fresh, heads: number): Seen {
    const headWidth = width / heads, format: CacheFormat = this.integers && headWidth <= WIDEST_IN_INT16 ? "i16" : "f32";
    const shape = { heads, headWidth, format }, blocks = Math.ceil(k.rows / BLOCK), bytes = partBytes(shape);
    const [keys, values] = [k, v].map((x, i) => {
      const to = { slot: this.slot(blocks * bytes), offset: 0 }, table = this.table(to, blocks, bytes);
      this.record(
        i === 0 ? "store_keys" : "store_values",
        { ldx: (x as Rows).stride, offset: 0, position: 0, M: x.rows, D: width, headWidth, format: formats[format] },
        { x: x as Rows, table, to },
      );
      return { to, table };
    });
    const part = {
      rows: Infinity, seen: () => k.rows, room: k.rows, causal: false, format,
      keyTable: keys.table, keyOffset: 0, valueTable: values.table, valueOffset: 0, behind: { keys: keys.to, values: values.to },
    };
    return { width, headWidth, sequences: [part] };
  }

  append(past: Past, layer: number, k: Matrix, v: Matrix, asking = past.rows): KeysValues {
    let row = 0;
    const { sequences } = past as Batch, { headWidth } = sequences[0].cache.shape;
    const parts = sequences.map(({ cache, rows, position, seen }, i) => {
      const table = { slot: undefined, offset: cache.table }, { format } = cache.shape;
      for (const part of ["keys", "values"] as const) {
        const x = this.rows(part === "keys" ? k : v, row, row + rows) as Rows;
        this.record(
          `store_${part}`,
          { ldx: x.stride, offset: cache.offset(layer, part), position, M: rows, D: x.columns, headWidth, format: formats[format] },
          { x, table },
        );
      }
      row += rows;
      return {
        rows: asking[i], seen, room: roomFor(seen()), causal: true, format, behind: {},
        keyTable: table, keyOffset: cache.offset(layer, "keys"), valueTable: table, valueOffset: cache.offset(layer, "values"),
      };
    });
    return { width: k.columns, headWidth, sequences: parts } as Seen;
  }

  attention(q: Matrix, seen: KeysValues, options: { heads: number; weights?: string }): Matrix {
    if (q.columns !== seen.width || q.columns % options.heads !== 0) {
      throw new RangeError(`Cannot attend with [${q.rows}, ${q.columns}] in ${options.heads} heads to keys ${seen.width} wide`);
    }
    const dst = this.rowsOf(q.rows, q.columns);
    const { headWidth, sequences } = "k" in seen ? this.store(seen as Fresh, options.heads) : (seen as Seen);
    if (headWidth * options.heads !== q.columns) {
      throw new RangeError(`Cannot attend in ${options.heads} heads of ${q.columns / options.heads} columns to keys stored in heads of ${headWidth}`);
    }
    let row = 0;
    for (const part of sequences) {
      const rows = Math.min(part.rows, q.rows);
      const x = this.rows(q, row, row + rows) as Rows, y = this.rows(dst, row, row + rows) as Rows;
      const scratchBytes = align(attentionScratch(rows, part.room, headWidth, tilesOf(rows, options.heads, this.threads)));
      const scratch = { slot: this.slot(scratchBytes * this.threads), offset: 0 };
      const places: Record<string, Place> = {
        dst: y, q: x, keyTable: part.keyTable, valueTable: part.valueTable, scratch, ...part.behind,
      };
      if (options.weights && this.wanted(options.weights)) {
        const weights = new Rows(this.slot(options.heads * rows * part.seen() * 4), 0, options.heads * rows, part.seen());
        this.keep(options.weights, weights);
        places.weights = weights;
      }
      this.record(
        "attention",
        {
          ldd: y.stride, ldq: x.stride, keyOffset: part.keyOffset, valueOffset: part.valueOffset, format: formats[part.format], T: rows,
          S: part.seen, heads: options.heads, headWidth, causal: part.causal ? 1 : 0, scale: headWidth ** -0.5, scratchBytes,
        },
        places,
      );
      row += rows;
    }
    return dst;
  }

  patches(pixels: Matrix, { channels, patch }: { channels: number; patch: number }): Matrix {
    const height = pixels.rows / channels, width = pixels.columns;
    const dst = this.rowsOf(Math.floor(height / patch) * Math.floor(width / patch), channels * patch * patch);
    this.record("patches", { ldd: dst.stride, channels, height, width, patch }, { dst, pixels: pixels as Rows });
    return dst;
  }

  embed(tokens: NextTokens, table: Linear, { scale, images }: { scale: number; images?: Matrix }): Matrix {
    const { address, format, inputs } = table as StoredLinear, positions = this.positions!;
    const dst = this.rowsOf(tokens.ids.length, inputs);
    const ids = this.inputBytes(4 * dst.rows, () => bytesOf(Int32Array.from(tokens.ids)));
    const where = this.inputBytes(4 * dst.rows, () => bytesOf(Uint32Array.from(tokens.positions, (p) => positions.address(p))));
    this.record(
      "embed",
      { ldd: dst.stride, table: address, format: formats[format], ldi: (images as Rows | undefined)?.stride ?? 0, M: dst.rows, D: inputs, scale, found: () => tokens.found ?? 0 },
      { dst, ids, positions: where, ...(images && { images: images as Rows }) },
    );
    return dst;
  }

  concat(parts: readonly Matrix[]): Matrix {
    const dst = this.rowsOf(parts.reduce((sum, part) => sum + part.rows, 0), parts[0].columns);
    let row = 0;
    for (const part of parts) {
      const x = part as Rows, to = this.rows(dst, row, row + part.rows) as Rows;
      this.record("copy", { ldd: to.stride, ldx: x.stride, ldy: 0, M: x.rows, D: x.columns }, { dst: to, x });
      row += part.rows;
    }
    return dst;
  }

  add(x: Matrix, y: Matrix): Matrix {
    const dst = this.rowsOf(x.rows, x.columns), a = x as Rows, b = y as Rows;
    this.record("copy", { ldd: dst.stride, ldx: a.stride, ldy: b.stride, M: x.rows, D: x.columns }, { dst, x: a, y: b });
    return dst;
  }

  rows(x: Matrix, from: number, to: number): Matrix {
    const { slot, offset, stride, columns } = x as Rows;
    if (from === 0 && to === x.rows) return x;
    if (from < 0 || to > x.rows || from > to) throw new RangeError(`Cannot take rows ${from} … ${to - 1} of ${x.rows}`);
    return new Rows(slot, offset + from * stride * 4, to - from, columns, stride);
  }

  /** The best of each row of logits without its banned ids, kept under `name` for `chosen`. */
  argmax(name: string, logits: Matrix, banned: readonly (readonly number[])[]): void {
    const finds = this.rowsOf(logits.rows * this.threads, FIND);
    this.keep(name, finds);
    for (let row = 0; row < logits.rows; row++) {
      const room = Math.max(BANS, banned[row].length);
      // pairs of an id and the word where the kernel keeps its logit meanwhile
      const list = this.inputBytes(8 * room, () => bytesOf(Uint32Array.from(banned[row].flatMap((id) => [id, 0]))));
      this.record("argmax", { N: logits.columns, bans: () => banned[row].length }, {
        dst: this.rows(finds, row * this.threads, (row + 1) * this.threads) as Rows, x: this.rows(logits, row, row + 1) as Rows, banned: list,
      });
    }
  }

  /** Lays everything out; nothing can be recorded after this. */
  finish(): Pass {
    let inputBytes = 0;
    for (const { slot } of this.inputs) {
      slot.address = inputBytes;
      inputBytes += slot.bytes;
    }
    for (const { kind, places } of this.operations) {
      // a norm whose rows are needed as int16 or int8 alone writes no others
      const { dst } = places;
      if (kind === "layernorm" && (places.quantized || places.bytes) && dst.slot && !dst.slot.read && dst.slot.last !== Infinity) {
        this.results.splice(this.results.indexOf(dst.slot), 1);
        delete places.dst;
      }
    }
    const together = this.together(), arenaBytes = this.layOut(inputBytes);
    const kept = new Map([...this.kept].map(([name, x]) => [name, { offset: x.offset + x.slot!.address, rows: x.rows, columns: x.columns, stride: x.stride }]));
    const records = new Uint8Array(this.operations.length * RECORD_BYTES), view = new DataView(records.buffer);
    for (const index of together) goOn(view, index);
    let written = -1;
    return {
      arenaBytes, kept, count: this.operations.length,
      at: (arena, memory) => {
        for (const { slot, fill } of this.inputs) memory.write(arena + slot.address, fill(arena));
        if (written !== arena) for (const operation of this.operations) this.write(view, operation, arena);
        else
          for (const [value, at] of this.late) {
            const now = value();
            for (const place of at) view.setInt32(place, now, true);
          }
        written = arena;
        return records;
      },
    };
  }

  /**
   * Operations after which threads go on without waiting for each other: products of the same rows (q, k and v), rows for caches, one row that
   * attends to them. What one of a run of them uses must stay until the last of them has ended.
   */
  private together(): number[] {
    const { operations } = this, found: number[] = [];
    for (let from = 0, to = 0; from < operations.length; from = ++to) {
      while (to + 1 < operations.length && operations.slice(from, to + 1).every((before) => apart(before, operations[to + 1]))) found.push(to++);
      for (const { places } of operations.slice(from, to)) for (const { slot } of Object.values(places)) if (slot) slot.last = Math.max(slot.last, to);
    }
    return found;
  }

  /** Puts each result into the first gap that is free for as long as it lives. Returns the arena's size. */
  private layOut(from: number): number {
    let live: Slot[] = []; // by address
    let end = from;
    for (const slot of this.results.sort((a, b) => a.first - b.first)) {
      live = live.filter((other) => other.last >= slot.first);
      let address = from, place = 0;
      while (place < live.length && live[place].address - address < slot.bytes) address = live[place].address + live[place++].bytes;
      slot.address = address;
      live.splice(place, 0, slot);
      end = Math.max(end, address + slot.bytes);
    }
    return end;
  }

  private write(view: DataView, { kind, index, fields, places }: Operation, arena: number): void {
    const words: Record<string, number> = {};
    for (const name in fields) {
      const value = fields[name];
      words[name] = typeof value === "number" ? value : value();
    }
    for (const name in places) {
      const { slot, offset } = places[name];
      words[name] = offset + (slot ? arena + slot.address : 0);
    }
    writeRecord(view, index, kind, words as unknown as Fields<typeof kind>);
  }

  private record(kind: Kind, fields: Operation["fields"], places: Record<string, Place>): Operation {
    const index = this.operations.length, operation: Operation = { kind, index, fields, places };
    this.open = undefined;
    this.operations.push(operation);
    for (const name in fields) {
      const value = fields[name];
      if (typeof value === "number") continue;
      const at = this.late.get(value) ?? [];
      this.late.set(value, at);
      at.push(placeOf(index, kind, name));
    }
    for (const name in places) {
      const { slot } = places[name];
      if (!slot) continue;
      slot.last = Math.max(slot.last, index);
      if (name !== "dst") slot.read = true;
    }
    return operation;
  }

  private slot(bytes: number, first = this.operations.length): Slot {
    const slot = new Slot(slotBytes(bytes), first);
    this.results.push(slot);
    return slot;
  }

  private rowsOf(rows: number, columns: number): Rows {
    const stride = strideOf(columns);
    return new Rows(this.slot(rows * stride * 4), 0, rows, columns, stride);
  }

  private inputBytes(bytes: number, fill: (arena: number) => Uint8Array): Place {
    const slot = new Slot(slotBytes(bytes), 0);
    this.inputs.push({ slot, fill });
    return { slot, offset: 0 };
  }

  /** A table of the addresses of consecutive blocks. */
  private table(blocks: Place, count: number, blockBytes: number): Place {
    return this.inputBytes(4 * count, (arena) => {
      const base = blocks.offset + (blocks.slot ? arena + blocks.slot.address : 0);
      return bytesOf(Uint32Array.from({ length: count }, (_, b) => base + b * blockBytes));
    });
  }

  /**
   * x as rows of int16 or int8 with scales, made once however many products want it, and by its norm where there is one that makes no other.
   *
   * @param size bytes of a number: 2 or 1
   * @param eights how many eights of rows the last ones come in
   */
  private quantized(x: Rows, size: 1 | 2, eights: number): Quantized {
    const made = this.whole.get(x) ?? [], known = made.find((one) => one.size === size && one.eights === eights);
    if (known) return known;
    const stride = align8(x.columns);
    const norm = x.norm?.places.scales ? undefined : x.norm, first = norm?.index ?? this.operations.length;
    const numbers = { slot: this.slot(size === 2 ? int16Bytes(x.rows, x.columns, stride, eights) : x.rows * stride, first), offset: 0 };
    const scales = { slot: this.slot(scalesBytes(x.rows, x.columns, eights), first), offset: 0 };
    const also: Record<string, Place> = eights ? { scratch: { slot: this.slot(this.threads * EIGHT_SCRATCH, first), offset: 0 } } : {};
    if (norm) {
      Object.assign(norm.places, { [size === 2 ? "quantized" : "bytes"]: numbers, scales, ...also });
      Object.assign(norm.fields, { ldq: stride, eights });
    } else {
      this.record(size === 2 ? "quantize" : "quantize_i8", { ldd: stride, ldx: x.stride, M: x.rows, K: x.columns, eights }, { dst: numbers, x, scales, ...also });
    }
    const quantized = { numbers, stride, scales, size, eights };
    this.whole.set(x, [...made, quantized]);
    return quantized;
  }
}
