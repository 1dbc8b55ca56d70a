/** How much memory a model takes, before any of it is loaded. Passes are recorded as the engine records them, over weights that are not there. */
import { availableThreads } from "#platform";
import { type CacheDtype, cacheDtypeOf, type Dtype, dtypeOf, type DtypeName } from "./dtype.js";
import { Kosmos2Error } from "./errors.js";
import { Cache, type CacheFormat, type CacheShape } from "./graph/cache.js";
import type { Memory } from "./graph/memory.js";
import { BLOCK, inIntegers } from "./graph/record.js";
import { Batch, Recorder } from "./graph/recorder.js";
import { SinusoidTable } from "./graph/sinusoids.js";
import { Kosmos2Config } from "./model/config.js";
import { predict, read, see } from "./model/kosmos2.js";
import { checkOptions, count } from "./options.js";
import { Checkpoint } from "./weights/checkpoint.js";
import { handles } from "./weights/handles.js";
import { loadedDtype, packMemoryBytes, packedWeightBytes, unloaded } from "./weights/load.js";
import { packInfo } from "./weights/packs.js";
import { openKeys, openModel, type ModelSource, type OpenOptions } from "./weights/source.js";
import { storedBytes, storedTensors } from "./weights/tensors.js";
import type { Format } from "./weights/quant.js";

/** Bytes that a model takes. */
export interface MemoryEstimate {
  /** In which weights are held: what `"auto"` comes to. */
  dtype: Exclude<Dtype, "auto">;
  weightBytes: number;
  /** The weights' parts; `embeddings` are the text's table, and the output's where it has one of its own. */
  parts: { vision: number; resampler: number; decoder: number; embeddings: number };
  /** In which keys and values are held. */
  cache: Exclude<CacheDtype, "auto">;
  /** Keys, values and positions of a text of `tokens`. */
  cacheBytes: number;
  /** What a pass needs while it runs: the picture's, or that of a prompt of `tokens`. */
  arenaBytes: number;
  /** All of it, and what loading needs besides. */
  totalBytes: number;
  /** What the engine can have: 4 GiB. */
  availableBytes: number;
  fits: boolean;
}

export interface EstimateOptions extends Pick<OpenOptions, "signal" | "revision" | "token" | "cacheDir" | "localFilesOnly" | "endpoint" | "fetch"> {
  dtype?: DtypeName;
  /** As for loading. */
  cache?: CacheDtype;
  /** The longest text, prompt and answer. Default 256, or the model's context when that is less. */
  tokens?: number;
  /** Default: what the machine grants. */
  threads?: number;
}

/** All that wasm32 can address. */
export const addressable = 2 ** 32;
/** Two chunks while loading, lists of records, tables, the results of a pass that threads go on to by themselves. */
const BESIDES = 2 ** 23;

/**
 * What `Kosmos2.load` and a text of so many tokens will take. Reads headers only, no weights (of a hub id all files are fetched first).
 *
 * @throws {Kosmos2Error} as opening a model does; `option-unknown`, `option-invalid`
 * @example
 *   const { fits, totalBytes } = await estimateMemory("./kosmos-2-patch14-224", { dtype: "f32" });
 *   if (!fits) console.error(`${totalBytes} bytes are too many`);
 */
export async function estimateMemory(source: ModelSource, options: EstimateOptions = {}): Promise<MemoryEstimate> {
  checkOptions(options, ["dtype", "cache", "tokens", "threads", ...openKeys], "estimate memory", { tokens: count(1), threads: count(1) });
  const { dtype, cache, tokens, threads = availableThreads().threads, signal } = options;
  const asked = dtypeOf(dtype);
  cacheDtypeOf(cache, "f32");
  const files = await openModel(source, options);
  const config = await Kosmos2Config.fromFiles(files, signal);
  const checkpoint = await Checkpoint.open(files, { signal });
  try {
    const held = loadedDtype(checkpoint, asked);
    return estimate(checkpoint, config, held, cacheDtypeOf(cache, held, headWidthOf(config.textConfig)), threads, tokens);
  } finally {
    await checkpoint.close();
  }
}

