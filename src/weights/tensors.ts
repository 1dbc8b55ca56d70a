/** The tensors of a Kosmos-2: names and shapes (MODEL.md, "Tensors"), and where a checkpoint has them. */
import { Kosmos2Error } from "../errors.js";
import { types } from "../graph/record.js";
import type { Kosmos2Config } from "../model/config.js";
import type { Checkpoint, StoredTensor } from "./checkpoint.js";
import { packedBytes, type Format } from "./quant.js";

/** A tensor that the model needs, by the checkpoint's name. */
export interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
  /** matrix: a weight [N, K], packed in the load's dtype (axes after the first are one). rows: plain f32, a vector being one row. */
  readonly role: "matrix" | "rows";
  /** A matrix's bias, where it has one. */
  readonly bias?: string;
  /** Errors of it cost most: where weights are i4, it is held in i8. */
  readonly sensitive?: boolean;
}

export const embedTokens = "text_model.model.embed_tokens.weight";
export const lmHead = "text_model.lm_head.weight";

/** Tables that old checkpoints store though they are computed. */
const ignorable = new Set(["text_model.model.embed_positions.weights", "vision_model.model.embeddings.position_ids"]);

/**
 * All tensors of a model, lm_head too, in the order in which they are packed and kept in memory: k, v and q of an attention one behind the other, and
 * their biases, so that the recorder can make one product of three (graph/recorder.ts).
 */
export function modelTensors(config: Kosmos2Config): TensorSpec[] {
  const { textConfig: t, visionConfig: v } = config;
  const specs: TensorSpec[] = [];
  const rows = (name: string, ...shape: number[]): void => void specs.push({ name, shape, role: "rows" });
  const linear = (outputs: number, inputs: number, ...names: string[]): void => {
    for (const name of names) specs.push({ name: `${name}.weight`, shape: [outputs, inputs], role: "matrix", bias: `${name}.bias` });
    for (const name of names) rows(`${name}.bias`, outputs);
  };
  const norm = (name: string, width: number): void => {
    rows(`${name}.weight`, width);
    rows(`${name}.bias`, width);
  };
  const attention = (name: string, width: number): void => {
    linear(width, width, ...["k", "v", "q"].map((part) => `${name}.${part}_proj`));
    linear(width, width, `${name}.out_proj`);
  };

  const vision = "vision_model.model", V = v.hiddenSize;
  rows(`${vision}.embeddings.class_embedding`, V);
  specs.push({ name: `${vision}.embeddings.patch_embedding.weight`, shape: [V, v.numChannels, v.patchSize, v.patchSize], role: "matrix" });
  rows(`${vision}.embeddings.position_embedding.weight`, (v.imageSize / v.patchSize) ** 2 + 1, V);
  norm(`${vision}.pre_layrnorm`, V); // the checkpoint's own spelling
  for (let i = 0; i < v.numHiddenLayers; i++) {
    const layer = `${vision}.encoder.layers.${i}`;
    norm(`${layer}.layer_norm1`, V);
    attention(`${layer}.self_attn`, V);
    norm(`${layer}.layer_norm2`, V);
    linear(v.intermediateSize, V, `${layer}.mlp.fc1`);
    linear(V, v.intermediateSize, `${layer}.mlp.fc2`);
  }
  norm(`${vision}.post_layernorm`, V);

  const projection = "image_to_text_projection", D = t.embedDim;
  rows(`${projection}.latent_query`, config.latentQueryNum, D);
  linear(D, V, `${projection}.dense`);
  attention(`${projection}.x_attn`, D);

  const text = "text_model.model";
  specs.push({ name: embedTokens, shape: [t.vocabSize, D], role: "matrix" });
  for (let i = 0; i < t.layers; i++) {
    const layer = `${text}.layers.${i}`;
    norm(`${layer}.self_attn_layer_norm`, D);
    attention(`${layer}.self_attn`, D);
    norm(`${layer}.self_attn.inner_attn_ln`, D);
    norm(`${layer}.final_layer_norm`, D);
    linear(t.ffnDim, D, `${layer}.ffn.fc1`);
    norm(`${layer}.ffn.ffn_layernorm`, t.ffnDim);
    linear(D, t.ffnDim, `${layer}.ffn.fc2`);
  }
  norm(`${text}.layer_norm`, D);
  specs.push({ name: lmHead, shape: [t.vocabSize, D], role: "matrix" });
  return specs.map((spec) => (spec.role === "matrix" && isSensitive(spec.name) ? { ...spec, sensitive: true } : spec));
}

/** Where 4 bits cost the most (bench/RESULTS.md, "Four bits"): 12 % of the released model's weights. */
const isSensitive = (name: string): boolean =>
  name === embedTokens || name === lmHead || /^image_to_text_projection\.|\.patch_embedding\.|^text_model\.model\.layers\.0\./.test(name);

