/**
 * Kosmos-2, top to bottom in the order of the data (MODEL.md; arXiv:2306.14824). Who computes is the graph's affair.
 *
 *     pixels ─ picture ─► features ─ resample ─► image rows ┐
 *                                              token ids ───┴─ read ─► rows ─ predict ─► logits
 *
 * `g.tap` names the stages as the golden values do; naming one changes nothing.
 */
import type { Graph, Linear, Matrix, Norm, Past, Tokens } from "../graph/graph.js";
import type { Kosmos2Config, Kosmos2TextConfig, Kosmos2VisionConfig } from "./config.js";

/** A checkpoint's tensors by their own names, as handles of the graph that will use them. */
export interface Weights {
  /** The same weights seen from inside `prefix`. */
  at(prefix: string): Weights;
  /** `name.weight` with `name.bias`, where there is one. */
  linear(name: string): Linear;
  norm(name: string, eps: number): Norm;
  /** A tensor as it is stored; a vector is one row. */
  matrix(name: string): Matrix;
}

/** q, k and v of an attention, still to be cut into heads. */
export interface Projected {
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;
}

/**
 * Pixels [3 · H, W] of one picture → its image rows [latentQueryNum, embedDim], not yet scaled.
 *
 * @param options.positions of another size of picture. Default: the checkpoint's
 * @param options.latents what `latents` gives, if it is there already: it is the same for all pictures
 */
export function see(g: Graph, pixels: Matrix, w: Weights, c: Kosmos2Config, options: { positions?: Matrix; latents?: Projected } = {}): Matrix {
  const features = picture(g, pixels, w.at("vision_model.model"), c.visionConfig, options.positions);
  return resample(g, features, options.latents ?? latents(g, w), w.at("image_to_text_projection"), c.textConfig);
}

/** The CLIP ViT, all rows of it normed and then L2-normalised: [1 + patches, hiddenSize]. */
function picture(g: Graph, pixels: Matrix, w: Weights, c: Kosmos2VisionConfig, positions?: Matrix): Matrix {
  const embeddings = w.at("embeddings");
  positions ??= embeddings.matrix("position_embedding.weight");
  const patches = g.patches(pixels, { channels: c.numChannels, patch: c.patchSize });
  let x = g.concat([
    g.add(embeddings.matrix("class_embedding"), g.rows(positions, 0, 1)),
    g.linear(patches, embeddings.linear("patch_embedding"), { residual: g.rows(positions, 1, 1 + patches.rows) }),
  ]);
  g.tap("vision.embeddings", x);
  x = g.layernorm(x, w.norm("pre_layrnorm", c.layerNormEps)); // the checkpoint's own spelling
  g.tap("vision.pre_layrnorm", x);
  for (let i = 0; i < c.numHiddenLayers; i++) {
    x = visionBlock(g, x, w.at(`encoder.layers.${i}`), c);
    g.tap(`vision.layer.${i}`, x);
  }
  // the whole sequence is normed here, not the class token alone (MODEL.md, "Vision")
  x = g.layernorm(x, w.norm("post_layernorm", c.layerNormEps));
  g.tap("vision.post_layernorm", x);
  x = g.l2normalize(x);
  g.tap("vision.features", x);
  return x;
}

/** One pre-norm Transformer layer of CLIP (arXiv:2103.00020). */
function visionBlock(g: Graph, x: Matrix, w: Weights, c: Kosmos2VisionConfig): Matrix {
  const h = g.layernorm(x, w.norm("layer_norm1", c.layerNormEps));
  const { q, k, v } = project(g, h, w.at("self_attn"));
  const mixed = g.attention(q, g.keysValues(k, v), { heads: c.numAttentionHeads });
  x = g.linear(mixed, w.linear("self_attn.out_proj"), { residual: x });
  const inner = g.layernorm(x, w.norm("layer_norm2", c.layerNormEps));
  const z = g.linear(inner, w.linear("mlp.fc1"), { activation: c.hiddenAct });
  return g.linear(z, w.linear("mlp.fc2"), { residual: x });
}

/** What the resampler's learned queries are to themselves, whatever the picture: [latentQueryNum, embedDim] each. */
export function latents(g: Graph, w: Weights): Projected {
  const projection = w.at("image_to_text_projection"), latent = projection.matrix("latent_query");
  return project(g, latent, projection.at("x_attn"));
}