export function estimate(checkpoint: Checkpoint, config: Kosmos2Config, dtype: Format, cache: CacheFormat, threads: number, tokens = 256): MemoryEstimate {
  tokens = Math.min(tokens, config.textConfig.maxPositionEmbeddings);
  const weightBytes = packInfo(checkpoint) ? packMemoryBytes(checkpoint) : packedWeightBytes(config, dtype);
  const parts = { vision: 0, resampler: 0, decoder: 0, embeddings: 0 };
  for (const spec of storedTensors(config)) parts[partOf(spec.name)] += storedBytes(spec, dtype);
  const { cacheBytes, arenaBytes } = passes(config, dtype, cache, threads, tokens);
  const latentBytes = 3 * config.latentQueryNum * config.textConfig.embedDim * 4; // kept from loading on
  const totalBytes = weightBytes + cacheBytes + arenaBytes + latentBytes + BESIDES;
  return { dtype, weightBytes, parts, cache, cacheBytes, arenaBytes, totalBytes, availableBytes: addressable, fits: totalBytes <= addressable };
}

/** @throws {Kosmos2Error} code `memory-exhausted` when a model can't fit, before anything is allocated */
export function refuseTooLarge(name: string, { totalBytes, availableBytes, fits, dtype }: MemoryEstimate): void {
  if (fits) return;
  const GB = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;
  throw new Kosmos2Error("memory-exhausted", "memory",
    `Cannot load "${name}" as ${dtype}: it needs ${GB(totalBytes)}; wasm has ${GB(availableBytes)} at most: use a smaller dtype`,
    { neededBytes: totalBytes, availableBytes });
}

export function partOf(name: string): keyof MemoryEstimate["parts"] {
  if (name.startsWith("vision_model.")) return "vision";
  if (name.startsWith("image_to_text_projection.")) return "resampler";
  return /embed_tokens|lm_head/.test(name) ? "embeddings" : "decoder";
}

export const headWidthOf = ({ embedDim, attentionHeads }: Kosmos2Config["textConfig"]): number => embedDim / attentionHeads;
export const cacheShape = (text: Kosmos2Config["textConfig"], format: CacheFormat): CacheShape =>
  ({ layers: text.layers, heads: text.attentionHeads, headWidth: headWidthOf(text), format });

/** Counts instead of giving. */
class Counting implements Memory {
  bytes = 0;
  alloc(bytes: number): number {
    this.bytes += Math.ceil((bytes + 64) / 64) * 64;
    return 64;
  }
  free(): void {}
  write(): void {}
}

/** What a picture and a text take, by recording both. */
function passes(config: Kosmos2Config, dtype: Format, format: CacheFormat, threads: number, tokens: number): { cacheBytes: number; arenaBytes: number } {
  const { textConfig: text, visionConfig: vision } = config;
  const w = handles(unloaded(config, dtype, 64)), memory = new Counting();
  const sinusoids = new SinusoidTable(memory, text.embedDim, text.padTokenId);
  const seeing = new Recorder(threads, sinusoids, inIntegers(dtype));
  const pixels = new Float32Array(vision.numChannels * vision.imageSize ** 2);
  seeing.keep("image_embeds", see(seeing, seeing.input(pixels, vision.numChannels * vision.imageSize, vision.imageSize), w, config));

  const cache = new Cache(memory, cacheShape(text, format), text.maxPositionEmbeddings);
  cache.reserve(tokens);
  const reading = new Recorder(threads, sinusoids), ids = new Array<number>(tokens).fill(0);
  const images = reading.input(new Float32Array(config.latentQueryNum * text.embedDim), config.latentQueryNum, text.embedDim);
  const x = read(reading, { ids, positions: ids }, images, new Batch([{ cache, rows: tokens }]), w, text);
  reading.argmax("choice", predict(reading, reading.rows(x, tokens - 1, tokens), w, text), [[]]);
  const sinusoidBytes = Math.ceil((tokens + text.padTokenId + 1) / BLOCK) * BLOCK * text.embedDim * 4;
  return { cacheBytes: memory.bytes + sinusoidBytes, arenaBytes: Math.max(seeing.finish().arenaBytes, reading.finish().arenaBytes) };
}
