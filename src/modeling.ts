/** Hugging Face's two model classes: Kosmos2Model gives states, Kosmos2ForConditionalGeneration logits and answers. */
import { Engine, type EngineOptions, type Question, type Reading, type Sequence } from "./engine.js";
import { Kosmos2Error } from "./errors.js";
import { greedy, type Stop } from "./generate/greedy.js";
import { type GenerateOptions, generateKeys, generateSettings } from "./generate/config.js";
import type { Kosmos2Config } from "./model/config.js";
import { callable, check, checkOptions, shown } from "./options.js";
import type { Stages } from "./passes.js";
import type { Prefix } from "./prefix.js";
import type { Profile } from "./profile.js";
import { tensor, type Tensor } from "./tensor.js";
import { openKeys, type ModelSource, openModel, type OpenOptions } from "./weights/source.js";

/** Options of `fromPretrained` and of `Kosmos2.load`: those of the engine, and those of a download where `source` needs one. */
export interface LoadOptions extends EngineOptions, Omit<OpenOptions, "need" | "onProgress" | "logger"> {}

/** What a processor gives and a model takes. B texts of T tokens; without pictures the model reads text alone. int64, as other libraries have ids and masks, does as well. */
export interface ModelInputs {
  /** [B, T] */
  inputIds: Tensor<"int32">;
  /** [B, T], 0 for padding, on either side. Default all 1. */
  attentionMask?: Tensor<"int32">;
  /** [B, T], 1 where an image row stands; as many in each row as the picture has image rows. */
  imageEmbedsPositionMask?: Tensor<"int32">;
  /** [B, 3, H, W] */
  pixelValues?: Tensor;
  /** [B, latentQueryNum, embedDim], from `getImageFeatures`: spares the vision pass. */
  imageEmbeds?: Tensor;
  /** Of the processor; not read. */
  imageSizes?: unknown;
}

export interface ForwardOptions {
  /** The states before, between and after the decoder's layers, the last one normed. */
  outputHiddenStates?: boolean;
  /** Softmax weights of every decoder layer and of the resampler. */
  outputAttentions?: boolean;
  /** Takes pictures of other sizes than the checkpoint's by resizing its position table. */
  interpolatePosEncoding?: boolean;
  /** Inner results to keep, by name (MODEL.md, "Stages"). Only for a batch of one. Asking changes no number. */
  stages?: readonly string[];
  signal?: AbortSignal;
}

/** Fields of Hugging Face's Kosmos2ModelOutput. Rows of padding are zero. */
export interface ModelOutput {
  /** [B, T, embedDim], normed */
  lastHiddenState: Tensor;
  /** [B, latentQueryNum, embedDim], where there was a picture */
  imageEmbeds?: Tensor;
  hiddenStates?: Tensor[];
  /** For each layer [B, heads, T, T] */
  attentions?: Tensor[];
  /** [B, heads, latentQueryNum, image rows + latentQueryNum] */
  projectionAttentions?: Tensor;
  stages: Record<string, Tensor>;
}

/** As ModelOutput, with logits instead of the last state. */
export interface CausalOutput extends Omit<ModelOutput, "lastHiddenState"> {
  /** [B, T, vocabSize] */
  logits: Tensor;
}

/** Milliseconds, waiting for other calls' turns included. */
export interface Timings {
  /** Of loading the model, once, its kernels warmed up: the same number in every answer. */
  loadMs: number;
  /** Looking at the pictures. */
  visionMs: number;
  /** Reading the prompts, to the first token of each answer. */
  prefillMs: number;
  /** All tokens after that. */
  decodeMs: number;
}

export interface GenerateOutput {
  /** [B, L]: prompts as they were given, answers, padding. */
  sequences: Tensor<"int32">;
  /** The answers alone, end token included. */
  newIds: number[][];
  stop: Stop[];
  timings: Timings;
}

