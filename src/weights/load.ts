/**
 * Weights from a checkpoint into a backend's memory: the file is read once, in the order it lies, a chunk at a time; while one chunk
 * is packed by the backend the next is being read. No tensor is ever whole in memory as the file has it.
 * A pack (packs.ts) is read straight to where it stays.
 */
import { Kosmos2Error } from "../errors.js";
import { RECORD_BYTES, formats, types, writeRecord } from "../graph/record.js";
import type { Kosmos2Config } from "../model/config.js";
import type { Checkpoint } from "./checkpoint.js";
import { findPacked, packInfo, type PackInfo } from "./packs.js";
import { clearOutput, fromBF16, fromF16, packedBytes, panelBytes, panelOf, type Format } from "./quant.js";
import { embedTokens, findTensors, formatOf, modelTensors, shapeOf, storedBytes, storedTensors, type FoundTensor, type Logger, type TensorSpec } from "./tensors.js";

/** What loading needs of a backend (backend/backend.ts says more about each). */
export interface Device {
  alloc(bytes: number): number;
  free(address: number): void;
  view(address: number, bytes: number): Uint8Array | undefined;
  write(address: number, bytes: Uint8Array): void;
  read(address: number, bytes: number): Promise<Uint8Array>;
  run(records: Uint8Array, count: number, signal?: AbortSignal): Promise<void>;
}

/** A weight w[outputs, inputs], packed (quant.ts). */
export interface PackedMatrix {
  readonly address: number;
  readonly bytes: number;
  readonly format: Format;
  readonly outputs: number;
  readonly inputs: number;
  /** Address of its bias, f32 [outputs]; 0 for none. */
  readonly bias: number;
}

/** f32 numbers as they are, row-major; a vector is one row. */
export interface PlainRows {
  readonly address: number;
  readonly rows: number;
  readonly columns: number;
}

/** A model's weights in a backend's memory, by the checkpoint's names. */
export interface Weights {
  /** @param name without its `.weight`: "text_model.lm_head" */
  matrix(name: string): PackedMatrix;
  /** @param name the whole of it: "text_model.model.layer_norm.bias" */
  rows(name: string): PlainRows;
  /** What they take, in bytes. */
  readonly bytes: number;
  /** Gives the memory back. */
  free(): void;
}

export interface WeightsOptions {
  signal?: AbortSignal;
  /** `total` is known from the first call on; `file` is the one being read. */
  onProgress?: (progress: { loaded: number; total: number; file: string }) => void;
  logger?: Logger;
  /** Most bytes of one read; two such buffers are held while loading. Default 2 MiB: fits the cache, and checks never block for long. */
  chunkBytes?: number;
  /** Called when all memory is there and the backend has nothing to do, while weights are still read or after. Loading waits for it. Default: nothing. */
  idle?: (reading: () => boolean) => Promise<void>;
}

/** Rows between two tensors that aren't needed: read through them up to this many bytes rather than begin a new chunk. */
const mostGap = 2 ** 16;

/** Where the next tensor begins: all of a model lie one behind the other. */
const aligned = (bytes: number): number => Math.ceil(bytes / 64) * 64;
const bytesOf = (specs: readonly TensorSpec[], dtype: Format): number => specs.reduce((sum, spec) => sum + aligned(storedBytes(spec, dtype)), 0);

/** Memory that a model's weights take, in bytes; loading takes two chunks more. */
export function packedWeightBytes(config: Kosmos2Config, dtype: Format): number {
  return bytesOf(storedTensors(config), dtype);
}

/** The same for a pack that is there. */
export function packMemoryBytes(checkpoint: Checkpoint): number {
  return [...checkpoint.headers.values()].reduce((sum, { start, end }) => sum + aligned(end - start), 0);
}

/** A tensor on its way: where its rows come from and where they go. */
interface Target extends Placed {
  readonly tensor: FoundTensor;
  /** Bytes of one row in the file. */
  readonly rowBytes: number;
}

/** Rows row … row + rows − 1 of a tensor; `row` is the first of a panel. */
interface Piece {
  readonly target: Target;
  readonly row: number;
  readonly rows: number;
  readonly start: number;
}

/** Bytes start … end − 1 of a file: one read, and the pieces in it. */
interface Chunk {
  readonly file: string;
  readonly start: number;
  end: number;
  readonly pieces: Piece[];
}

/**
 * Which dtype a model is loaded in: what is asked for, and what a pack is.
 *
 * @throws {Kosmos2Error} code `pack-dtype` when a pack is of another one
 */
