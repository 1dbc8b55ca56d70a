/** The names that tensors had in the original fairseq checkpoint, as Hugging Face's converter renames them (MODEL.md, "Tensors"). */

/** Substitutions of whatever is inside a name, each made on the result of the one before. */
const substitutions = [
  ["gpt_model.decoder.output_projection", "text_model.lm_head"],
  ["gpt_model.decoder", "text_model.model"],
  ["img_connector", "image_to_text_projection"],
  ["img_model.visual.class_embedding", "vision_model.model.embeddings.class_embedding"],
  ["img_model.visual.positional_embedding", "vision_model.model.embeddings.position_embedding.weight"],
  ["img_model.visual.conv1", "vision_model.model.embeddings.patch_embedding"],
  ["img_model.visual", "vision_model.model"],
  ["ln_pre", "pre_layrnorm"],
  ["ln_post", "post_layernorm"],
  ["transformer.resblocks", "encoder.layers"],
  ["ts_attn", "self_attn"],
  ["ln_1", "layer_norm1"],
  ["ln_2", "layer_norm2"],
  ["c_fc", "fc1"],
  ["c_proj", "fc2"],
] as const;

/** Nothing is computed with them. */
const dropped = new Set(["gpt_model.decoder.embed_positions._float_tensor", "gpt_model.decoder.self_attn_sope.scale"]);

/** @returns the name that Hugging Face gives the tensor; undefined for one that is left out */
export function fromFairseq(name: string): string | undefined {
  if (dropped.has(name)) return undefined;
  return substitutions.reduce((renamed, [from, to]) => renamed.replaceAll(from, to), name);
}

/** The same tensors under Hugging Face's names, where they are fairseq's. */
export function withOwnNames<T>(tensors: ReadonlyMap<string, T>): ReadonlyMap<string, T> {
  if (![...tensors.keys()].some((name) => name.startsWith("gpt_model.decoder."))) return tensors;
  return new Map([...tensors].flatMap(([name, tensor]) => {
    const renamed = fromFairseq(name);
    return renamed === undefined ? [] : [[renamed, tensor] as const];
  }));
}
