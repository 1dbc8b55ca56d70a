/** Tiny checkpoints made on the spot. */
import { Kosmos2Config } from "#src/model/config.js";
import { toF16 } from "#src/weights/reference.js";
import { safetensorsHeader, type Dtype } from "#src/weights/safetensors.js";
import { modelTensors } from "#src/weights/tensors.js";
import { random } from "../support.js";

/** Widths that divide by nothing useful. */
export const tinyConfig = new Kosmos2Config({
  latentQueryNum: 3,
  textConfig: { vocabSize: 21, embedDim: 12, attentionHeads: 2, layers: 1, ffnDim: 13 },
  visionConfig: { hiddenSize: 10, numAttentionHeads: 2, numHiddenLayers: 1, intermediateSize: 11, imageSize: 8, patchSize: 4 },
});

export interface TinyTensor { name: string; dtype: Dtype; shape: readonly number[]; values: Float32Array; data: Uint8Array }

/** Numbers as they are stored; and what they are worth then. */
export function stored(name: string, dtype: "F32" | "F16" | "BF16", shape: readonly number[], values: Float32Array): TinyTensor {
  if (dtype === "F32") return { name, dtype, shape, values, data: new Uint8Array(values.slice().buffer) };
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = Uint16Array.from(values, (x, i) => (dtype === "F16" ? toF16(x) : bits[i] >>> 16));
  return { name, dtype, shape, values, data: new Uint8Array(halves.buffer) };
}

/** All tensors of a model with random numbers; lm_head only when untied. */
export function tinyTensors(config: Kosmos2Config = tinyConfig, dtype: "F32" | "F16" | "BF16" = "F32"): TinyTensor[] {
  return modelTensors(config)
    .filter(({ name }) => !config.tieWordEmbeddings || name !== "text_model.lm_head.weight")
    .map(({ name, shape }, i) => stored(name, dtype, shape, random(shape.reduce((a, b) => a * b), i + 1)));
}

/** A whole file in memory; `data` holds the bytes of each tensor. */
export function writeSafetensors(
  tensors: readonly { name: string; dtype: Dtype; shape: readonly number[]; data: Uint8Array }[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const { header, starts, size } = safetensorsHeader(tensors, metadata);
  const file = new Uint8Array(size);
  file.set(header);
  tensors.forEach(({ data }, i) => file.set(data, starts[i]));
  return file;
}

const text = (json: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(json));

/** A model's folder in memory: one file, or `shards` of them with an index. */
export function tinyFolder(tensors: readonly TinyTensor[], shards = 1, config: Kosmos2Config = tinyConfig): Record<string, Uint8Array> {
  const folder: Record<string, Uint8Array> = { "config.json": text(config) };
  if (shards === 1) return { ...folder, "model.safetensors": writeSafetensors(tensors) };
  const weight_map: Record<string, string> = {};
  for (let i = 0; i < shards; i++) {
    const name = `model-${i + 1}-of-${shards}.safetensors`;
    const part = tensors.filter((_, place) => place % shards === i);
    for (const tensor of part) weight_map[tensor.name] = name;
    folder[name] = writeSafetensors(part);
  }
  return { ...folder, "model.safetensors.index.json": text({ metadata: {}, weight_map }) };
}
