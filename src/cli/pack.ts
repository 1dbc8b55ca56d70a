/**
 * Makes a pack (weights/packs.ts) of a checkpoint, blocks of rows at a time: memory stays small for any model, and the result is the same
 * bytes whatever the machine and its threads.
 *
 * Work goes into `OUT.incomplete`, with a line in `OUT.incomplete.journal` for each block that is written; the folder is renamed when it is
 * whole. Killed and called again, it reads what it wrote, believes as much of it as the journal's hashes confirm, and goes on from there.
 * Two at work on one OUT at once write the same bytes to the same places; the later one fails at the end.
 */
import { createHash, type Hash } from "node:crypto";
import { mkdir, open, readFile, rename, rm, rmdir, stat, truncate, writeFile, type FileHandle } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Backend } from "../backend/backend.js";
import { createWasmBackend } from "../backend/wasm/wasm.js";
import { Kosmos2Error } from "../errors.js";
import { RECORD_BYTES, formats, types, writeRecord } from "../graph/record.js";
import { Kosmos2Config } from "../model/config.js";
import { Checkpoint } from "../weights/checkpoint.js";
import { checkNumbers } from "../weights/load.js";
import { packHeader, packInfo, packVersion, planPack, sourceLine, type PackFacts, type PlannedPart } from "../weights/packs.js";
import { clearOutput, panelBytes, panelOf, type Format } from "../weights/quant.js";
import { openModel, type ModelSource } from "../weights/source.js";
import { filesOf, notEmpty, unwritable } from "./output.js";
import { embedTokens, findTensors, lmHead, shapeOf, type FoundTensor, type Logger } from "../weights/tensors.js";

export interface PackOptions {
  readonly source: ModelSource;
  /** The folder to make; must not be there, or be empty. */
  readonly out: string;
  readonly dtype: Format;
  /** The source's commit on the hub, to be written down. Default: what the path of Hugging Face's cache says, if it is one. */
  readonly revision?: string;
  /** A model whose tokenizer, image processor and config are taken where the source has none. */
  readonly processor?: ModelSource;
  /** Default: what the machine grants. */
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** In bytes of the source's weights. Begins above 0 where an earlier run is continued. */
  readonly onProgress?: (progress: { loaded: number; total: number; file: string }) => void;
  readonly logger?: Logger;
  /** For tests. Default 8 MiB, 255 MiB */
  readonly blockBytes?: number;
  readonly fileBytes?: number;
}

export interface Packed {
  /** Of all weights' files. */
  readonly bytes: number;
  readonly sourceSha256: string;
}

/** Files beside the weights that a model's folder may have; `config.json` is always there. */
export const besideWeights = [
  "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
  "special_tokens_map.json", "added_tokens.json", "sentencepiece.bpe.model", "LICENSE",
] as const;

/** Rows of a tensor that are read, packed and written at once, in the order of the pack. */
interface Block {
  readonly file: number;
  readonly part: PlannedPart;
  readonly tensor: FoundTensor;
  readonly row: number;
  readonly rows: number;
  /** Where in the source's file and how much. */
  readonly start: number;
  readonly bytes: number;
  /** Where in the pack's file and how much. */
  readonly to: number;
  readonly packed: number;
}

/** A file of the pack before its hashes are known. */
interface PlannedFile {
  readonly name: string;
  readonly parts: readonly PlannedPart[];
  readonly starts: readonly number[];
  readonly size: number;
}

/**
 * @throws {Kosmos2Error} as loading does (`weights-overflow` for a number that f16 can't hold), and codes `output-exists`, `output-unwritable`, `pack-source`
 * @example
 *   await pack({ source: "./kosmos-2-patch14-224", out: "./kosmos-2-i8", dtype: "i8" });
 */