/** Those that are stored: no lm_head that is the embedding. */
export const storedTensors = (config: Kosmos2Config): TensorSpec[] => modelTensors(config).filter(({ name }) => !(config.tieWordEmbeddings && name === lmHead));

/** A needed tensor as a matrix: N rows of K numbers. */
export function shapeOf({ role, shape }: TensorSpec): { N: number; K: number } {
  const numbers = shape.reduce((product, dim) => product * dim, 1);
  const N = role === "rows" && shape.length === 1 ? 1 : shape[0];
  return { N, K: numbers / N };
}

/**
 * Of w8a8 stays i8: tables and what runs once a picture, where there is nothing to gain, and values, which reach the output in a straight line
 * (kosmos2-emoji's boxes: mean IoU 0.979 → 0.990; bench/RESULTS.md).
 */
const betterIn16Bits = /embed_tokens|lm_head|patch_embedding|image_to_text_projection|v_proj/;

/** How a tensor is stored where weights are `dtype`: the one place for formats that treat some matrices better than others. */
export function formatOf({ name, role, sensitive }: TensorSpec, dtype: Format): Format | "rows" {
  if (role === "rows") return "rows";
  return (dtype === "i4" && sensitive) || (dtype === "w8a8" && betterIn16Bits.test(name)) ? "i8" : dtype;
}

/** Bytes of a tensor in memory. */
export function storedBytes(spec: TensorSpec, dtype: Format): number {
  const { N, K } = shapeOf(spec), format = formatOf(spec, dtype);
  return format === "rows" ? N * K * 4 : packedBytes(format, N, K);
}

/** Names that stand for another tensor: of a tied pair, the one that isn't there for the one that is. */
export function aliasesOf(config: Kosmos2Config, has: (name: string) => boolean): ReadonlyMap<string, string> {
  if (!config.tieWordEmbeddings || (has(lmHead) && has(embedTokens))) return new Map();
  return new Map([has(lmHead) ? [embedTokens, lmHead] : [lmHead, embedTokens]]);
}

/** Hears what is worth knowing and is no error. */
export interface Logger {
  warn(message: string): void;
}

/** A needed tensor and where it lies. */
export interface FoundTensor {
  readonly spec: TensorSpec;
  readonly stored: StoredTensor & { readonly dtype: keyof typeof types };
}

/**
 * Finds all that a model needs in a checkpoint and checks its shapes and types.
 * Of a tied pair either one may be missing; a stored lm_head is used even then.
 *
 * @param logger told of stored tensors that no Kosmos-2 has
 * @returns the tensors, and names that stand for another tensor
 * @throws {Kosmos2Error} codes `weights-incomplete`, `weights-shape`, `weights-dtype`, naming tensor, file, found and wanted
 */
export function findTensors(
  checkpoint: Checkpoint, config: Kosmos2Config, logger?: Logger,
): { found: FoundTensor[]; aliases: ReadonlyMap<string, string> } {
  const aliases = aliasesOf(config, (name) => checkpoint.tensors.has(name));
  const specs = modelTensors(config);
  const found = specs.filter(({ name }) => !aliases.has(name)).map((spec) => ({ spec, stored: find(checkpoint, spec) }));

  const known = new Set(specs.map(({ name }) => name));
  const others = [...checkpoint.tensors.keys()].filter((name) => !known.has(name) && !ignorable.has(name));
  if (others.length > 0)
    logger?.warn(`Ignored in "${checkpoint.name}": ${others.slice(0, 8).join(", ")}${others.length > 8 ? `, and ${others.length - 8} tensors more` : ""}`);
  return { found, aliases };
}

function find(checkpoint: Checkpoint, { name, shape }: TensorSpec): FoundTensor["stored"] {
  const stored = checkpoint.tensors.get(name);
  if (!stored)
    throw new Kosmos2Error("weights-incomplete", "integrity",
      `Cannot load "${checkpoint.name}": tensor "${name}" [${shape}] is missing`, { tensor: name, wanted: shape });
  const place = checkpoint.place(stored.file);
  if (stored.shape.length !== shape.length || stored.shape.some((dim, i) => dim !== shape[i]))
    throw new Kosmos2Error("weights-shape", "load",
      `Cannot load "${place}": tensor "${name}" is [${stored.shape}]; wanted [${shape}], as config.json says`,
      { tensor: name, file: stored.file, found: stored.shape, wanted: shape });
  if (!Object.hasOwn(types, stored.dtype))
    throw new Kosmos2Error("weights-dtype", "unsupported",
      `Cannot load "${place}": tensor "${name}" is ${stored.dtype}; wanted ${Object.keys(types).join(", ")}`,
      { tensor: name, file: stored.file, found: stored.dtype, wanted: Object.keys(types) });
  return stored as FoundTensor["stored"];
}