const inputKeys = ["inputIds", "attentionMask", "imageEmbedsPositionMask", "pixelValues", "imageEmbeds", "imageSizes"] as const;
const forwardKeys = ["outputHiddenStates", "outputAttentions", "interpolatePosEncoding", "stages", "signal"] as const;

/** One text of a batch, without its padding being read. */
interface Row {
  ids: number[];
  mask: number[];
  places: number[];
  /** Ids that are read, and no padding. */
  read: number[];
}

/** What both classes share. */
abstract class PretrainedModel {
  protected constructor(protected readonly engine: Engine) {}

  get config(): Kosmos2Config {
    return this.engine.config;
  }

  /** What computes, for people. */
  get description(): string {
    return `${this.engine.dtype}, ${this.engine.backend.description}`;
  }

  /**
   * Image rows of each picture, to be given as `imageEmbeds` as often as wanted.
   *
   * @param pixelValues [B, 3, H, W]
   * @returns [B, latentQueryNum, embedDim]
   */
  async getImageFeatures(pixelValues: Tensor, options: { interpolatePosEncoding?: boolean; signal?: AbortSignal } = {}): Promise<Tensor> {
    checkOptions(options, ["interpolatePosEncoding", "signal"], "see a picture");
    const seen = await this.seeAll(pixelValues, options);
    return this.imageTensor(seen.map(({ embeds }) => embeds));
  }

  /**
   * What all passes cost that run until `work` is done: time by operation, beside the least that this machine's limits allow.
   *
   * @example
   *   const { profile } = await model.profile(() => model.generate(inputs));
   *   profile.operations[0]; // { pass: "vision", kind: "matmul_i8", shape: "257×1024×4096", times: 24, ms: 375, leastMs: 247 }
   */
  async profile<T>(work: () => Promise<T>): Promise<{ result: T; profile: Profile }> {
    check("profile", "work", work, callable);
    return this.engine.profile(work);
  }

