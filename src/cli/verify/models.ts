/**
 * A random checkpoint and its cases.json (Hugging Face's values, stage by stage) against this engine.
 * What belongs to generation options that the engine does not have is counted as skipped.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Kosmos2ForConditionalGeneration, ModelInputs, Tensor } from "../../index.js";
import { tensor } from "../../tensor.js";
import { compare, merge, readTensors, sameIds, skip, type Check, type Numbers, type Wanted } from "./check.js";

/** What a check needs of a model. */
export type Model = Pick<Kosmos2ForConditionalGeneration, "forward" | "generate" | "startSession">;

interface Prompt {
  input_ids: number[];
  attention_mask: number[];
  image_embeds_position_mask: number[];
}
interface Batch {
  input_ids: number[][];
  attention_mask: number[][];
  image_embeds_position_mask: number[][];
}
interface Options {
  max_new_tokens: number;
  no_repeat_ngram_size: number;
  eos_token_id: number | null;
  [more: string]: unknown;
}
export interface Cases {
  prompt: Prompt;
  cached_decode?: { forced_ids: number[]; logits: string };
  greedy?: { name: string; options: Options; new_ids: number[]; teacher_forced_logits: string }[];
  beam?: unknown[];
  loss?: unknown;
  sampling?: unknown[];
  text_only?: { input_ids: number[]; logits: string };
  batch?: { options: Options; rows: { new_ids: number[]; image: number; decode_logits: string; image_embeds: string }[]; left: Batch; right: Batch };
  interpolate_pos_encoding?: { height: number; width: number; pixel_values: string; tensors: string[] }[];
  tensors: Record<string, { group: string; shape: number[]; limit: number }>;
}

/** Options of a greedy run that this engine knows; runs with others are skipped. */
const known = new Set(["max_new_tokens", "no_repeat_ngram_size", "eos_token_id"]);

const ints = (rows: readonly (readonly number[])[]): Tensor<"int32"> => tensor("int32", Int32Array.from(rows.flat()), [rows.length, rows[0].length]);

/** Rows `from … to − 1` along the first axis. */
function rowsOf(t: Tensor, from: number, to: number, dims: readonly number[]): Tensor {
  const row = dims.slice(1).reduce((product, dim) => product * dim, 1);
  return tensor("float32", t.data.slice(from * row, to * row), [to - from, ...dims.slice(1)]);
}

/** Logits at the places that chose `count` ids, of row `row` of a batch, the first of which is at `first`. */
function logitsFrom(logits: Tensor, row: number, first: number, count: number): Tensor {
  const [, length, vocab] = logits.dims;
  const at = (row * length + first) * vocab;
  return tensor("float32", logits.data.slice(at, at + count * vocab), [count, vocab]);
}

/**
 * Checks one folder's model.
 *
 * @param name the folder's name in the checks
 * @param load opens the model, once something of it is wanted; the caller disposes it
 */
