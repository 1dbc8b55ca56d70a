import assert from "node:assert/strict";
import { test } from "node:test";
import { Checkpoint } from "#src/weights/checkpoint.js";
import { fromFairseq } from "#src/weights/fairseq.js";
import { openModel } from "#src/weights/source.js";
import { findTensors } from "#src/weights/tensors.js";
import { stored, tinyConfig, tinyFolder, tinyTensors } from "./support.js";

/** The other way round, for names that have one. */
function toFairseq(name: string): string {
  const vision = name.startsWith("vision_model.");
  return name
    .replace("text_model.lm_head", "gpt_model.decoder.output_projection").replace("text_model.model", "gpt_model.decoder").replace("image_to_text_projection", "img_connector")
    .replace("vision_model.model.embeddings.class_embedding", "img_model.visual.class_embedding")
    .replace("vision_model.model.embeddings.position_embedding.weight", "img_model.visual.positional_embedding")
    .replace("vision_model.model.embeddings.patch_embedding", "img_model.visual.conv1").replace("vision_model.model", "img_model.visual")
    .replace("pre_layrnorm", "ln_pre").replace("post_layernorm", "ln_post").replace("encoder.layers", "transformer.resblocks")
    .replace(vision ? "self_attn" : "\0", "ts_attn").replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
    .replace(vision ? "fc1" : "\0", "c_fc").replace(vision ? "fc2" : "\0", "c_proj");
}

test("fromFairseq gives Hugging Face's names, and leaves two tables out", () => {
  for (const [from, to] of [
    ["gpt_model.decoder.output_projection.weight", "text_model.lm_head.weight"],
    ["gpt_model.decoder.layers.3.self_attn.inner_attn_ln.bias", "text_model.model.layers.3.self_attn.inner_attn_ln.bias"],
    ["gpt_model.decoder.layers.23.ffn.ffn_layernorm.weight", "text_model.model.layers.23.ffn.ffn_layernorm.weight"],
    ["img_connector.x_attn.k_proj.weight", "image_to_text_projection.x_attn.k_proj.weight"],
    ["img_model.visual.conv1.weight", "vision_model.model.embeddings.patch_embedding.weight"],
    ["img_model.visual.positional_embedding", "vision_model.model.embeddings.position_embedding.weight"],
    ["img_model.visual.ln_pre.weight", "vision_model.model.pre_layrnorm.weight"],
    ["img_model.visual.transformer.resblocks.11.ts_attn.out_proj.bias", "vision_model.model.encoder.layers.11.self_attn.out_proj.bias"],
    ["img_model.visual.transformer.resblocks.0.mlp.c_proj.weight", "vision_model.model.encoder.layers.0.mlp.fc2.weight"],
    ["gpt_model.decoder.embed_positions._float_tensor", undefined],
    ["gpt_model.decoder.self_attn_sope.scale", undefined],
  ] as const) assert.equal(fromFairseq(from), to);
});

test("Checkpoint.open finds all tensors of a model under fairseq's names", async () => {
  const tensors = tinyTensors(), renamed = tensors.map((tensor) => ({ ...tensor, name: toFairseq(tensor.name) }));
  assert.ok(renamed.every(({ name }) => /^(gpt_model|img_model|img_connector)\./.test(name)), "none keeps its name");
  const more = [stored("gpt_model.decoder.embed_positions._float_tensor", "F32", [1], new Float32Array(1)), stored("gpt_model.decoder.self_attn_sope.scale", "F32", [1], new Float32Array(1))];
  for (const shards of [1, 3]) {
    const checkpoint = await Checkpoint.open(await openModel(tinyFolder([...renamed, ...more], shards)));
    const { found } = findTensors(checkpoint, tinyConfig, { warn: (line) => assert.equal(line, "") });
    assert.equal(found.length, tensors.length);
    for (const { spec: { name }, stored: { file, start, end } } of found) {
      const bytes = new Uint8Array(end - start);
      await checkpoint.read(file, bytes, start);
      assert.deepEqual(bytes, tensors.find((tensor) => tensor.name === name)!.data);
    }
  }
});