  /** Gives memory and threads back; pending and later calls reject with code `disposed`. Twice is fine. */
  async dispose(): Promise<void> {
    await this.engine.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  protected async run(inputs: ModelInputs & ForwardOptions, last: "text.final_norm" | "logits"): Promise<{ last: Tensor } & Omit<ModelOutput, "lastHiddenState">> {
    checkOptions(inputs, [...inputKeys, ...forwardKeys], "run the model");
    const { layers, attentionHeads, embedDim, vocabSize } = this.config.textConfig;
    const rows = this.rows(inputs), T = rows[0].ids.length;
    const asked = inputs.stages ?? [];
    if (asked.length && rows.length > 1) throw mismatch("stages are kept for a batch of one", rows.length, 1);
    const each = Array.from({ length: layers }, (_, i) => i);
    const states = inputs.outputHiddenStates ? ["text.embeddings", ...each.slice(0, -1).map((i) => `text.layer.${i}`), "text.final_norm"] : [];
    const attentions = inputs.outputAttentions ? each.map((i) => `text.attention.${i}`) : [];
    const textStages = [...new Set([...asked, ...states, ...attentions, last])];
    const pictures = await this.pictures(inputs, rows.length, [...asked, ...(inputs.outputAttentions ? ["projection.attention"] : [])]);
    const kept: Stages[] = [];
    for (const [i, row] of rows.entries()) {
      const sequence = this.engine.begin();
      try {
        const reading = { sequence, ids: row.ids, mask: row.mask, places: row.places, images: pictures?.[i].embeds };
        kept.push(await this.engine.read([reading], { signal: inputs.signal, stages: textStages, logits: last === "logits" }));
      } finally {
        this.engine.end(sequence);
      }
    }
    const D = last === "logits" ? vocabSize : embedDim;
    const spread = (name: string, columns: number) => tensor("float32", spreadRows(rows, T, columns, kept.map((k) => k.get(name)!.data)), [rows.length, T, columns]);
    return {
      last: spread(last, D),
      ...(pictures && { imageEmbeds: this.imageTensor(pictures.map(({ embeds }) => embeds)) }),
      ...(states.length && { hiddenStates: states.map((name) => spread(name, embedDim)) }),
      ...(attentions.length && {
        attentions: attentions.map((name) =>
          tensor("float32", spreadWeights(rows, T, attentionHeads, kept.map((k) => k.get(name)!.data)), [rows.length, attentionHeads, T, T])),
      }),
      ...(inputs.outputAttentions && pictures && { projectionAttentions: this.projectionWeights(pictures.map(({ stages }) => stages)) }),
      stages: asked.length ? this.named(asked, pictures?.[0].stages, kept[0]) : {},
    };
  }

  /** Rows of a batch, checked against the model. */
  protected rows(inputs: ModelInputs): Row[] {
    const { inputIds, attentionMask, imageEmbedsPositionMask, pixelValues, imageEmbeds } = inputs;
    checkTensor("inputIds", inputIds, integers, ["B", "T"]);
    const [B, T] = inputIds.dims;
    for (const [name, other] of Object.entries({ attentionMask, imageEmbedsPositionMask })) if (other) checkTensor(name, other, integers, [B, T]);
    return Array.from({ length: B }, (_, b) => {
      const of = (t: Tensor<"int32"> | undefined, otherwise: number) => t ? Array.from(t.data.subarray(b * T, (b + 1) * T), Number) /* of int64, BigInts */ : new Array<number>(T).fill(otherwise);
      const row = { ids: this.known(of(inputIds, 0), `row ${b}`), mask: of(attentionMask, 1), places: of(imageEmbedsPositionMask, 0) };
      const places = row.places.filter((place, i) => place && row.mask[i]).length, wanted = imageEmbeds || pixelValues ? this.config.latentQueryNum : 0;
      if (places !== wanted) throw mismatch(`image rows of row ${b}`, places, wanted);
      const read = row.ids.filter((_, i) => row.mask[i] !== 0);
      if (read.length === 0) throw mismatch(`tokens of row ${b}`, 0, "at least one that is not padding");
      this.refuseTooLong(`row ${b}`, read.length);
      return { ...row, read };
    });
  }

  /** Ids that have an embedding: other numbers mean other things inside, or address memory that is not theirs. */
  protected known(ids: Iterable<number>, where: string): number[] {
    const { vocabSize } = this.config.textConfig;
    if (typeof ids !== "object" || typeof ids?.[Symbol.iterator] !== "function") throw mismatch(`tokens of ${where}`, ids, "a list of ids");
    const list = [...ids], bad = list.findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
    if (bad >= 0) throw mismatch(`token id ${bad} of ${where}`, list[bad], `a whole number, 0 … ${vocabSize - 1}`);
    return list;
  }

  protected refuseTooLong(where: string, found: number): void {
    const wanted = this.engine.contextSize;
    if (found > wanted) throw new Kosmos2Error("prompt-too-long", "input", `Cannot read ${where}: ${found} tokens, the context holds ${wanted}; give a shorter text`, { found, wanted });
  }

  /** Image rows of each of B texts, from pixels or as they are given. */
  protected async pictures(
    inputs: ModelInputs & ForwardOptions, B: number, stages: readonly string[] = [],
  ): Promise<{ embeds: Float32Array; stages: Stages }[] | undefined> {
    const { imageEmbeds, pixelValues } = inputs;
    if (!imageEmbeds) return pixelValues && this.seeAll(pixelValues, inputs, B, stages);
    const { latentQueryNum: L } = this.config, { embedDim: D } = this.config.textConfig;
    checkTensor("imageEmbeds", imageEmbeds, floats, [B, L, D]);
    return Array.from({ length: B }, (_, b) => ({ embeds: imageEmbeds.data.subarray(b * L * D, (b + 1) * L * D), stages: new Map() }));
  }

  private async seeAll(pixelValues: Tensor, options: ForwardOptions, wanted: number | "B" = "B", stages: readonly string[] = []) {
    const { numChannels, imageSize, patchSize } = this.config.visionConfig;
    checkTensor("pixelValues", pixelValues, floats, [wanted, numChannels, "H", "W"]);
    const [B, C, H, W] = pixelValues.dims;
    if (options.interpolatePosEncoding ? H < patchSize || W < patchSize : H !== imageSize || W !== imageSize) {
      throw mismatch("pixelValues", pixelValues.dims, `${imageSize} × ${imageSize} pixels, or interpolatePosEncoding: true`);
    }
    const seen = [];
    for (let b = 0; b < B; b++) {
      const pixels = pixelValues.data.subarray(b * C * H * W, (b + 1) * C * H * W);
      seen.push(await this.engine.see(pixels, H, W, { signal: options.signal, stages }));
    }
    return seen;
  }

  private imageTensor(embeds: readonly Float32Array[]): Tensor {
    const { latentQueryNum } = this.config, { embedDim } = this.config.textConfig;
    const all = new Float32Array(embeds.length * latentQueryNum * embedDim);
    embeds.forEach((rows, b) => all.set(rows, b * latentQueryNum * embedDim));
    return tensor("float32", all, [embeds.length, latentQueryNum, embedDim]);
  }

  private projectionWeights(stages: readonly Stages[]): Tensor | undefined {
    const { latentQueryNum } = this.config, { attentionHeads } = this.config.textConfig;
    const weights = stages.map((kept) => kept.get("projection.attention"));
    if (!weights.every((w) => w !== undefined)) return undefined; // given embeddings have no weights
    const { columns } = weights[0], all = new Float32Array(weights.length * attentionHeads * latentQueryNum * columns);
    weights.forEach((w, b) => all.set(w.data, b * w.data.length));
    return tensor("float32", all, [weights.length, attentionHeads, latentQueryNum, columns]);
  }

  /** Kept stages in Hugging Face's shapes: a batch axis before rows and columns, heads apart. */
  private named(asked: readonly string[], ...kept: (Stages | undefined)[]): Record<string, Tensor> {
    const { attentionHeads } = this.config.textConfig;
    const named: Record<string, Tensor> = {};
    for (const name of asked) {
      const stage = kept.map((stages) => stages?.get(name)).find((found) => found);
      if (!stage) continue; // the answer's keys say what there was
      const { rows, columns, data } = stage;
      if (/\.attention/.test(name)) named[name] = tensor("float32", data, [1, attentionHeads, rows / attentionHeads, columns]);
      else if (/\.cache\./.test(name)) named[name] = tensor("float32", headsApart(data, rows, columns, attentionHeads), [1, attentionHeads, rows, columns / attentionHeads]);
      else named[name] = tensor("float32", data, [1, rows, columns]);
    }
    return named;
  }
}

/**
 * Kosmos-2 without its language-model head.
 *
 * @example
 *   const model = await Kosmos2Model.fromPretrained("kosmos2-emoji");
 *   const { lastHiddenState } = await model.forward(inputs);
 */
export class Kosmos2Model extends PretrainedModel {
  static async fromPretrained(source: ModelSource, options: LoadOptions = {}): Promise<Kosmos2Model> {
    return new Kosmos2Model(await load(source, options));
  }

