/**
 * The sizes of a Kosmos-2, as `config.json` says them. Fields carry Hugging Face's names in camelCase; what a file leaves out
 * takes the value of microsoft/kosmos-2-patch14-224. Everything is checked here, so that nothing below has to.
 */
import { Kosmos2Error } from "../errors.js";
import { activations, type Activation } from "../graph/graph.js";
import { checkOptions, shown } from "../options.js";
import { notFound, readJson, type ModelFiles } from "../weights/files.js";
import { openKeys, openModel, type ModelSource, type OpenOptions } from "../weights/source.js";

/** One field of a file: its names there (Hugging Face's own first, then aliases), its default, and how it is checked. */
interface Field<T> {
  readonly names: readonly string[];
  readonly value: T;
  /** What a value has to be, for messages. */
  readonly wanted: string;
  /** The value, or undefined when it is not one. */
  readonly read: (found: unknown) => T | undefined;
}
type Fields = { readonly [camelCase: string]: Field<unknown> };
type Values<F extends Fields> = { readonly [K in keyof F]: F[K]["value"] };

const isCount = (found: unknown, from: number, to: number): found is number =>
  Number.isSafeInteger(found) && (found as number) >= from && (found as number) <= to;

/** A whole number from 1 to `most`: the bound keeps an absurd file from asking for terabytes. */
const size = (names: string, value: number, most: number): Field<number> => ({
  names: names.split(" "), value, wanted: `a whole number from 1 to ${most}`, read: (found) => (isCount(found, 1, most) ? found : undefined),
});
const count = (names: string, value: number): Field<number> => ({
  names: names.split(" "), value, wanted: "a whole number, 0 or more", read: (found) => (isCount(found, 0, 2 ** 31 - 1) ? found : undefined),
});
const flag = (names: string, value: boolean): Field<boolean> => ({
  names: names.split(" "), value, wanted: "true or false", read: (found) => (typeof found === "boolean" ? found : undefined),
});
const positive = (names: string, value: number): Field<number> => ({
  names: names.split(" "), value, wanted: "a number above 0",
  read: (found) => (typeof found === "number" && Number.isFinite(found) && found > 0 ? found : undefined),
});
/** Not used at inference; kept as it is. */
const inert = (names: string, value: number): Field<number> => ({
  names: names.split(" "), value, wanted: "a number", read: (found) => (typeof found === "number" ? found : undefined),
});
const activation = (names: string, value: Activation): Field<Activation> => ({
  names: names.split(" "), value, wanted: `one of ${activations.flat().join(", ")}`,
  read: (found) => activations.flat().find((name) => name === found),
});
/** One id or a list of them. */
const ids = (names: string, value: readonly number[]): Field<readonly number[]> => ({
  names: names.split(" "), value, wanted: "an id or a list of ids", read: (found) => tokenIds(found),
});

/** `2` or `[2, 5]` as a list; undefined when it is neither, or one is past `most`. */
export function tokenIds(found: unknown, most = 2 ** 31 - 1): readonly number[] | undefined {
  const list = Array.isArray(found) ? (found as unknown[]) : [found];
  return list.every((id) => isCount(id, 0, most)) ? (list as number[]) : undefined;
}

const textFields = {
  vocabSize: size("vocab_size", 65037, 2 ** 22),
  /** Only sizes Hugging Face's first table of positions: no limit. */
  maxPositionEmbeddings: size("max_position_embeddings", 2048, 2 ** 24),
  /** Width of a token; a multiple of `attentionHeads`. */
  embedDim: size("embed_dim hidden_size", 2048, 2 ** 16),
  layers: size("layers num_hidden_layers", 24, 1024),
  attentionHeads: size("attention_heads num_attention_heads", 32, 1024),
  ffnDim: size("ffn_dim", 8192, 2 ** 18),
  activationFunction: activation("activation_function", "gelu"),
  layerNormEps: positive("layer_norm_eps", 1e-5),
  /** Embeddings times √embedDim. */
  scaleEmbedding: flag("scale_embedding", true),
  bosTokenId: count("bos_token_id", 0),
  padTokenId: count("pad_token_id", 1),
  /** Any of them ends an answer. */
  eosTokenId: ids("eos_token_id", [2]),
  useCache: flag("use_cache", true),
  /** Must be false: there is no decoder with cross attention among released models. */
  addCrossAttention: flag("add_cross_attention", false),
  tieWordEmbeddings: flag("tie_word_embeddings", true),
  /** A setting of generation that the released file keeps here. 0: off. See GenerationConfig for who wins. */
  noRepeatNgramSize: count("no_repeat_ngram_size", 3),
  dropout: inert("dropout", 0.1),
  attentionDropout: inert("attention_dropout", 0.1),
  activationDropout: inert("activation_dropout", 0),
  layerdrop: inert("layerdrop", 0),
  initStd: inert("init_std", 0.02),
} satisfies Fields;