export function loadedDtype(checkpoint: Checkpoint, asked: Format | "auto"): Format {
  const info = packInfo(checkpoint);
  if (!info) return asked === "auto" ? "i8" : asked;
  if (asked === "auto" || asked === info.dtype) return info.dtype;
  throw new Kosmos2Error("pack-dtype", "input",
    `Cannot load "${checkpoint.name}" as ${asked}: it is a pack of ${info.dtype}; leave dtype out, or pack the checkpoint again as ${asked}`, { found: info.dtype, wanted: asked });
}

/**
 * Loads all weights of a model, matrices converted to `dtype`; a pack, which must be of that dtype, as it is.
 *
 * When it rejects, whatever the reason, nothing stays allocated and nothing is being read any more.
 *
 * @throws {Kosmos2Error} codes `weights-incomplete`, `weights-shape`, `weights-dtype`; `weights-not-finite` for a NaN or infinity;
 *   `weights-overflow` for a number that f16 can't hold; `pack-version`, `pack-invalid`, `pack-dtype`; `memory-exhausted`
 */
export async function loadWeights(
  checkpoint: Checkpoint, config: Kosmos2Config, dtype: Format, backend: Device, options: WeightsOptions = {},
): Promise<Weights> {
  options.signal?.throwIfAborted();
  loadedDtype(checkpoint, dtype);
  const info = packInfo(checkpoint);
  let address = 0;
  const alloc = (bytes: number): number => (address = backend.alloc(bytes));
  const free = (): void => {
    if (address) backend.free(address);
    address = 0;
  };
  try {
    const loaded = info ? await readPack(checkpoint, info, config, backend, alloc, options) : await convert(checkpoint, config, dtype, backend, alloc, options);
    return { ...loaded, free };
  } catch (error) {
    free();
    throw error;
  }
}

/** A tensor in the backend's memory. */
interface Placed {
  readonly spec: TensorSpec;
  readonly address: number;
  readonly format: Format | "rows";
  readonly N: number;
  readonly K: number;
}

/** A model's weights by their names and sizes, all at one address: to record passes with, before anything is loaded. */
export function unloaded(config: Kosmos2Config, dtype: Format, address: number): Weights {
  const placed = modelTensors(config).map((spec): Placed => ({ spec, address, format: formatOf(spec, dtype), ...shapeOf(spec) }));
  return { bytes: 0, free: () => {}, ...named(new Map(placed.map((tensor) => [tensor.spec.name, tensor])), new Map()) };
}

/** What is at which address, by the model's names. */
function named(placed: ReadonlyMap<string, Placed>, aliases: ReadonlyMap<string, string>): Pick<Weights, "matrix" | "rows"> {
  const get = (name: string): Placed => {
    const found = placed.get(aliases.get(name) ?? name);
    if (!found) throw new RangeError(`Cannot find weights "${name}": the model has no such tensor`);
    return found;
  };
  return {
    matrix(name) {
      const { address, format, N, K, spec: { bias } } = get(`${name}.weight`);
      if (format === "rows") throw new RangeError(`Cannot take "${name}" as a matrix: it is a vector`);
      return { address, bytes: packedBytes(format, N, K), format, outputs: N, inputs: K, bias: bias === undefined ? 0 : get(bias).address };
    },
    rows(name) {
      const { address, format, N, K } = get(name);
      if (format !== "rows") throw new RangeError(`Cannot take the rows of "${name}": it is a packed matrix`);
      return { address, rows: N, columns: K };
    },
  };
}

type Loaded = Omit<Weights, "free">;

/** Every tensor read, checked and packed. */
async function convert(
  checkpoint: Checkpoint, config: Kosmos2Config, dtype: Format, backend: Device, alloc: (bytes: number) => number, options: WeightsOptions,
): Promise<Loaded> {
  const { signal, onProgress, logger, chunkBytes = 2 ** 21 } = options;
  const { found, aliases } = findTensors(checkpoint, config, logger);
  const targets = new Map<string, Target>(), bytes = bytesOf(found.map(({ spec }) => spec), dtype);
  let address = alloc(bytes);
  for (const tensor of found) {
    const { spec, stored: { start, end } } = tensor, { N, K } = shapeOf(spec);
    targets.set(spec.name, { spec, tensor, address, format: formatOf(spec, dtype), N, K, rowBytes: (end - start) / N });
    address += aligned(storedBytes(spec, dtype));
  }
  await fill(checkpoint, backend, plan([...targets.values()], chunkBytes), signal, onProgress);
  await clearPadding(backend, targets.get(aliases.get(embedTokens) ?? embedTokens), config.textConfig.padTokenId);
  await options.idle?.(() => false);
  return { bytes, ...named(targets, aliases) };
}

/** Bytes of one read of a pack, and reads under way at once. */
const packRead = 2 ** 23, readsAtOnce = 4;