export async function pack(options: PackOptions): Promise<Packed> {
  const { source, dtype, processor, signal, logger } = options;
  const files = await openModel(source, { signal }), others = processor === undefined ? undefined : await openModel(processor, { signal });
  const beside = new Map<string, Uint8Array>();
  for (const name of besideWeights) {
    const found = (await files.open(name, signal)) ?? (await others?.open(name, signal));
    if (!found) continue;
    const bytes = new Uint8Array(found.size);
    await found.read(bytes, 0, signal).finally(() => found.close());
    beside.set(name, bytes);
  }
  const config = beside.has("config.json")
    ? Kosmos2Config.fromJSON(JSON.parse(new TextDecoder().decode(beside.get("config.json"))), `${files.name}: config.json`)
    : await Kosmos2Config.fromFiles(files, signal);
  const checkpoint = await Checkpoint.open(files, { signal });
  try {
    if (packInfo(checkpoint)) throw new Kosmos2Error("pack-source", "input", `Cannot pack "${files.name}": it is a pack already; pack the checkpoint that it was made of`, { found: files.name });
    const { found } = findTensors(checkpoint, config, logger);
    const tensors = await withoutTwin(checkpoint, config, found, signal);
    const sourceRevision = options.revision ?? files.revision ?? /[\\/]snapshots[\\/]([0-9a-f]{40})[\\/]?$/.exec(files.name)?.[1];
    return await new Packing(options, checkpoint, config, tensors, { dtype, sourceRevision }, beside).run();
  } finally {
    await checkpoint.close();
  }
}

/** Of a tied pair that is stored twice the lm_head is left out: one table serves for both. */
async function withoutTwin(checkpoint: Checkpoint, config: Kosmos2Config, found: FoundTensor[], signal?: AbortSignal): Promise<FoundTensor[]> {
  const a = found.find(({ spec }) => spec.name === embedTokens)?.stored, b = found.find(({ spec }) => spec.name === lmHead)?.stored;
  if (!config.tieWordEmbeddings || !a || !b || a.dtype !== b.dtype) return found;
  const step = 2 ** 22, one = new Uint8Array(step), other = new Uint8Array(step);
  for (let at = 0; at < a.end - a.start; at += step) {
    const size = Math.min(step, a.end - a.start - at);
    await checkpoint.read(a.file, one.subarray(0, size), a.start + at, signal);
    await checkpoint.read(b.file, other.subarray(0, size), b.start + at, signal);
    if (Buffer.compare(one.subarray(0, size), other.subarray(0, size)) !== 0) return found;
  }
  return found.filter(({ spec }) => spec.name !== lmHead);
}

const sha256 = (): Hash => createHash("sha256");
const unknown = "0".repeat(64);

class Packing {
  readonly #out: string;
  readonly #work: string;
  readonly #journal: string;
  readonly #files: PlannedFile[];
  readonly #blocks: Block[];
  readonly #tensors: ReadonlyMap<string, FoundTensor>;
  /** Of whole tensors in the source, and of whole parts in the pack, by their names. */
  readonly #sources = new Map<string, string>();
  readonly #parts = new Map<string, string>();
  #source = sha256();
  #part = sha256();

