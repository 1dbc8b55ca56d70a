/** Hugging Face's Kosmos2Processor: texts, boxes and pictures into a model's inputs, a model's ids into captions and entities. */
import { Kosmos2Error } from "../errors.js";
import { aborts, aboveZero, anything, callable, check, checkOptions, count, flag, type Kind, orNull, text as string } from "../options.js";
import { tensor, type Tensor } from "../tensor.js";
import { readJson, type ModelFiles } from "../weights/files.js";
import { openKeys, openModel, type ModelSource, type OpenOptions } from "../weights/source.js";
import type { ImageSize } from "./boxes.js";
import type { ImageInput } from "./decode.js";
import { extractEntities, type Grounded } from "./entities.js";
import { Kosmos2ImageProcessor, type PreprocessOptions, type PreprocessedImages } from "./image-processor.js";
import { encodePrompts, type PromptOptions, type PromptRows } from "./prompt.js";
import { streamText, type StreamedText, type StreamedToken } from "./stream.js";
import { Kosmos2Tokenizer, type DecodeOptions } from "./tokenizer.js";

/** What turns pictures into pixels: Kosmos2ImageProcessor, or your own. */
export interface ImagePreprocessor {
  preprocess(images: ImageInput | readonly ImageInput[], options?: PreprocessOptions): Promise<PreprocessedImages>;
}

/** All that `process` understands; anything else is refused. */
export interface ProcessOptions extends PromptOptions, PreprocessOptions {
  /** One prompt, or one an image. `<grounding>` in front asks for boxes; without it an answer has no entities */
  text?: string | readonly string[] | null;
  /** One picture a text; or embeddings of pictures, as `getImageFeatures` gives them: [B, latentQueryNum, embedDim] */
  images?: ImageInput | readonly ImageInput[] | Tensor | null;
}

/** Pictures alone, or their embeddings. */
export interface PictureInputs {
  /** [B, 3, H, W] */
  pixelValues?: Tensor;
  /** [B, latentQueryNum, embedDim], as they were given */
  imageEmbeds?: Tensor;
  /** Of the upright pictures, before resizing; null where a row has none or only embeddings. */
  imageSizes: readonly (ImageSize | null)[];
}

/** What `generate` and `forward` take. */
export interface Kosmos2Inputs extends PictureInputs {
  /** [B, T] */
  inputIds: Tensor<"int32">;
  /** [B, T]: 1 for text and image, 0 for padding */
  attentionMask: Tensor<"int32">;
  /** [B, T]: 1 where an image's row goes */
  imageEmbedsPositionMask: Tensor<"int32">;
}

export interface PostProcessOptions {
  /** false: only cut off what is before the answer's prompt, and keep all tags. Default true */
  cleanupAndExtract?: boolean;
  /** Of the upright source picture: adds boxes in pixels. */
  imageSize?: ImageSize | null;
}

/** Kinds of the options of `process`; a null is as good as absent. */
const known = Object.fromEntries(Object.entries({
  text: [(value) => typeof value === "string" || (Array.isArray(value) && value.length > 0 && value.every((text) => typeof text === "string")), "a string or a list of strings"],
  images: anything,
  bboxes: anything,
  padding: [(value) => typeof value === "boolean" || value === "longest" || value === "max_length", 'true, false, "longest" or "max_length"'],
  paddingSide: [(value) => value === "left" || value === "right", '"left" or "right"'],
  truncation: flag,
  maxLength: count(1),
  padToMultipleOf: count(1),
  addSpecialTokens: flag,
  addEosToken: flag,
  numImageTokens: count(1),
  firstImageTokenId: count(0),
  exif: flag,
  maxPixels: aboveZero,
  fetch: callable,
  wasmUrl: anything,
  signal: aborts,
} satisfies Record<keyof ProcessOptions, Kind>).map(([name, kind]) => [name, orNull(kind)]));
const isRows = count(1)[0];
const idList: Kind = [(value) => typeof value === "object" && typeof (value as Iterable<number> | null)?.[Symbol.iterator] === "function", "a list of ids"];
const size = orNull([(value) => [(value as ImageSize).width, (value as ImageSize).height].every((side) => side > 0 && side < Infinity), "{ width, height } in pixels"]);

export class Kosmos2Processor {
  readonly tokenizer: Kosmos2Tokenizer;
  readonly imageProcessor: ImagePreprocessor | undefined;
  /** Rows that an image takes: the model's latentQueryNum. */
  readonly numImageTokens: number;

  /** @param imageProcessor undefined: only texts and embeddings */
  constructor(tokenizer: Kosmos2Tokenizer, imageProcessor?: ImagePreprocessor, numImageTokens = 64) {
    this.tokenizer = tokenizer;
    this.imageProcessor = imageProcessor;
    this.numImageTokens = numImageTokens;
  }

