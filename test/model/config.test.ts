import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Kosmos2Error } from "#src/errors.js";
import { Kosmos2Config } from "#src/model/config.js";
import { goldens, noGoldens } from "../support.js";

const rejects = (json: unknown, words: RegExp): void =>
  assert.throws(() => Kosmos2Config.fromJSON(json), (error: unknown) => {
    assert.ok(error instanceof Kosmos2Error && error.code === "config-invalid", String(error));
    assert.match(error.message, words);
    return true;
  });

test("Kosmos2Config takes the released values for all that an empty file leaves out", () => {
  const { textConfig: t, visionConfig: v, ...top } = Kosmos2Config.fromJSON({});
  assert.deepEqual([t.vocabSize, t.embedDim, t.layers, t.attentionHeads, t.ffnDim, t.activationFunction], [65037, 2048, 24, 32, 8192, "gelu"]);
  assert.deepEqual([t.bosTokenId, t.padTokenId, t.eosTokenId, t.noRepeatNgramSize, t.scaleEmbedding, t.layerNormEps], [0, 1, [2], 3, true, 1e-5]);
  assert.deepEqual([v.hiddenSize, v.intermediateSize, v.numHiddenLayers, v.numAttentionHeads, v.imageSize, v.patchSize, v.hiddenAct],
    [1024, 4096, 24, 16, 224, 14, "quick_gelu"]);
  assert.deepEqual([top.latentQueryNum, top.tieWordEmbeddings, top.dtype], [64, true, undefined]);
  assert.equal(Kosmos2Config.fromJSON({ text_config: null, vision_config: { patch_size: null } }).visionConfig.patchSize, 14);
});

test("Kosmos2Config understands Hugging Face's aliases, dtype names and eos lists", () => {
  const config = Kosmos2Config.fromJSON({
    torch_dtype: "bfloat16",
    text_config: { hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, attention_heads: 4, eos_token_id: [2, 7] },
  });
  assert.deepEqual([config.textConfig.embedDim, config.textConfig.layers, config.textConfig.attentionHeads], [64, 2, 4]);
  assert.deepEqual([config.textConfig.eosTokenId, config.dtype], [[2, 7], "bfloat16"]);
  assert.equal(Kosmos2Config.fromJSON({ dtype: "float16" }).dtype, "float16");
});

test("Kosmos2Config refuses what can't be, naming field, found and wanted", () => {
  rejects([], /the whole is \[\]; wanted an object/);
  rejects({ model_type: "kosmos-2.5" }, /model_type is "kosmos-2.5"; wanted "kosmos-2"/);
  rejects({ text_config: 3 }, /text_config is 3; wanted an object/);
  rejects({ text_config: { layers: 0 } }, /text_config.layers is 0; wanted a whole number from 1/);
  rejects({ text_config: { embed_dim: "64" } }, /text_config.embed_dim is "64"/);
  rejects({ text_config: { embed_dim: 64.5 } }, /64.5/);
  rejects({ text_config: { vocab_size: 1e15 } }, /vocab_size is 1000000000000000/);
  rejects({ text_config: { embed_dim: 65, attention_heads: 4 } }, /embed_dim is 65; wanted a multiple of attention_heads, 4/);
  rejects({ text_config: { embed_dim: 64, hidden_size: 32 } }, /hidden_size is 32; wanted 64, as embed_dim says/);
  rejects({ text_config: { activation_function: "geglu" } }, /activation_function is "geglu"; wanted one of linear, gelu/);
  rejects({ text_config: { add_cross_attention: true } }, /cross attention is not supported/);
  rejects({ text_config: { eos_token_id: [2, "x"] } }, /eos_token_id is \[2,"x"\]; wanted an id or a list/);
  for (const name of ["bos", "pad", "eos"]) rejects({ text_config: { vocab_size: 100, [`${name}_token_id`]: 100 } }, new RegExp(`${name}_token_id is \\[?100\\]?; wanted less than vocab_size, 100`));
  rejects({ text_config: { scale_embedding: 1 } }, /scale_embedding is 1; wanted true or false/);
  rejects({ vision_config: { hidden_size: 50, num_attention_heads: 4 } }, /vision_config.hidden_size is 50; wanted a multiple/);
  rejects({ vision_config: { image_size: 225 } }, /image_size is 225; wanted a multiple of patch_size, 14/);
  rejects({ vision_config: { layer_norm_eps: 0 } }, /layer_norm_eps is 0; wanted a number above 0/);
  rejects({ latent_query_num: -1 }, /latent_query_num is -1/);
  rejects({ latent_query_num: 2 ** 53 }, /latent_query_num/);
});

test("Kosmos2Config.toJSON gives the file's own names back, unknown fields and aliases too", () => {
  const file = { extra: { a: 1 }, text_config: { hidden_size: 64, attention_heads: 4, top_k: 50 } };
  const config = Kosmos2Config.fromJSON(file);
  const json = config.toJSON() as { extra: unknown; latent_query_num: number; text_config: Record<string, unknown> };
  assert.deepEqual([json.extra, json.latent_query_num], [{ a: 1 }, 64]);
  assert.deepEqual([json.text_config.hidden_size, json.text_config.embed_dim, json.text_config.top_k, json.text_config.eos_token_id], [64, undefined, 50, 2]);
  assert.deepEqual(Kosmos2Config.fromJSON(JSON.parse(JSON.stringify(config))).toJSON(), json);
});

test("Kosmos2Config is made of camelCase fields, released values filling up", () => {
  const config = new Kosmos2Config({ latentQueryNum: 3, textConfig: { embedDim: 32, attentionHeads: 4 } });
  assert.deepEqual([config.latentQueryNum, config.textConfig.embedDim, config.textConfig.layers], [3, 32, 24]);
  assert.equal((config.toJSON().text_config as Record<string, unknown>).embed_dim, 32);
  assert.throws(() => new Kosmos2Config({ textConfig: { embedDim: 33 } }), /embed_dim is 33/);
});

test("Kosmos2Config reads what Hugging Face saved for every golden model", { skip: noGoldens }, () => {
  for (const name of ["tiny", "odd", "heads64", "untied", "sharded-bf16", "f16"]) {
    const json = JSON.parse(readFileSync(`${goldens}models/${name}/config.json`, "utf8"));
    const config = Kosmos2Config.fromJSON(json);
    assert.deepEqual([config.textConfig.embedDim, config.textConfig.vocabSize, config.dtype], [json.text_config.embed_dim, json.text_config.vocab_size, json.dtype]);
    assert.equal(config.tieWordEmbeddings, name !== "untied");
  }
});

test("Kosmos2Config.fromPretrained reads the model in the package", async () => {
  const { textConfig, latentQueryNum } = await Kosmos2Config.fromPretrained("kosmos2-emoji");
  await assert.rejects(Kosmos2Config.fromPretrained("kosmos2-emoji", { dtype: "i8" } as never), { code: "option-unknown" });
  assert.deepEqual([textConfig.vocabSize, textConfig.noRepeatNgramSize, latentQueryNum], [1485, 0, 64]);
});