  /** @throws {Kosmos2Error} code `processor-mismatch` when the inputs don't fit the model */
  async forward(inputs: ModelInputs & ForwardOptions): Promise<ModelOutput> {
    const { last, ...others } = await this.run(inputs, "text.final_norm");
    return { lastHiddenState: last, ...others };
  }
}

/** What `generate` and `stream` take. */
export interface GenerateInputs extends ModelInputs, GenerateOptions {
  /** What earlier calls left of a common beginning, and where this one leaves its own. Texts with padding don't use it. */
  prefix?: Prefix;
}

/** A text fed bit by bit: each call reads on where the last one ended. */
export interface Session {
  /**
   * @param ids the next tokens
   * @returns [ids.length, vocabSize]: logits after each of them
   * @throws {Kosmos2Error} codes `processor-mismatch` for what is no id of the model, `prompt-too-long` for more than the context holds; the session goes on
   */
  feed(ids: readonly number[], options?: { signal?: AbortSignal }): Promise<Tensor>;
  /** Gives memory back; what is being read is read to its end, later calls reject with code `disposed`. Twice is fine. */
  dispose(): void;
}

/**
 * Kosmos-2 that answers.
 *
 * @example
 *   const processor = await Kosmos2Processor.fromPretrained("kosmos2-emoji");
 *   const model = await Kosmos2ForConditionalGeneration.fromPretrained("kosmos2-emoji");
 *   const inputs = await processor.process({ text: "<grounding> An image of", images: "picture.png" });
 *   const { sequences } = await model.generate({ ...inputs, maxNewTokens: 64 });
 *   const [text] = processor.batchDecode(sequences, { skipSpecialTokens: true });
 */
export class Kosmos2ForConditionalGeneration extends PretrainedModel {
  static async fromPretrained(source: ModelSource, options: LoadOptions = {}): Promise<Kosmos2ForConditionalGeneration> {
    return new Kosmos2ForConditionalGeneration(await load(source, options));
  }