/** A pack's files as they are, one behind the other. */
async function readPack(
  checkpoint: Checkpoint, info: PackInfo, config: Kosmos2Config, backend: Device, alloc: (bytes: number) => number, options: WeightsOptions,
): Promise<Loaded> {
  const { signal, onProgress } = options;
  const { found, aliases } = findPacked(checkpoint, info, config);
  const addresses = new Map<string, number>(); // of each file's first tensor
  const placed = new Map<string, Placed>(), size = packMemoryBytes(checkpoint);
  let end = alloc(size);
  for (const [name, { parts, ...tensor }] of found) {
    const [{ file, start }] = parts;
    if (!addresses.has(file)) {
      end = aligned(end); // but parts of a tensor follow each other at once
      for (const { file } of parts) {
        const header = checkpoint.headers.get(file)!;
        addresses.set(file, end);
        end += header.end - header.start;
      }
    }
    placed.set(name, { ...tensor, address: addresses.get(file)! + start - checkpoint.headers.get(file)!.start });
  }

  const reads: { file: string; start: number; bytes: number; address: number }[] = [];
  for (const [file, address] of addresses) {
    const { start, end } = checkpoint.headers.get(file)!;
    for (let from = start; from < end; from += packRead) reads.push({ file, start: from, bytes: Math.min(packRead, end - from), address: address + from - start });
  }
  const total = reads.reduce((sum, { bytes }) => sum + bytes, 0);
  let loaded = 0, next = 0, failed: { error: unknown } | undefined;
  const meanwhile = options.idle?.(() => loaded < total && !failed);
  onProgress?.({ loaded, total, file: reads[0].file });
  const lane = async (): Promise<void> => {
    let host: Uint8Array | undefined;
    while (next < reads.length && !failed) {
      const { file, start, bytes, address } = reads[next++], view = backend.view(address, bytes);
      const into = view ?? (host ??= new Uint8Array(packRead)).subarray(0, bytes);
      await checkpoint.read(file, into, start, signal);
      if (!view) backend.write(address, into);
      loaded += bytes;
      onProgress?.({ loaded, total, file });
    }
  };
  // all of them end before this does: nothing may be read into memory that was given back
  const fail = (error: unknown) => void (failed ??= { error });
  await Promise.all([...Array.from({ length: readsAtOnce }, () => lane().catch(fail)), meanwhile?.catch(fail)]);
  if (failed) throw failed.error;
  return { bytes: size, ...named(placed, aliases) };
}

/**
 * Padding has no embedding, whatever the file says: Hugging Face makes that row zero when it loads a model (transformers 5.18.0, seen with
 * checkpoints that store something else there), and with it the padding's logit where lm_head is the same table.
 */
async function clearPadding(backend: Device, table: Target | undefined, padTokenId: number): Promise<void> {
  if (!table || table.format === "rows" || padTokenId >= table.N) return;
  const outputs = panelOf(table.format), bytes = panelBytes(table.format, table.K), address = table.address + Math.floor(padTokenId / outputs) * bytes;
  const panel = await backend.read(address, bytes);
  clearOutput(table.format, panel, table.K, padTokenId % outputs);
  backend.write(address, panel);
}

/** Cuts tensors into pieces of whole panels, and gathers neighbours into chunks, in the order of the files. */
function plan(targets: Target[], chunkBytes: number): Chunk[] {
  const place = ({ tensor }: Target) => tensor.stored;
  targets.sort((a, b) => (place(a).file < place(b).file ? -1 : place(a).file > place(b).file ? 1 : place(a).start - place(b).start));
  const chunks: Chunk[] = [];
  let chunk: Chunk | undefined;
  for (const target of targets) {
    const { file, start: first } = place(target), { N, rowBytes, format } = target, unit = format === "rows" ? 1 : panelOf(format);
    for (let row = 0; row < N; ) {
      const start = first + row * rowBytes;
      if (!chunk || chunk.file !== file || start - chunk.end > mostGap) chunks.push(chunk = { file, start, end: start, pieces: [] });
      const fitting = Math.floor((chunk.start + chunkBytes - start) / rowBytes);
      let rows = N - row <= fitting ? N - row : fitting - (fitting % unit);
      if (rows <= 0) {
        if (chunk.pieces.length > 0) { // no room for a panel: begin a chunk with it
          chunk = undefined;
          continue;
        }
        rows = Math.min(unit, N - row);
      }
      chunk.pieces.push({ target, row, rows, start });
      chunk.end = start + rows * rowBytes;
      row += rows;
    }
  }
  return chunks;
}