  /**
   * Reads tokenizer.json, tokenizer_config.json, preprocessor_config.json, and latent_query_num of config.json.
   *
   * @throws {Kosmos2Error} `model-not-found`, `tokenizer-invalid`, `tokenizer-unsupported`, `config-invalid`
   * @example const processor = await Kosmos2Processor.fromPretrained("kosmos2-emoji");
   */
  static async fromPretrained(source: ModelSource, options: OpenOptions = {}): Promise<Kosmos2Processor> {
    checkOptions(options, [...openKeys, "need"], "load a processor");
    return Kosmos2Processor.fromFiles(await openModel(source, { need: "processor", ...options }), options);
  }

  /** The same from a folder that is open. */
  static async fromFiles(files: ModelFiles, { signal }: { signal?: AbortSignal } = {}): Promise<Kosmos2Processor> {
    const tokenizer = await Kosmos2Tokenizer.fromFiles(files, { signal });
    const imageProcessor = await Kosmos2ImageProcessor.fromFiles(files, { signal });
    const config = (await readJson(files, "config.json", signal)) as { latent_query_num?: unknown } | undefined;
    const rows = config?.latent_query_num;
    return new Kosmos2Processor(tokenizer, imageProcessor, isRows(rows) ? (rows as number) : undefined);
  }

  /**
   * A model's inputs. A single text has a batch axis of 1; batches with images are padded to one length, others when asked.
   *
   * @throws {Kosmos2Error} kind `input`; `option-unknown`, `option-invalid`, `input-missing`, `image-embeds-invalid`, `batch-ragged`, those of
   *   prompts (`images-count`, `bboxes-count`, `bboxes-invalid`, `box-invalid`, `box-inverted`, `box-out-of-range`, `phrase-count`,
   *   `max-length-too-small`), and those of pictures
   * @example
   *   const inputs = await processor.process({ text: "<grounding> An image of", images: "snowman.png" });
   *   inputs.inputIds.dims; // [1, 71]
   */
  process(options: ProcessOptions & { text: string | readonly string[] }): Promise<Kosmos2Inputs>;
  process(options: ProcessOptions & { text?: null }): Promise<PictureInputs>;
  process(options: ProcessOptions): Promise<Kosmos2Inputs | PictureInputs>;
  async process(options: ProcessOptions): Promise<Kosmos2Inputs | PictureInputs> {
    const { text, images, signal, exif, maxPixels, fetch, wasmUrl, ...prompt } = checked(options);
    signal?.throwIfAborted();
    if (text === undefined && images === undefined)
      throw new Kosmos2Error("input-missing", "input", "Cannot process: there is neither text nor images; give one of them");
    const embeds = isTensor(images) ? this.#checkedEmbeds(images, prompt.numImageTokens) : undefined;
    const count = images === undefined ? undefined : embeds ? embeds.dims[0] : Array.isArray(images) ? images.length : 1;
    // Prompts first: what is wrong with them is found before a picture is decoded.
    const rows = text === undefined ? undefined
      : encodePrompts(this.tokenizer, text, count, { ...prompt, numImageTokens: prompt.numImageTokens ?? this.numImageTokens });
    const inputs = rows && asTensors(rows);

    if (embeds) return { ...inputs, imageEmbeds: embeds, imageSizes: new Array<null>(embeds.dims[0]).fill(null) };
    if (images === undefined) return { ...inputs, imageSizes: new Array<null>(rows!.inputIds.length).fill(null) };
    if (!this.imageProcessor)
      throw new Kosmos2Error("image-processor-missing", "state", "Cannot process images: this processor was made without an image processor; pass one to its constructor");
    const { pixelValues, imageSizes } = await this.imageProcessor.preprocess(images as ImageInput | readonly ImageInput[], { signal, exif, maxPixels, fetch, wasmUrl });
    return { ...inputs, pixelValues, imageSizes };
  }