  /** @throws {Kosmos2Error} code `processor-mismatch` when the inputs don't fit the model */
  async forward(inputs: ModelInputs & ForwardOptions): Promise<CausalOutput> {
    const { last, ...others } = await this.run(inputs, "logits");
    return { logits: last, ...others };
  }

  /**
   * The best answer token by token. Padding may be on either side: each row's answer is the one it would get alone.
   *
   * @throws {Kosmos2Error} codes `processor-mismatch`, `prompt-too-long`, `option-invalid`, `option-unknown`
   */
  async generate(inputs: GenerateInputs): Promise<GenerateOutput> {
    const rows = this.asked(inputs), answer = this.answer(inputs, rows), newIds: number[][] = rows.map(() => []);
    for (;;) {
      const { done, value } = await answer.next();
      if (done) return { ...value, newIds, sequences: this.sequences(rows, newIds) };
      newIds[value.row].push(value.id);
    }
  }

  /** As `generate`, each token as soon as it is known; leaving the loop stops the work. */
  async *stream(inputs: GenerateInputs): AsyncGenerator<{ row: number; id: number }, { stop: Stop[]; timings: Timings }> {
    return yield* this.answer(inputs, this.asked(inputs));
  }

  /**
   * Shows how answers may go on, so that tokens guessed ahead (`lookahead`) are right more often; each answer does so too. No answer
   * depends on it.
   *
   * @param ids a text as the model might write it, or a part of one
   * @throws {Kosmos2Error} code `processor-mismatch` for what is no id of the model
   */
  expect(ids: readonly number[]): void {
    this.engine.habits.learn(this.known(ids, "expect")); // a guess is read like any token
  }