/** The learned queries look at the picture and at themselves, without mask, norm or residual. */
function resample(g: Graph, features: Matrix, latents: Projected, w: Weights, c: Kosmos2TextConfig): Matrix {
  const seen = g.linear(features, w.linear("dense"));
  const keys = g.concat([g.linear(seen, w.linear("x_attn.k_proj")), latents.k]); // image rows first, latent rows last
  const values = g.concat([g.linear(seen, w.linear("x_attn.v_proj")), latents.v]);
  const mixed = g.attention(latents.q, g.keysValues(keys, values), { heads: c.attentionHeads, weights: "projection.attention" });
  const rows = g.linear(mixed, w.linear("x_attn.out_proj"));
  g.tap("image_embeds", rows);
  return rows;
}

/**
 * Tokens, some of them image rows, through the decoder: the rows that are asked for, before the final norm.
 *
 * @param asked how many of each sequence's last rows (default: all)
 * @returns [Σ asked, embedDim]
 */
export function read(
  g: Graph, tokens: Tokens, images: Matrix | undefined, past: Past, w: Weights, c: Kosmos2TextConfig, asked: readonly number[] = past.rows,
): Matrix {
  // image rows are scaled as well, and positions are added after that (MODEL.md, "Embedding")
  const scale = c.scaleEmbedding ? Math.sqrt(c.embedDim) : 1;
  let x = g.embed(tokens, w.linear("text_model.model.embed_tokens"), { scale, images });
  g.tap("text.embeddings", x);
  for (let i = 0; i < c.layers; i++) {
    // of the last layer, rows that are not asked for give keys and values and go no further
    x = textBlock(g, x, past, i, w.at(`text_model.model.layers.${i}`), c, i === c.layers - 1 ? asked : past.rows);
    g.tap(`text.layer.${i}`, x);
  }
  return x;
}

/** One decoder layer: Magneto, a pre-norm Transformer with two more norms inside (arXiv:2210.06423). */
function textBlock(g: Graph, x: Matrix, past: Past, layer: number, w: Weights, c: Kosmos2TextConfig, asked: readonly number[]): Matrix {
  const h = g.layernorm(x, w.norm("self_attn_layer_norm", c.layerNormEps));
  const k = g.linear(h, w.linear("self_attn.k_proj")), v = g.linear(h, w.linear("self_attn.v_proj"));
  g.tap(`text.cache.${layer}.key`, k);
  g.tap(`text.cache.${layer}.value`, v);
  const q = g.linear(lastRows(g, h, past, asked), w.linear("self_attn.q_proj"));
  const mixed = g.attention(q, g.append(past, layer, k, v, asked), { heads: c.attentionHeads, weights: `text.attention.${layer}` });
  const inner = g.layernorm(mixed, w.norm("self_attn.inner_attn_ln", c.layerNormEps));
  x = g.linear(inner, w.linear("self_attn.out_proj"), { residual: lastRows(g, x, past, asked) });
  const y = g.layernorm(x, w.norm("final_layer_norm", c.layerNormEps)); // the block's own, before the feed-forward, despite its name
  const z = g.linear(y, w.linear("ffn.fc1"), { activation: c.activationFunction });
  return g.linear(g.layernorm(z, w.norm("ffn.ffn_layernorm", c.layerNormEps)), w.linear("ffn.fc2"), { residual: x });
}

/** The last rows of each sequence, as many as are asked for. */
function lastRows(g: Graph, x: Matrix, past: Past, asked: readonly number[]): Matrix {
  if (asked.every((count, i) => count === past.rows[i])) return x;
  let end = 0;
  const parts = asked.map((count, i) => g.rows(x, (end += past.rows[i]) - count, end));
  return parts.length > 1 ? g.concat(parts) : parts[0];
}

/** Rows of `read` → the decoder's states [rows, embedDim]. */
export function states(g: Graph, x: Matrix, w: Weights, c: Kosmos2TextConfig): Matrix {
  const y = g.layernorm(x, w.norm("text_model.model.layer_norm", c.layerNormEps));
  g.tap("text.final_norm", y);
  return y;
}

/** Rows of `read` → logits [rows, vocabSize]; not rescaled, no bias. */
export function predict(g: Graph, x: Matrix, w: Weights, c: Kosmos2TextConfig): Matrix {
  return g.linear(states(g, x, w, c), w.linear("text_model.lm_head")); // the embedding itself unless the checkpoint unties them
}

/** q, k and v of the same rows. */
function project(g: Graph, x: Matrix, w: Weights): Projected {
  return { q: g.linear(x, w.linear("q_proj")), k: g.linear(x, w.linear("k_proj")), v: g.linear(x, w.linear("v_proj")) };
}