export async function verifyModel(folder: string, name: string, wanted: Wanted, load: () => Promise<Model>, signal?: AbortSignal): Promise<Check[]> {
  const cases: Cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
  const read = readTensors(join(folder, "cases.safetensors"));
  const checks: Check[] = [];
  const limit = (tensorName: string) => cases.tensors[tensorName].limit;
  const path = (part: string) => `${name}/${part}`;
  const near = (part: string, found: Numbers, tensorName: string) => compare(path(part), found, read(tensorName), limit(tensorName));
  const want = (part: string) => wanted(path(part));
  const options = (o: Options) => ({ maxNewTokens: o.max_new_tokens, noRepeatNgramSize: o.no_repeat_ngram_size, eosTokenId: o.eos_token_id === null ? [] : [o.eos_token_id] });

  const pixels = read("pixel_values");
  const image = (k: number) => rowsOf(pixels, k, k + 1, pixels.dims);
  const { prompt } = cases;
  const inputs: ModelInputs = {
    inputIds: ints([prompt.input_ids]),
    attentionMask: ints([prompt.attention_mask]),
    imageEmbedsPositionMask: ints([prompt.image_embeds_position_mask]),
    pixelValues: image(0),
  };

  // every stage of one forward pass
  const stages = Object.keys(cases.tensors).filter((stage) => /^(vision\.|projection\.|text\.|image_embeds$|logits$)/.test(stage) && want(stage));
  if (stages.length) {
    signal?.throwIfAborted();
    const result = await (await load()).forward({ ...inputs, stages, signal });
    const found: Record<string, Tensor> = { ...result.stages, logits: result.logits };
    for (const stage of inOrder(stages)) checks.push(found[stage] ? near(stage, found[stage], stage) : skip(path(stage), 1, "fused: this engine has no such stage"));
  }

  if (cases.cached_decode && want("cached_decode")) {
    signal?.throwIfAborted();
    const { attentionMask: _, ...prompted } = inputs;
    const session = await (await load()).startSession({ ...prompted, signal });
    const rows: number[] = [];
    for (const id of cases.cached_decode.forced_ids) rows.push(...(await session.feed([id], { signal })).data);
    session.dispose();
    const { length } = cases.cached_decode.forced_ids;
    checks.push(near("cached_decode", { data: rows, dims: [length, rows.length / length] }, cases.cached_decode.logits));
  }

  for (const run of cases.greedy ?? []) {
    const part = `greedy/${run.name}`;
    if (!want(part)) continue;
    const unknown = Object.keys(run.options).filter((option) => !known.has(option));
    if (unknown.length) {
      checks.push(skip(path(part), 1, `this engine has no option ${unknown.join(", ")}`));
      continue;
    }
    signal?.throwIfAborted();
    const model = await load();
    const { newIds } = await model.generate({ ...inputs, ...options(run.options), signal });
    const teacher = await model.forward({ ...extended(inputs, run.new_ids), signal });
    const first = prompt.input_ids.length - 1;
    checks.push(merge(path(part), [
      sameIds("", newIds[0], run.new_ids),
      near("", logitsFrom(teacher.logits, 0, first, run.new_ids.length), run.teacher_forced_logits),
    ]));
  }

  if (cases.text_only && want("text_only")) {
    signal?.throwIfAborted();
    checks.push(near("text_only", (await (await load()).forward({ inputIds: ints([cases.text_only.input_ids]), signal })).logits, cases.text_only.logits));
  }

  for (const side of cases.batch ? (["left", "right"] as const) : []) {
    const part = `batch/${side}`, batch = cases.batch!;
    if (!want(part)) continue;
    signal?.throwIfAborted();
    checks.push(merge(path(part), await padded(await load(), side, batch)));
  }

  for (const [k, larger] of (cases.interpolate_pos_encoding ?? []).entries()) {
    const part = `interpolate_pos_encoding/${larger.height}x${larger.width}`;
    if (!want(part)) continue;
    signal?.throwIfAborted();
    const bare = (tensorName: string) => tensorName.slice(`interpolate.${k}.`.length);
    const result = await (await load()).forward({
      ...inputs, pixelValues: read(larger.pixel_values), interpolatePosEncoding: true, stages: larger.tensors.map(bare), signal,
    });
    const found = result.stages;
    checks.push(merge(path(part), larger.tensors.map((stage) =>
      found[bare(stage)] ? near(part, found[bare(stage)], stage) : skip(path(part), 1, `fused: ${bare(stage)}`))));
  }

  for (const [part, count] of [["beam", cases.beam?.length ?? 0], ["loss", cases.loss ? 1 : 0], ["sampling", cases.sampling?.length ?? 0]] as const) {
    if (count && want(part)) checks.push(skip(path(part), count, "this engine does not do it"));
  }
  return checks;

  /** The three prompts as one padded batch must do what each does alone: the same ids, and the same logits when fed with them. */
  async function padded(model: Model, side: "left" | "right", batch: NonNullable<Cases["batch"]>): Promise<Check[]> {
    const { input_ids, attention_mask, image_embeds_position_mask } = batch[side];
    const three = batch.rows.map((row) => image(row.image));
    const pixelValues = tensor("float32", Float32Array.from(three.flatMap((one) => [...one.data])), [three.length, ...pixels.dims.slice(1)]);
    const { newIds } = await model.generate({
      inputIds: ints(input_ids), attentionMask: ints(attention_mask), imageEmbedsPositionMask: ints(image_embeds_position_mask), pixelValues,
      ...options(batch.options), signal,
    });
    const found = batch.rows.map((row, k) => sameIds("", newIds[k], row.new_ids));

    // prompt and answer of each row, padded anew on the same side
    const lengths = attention_mask.map((mask) => mask.reduce((sum, one) => sum + one, 0));
    const real = (row: readonly number[], k: number) => row.filter((_, i) => attention_mask[k][i] === 1);
    const width = Math.max(...batch.rows.map((row, k) => lengths[k] + row.new_ids.length));
    const pad = (row: readonly number[], fill: number) => {
      const fills = new Array<number>(width - row.length).fill(fill);
      return side === "left" ? [...fills, ...row] : [...row, ...fills];
    };
    const whole = batch.rows.map((row, k) => ({
      ids: pad([...real(input_ids[k], k), ...row.new_ids], 1),
      seen: pad(new Array<number>(lengths[k] + row.new_ids.length).fill(1), 0),
      mask: pad([...real(image_embeds_position_mask[k], k), ...row.new_ids.map(() => 0)], 0),
    }));
    const { logits, imageEmbeds } = await model.forward({
      inputIds: ints(whole.map((row) => row.ids)), attentionMask: ints(whole.map((row) => row.seen)), imageEmbedsPositionMask: ints(whole.map((row) => row.mask)),
      pixelValues, signal,
    });
    for (const [k, row] of batch.rows.entries()) {
      const first = (side === "left" ? width - row.new_ids.length : lengths[k]) - 1;
      found.push(near("", logitsFrom(logits, k, first, row.new_ids.length), row.decode_logits));
      found.push(near("", rowsOf(imageEmbeds!, k, k + 1, imageEmbeds!.dims), row.image_embeds));
    }
    return found;
  }
}

/** The inputs with `ids` after them. */
function extended(inputs: ModelInputs, ids: readonly number[]): ModelInputs {
  const longer = (t: Tensor<"int32">, more: readonly number[]) => ints([[...t.data, ...more]]);
  return {
    ...inputs,
    inputIds: longer(inputs.inputIds, ids),
    attentionMask: longer(inputs.attentionMask!, ids.map(() => 1)),
    imageEmbedsPositionMask: longer(inputs.imageEmbedsPositionMask!, ids.map(() => 0)),
  };
}

/** Stages in the order of the data, so that the first one out names the place where it went wrong. */
function inOrder(stages: readonly string[]): string[] {
  const order = ["vision.embeddings", "vision.pre_layrnorm", "vision.layer", "vision.post_layernorm", "vision.features", "projection.attention", "image_embeds",
    "text.embeddings", "text.cache", "text.attention", "text.layer", "text.final_norm", "logits"];
  const rank = (stage: string) => order.findIndex((prefix) => stage === prefix || stage.startsWith(`${prefix}.`));
  const layer = (stage: string) => Number(/\.(\d+)/.exec(stage)?.[1] ?? 0);
  return [...stages].sort((a, b) => rank(a) - rank(b) || layer(a) - layer(b) || (a < b ? -1 : 1));
}