  /** For teacher forcing and the like. One text, with one picture at most. */
  async startSession(inputs: Pick<ModelInputs, "inputIds" | "imageEmbedsPositionMask" | "pixelValues" | "imageEmbeds"> & { signal?: AbortSignal }): Promise<Session & { logits: Tensor }> {
    checkOptions(inputs, [...inputKeys, "signal"], "start a session");
    const rows = this.rows(inputs), [row] = rows;
    if (rows.length > 1) throw mismatch("texts of a session", rows.length, 1);
    const pictures = await this.pictures(inputs, 1);
    const sequence = this.engine.begin();
    let feeding = 0, over = false, tokens = 0;
    const giveBack = () => {
      if (over && feeding === 0) this.engine.end(sequence);
    };
    const dispose = () => {
      if (over) return; // what is still being read gives back when it ends, and nothing is read after that
      over = true;
      giveBack();
    };
    const feed = async (reading: Omit<Reading, "sequence">, signal?: AbortSignal) => {
      if (over) throw new Kosmos2Error("disposed", "state", "Cannot read on: the session was disposed of; start another");
      const { length } = reading.ids;
      this.refuseTooLong("on", tokens + length);
      if (length === 0) return tensor("float32", new Float32Array(0), [0, this.config.textConfig.vocabSize]);
      tokens += length; // at once: other calls may be waiting for their turn
      feeding++;
      try {
        const { rows, columns, data } = (await this.engine.read([{ sequence, ...reading }], { signal })).get("logits")!;
        return tensor("float32", data, [rows, columns]);
      } catch (error) {
        tokens -= length;
        throw error;
      } finally {
        feeding--;
        giveBack();
      }
    };
    try {
      const logits = await feed({ ids: row.ids, places: row.places, images: pictures?.[0].embeds }, inputs.signal);
      return {
        logits, dispose,
        feed: async (ids, options = {}) => {
          checkOptions(options, ["signal"], "read on");
          options.signal?.throwIfAborted();
          return feed({ ids: this.known(ids, "feed") }, options.signal);
        },
      };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  private asked(inputs: GenerateInputs): Row[] {
    checkOptions(inputs, [...inputKeys, ...generateKeys, "prefix"], "generate");
    return this.rows(inputs);
  }

  private async *answer(inputs: GenerateInputs, rows: readonly Row[]): AsyncGenerator<{ row: number; id: number }, { stop: Stop[]; timings: Timings }> {
    const { signal } = inputs;
    const settings = generateSettings(inputs, this.engine.generation);
    const prefix = rows.some(({ mask }) => mask.includes(0)) ? undefined : inputs.prefix;
    signal?.throwIfAborted();
    let since = performance.now();
    const lap = () => -since + (since = performance.now());
    const pictures = await this.pictures({ ...inputs, signal }, rows.length);
    const timings: Timings = { loadMs: this.engine.loadMs, visionMs: lap(), prefillMs: 0, decodeMs: 0 };
    const sequences: Sequence[] = [];
    try {
      const begins = rows.map(({ ids, mask, places }, row): Reading | undefined => {
        const text = { ids, places, images: pictures?.[row].embeds };
        const reading = prefix ? this.engine.resume(prefix, text) : { sequence: this.engine.begin(), mask, ...text };
        sequences.push(reading.sequence);
        return reading;
      });
      const isNew = sequences.every(({ cache }) => cache.length === 0);
      const tokens = greedy(rows.map(({ read }) => read), async (steps) => {
        const choices = await this.engine.choose(steps.map(({ row, ids, banned, next }): Question => {
          const begin = begins[row];
          begins[row] = undefined;
          return { ...(begin ?? { sequence: sequences[row], ids }), banned, next };
        }), signal);
        if (timings.prefillMs === 0) {
          timings.prefillMs = lap();
          if (prefix && isNew) this.engine.keep(prefix, { ...rows[0], images: pictures?.[0].embeds }, sequences[0]);
        }
        return choices.map((made) => made.map(({ id }) => id));
      }, { ...settings, contextSize: this.engine.contextSize, habits: this.engine.habits, cost: (rows) => this.engine.pace.cost(rows) });
      const stop = yield* tokens;
      timings.decodeMs = lap();
      return { stop, timings };
    } finally {
      for (const sequence of sequences) this.engine.end(sequence);
    }
  }

  private sequences(prompts: readonly Row[], newIds: readonly number[][]): Tensor<"int32"> {
    const B = prompts.length, T = prompts[0].ids.length, longest = Math.max(0, ...newIds.map((ids) => ids.length));
    const all = new Int32Array(B * (T + longest)).fill(this.engine.generation.padTokenId);
    newIds.forEach((ids, b) => {
      all.set(prompts[b].ids, b * (T + longest));
      all.set(ids, b * (T + longest) + T);
    });
    return tensor("int32", all, [B, T + longest]);
  }
}

export const loadKeys = ["dtype", "cache", "threads", "engine", "shared", "wasmUrl", "workerFactory", ...openKeys];

async function load(source: ModelSource, options: LoadOptions): Promise<Engine> {
  checkOptions(options, loadKeys, "load a model");
  return Engine.load(await openModel(source, options), options);
}

const mismatch = (what: string, found: unknown, wanted: string | number, said = shown(found)) =>
  new Kosmos2Error("processor-mismatch", "input", `Cannot give these inputs to this model: ${what}: found ${said}, wanted ${wanted}; use what the processor of the same checkpoint gives`, {
    found, wanted,
  });

const floats = "Float32Array", integers = "Int32Array or BigInt64Array";

/**
 * Believes a tensor of the caller's when its dims are those, its data as many numbers, and all of them finite: a wrong size would read
 * memory that is not its own.
 *
 * @param dims a name for what may be any size, from 1
 * @throws {Kosmos2Error} code `processor-mismatch`
 */
function checkTensor(name: string, given: Tensor | Tensor<"int32">, wanted: typeof floats | typeof integers, dims: readonly (number | string)[]): void {
  const { data, dims: found } = (given ?? {}) as Partial<Tensor>, shape = `dims: [${dims.join(", ")}]`;
  if (!Array.isArray(found) || !data) throw mismatch(name, given, `{ data: ${wanted}, ${shape} }`);
  if (found.length !== dims.length || !dims.every((dim, i) => found[i] === dim || (typeof dim === "string" && Number.isSafeInteger(found[i]) && found[i] > 0)))
    throw mismatch(name, found, shape);
  const size: number = found.reduce((product, dim) => product * dim, 1), array: string | undefined = data[Symbol.toStringTag]; // of any realm
  if (data.length !== size || !wanted.split(" or ").includes(array)) throw mismatch(name, data.length, `${size} in ${wanted}`, `${data.length} numbers in ${array ?? "no typed array"}`);
  if (wanted === floats && !finite(data)) throw mismatch(name, NaN, "finite numbers", "NaN or Infinity");
}

/** A seventh of a millisecond a picture: 0 times what is no finite number is NaN. */
function finite(data: Float32Array): boolean {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += 0 * data[i];
  return sum === 0;
}

/** Rows that were read back to where they stood among the padding, which stays 0. */
function spreadRows(rows: readonly Row[], T: number, columns: number, data: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(rows.length * T * columns);
  rows.forEach(({ mask }, b) => {
    let read = 0;
    mask.forEach((m, t) => {
      if (m !== 0) all.set(data[b].subarray(read * columns, ++read * columns), (b * T + t) * columns);
    });
  });
  return all;
}

/** Attention weights likewise, along both axes. */
function spreadWeights(rows: readonly Row[], T: number, heads: number, data: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(rows.length * heads * T * T);
  rows.forEach(({ mask }, b) => {
    const places = [...mask.keys()].filter((t) => mask[t] !== 0), n = places.length;
    for (let h = 0; h < heads; h++)
      places.forEach((t, i) => places.forEach((s, j) => (all[((b * heads + h) * T + t) * T + s] = data[b][(h * n + i) * n + j])));
  });
  return all;
}

/** [T, heads · d] → [heads, T, d]. */
function headsApart(data: Float32Array, T: number, columns: number, heads: number): Float32Array {
  const d = columns / heads, apart = new Float32Array(data.length);
  for (let t = 0; t < T; t++)
    for (let h = 0; h < heads; h++) apart.set(data.subarray(t * columns + h * d, t * columns + (h + 1) * d), (h * T + t) * d);
  return apart;
}
