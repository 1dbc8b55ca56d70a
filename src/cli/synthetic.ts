/**
 * Weights that nobody trained but that behave as if: a stand-in for checkpoints that can't be had, of any size.
 *
 * Numbers are the same on every machine and in every runtime: integers for chance, and of floating point only what IEEE 754 fixes
 * to the last bit. Each tensor has a stream of its own, so neither order nor shards nor the stored type change its values.
 *
 * Spreads are those of the one trained model that is at hand, kosmos2-emoji: matrices with tails hardly heavier than a normal
 * distribution's (fourth moment 3.0; measured 2.0 to 3.1), so that int8 costs what it costs there (0.64 % a matrix; 0.5 to 0.65 %);
 * features near 1 wherever a norm is near; scores of attention of spread 1.5, which leaves a tenth of the keys their weight; logits
 * of spread 3. Wilder ones make a network that no training made stable: at scores of spread 3 an error of 1 % grows tenfold in
 * 24 layers. What the layers add outgrows the embedding in the residual stream, so that the tied lm_head does not just find the token
 * that went in; the first layer adds most of it. Rows, and the γ of norms, differ in size.
 */
import type { Kosmos2Config } from "../model/config.js";
import type { TensorSpec } from "../weights/tensors.js";

/** A tensor's numbers, row by row. */
export interface SyntheticTensor {
  /** Numbers of a row. */
  readonly columns: number;
  /** The next rows: as many whole ones as `into` holds. */
  fill(into: Float32Array): void;
}

/** @param seed 0 … 2³² − 1 */
export function syntheticTensor({ name, shape }: TensorSpec, config: Kosmos2Config, seed: number): SyntheticTensor {
  const numbers = shape.reduce((product, dim) => product * dim, 1);
  const columns = shape.length === 1 ? numbers : numbers / shape[0];
  const chance = new Chance(name, seed);
  const gain = norm.exec(name);
  if (gain) {
    const mean = name === "text_model.model.layer_norm.weight" ? 3 : 1;
    return { columns, fill: (into) => gain[2] === "bias" ? chance.fill(into, 0.1) : into.forEach((_, i) => (into[i] = mean * chance.size())) };
  }
  const spread = spreadOf(name, config);
  return {
    columns,
    fill(into) {
      for (let row = 0; row < into.length; row += columns) chance.fill(into.subarray(row, row + columns), shape.length === 1 ? spread : spread * chance.size());
    },
  };
}

const norm = /(norm[12]?|inner_attn_ln)\.(weight|bias)$/;

/** Spread (standard deviation) of a tensor that belongs to no norm. */
function spreadOf(name: string, config: Kosmos2Config): number {
  const { textConfig: t, visionConfig: v } = config;
  // The embedding is 1 in each feature. A token's own logit is then 3 √D over the residual's length; this length makes it 2.7 spreads
  // of the logits where the best of a vocabulary lies at 4 to 5. All other sublayers together add an eighth of what the first MLP adds.
  const first = Math.sqrt(t.embedDim / 8), growth = first / Math.sqrt(8 * 2 * t.layers);
  const imageRow = t.scaleEmbedding ? 1 / Math.sqrt(t.embedDim) : 1; // they are scaled as tokens are
  const spreads: [RegExp, number][] = [ // the first that fits; of a bias, a tenth of what its matrix puts out
    [/^text_model\.(model\.embed_tokens|lm_head)\.weight$/, 1 / Math.sqrt(t.embedDim)],
    [/^image_to_text_projection\.dense\.weight$/, 1], // its input has length 1
    [/^image_to_text_projection\.dense\.bias$/, 0.1],
    [/^image_to_text_projection\.x_attn\.out_proj\.weight$/, imageRow / Math.sqrt(t.embedDim)],
    [/^image_to_text_projection\.x_attn\.out_proj\.bias$/, 0.1 * imageRow],
    [/^text_model\..*\.layers\.0\.ffn\.fc2\.weight$/, first / Math.sqrt(t.ffnDim)],
    [/^text_model\..*\.layers\.0\.ffn\.fc2\.bias$/, 0.1 * first],
    [/^text_model\..*\.out_proj\.weight$/, growth / Math.sqrt(t.embedDim)],
    [/^text_model\..*\.fc2\.weight$/, growth / Math.sqrt(t.ffnDim)],
    [/^text_model\..*\.(out_proj|fc2)\.bias$/, 0.1 * growth],
    [/\.fc1\.weight$/, 0.75 / Math.sqrt(name.startsWith("vision") ? v.hiddenSize : t.embedDim)],
    [/\.(q|k)_proj\.weight$/, Math.sqrt(1.5) / Math.sqrt(name.startsWith("vision") ? v.hiddenSize : t.embedDim)],
    [/^vision_model\..*\.fc2\.weight$/, 1 / Math.sqrt(v.intermediateSize)],
    [/patch_embedding\.weight$/, 1 / Math.sqrt(v.numChannels * v.patchSize ** 2)],
    [/class_embedding$|latent_query$/, 1],
    [/position_embedding\.weight$/, 0.5],
    [/\.bias$/, 0.1],
    [/^vision_model\..*\.weight$/, 1 / Math.sqrt(v.hiddenSize)],
    [/\.weight$/, 1 / Math.sqrt(t.embedDim)],
  ];
  return spreads.find(([pattern]) => pattern.test(name))![1];
}

/** Random numbers of one tensor (Doty-Humphrey's sfc32). */
class Chance {
  #a: number;
  #b: number;
  #c: number;
  #count = 1;

  constructor(name: string, seed: number) {
    let hash = 2166136261 ^ seed; // FNV-1a
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
    this.#a = hash | 0;
    this.#b = seed | 0;
    this.#c = name.length;
    for (let i = 0; i < 16; i++) this.#word();
  }

  #word(): number {
    const word = (this.#a + this.#b + this.#count++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + word) | 0;
    return word;
  }

  /** The sum of four uniform 16-bit numbers: nearly normal, mean 0, spread 1, at most 2√3. */
  #bell(): number {
    const x = this.#word(), y = this.#word();
    return ((x & 0xffff) + (x >>> 16) + (y & 0xffff) + (y >>> 16) - 131070) * (1 / 37837.2);
  }

  /** Mean 0, the given spread, fourth moment 3.02; none is above 5 spreads. */
  fill(into: Float32Array, spread: number): void {
    for (let i = 0; i < into.length; i++) {
      const t = this.#bell();
      into[i] = spread * t * (0.9453 + 0.02 * t * t); // variance: a² + 2 · 2.7 a b + 10.93 b² = 1, by the bell's moments
    }
  }

  /** How large a row is beside the others: around 1, from a quarter to 2.3. */
  size(): number {
    return (1 + 0.15 * this.#bell()) ** 2;
  }
}