  #checkedEmbeds(embeds: Tensor, numImageTokens = this.numImageTokens): Tensor {
    const { dims, type } = embeds;
    if (type !== "float32" || dims.length !== 3 || dims[1] !== numImageTokens)
      throw new Kosmos2Error("image-embeds-invalid", "input",
        `Cannot use image embeddings: found ${type} [${dims}]; wanted float32 [images, ${numImageTokens}, embedDim], as getImageFeatures gives them`,
        { found: dims, wanted: [-1, numImageTokens, -1] });
    return embeds;
  }

  /** Text of ids, tags included. @example processor.decode(output.newIds[0], { skipSpecialTokens: true }) */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    check("decode", "ids", ids, idList);
    checkOptions(options, ["skipSpecialTokens", "cleanUpTokenizationSpaces"], "decode");
    return this.tokenizer.decode(ids, options);
  }

  /** Texts of rows of ids, or of a tensor [B, T]. */
  batchDecode(sequences: Tensor<"int32"> | readonly Iterable<number>[], options?: DecodeOptions): string[] {
    check("decode", "sequences", sequences, [(value) => Array.isArray(value) || isTensor(value), "a list of lists of ids, or a tensor [B, T]"]);
    return (Array.isArray(sequences) ? sequences : rowsOf(sequences as Tensor<"int32">)).map((ids) => this.decode(ids, options));
  }

  /**
   * Text as it is generated: pieces with their tags, which put together are the answer as `batchDecode` of the whole sequence
   * (special tokens skipped) has it behind the prompt. A token whose text the clean-up may still change comes with the next.
   *
   * @param inputs what `process` gave and `stream` was called with
   * @param tokens what `stream` gives; leaving the loop ends it
   * @example for await (const { text } of processor.decodeStream(inputs, model.stream({ ...inputs }))) process.stdout.write(text);
   */
  decodeStream(
    inputs: Pick<Kosmos2Inputs, "inputIds"> & { attentionMask?: Tensor<"int32"> }, tokens: AsyncIterable<StreamedToken> | Iterable<StreamedToken>,
  ): AsyncGenerator<StreamedText, void, undefined> {
    const masks = inputs.attentionMask && rowsOf(inputs.attentionMask);
    const prompts = rowsOf(inputs.inputIds).map((ids, row) => (masks ? ids.filter((_, i) => masks[row][i] !== 0) : ids));
    return streamText(this.tokenizer, prompts, tokens);
  }

  /**
   * Caption and entities of a decoded sequence: what follows its image's place. Never throws, whatever a model wrote.
   *
   * @throws {Kosmos2Error} codes `option-invalid`, `option-unknown`, for a text that is none, and for options
   * @example
   *   const { caption, entities } = processor.postProcessGeneration(text, { imageSize: inputs.imageSizes[0] });
   *   caption.slice(...entities[0].range) === entities[0].phrase; // true
   */
  postProcessGeneration(text: string, options?: PostProcessOptions & { cleanupAndExtract?: true }): Grounded;
  postProcessGeneration(text: string, options: PostProcessOptions & { cleanupAndExtract: false }): string;
  postProcessGeneration(text: string, options?: PostProcessOptions): Grounded | string;
  postProcessGeneration(text: string, options: PostProcessOptions = {}): Grounded | string {
    check("read an answer", "text", text, string);
    checkOptions(options, ["cleanupAndExtract", "imageSize"], "read an answer", { cleanupAndExtract: flag, imageSize: size });
    const { cleanupAndExtract = true, imageSize } = options;
    const answer = text.split("</image>").at(-1)!;
    return cleanupAndExtract ? extractEntities(answer, imageSize) : answer;
  }

  /**
   * A user's text made safe for a prompt: `<image>`, `</s>` or `<phrase>` in it are read as the characters they are, not as control
   * tokens. Lossless: taking out U+FDD0 gives the text again. Decoded text shows the tags as they were written, so
   * `postProcessGeneration` takes them out of the caption like any others.
   */
  escape(text: string): string {
    check("escape", "text", text, string);
    return this.tokenizer.escape(text);
  }
}

/** The options that are given, each of its kind. */
function checked(options: ProcessOptions): { [K in keyof ProcessOptions]: Exclude<ProcessOptions[K], null> } {
  checkOptions(options, Object.keys(known), "process", known);
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === "object" && value !== null && "type" in value && "data" in value && "dims" in value && Array.isArray(value.dims);
}

function asTensors(rows: PromptRows): Pick<Kosmos2Inputs, "inputIds" | "attentionMask" | "imageEmbedsPositionMask"> {
  const lengths = rows.inputIds.map((row) => row.length);
  const T = lengths[0] ?? 0;
  if (lengths.some((length) => length !== T))
    throw new Kosmos2Error("batch-ragged", "input", `Cannot make one tensor of texts of ${lengths.join(", ")} ids: wanted one length; pass padding: true`, { found: lengths });
  const table = (all: number[][]): Tensor<"int32"> => tensor("int32", Int32Array.from(all.flat()), [all.length, T]);
  return { inputIds: table(rows.inputIds), attentionMask: table(rows.attentionMask), imageEmbedsPositionMask: table(rows.imageEmbedsPositionMask) };
}

function rowsOf({ data, dims: [B, T] }: Tensor<"int32">): Int32Array[] {
  return Array.from({ length: B }, (_, row) => data.subarray(row * T, (row + 1) * T));
}