/** Reads chunk after chunk and has each packed while the next is read. */
async function fill(
  checkpoint: Checkpoint, backend: Device, chunks: readonly Chunk[], signal: AbortSignal | undefined, onProgress: WeightsOptions["onProgress"],
): Promise<void> {
  const total = chunks.reduce((sum, { start, end }) => sum + end - start, 0);
  const room = Math.max(...chunks.map(({ start, end }) => end - start)) + 8;
  const staging: number[] = [];
  let packing: Promise<void> = Promise.resolve();
  try {
    for (let i = 0; i < Math.min(2, chunks.length); i++) staging.push(backend.alloc(room));
    const views = staging.map((address) => backend.view(address, room)); // after the last alloc, which may move views
    const hosts = views.map((view) => view ?? new Uint8Array(room));
    let loaded = 0;
    onProgress?.({ loaded, total, file: chunks[0].file });
    for (const [i, chunk] of chunks.entries()) {
      const turn = i % 2, align = chunk.start % 8; // aligned in the file: aligned in memory
      const bytes = hosts[turn].subarray(align, align + chunk.end - chunk.start);
      await checkpoint.read(chunk.file, bytes, chunk.start, signal);
      for (const { target: { tensor, format, rowBytes }, row, rows, start } of chunk.pieces)
        checkNumbers(checkpoint, tensor, format, row, bytes.subarray(start - chunk.start, start - chunk.start + rows * rowBytes));
      await packing;
      if (!views[turn]) backend.write(staging[turn] + align, bytes);
      packing = backend.run(records(chunk, staging[turn] + align), chunk.pieces.length, signal);
      packing.catch(() => {}); // it is awaited below, after the read that goes on meanwhile
      loaded += bytes.length;
      onProgress?.({ loaded, total, file: chunk.file });
    }
    await packing;
  } finally {
    await packing.catch(() => {}); // it reads the staging
    for (const address of staging) backend.free(address);
  }
}

/** What packs a chunk whose first byte is at `address`. */
function records({ pieces, start }: Chunk, address: number): Uint8Array {
  const list = new Uint8Array(pieces.length * RECORD_BYTES), view = new DataView(list.buffer);
  pieces.forEach(({ target, row, rows, start: from }, i) => {
    const { format, K, tensor } = target;
    const offset = format === "rows" ? row * K * 4 : (row / panelOf(format)) * panelBytes(format, K);
    writeRecord(view, i, "pack", {
      dst: target.address + offset, format: formats[format], src: address + from - start, type: types[tensor.stored.dtype], N: rows, K,
    });
  });
  return list;
}

/** Bits of the largest numbers, without sign: the largest finite one of each type, and the largest that rounds to a finite f16. */
const finite = { F32: 0x7f7fffff, F16: 0x7bff, BF16: 0x7f7f } as const;
const fitsF16 = { F32: 0x477fefff, F16: 0x7bff, BF16: 0x477f } as const;

/**
 * @param bytes rows of a tensor, the first of them being row `row`
 * @throws when a number is not finite, or too large for the format that it will have
 */
export function checkNumbers(checkpoint: Checkpoint, { spec, stored }: FoundTensor, format: Format | "rows", row: number, bytes: Uint8Array): void {
  const { dtype } = stored, { K } = shapeOf(spec);
  const at = firstAbove(bytes, dtype === "F32" ? 4 : 2, format === "f16" ? fitsF16[dtype] : finite[dtype]);
  if (at < 0) return;

  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const value = dtype === "F32" ? view.getFloat32(at * 4, true) : (dtype === "F16" ? fromF16 : fromBF16)(view.getUint16(at * 2, true));
  const where = `Cannot load "${checkpoint.place(stored.file)}": tensor "${spec.name}" holds ${value} at [${row + Math.floor(at / K)}, ${at % K}]`;
  const details = { tensor: spec.name, file: stored.file, found: value };
  if (!Number.isFinite(value)) throw new Kosmos2Error("weights-not-finite", "integrity", `${where}; wanted finite numbers: the checkpoint is damaged`, details);
  throw new Kosmos2Error("weights-overflow", "load", `${where}; f16 holds at most 65504: load with dtype "i8" or "f32"`, { ...details, wanted: 65504 });
}

/** Index of the first number whose bits without the sign are above `limit`, or −1. One pass over all weights: kept bare. */
function firstAbove(bytes: Uint8Array, size: 2 | 4, limit: number): number {
  if (bytes.byteOffset % size !== 0) bytes = bytes.slice();
  const count = bytes.length / size;
  if (size === 4) {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, count);
    for (let i = 0; i < count; i++) if ((words[i] & 0x7fffffff) > limit) return i;
  } else {
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, count);
    for (let i = 0; i < count; i++) if ((halves[i] & 0x7fff) > limit) return i;
  }
  return -1;
}