const visionFields = {
  /** Width of a patch; a multiple of `numAttentionHeads`. */
  hiddenSize: size("hidden_size", 1024, 2 ** 16),
  intermediateSize: size("intermediate_size", 4096, 2 ** 18),
  numHiddenLayers: size("num_hidden_layers", 24, 1024),
  numAttentionHeads: size("num_attention_heads", 16, 1024),
  numChannels: size("num_channels", 3, 64),
  /** Pixels of a side; a multiple of `patchSize`. */
  imageSize: size("image_size", 224, 2 ** 13),
  patchSize: size("patch_size", 14, 2 ** 10),
  hiddenAct: activation("hidden_act", "quick_gelu"),
  layerNormEps: positive("layer_norm_eps", 1e-5),
  attentionDropout: inert("attention_dropout", 0),
  initializerRange: inert("initializer_range", 0.02),
  initializerFactor: inert("initializer_factor", 1),
} satisfies Fields;

const topFields = {
  /** Rows that a picture becomes in the text: the processor's `num_image_tokens`. */
  latentQueryNum: size("latent_query_num", 64, 2 ** 14),
  /** lm_head is the table of token embeddings. */
  tieWordEmbeddings: flag("tie_word_embeddings", true),
} satisfies Fields;

/** The decoder's sizes. */
export type Kosmos2TextConfig = Values<typeof textFields>;
/** The vision tower's sizes. */
export type Kosmos2VisionConfig = Values<typeof visionFields>;
type TopConfig = Values<typeof topFields>;

type Json = Readonly<Record<string, unknown>>;

/** Where a field was found, for messages. */
interface Place { readonly file: string; readonly prefix: string }

function invalid(place: Place, field: string, found: unknown, wanted: string): Kosmos2Error {
  return new Kosmos2Error("config-invalid", "load",
    `Cannot use "${place.file}": ${place.prefix}${field} is ${shown(found)}; wanted ${wanted}`,
    { file: place.file, found, wanted });
}

function object(found: unknown, place: Place, field: string): Json {
  if (found === undefined || found === null) return {};
  if (typeof found !== "object" || Array.isArray(found)) throw invalid(place, field, found, "an object");
  return found as Json;
}

/** All fields of one object. A null is as good as absent; a name and its alias may both be there when they agree. */
function readFields<F extends Fields>(fields: F, json: Json, place: Place): Values<F> {
  const values: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(fields)) {
    const [name, ...others] = field.names.filter((name) => json[name] !== undefined && json[name] !== null);
    values[key] = name === undefined ? field.value : field.read(json[name]);
    if (name !== undefined && values[key] === undefined) throw invalid(place, name, json[name], field.wanted);
    for (const other of others)
      if (json[other] !== json[name]) throw invalid(place, other, json[other], `${String(json[name])}, as ${name} says`);
  }
  return values as Values<F>;
}

/** What the file said, and defaults for what it did not say. */
function writeFields<F extends Fields>(fields: F, values: Values<F>, json: Json): Json {
  const written: Record<string, unknown> = { ...json };
  for (const [key, field] of Object.entries(fields))
    if (!field.names.some((name) => json[name] !== undefined && json[name] !== null)) {
      const value = values[key];
      written[field.names[0]] = Array.isArray(value) && value.length === 1 ? value[0] : value;
    }
  return written;
}

/** camelCase to the file's names. */
function renamed<F extends Fields>(fields: F, values: Partial<Values<F>>): Json {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [fields[key]?.names[0] ?? key, value]));
}

/**
 * A model's sizes.
 *
 * @example
 *   const config = await Kosmos2Config.fromPretrained("./model");
 *   config.textConfig.embedDim; // 2048
 */
export class Kosmos2Config implements TopConfig {
  readonly textConfig: Kosmos2TextConfig;
  readonly visionConfig: Kosmos2VisionConfig;
  readonly latentQueryNum: number;
  readonly tieWordEmbeddings: boolean;
  /** What the checkpoint is said to be stored in ("float32"), under either of Hugging Face's names; its tensors say it truly. */
  readonly dtype: string | undefined;