  constructor(
    readonly options: PackOptions, readonly checkpoint: Checkpoint, readonly config: Kosmos2Config, found: readonly FoundTensor[],
    readonly facts: Omit<PackFacts, "sourceSha256">, readonly beside: ReadonlyMap<string, Uint8Array>,
  ) {
    this.#out = resolve(options.out);
    this.#work = `${this.#out}.incomplete`;
    this.#journal = `${this.#work}.journal`;
    this.#tensors = new Map(found.map((tensor) => [tensor.spec.name, tensor]));
    const plan = planPack(found.map(({ spec }) => spec), facts.dtype, options.fileBytes);
    this.#files = plan.map((parts, i) => {
      const name = plan.length === 1 ? "model.safetensors" : `model-${pad(i + 1)}-of-${pad(plan.length)}.safetensors`;
      const { starts, size } = this.#header(parts, true);
      return { name, parts, starts, size };
    });
    this.#blocks = this.#files.flatMap(({ parts, starts }, file) => parts.flatMap((part, i) => this.#blocksOf(file, part, starts[i])));
  }

  #header(parts: readonly PlannedPart[], blank: boolean) {
    const sourceSha256 = blank ? unknown : this.#sourceSha256();
    return packHeader(parts, { ...this.facts, sourceSha256 }, ({ name, spec }) => ({
      source_dtype: this.#tensors.get(spec.name)!.stored.dtype,
      source_sha256: blank ? unknown : this.#sources.get(spec.name)!, sha256: blank ? unknown : this.#parts.get(name)!,
    }));
  }

  #sourceSha256(): string {
    const lines = [...this.#tensors].map(([name, { stored: { dtype, shape } }]) => sourceLine(name, dtype, shape, this.#sources.get(name)!));
    return sha256().update(lines.sort().join("")).digest("hex");
  }

  #blocksOf(file: number, part: PlannedPart, start: number): Block[] {
    const { spec, format, from, to } = part, tensor = this.#tensors.get(spec.name)!, { N, K } = shapeOf(spec), { stored } = tensor;
    const rowBytes = (stored.end - stored.start) / N, unit = format === "rows" ? 1 : panelOf(format), unitBytes = format === "rows" ? K * 4 : panelBytes(format, K);
    const last = format === "rows" ? N : Math.min(N, to * unit), step = Math.max(1, Math.floor((this.options.blockBytes ?? 2 ** 23) / rowBytes / unit)) * unit;
    const blocks: Block[] = [];
    for (let row = from * unit; row < last; row += step) {
      const rows = Math.min(step, last - row);
      blocks.push({
        file, part, tensor, row, rows, start: stored.start + row * rowBytes, bytes: rows * rowBytes,
        to: start + (row / unit - from) * unitBytes, packed: Math.ceil(rows / unit) * unitBytes,
      });
    }
    return blocks;
  }

  async run(): Promise<Packed> {
    const { signal, onProgress } = this.options;
    const bytes = this.#files.reduce((sum, { size }) => sum + size, 0);
    if (!(await this.#alreadyDone())) {
      await this.#writable(() => mkdir(this.#work, { recursive: true }));
      const done = await this.#resume();
      const total = this.#blocks.reduce((sum, block) => sum + block.bytes, 0);
      let loaded = this.#blocks.slice(0, done).reduce((sum, block) => sum + block.bytes, 0);
      onProgress?.({ loaded, total, file: this.#files[0].name });
      await this.#pack(done, (block) => onProgress?.({ loaded: (loaded += block.bytes), total, file: this.#files[block.file].name }));
      signal?.throwIfAborted();
      await this.#writable(() => this.#finish());
    }
    return { bytes, sourceSha256: this.#sourceSha256() };
  }

  /** What the journal begins with: another source or another way of packing is another line. */
  #identity(): string {
    const facts = { packVersion, ...this.facts, block: this.options.blockBytes ?? 0, file: this.options.fileBytes ?? 0 };
    const tensors = [...this.#tensors.values()].map(({ spec, stored }) => [spec.name, stored]);
    const hash = sha256().update(JSON.stringify([facts, tensors]));
    for (const [name, content] of this.beside) hash.update(name).update(content);
    return `kosmos2 pack ${hash.digest("hex")}\n`;
  }

  /** Whether the folder was renamed by a run that was killed after it. @throws when something else is there */
  async #alreadyDone(): Promise<boolean> {
    if (!(await filesOf(this.#out, "pack into")).length) return false;
    const lines = (await readFile(this.#journal, "utf8").catch(() => "")).split("\n");
    if (`${lines[0]}\n` === this.#identity() && lines.length === this.#blocks.length + 2 && !(await stat(this.#work).catch(() => undefined))) {
      this.#blocks.forEach((block, i) => this.#note(block, lines[i + 1]));
      await rm(this.#journal);
      return true;
    }
    throw notEmpty(this.#out, "pack into");
  }

  /** How many blocks are there and right. What comes behind them is cut off the journal. */
  async #resume(): Promise<number> {
    const identity = this.#identity(), text = await readFile(this.#journal, "utf8").catch(() => "");
    let done = 0, length = identity.length;
    if (text.startsWith(identity)) {
      const lines = text.slice(identity.length).split("\n").slice(0, -1); // the last may be torn
      done = await this.#believed(lines);
      for (const line of lines.slice(0, done)) length += line.length + 1;
    } else {
      await this.#writable(async () => {
        await rm(this.#work, { recursive: true, force: true });
        await mkdir(this.#work);
        await writeFile(this.#journal, identity);
      });
    }
    await this.#writable(() => truncate(this.#journal, length));
    return done;
  }

  async #believed(lines: readonly string[]): Promise<number> {
    const { signal, logger } = this.options;
    let handle: FileHandle | undefined, file = -1, done = 0;
    try {
      for (; done < Math.min(lines.length, this.#blocks.length); done++) {
        signal?.throwIfAborted();
        const block = this.#blocks[done];
        if (block.file !== file) {
          await handle?.close();
          handle = await open(join(this.#work, this.#files[file = block.file].name)).catch(() => undefined);
        }
        const bytes = new Uint8Array(block.packed);
        if (!handle || (await handle.read(bytes, 0, bytes.length, block.to)).bytesRead < bytes.length) break;
        this.#begin(block);
        this.#part.update(bytes);
        if (this.#part.copy().digest("hex") !== lines[done].split(" ")[1]) break;
        this.#note(block, lines[done]);
      }
    } finally {
      await handle?.close();
    }
    // hashes of the tensor in the middle of which work goes on
    const next = this.#blocks[done];
    if (next === undefined) return done;
    this.#source = sha256();
    this.#part = sha256();
    for (const [i, block] of this.#blocks.slice(0, done).entries()) {
      if (block.tensor !== next.tensor) continue;
      const bytes = new Uint8Array(block.bytes);
      await this.checkpoint.read(block.tensor.stored.file, bytes, block.start, signal);
      this.#source.update(bytes);
      if (block.part === next.part) {
        const handle = await open(join(this.#work, this.#files[block.file].name)), packed = new Uint8Array(block.packed);
        await handle.read(packed, 0, packed.length, block.to).finally(() => handle.close());
        this.#part.update(packed);
      }
      if (this.#source.copy().digest("hex") !== lines[i].split(" ")[0]) {
        logger?.warn(`"${block.tensor.spec.name}" of the source is not what it was: beginning again`);
        this.#source = sha256();
        this.#part = sha256();
        return 0;
      }
    }
    return done;
  }

  /** Hashes begin anew with each tensor and part. */
  #begin({ part, row }: Block): void {
    const unit = part.format === "rows" ? 1 : panelOf(part.format);
    if (row === 0) this.#source = sha256();
    if (row === part.from * unit) this.#part = sha256();
  }

  /** Keeps the hashes after the last block of a tensor or part; earlier ones are written over. */
  #note({ part }: Block, line: string): void {
    const [source, packed] = line.split(" ");
    this.#sources.set(part.spec.name, source);
    this.#parts.set(part.name, packed);
  }

  /** While a block is packed by the backend, the next is being read and the one before written. */
  async #pack(done: number, wrote: (block: Block) => void): Promise<void> {
    const blocks = this.#blocks, { signal, threads } = this.options;
    if (done >= blocks.length) return;
    const room = Math.max(...blocks.map(({ bytes }) => bytes)) + 8, roomPacked = Math.max(...blocks.map(({ packed }) => packed));
    const backend = await createWasmBackend({ threads, signal, maxBytes: 2 * (room + roomPacked) + 2 ** 20 });
    const journal = await this.#writable(() => open(this.#journal, "a"));
    let reading: Promise<Uint8Array> | undefined, writing: Promise<void> = Promise.resolve();
    const handles = new Map<number, FileHandle>();
    try {
      const from = [backend.alloc(room), backend.alloc(room)], to = [backend.alloc(roomPacked), backend.alloc(roomPacked)];
      const read = async (i: number): Promise<Uint8Array> => {
        const { tensor: { stored: { file } }, start, bytes } = blocks[i], into = backend.view(from[i % 2] + (start % 8), bytes) ?? new Uint8Array(bytes);
        await this.checkpoint.read(file, into, start, signal);
        return into;
      };
      reading = read(done);
      for (let i = done; i < blocks.length; i++) {
        const block = blocks[i], { tensor, part: { format }, row, start, packed } = block, bytes = (await reading)!;
        const address = from[i % 2] + (start % 8);
        if (!backend.view(address, 1)) backend.write(address, bytes);
        const packing = backend.run(packRecord(block, address, to[i % 2]), 1, signal);
        packing.catch(() => {}); // it is awaited below
        reading = i + 1 < blocks.length ? read(i + 1) : undefined;
        reading?.catch(() => {});
        checkNumbers(this.checkpoint, tensor, format, row, bytes);
        this.#begin(block);
        this.#source.update(bytes);
        await packing;
        const made = await this.#made(backend, block, to[i % 2], packed);
        await writing;
        this.#part.update(made);
        const line = `${this.#source.copy().digest("hex")} ${this.#part.copy().digest("hex")}`;
        writing = this.#writable(async () => {
          await writeAll(await this.#handle(handles, block.file), made, block.to);
          await journal.write(`${line}\n`);
        }).then(() => {
          this.#note(block, line);
          wrote(block);
        });
        writing.catch(() => {});
      }
      await writing;
    } finally {
      await Promise.allSettled([reading, writing]); // they use the backend's memory
      await Promise.all([journal.close(), backend.dispose(), ...[...handles.values()].map((handle) => handle.close())]);
    }
  }

  /** The packed bytes of a block; the padding token's row in them is zero, as loading makes it. */
  async #made(backend: Backend, { tensor, part: { spec, format }, row, rows }: Block, address: number, packed: number): Promise<Uint8Array> {
    const bytes = backend.view(address, packed) ?? (await backend.read(address, packed));
    const { padTokenId } = this.config.textConfig, table = this.#tensors.has(embedTokens) ? embedTokens : lmHead;
    if (tensor.spec.name === table && format !== "rows" && padTokenId >= row && padTokenId < row + rows) {
      const { K } = shapeOf(spec), size = panelBytes(format, K), outputs = panelOf(format), panel = Math.floor((padTokenId - row) / outputs);
      clearOutput(format, bytes.subarray(panel * size, (panel + 1) * size), K, padTokenId % outputs);
    }
    return bytes;
  }

  /** One file is open at a time. */
  async #handle(handles: Map<number, FileHandle>, file: number): Promise<FileHandle> {
    const known = handles.get(file);
    if (known) return known;
    for (const [other, handle] of handles) {
      handles.delete(other);
      await handle.close();
    }
    const path = join(this.#work, this.#files[file].name);
    const handle = await open(path, "r+").catch(() => open(path, "w+"));
    handles.set(file, handle);
    return handle;
  }

  /** Headers and the other files; then all is made to stay, and the folder gets its name. */
  async #finish(): Promise<void> {
    for (const { name, parts } of this.#files) await sync(join(this.#work, name), "r+", async (handle) => writeAll(handle, this.#header(parts, false).header, 0));
    for (const [name, content] of this.beside) await sync(join(this.#work, name), "w", (handle) => writeAll(handle, content, 0));
    if (this.#files.length > 1) {
      const weightMap = Object.fromEntries(this.#files.flatMap(({ name, parts }) => parts.map((part) => [part.name, name])));
      const total = this.#files.reduce((sum, { parts }) => parts.reduce((sum, { bytes }) => sum + bytes, sum), 0);
      const index = `${JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, undefined, 2)}\n`;
      await sync(join(this.#work, "model.safetensors.index.json"), "w", (handle) => writeAll(handle, new TextEncoder().encode(index), 0));
    }
    await syncFolder(this.#work);
    await rmdir(this.#out).catch(() => {}); // an empty one: not every system renames over it
    await rename(this.#work, this.#out);
    await syncFolder(dirname(this.#out));
    await rm(this.#journal);
  }

  async #writable<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof Kosmos2Error) throw error;
      throw unwritable(this.#out, "pack into", error, "; what is done is kept, call again to go on");
    }
  }
}

function packRecord({ tensor, part: { format }, rows }: Block, src: number, dst: number): Uint8Array {
  const record = new Uint8Array(RECORD_BYTES);
  writeRecord(new DataView(record.buffer), 0, "pack", { dst, format: formats[format], src, type: types[tensor.stored.dtype], N: rows, K: shapeOf(tensor.spec).K });
  return record;
}

const pad = (n: number): string => String(n).padStart(5, "0");

async function writeAll(handle: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
}

async function sync(path: string, flags: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  const handle = await open(path, flags);
  try {
    await write(handle);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Not every system lets a folder be opened; there its entries are kept safe by themselves. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path).catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}
