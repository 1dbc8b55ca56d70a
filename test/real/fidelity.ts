/**
 * How far a model's numbers are from Hugging Face's, at a size of which only sketches of the reference can be kept
 * (make_reference.py says what a sketch is, and makes them).
 */
import { readFileSync } from "node:fs";
import type { Kosmos2ForConditionalGeneration, ModelInputs } from "kosmos2-wasm";
import { parseHeader } from "#src/weights/safetensors.js";
import { random } from "../support.js";

export interface Fidelity {
  positions: number;
  /** Share of the text's positions where the reference's argmax is not the token that went in. */
  differing: number;
  /** ‖logits − reference‖ / ‖reference‖, all positions together. */
  relativeError: number;
  /** Of the logits: how large an error is, over all positions. */
  rms: number;
  /** Positions whose margin is above 5 times the rms of their own errors (an image row's are larger than a word's); and those of them where another token won. */
  clear: number;
  wrong: number[];
  /** Positions, all of them, whose argmax is the reference's. */
  same: number;
  /** Relative errors of the stages, in the order of the data; known to 6 % each. */
  stages: [string, number][];
}

interface Reference {
  ids: Int32Array;
  topIds: Int32Array;
  topLogits: Float32Array;
  norm: Float32Array;
  logits: Float32Array;
  stages: Float32Array;
  names: string[];
}

/** @param file a safetensors file of make_reference.py */
export function readReference(file: string): Reference {
  const bytes = readFileSync(file), start = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const { tensors, metadata } = parseHeader(bytes.subarray(8, start), start, bytes.length, file);
  const data = (name: string): ArrayBuffer => {
    const { start, end } = tensors.get(name)!;
    return Uint8Array.from(bytes.subarray(start, end)).buffer;
  };
  const f32 = (name: string) => new Float32Array(data(name)), i32 = (name: string) => new Int32Array(data(name));
  return {
    ids: i32("ids"), topIds: i32("top_ids"), topLogits: f32("top_logits"), norm: f32("norm"), logits: f32("logits"), stages: f32("stages"),
    names: JSON.parse(metadata.stages) as string[],
  };
}

/** The reference's text, its picture in the places 2 … */
export function inputsOf({ ids }: Reference, { config }: Kosmos2ForConditionalGeneration): ModelInputs {
  const T = ids.length, { imageSize } = config.visionConfig;
  const places = Int32Array.from(ids, (_, i) => Number(i >= 2 && i < 2 + config.latentQueryNum));
  return {
    inputIds: { type: "int32", dims: [1, T], data: ids }, imageEmbedsPositionMask: { type: "int32", dims: [1, T], data: places },
    pixelValues: { type: "float32", dims: [1, 3, imageSize, imageSize], data: random(3 * imageSize ** 2, 7, 1.7) },
  };
}

/** @param stages whether stages are looked at too; more is then kept in memory */
export async function fidelity(model: Kosmos2ForConditionalGeneration, file: string, stages = true): Promise<Fidelity> {
  const reference = readReference(file), { ids, topIds, topLogits, norm } = reference;
  const T = ids.length, top = topIds.length / T, V = model.config.textConfig.vocabSize, buckets = reference.logits.length / T, inputs = inputsOf(reference, model);
  const { logits: { data }, stages: kept } = await model.forward({ ...inputs, stages: stages ? reference.names : [] });
  const logitsHash = hashes(V, buckets);
  const errors = new Float64Array(T);
  let length = 0;
  for (let t = 0; t < T; t++) {
    errors[t] = distance(sketch(data.subarray(t * V, (t + 1) * V), logitsHash, buckets), reference.logits.subarray(t * buckets, (t + 1) * buckets));
    length += norm[t] ** 2;
  }
  const error = errors.reduce((sum, x) => sum + x, 0), wrong: number[] = [];
  let clear = 0, same = 0, texts = 0, differing = 0;
  for (let t = 0; t < T; t++) {
    const agrees = argmax(data.subarray(t * V, (t + 1) * V)) === topIds[t * top];
    if (agrees) same++;
    if (topLogits[t * top] - topLogits[t * top + 1] > 5 * Math.sqrt(errors[t] / V)) {
      clear++;
      if (!agrees) wrong.push(t);
    }
    if (inputs.imageEmbedsPositionMask!.data[t]) continue;
    texts++;
    if (topIds[t * top] !== ids[t]) differing++;
  }
  const S = reference.names.length, size = S && reference.stages.length / S;
  return {
    positions: T, differing: differing / texts, relativeError: Math.sqrt(error / length), rms: Math.sqrt(error / (T * V)), clear, wrong, same,
    stages: reference.names.flatMap((name, i): [string, number][] => {
      if (!kept[name]) return []; // fused with another
      const wanted = reference.stages.subarray(i * size, (i + 1) * size), values = kept[name].data;
      return [[name, Math.sqrt(distance(sketch(values, hashes(values.length, size), size), wanted) / wanted.reduce((sum, x) => sum + x * x, 0))]];
    }),
  };
}

/** For each of so many numbers: which bucket, and the sign in its highest bit. */
function hashes(count: number, buckets: number): Uint32Array {
  const found = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    let h = i + 1;
    h = Math.imul(h, 2654435761);
    h ^= h >>> 15;
    h = Math.imul(h, 2246822519);
    h ^= h >>> 13;
    h = Math.imul(h, 3266489917);
    h ^= h >>> 16;
    found[i] = ((h >>> 0) % buckets) | (h & 0x80000000);
  }
  return found;
}

function sketch(values: ArrayLike<number>, hashed: Uint32Array, buckets: number): Float64Array {
  const sums = new Float64Array(buckets);
  for (let i = 0; i < values.length; i++) {
    const h = hashed[i];
    sums[h & 0x7fffffff] += h & 0x80000000 ? -values[i] : values[i];
  }
  return sums;
}

function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return sum;
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