  readonly #json: Json;

  /**
   * The released sizes but for the given ones. (`from` is fromJSON's.)
   * @throws {Kosmos2Error} code `config-invalid`
   */
  constructor(fields: Partial<TopConfig> & { textConfig?: Partial<Kosmos2TextConfig>; visionConfig?: Partial<Kosmos2VisionConfig> } = {}, from?: { json: Json; file: string }) {
    const file = from?.file ?? "config";
    const { textConfig = {}, visionConfig = {}, ...top } = fields;
    const json = from?.json ?? {
      model_type: "kosmos-2", architectures: ["Kosmos2ForConditionalGeneration"], ...renamed(topFields, top),
      text_config: renamed(textFields, textConfig), vision_config: renamed(visionFields, visionConfig),
    };
    const place = { file, prefix: "" }, textPlace = { file, prefix: "text_config." }, visionPlace = { file, prefix: "vision_config." };
    this.#json = json;

    if (json.model_type !== undefined && json.model_type !== "kosmos-2") throw invalid(place, "model_type", json.model_type, '"kosmos-2"');
    const { latentQueryNum, tieWordEmbeddings } = readFields(topFields, json, place);
    const text = this.textConfig = readFields(textFields, object(json.text_config, place, "text_config"), textPlace);
    const vision = this.visionConfig = readFields(visionFields, object(json.vision_config, place, "vision_config"), visionPlace);
    this.latentQueryNum = latentQueryNum;
    this.tieWordEmbeddings = tieWordEmbeddings;
    const dtype = json.dtype ?? json.torch_dtype;
    this.dtype = typeof dtype === "string" ? dtype : undefined;

    if (text.embedDim % text.attentionHeads !== 0)
      throw invalid(textPlace, "embed_dim", text.embedDim, `a multiple of attention_heads, ${text.attentionHeads}`);
    for (const name of ["bos", "pad", "eos"] as const) // positions are counted from pad_token_id: another one changes every answer
      if (!tokenIds(text[`${name}TokenId`], text.vocabSize - 1)) throw invalid(textPlace, `${name}_token_id`, text[`${name}TokenId`], `less than vocab_size, ${text.vocabSize}`);
    if (text.addCrossAttention) throw invalid(textPlace, "add_cross_attention", true, "false: a decoder with cross attention is not supported");
    if (vision.hiddenSize % vision.numAttentionHeads !== 0)
      throw invalid(visionPlace, "hidden_size", vision.hiddenSize, `a multiple of num_attention_heads, ${vision.numAttentionHeads}`);
    if (vision.imageSize % vision.patchSize !== 0)
      throw invalid(visionPlace, "image_size", vision.imageSize, `a multiple of patch_size, ${vision.patchSize}`);
  }

  /**
   * @param json what `config.json` holds
   * @param file its name, for messages
   * @throws {Kosmos2Error} code `config-invalid`, naming field, found and wanted
   */
  static fromJSON(json: unknown, file = "config.json"): Kosmos2Config {
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw invalid({ file, prefix: "" }, "the whole", json, "an object");
    return new Kosmos2Config({}, { json: json as Json, file });
  }

  /** @throws {Kosmos2Error} code `model-not-found` when there is no config.json, `config-invalid` when it can't be used */
  static async fromFiles(files: ModelFiles, signal?: AbortSignal): Promise<Kosmos2Config> {
    const json = await readJson(files, "config.json", signal);
    if (json === undefined) throw await notFound(files, "config.json");
    return Kosmos2Config.fromJSON(json, `${files.name}: config.json`);
  }

  /** Reads a model's sizes alone, without its weights. */
  static async fromPretrained(source: ModelSource, options: OpenOptions = {}): Promise<Kosmos2Config> {
    checkOptions(options, [...openKeys, "need"], "read a config");
    return Kosmos2Config.fromFiles(await openModel(source, { need: "config", ...options }), options.signal);
  }

  /** The file again, under its own names: what it said, unknown fields too, and defaults where it said nothing. */
  toJSON(): Record<string, unknown> {
    const { text_config, vision_config } = this.#json;
    return {
      ...writeFields(topFields, this, this.#json),
      text_config: writeFields(textFields, this.textConfig, (text_config ?? {}) as Json),
      vision_config: writeFields(visionFields, this.visionConfig, (vision_config ?? {}) as Json),
    };
  }
}
