import assert from "node:assert/strict";
import { test } from "node:test";
import { Kosmos2Config, Kosmos2ForConditionalGeneration } from "kosmos2-wasm";
import { linear, matrix, norm, past, Reference, valuesOf } from "#src/graph/reference.js";
import { predict, read, see, type Weights } from "#src/model/kosmos2.js";
import { modelTensors } from "#src/weights/tensors.js";
import { random } from "../support.js";
import { writeSafetensors } from "../weights/support.js";

/** A model of one width that is a multiple of 1024 and others that divide by nothing. */
const config = new Kosmos2Config({
  latentQueryNum: 3,
  textConfig: { vocabSize: 50, embedDim: 1024, layers: 2, attentionHeads: 16, ffnDim: 37, maxPositionEmbeddings: 100 },
  visionConfig: { hiddenSize: 33, intermediateSize: 21, numHiddenLayers: 2, numAttentionHeads: 3, imageSize: 12, patchSize: 4 },
});

const tensors = new Map(modelTensors(config).filter(({ name }) => !name.includes("lm_head")).map(({ name, shape }, seed) => {
  const count = shape.reduce((product, dim) => product * dim, 1), inputs = shape.length > 1 ? count / shape[0] : 1;
  const isGamma = shape.length === 1 && name.endsWith(".weight");
  return [name, { shape, data: random(count, seed + 1, isGamma ? 0.3 : 1 / Math.sqrt(inputs)).map((v) => (isGamma ? 1 + v : v)) }];
}));
tensors.get("text_model.model.embed_tokens.weight")!.data.fill(0, 1024, 2048); // padding's

const handles = (prefix = ""): Weights => {
  const get = (name: string) => tensors.get(prefix + name);
  return {
    at: (inner) => handles(`${prefix}${inner}.`),
    linear(name) {
      const { shape, data } = get(`${name}.weight`) ?? tensors.get("text_model.model.embed_tokens.weight")!;
      return linear(shape[0], data.length / shape[0], data, get(`${name}.bias`)?.data);
    },
    norm: (name, eps) => norm(get(`${name}.weight`)!.data, get(`${name}.bias`)!.data, eps),
    matrix(name) {
      const { shape, data } = get(name)!;
      return shape.length === 1 ? matrix(1, shape[0], data) : matrix(shape[0], shape[1], data);
    },
  };
};

test("the model on the wasm backend is the model on the plain reference, stage by stage", async () => {
  const pixels = random(3 * 12 * 12, 77), ids = [0, 30, 4, 5, 6, 31, 7, 8, 9];
  const g = new Reference(1), w = handles();
  const images = see(g, matrix(36, 12, pixels), w, config);
  const tokens = { ids: ids.map((id, i) => (i >= 2 && i < 5 ? 1 - i : id)), positions: ids.map((_, i) => i + 2) };
  const logits = valuesOf(predict(g, read(g, tokens, images, past([ids.length]), w, config.textConfig), w, config.textConfig));

  const bytes = writeSafetensors([...tensors].map(([name, { shape, data }]) => ({ name, dtype: "F32" as const, shape, data: new Uint8Array(data.buffer) })));
  const files = { "config.json": new TextEncoder().encode(JSON.stringify(config)), "model.safetensors": bytes };
  const int32 = (data: number[]) => ({ type: "int32" as const, data: Int32Array.from(data), dims: [1, data.length] });
  const stages = [...g.taps.keys()];
  for (const options of [{ threads: 1 }, { threads: 2 }]) {
    await using model = await Kosmos2ForConditionalGeneration.fromPretrained(files, { dtype: "f32", ...options });
    const found = await model.forward({
      inputIds: int32(ids), imageEmbedsPositionMask: int32(ids.map((_, i) => (i >= 2 && i < 5 ? 1 : 0))),
      pixelValues: { type: "float32", data: pixels, dims: [1, 3, 12, 12] }, stages,
    });
    // The reference sums in f64. f32 sums of up to 1024 products over a few layers stay within 2e-5 of a stage's largest number.
    for (const [name, numbers] of [...stages.map((stage) => [stage, found.stages[stage].data] as const), ["logits", found.logits.data] as const]) {
      const wanted = name === "logits" ? logits.data : valuesOf(g.taps.get(name)!).data;
      const size = wanted.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      assert.equal(numbers.length, wanted.length, name);
      if (name.includes(".cache.")) continue; // heads apart
      numbers.forEach((v, i) => assert.ok(Math.abs(v - wanted[i]) <= 2e-5 * size, `${name}[${i}] is ${v}, wanted ${wanted[i]}`));
    }
  }
});
