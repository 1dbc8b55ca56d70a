/**
 * Writes a checkpoint of any size as Hugging Face would save it, with weights that nobody trained (synthetic.ts).
 * The same config, type and seed give the same bytes on every machine.
 */
import { mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Kosmos2Config } from "../model/config.js";
import { openModel, type ModelSource } from "../weights/source.js";
import { safetensorsHeader } from "../weights/safetensors.js";
import { storedTensors, type TensorSpec } from "../weights/tensors.js";
import { filesOf, notEmpty, unwritable } from "./output.js";
import { syntheticTensor } from "./synthetic.js";

export interface SynthesizeOptions {
  /** The folder to make; must not be there, or be empty. */
  readonly out: string;
  /** Default: the released sizes, 1.66 billion parameters. */
  readonly config?: Kosmos2Config;
  /** Default "f32" (6.66 GB at the released sizes). */
  readonly dtype?: "f32" | "bf16";
  /** 0 … 2³² − 1. Default 0. */
  readonly seed?: number;
  /** In how many files. Default 1. */
  readonly shards?: number;
  /** A model whose tokenizer and image processor are copied. Default: none. */
  readonly processor?: ModelSource;
  readonly signal?: AbortSignal;
  /** In bytes of weights. */
  readonly onProgress?: (progress: { loaded: number; total: number; file: string }) => void;
}

const processorFiles = [
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "sentencepiece.bpe.model",
  "preprocessor_config.json", "processor_config.json",
];

/** Numbers made and written at a time. */
const blockNumbers = 2 ** 20;

/**
 * @returns bytes of weights written
 * @throws {Kosmos2Error} code `output-exists`, `output-unwritable`
 */
export async function synthesize(options: SynthesizeOptions): Promise<number> {
  const { out } = options, action = "write a checkpoint into";
  if ((await filesOf(out, action)).length) throw notEmpty(out, action);
  return write(options).catch((error: NodeJS.ErrnoException) => {
    throw error.syscall ? unwritable(out, action, error) : error; // the disk's own
  });
}

async function write(options: SynthesizeOptions): Promise<number> {
  const { out, config = new Kosmos2Config(), dtype = "f32", seed = 0, shards = 1, signal, onProgress } = options;
  const bytes = dtype === "f32" ? 4 : 2;
  const specs = storedTensors(config).sort((a, b) => (a.name < b.name ? -1 : 1));
  const total = specs.reduce((sum, spec) => sum + sizeOf(spec) * bytes, 0);
  let loaded = 0;

  signal?.throwIfAborted();
  await mkdir(out, { recursive: true });
  if (options.processor !== undefined) await copyProcessor(options.processor); // first: gigabytes of weights come after it
  const weightMap: Record<string, string> = {};
  const parts = split(specs, shards);
  for (const [i, part] of parts.entries()) {
    const file = parts.length === 1 ? "model.safetensors" : `model-${pad(i + 1)}-of-${pad(parts.length)}.safetensors`;
    for (const { name } of part) weightMap[name] = file;
    await writeShard(join(out, file), part, (wrote) => {
      loaded += wrote;
      onProgress?.({ loaded, total, file });
    });
  }
  const json = (file: string, content: unknown): Promise<void> => writeFile(join(out, file), `${JSON.stringify(content, undefined, 2)}\n`);
  if (parts.length > 1) await json("model.safetensors.index.json", { metadata: { total_parameters: total / bytes, total_size: total }, weight_map: weightMap });

  const { bosTokenId, padTokenId, eosTokenId, noRepeatNgramSize } = config.textConfig;
  // Hugging Face's reader tells 1 from 1.0, and takes no whole number here
  const written = JSON.stringify({ ...config.toJSON(), dtype: dtype === "f32" ? "float32" : "bfloat16" }, undefined, 2).replace(/("(?:initializer_factor|initializer_range|init_std|layer_norm_eps)": \d+)(?=[,\n])/g, "$1.0");
  await writeFile(join(out, "config.json"), `${written}\n`);
  await json("generation_config.json",
    { bos_token_id: bosTokenId, eos_token_id: eosTokenId.length === 1 ? eosTokenId[0] : eosTokenId, pad_token_id: padTokenId, no_repeat_ngram_size: noRepeatNgramSize });
  return total;

  async function writeShard(path: string, part: readonly TensorSpec[], wrote: (bytes: number) => void): Promise<void> {
    const { header } = safetensorsHeader(part.map(({ name, shape }) => ({ name, shape, dtype: dtype === "f32" ? "F32" as const : "BF16" as const })), { format: "pt" });
    const handle = await open(`${path}.part`, "w");
    try {
      await writeAll(header);
      for (const spec of part) {
        const { columns, fill } = syntheticTensor(spec, config, seed);
        const rows = sizeOf(spec) / columns, step = Math.max(1, Math.floor(blockNumbers / columns));
        for (let row = 0; row < rows; row += step) {
          signal?.throwIfAborted();
          const numbers = new Float32Array(Math.min(step, rows - row) * columns);
          fill(numbers);
          const block = dtype === "f32" ? new Uint8Array(numbers.buffer) : toBF16(numbers);
          await writeAll(block);
          wrote(block.length);
        }
      }
      await handle.close();
      await rename(`${path}.part`, path);
    } catch (error) {
      await handle.close();
      await rm(`${path}.part`, { force: true });
      throw error;
    }

    async function writeAll(bytes: Uint8Array): Promise<void> {
      for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done)).bytesWritten;
    }
  }

  async function copyProcessor(from: ModelSource): Promise<void> {
    const files = await openModel(from, { signal, need: "processor" });
    for (const file of processorFiles) {
      const source = await files.open(file, signal);
      if (!source) continue;
      try {
        const content = new Uint8Array(source.size);
        await source.read(content, 0, signal);
        await writeFile(join(out, file), content);
      } finally {
        await source.close();
      }
    }
  }
}

const sizeOf = ({ shape }: TensorSpec): number => shape.reduce((product, dim) => product * dim, 1);
const pad = (n: number): string => String(n).padStart(5, "0");

/** In order, into so many parts of about one size; never an empty one. */
function split(specs: readonly TensorSpec[], count: number): TensorSpec[][] {
  const total = specs.reduce((sum, spec) => sum + sizeOf(spec), 0);
  const parts: TensorSpec[][] = Array.from({ length: count }, () => []);
  let before = 0;
  for (const spec of specs) {
    parts[Math.min(count - 1, Math.floor(((before + sizeOf(spec) / 2) / total) * count))].push(spec);
    before += sizeOf(spec);
  }
  return parts.filter((part) => part.length > 0);
}

/** To the nearest bfloat16, halves to even. */
function toBF16(numbers: Float32Array): Uint8Array {
  const bits = new Int32Array(numbers.buffer), halves = new Uint16Array(bits.length);
  // a plain loop: Uint16Array.from with a function takes minutes at the real size
  for (let i = 0; i < bits.length; i++) halves[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16;
  return new Uint8Array(halves.buffer);
}
