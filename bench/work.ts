/** What a piece of work takes at least: multiply-adds and bytes. From the model's sizes alone (MODEL.md), not from what is recorded. */
import { inIntegers } from "#src/graph/record.js";
import type { Kosmos2Config } from "#src/model/config.js";
import { packedBytes, type Format } from "#src/weights/quant.js";

export interface Work {
  /** Multiply-adds of products with weights, and of attention where that is in int16 too. */
  products: number;
  /** Multiply-adds of attention in f32. */
  attention: number;
  /** Bytes of weights, each counted once. */
  bytes: number;
}

/** One product x[M, K] · w[N, K]ᵀ. */
export const productWork = (dtype: Format, M: number, K: number, N: number): Work => ({ products: M * K * N, attention: 0, bytes: packedBytes(dtype, N, K) });

/** Rows through a product of K inputs and N outputs; `held` where its weights are in another format than most. */
type Product = [rows: number, K: number, N: number, held?: Format];

/** How the weights are held that i4 leaves in i8 (weights/tensors.ts). */
const sensitive = (dtype: Format): Format => (dtype === "i4" ? "i8" : dtype);

/** Pixels → image rows. What does not depend on the picture (the resampler's queries, its latent keys and values) is not counted. */
export function visionWork(c: Kosmos2Config, dtype: Format): Work {
  const v = c.visionConfig, D = v.hiddenSize, patches = (v.imageSize / v.patchSize) ** 2, rows = patches + 1;
  const linears: Product[] = [[patches, v.numChannels * v.patchSize ** 2, D, sensitive(dtype)]];
  for (let i = 0; i < v.numHiddenLayers; i++) {
    for (let j = 0; j < 4; j++) linears.push([rows, D, D]);
    linears.push([rows, D, v.intermediateSize], [rows, v.intermediateSize, D]);
  }
  const tower = attended(sum(linears, dtype), v.numHiddenLayers * 2 * rows * rows * D, dtype), end = resamplerWork(c, dtype);
  return { products: tower.products + end.products, bytes: tower.bytes + end.bytes, attention: tower.attention + end.attention };
}

/** The end of vision: the learned queries look at what the tower saw. */
export function resamplerWork(c: Kosmos2Config, dtype: Format): Work {
  const v = c.visionConfig, rows = (v.imageSize / v.patchSize) ** 2 + 1, E = c.textConfig.embedDim, L = c.latentQueryNum, held = sensitive(dtype);
  return attended(sum([[rows, v.hiddenSize, E, held], [rows, E, E, held], [rows, E, E, held], [L, E, E, held]], dtype), 2 * L * (rows + L) * E, dtype);
}

const attended = ({ products, bytes }: Omit<Work, "attention">, attention: number, dtype: Format): Work =>
  (inIntegers(dtype) ? { products: products + attention, bytes, attention: 0 } : { products, bytes, attention });

/** `rows` tokens read after `past` others, and the logits of the last `asked`: of the last layer the others give no more than keys and values. */
export function textWork(c: Kosmos2Config, dtype: Format, rows: number, past = 0, asked = 1): Work {
  const t = c.textConfig, D = t.embedDim;
  const linears: Product[] = [[asked, D, t.vocabSize, sensitive(dtype)]];
  for (let i = 0; i < t.layers; i++) {
    const held = i === 0 ? sensitive(dtype) : dtype;
    const on = i === t.layers - 1 ? asked : rows;
    linears.push([rows, D, D, held], [rows, D, D, held], [on, D, D, held], [on, D, D, held], [on, D, t.ffnDim, held], [on, t.ffnDim, D, held]);
  }
  const seen = (rows: number, past: number): number => (rows * (rows + 1)) / 2 + rows * past;
  return attended(sum(linears, dtype), 2 * D * ((t.layers - 1) * seen(rows, past) + seen(asked, past + rows - asked)), dtype);
}

function sum(linears: readonly Product[], dtype: Format): { products: number; bytes: number } {
  return {
    products: linears.reduce((all, [M, K, N]) => all + M * K * N, 0),
    bytes: linears.reduce((all, [, K, N, held = dtype]) => all + packedBytes(held, N, K), 0),
  };
}

/** The least milliseconds that pieces of work take one after the other: each its multiply-adds at the peak, or its bytes at the bandwidth. */
export function leastMs(works: readonly Work[], limits: { products: number; f32: number; bandwidth: number }): number {
  return works.reduce((ms, work) => ms + Math.max(work.products / limits.products + work.attention / limits.f32, work.bytes / limits.bandwidth) / 1e6, 0);
}
