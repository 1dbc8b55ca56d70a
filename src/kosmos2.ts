/** The short way: a picture in, a grounded caption out. */
import { prepareImages } from "#platform";
import { Kosmos2Error } from "./errors.js";
import { type GenerateOptions, generateKeys } from "./generate/config.js";
import type { Stop } from "./generate/greedy.js";
import { Kosmos2ForConditionalGeneration, loadKeys, type LoadOptions, type Timings } from "./modeling.js";
import { checkOptions } from "./options.js";
import { following } from "./pause.js";
import type { Prefix } from "./prefix.js";
import type { Profile } from "./profile.js";
import type { WasmUrl } from "./platform/modules.js";
import type { Fetch, ImageInput } from "./processor/decode.js";
import type { ImageSize } from "./processor/boxes.js";
import type { Entity } from "./processor/entities.js";
import { Kosmos2Processor, type ProcessOptions } from "./processor/processor.js";
import { Scene } from "./scene.js";
import { openModel, type ModelSource } from "./weights/source.js";

/** A question about a picture. */
export interface QuestionOptions extends GenerateOptions {
  /** Default `<grounding> An image of`. Without `<grounding>` the answer has no boxes. */
  prompt?: string;
}

/** How a picture is taken. */
export interface PictureOptions {
  /** Whether the EXIF orientation of encoded pictures is applied. Default true */
  exif?: boolean;
  /** Larger pictures are refused before they are decoded. Default 100 million */
  maxPixels?: number;
  /** How `http(s):` pictures are fetched. Default: the runtime's own */
  fetch?: Fetch;
}

export interface CaptionOptions extends QuestionOptions, PictureOptions {}

export interface SeeOptions extends PictureOptions {
  signal?: AbortSignal;
}

/** An answer about a picture. */
export interface Caption {
  /** Prompt and answer without their tags. */
  caption: string;
  entities: readonly Entity[];
  /** Prompt and answer with their tags. */
  generatedText: string;
  /** The answer's tokens, end token included. */
  newIds: number[];
  stop: Stop;
  timings: Timings;
}

/** A piece of an answer: its tags are still in it. */
export interface Piece {
  id: number;
  text: string;
}

/** An answer under way. Work starts with the first piece or with `result`, whichever is asked for first; pieces come once (code `answer-read`). */
export interface Answer extends AsyncIterable<Piece> {
  /** The whole answer. After the loop was left early it rejects with an AbortError. */
  readonly result: Promise<Caption>;
}

/** The picture of an answer: still to be looked at, or seen. */
type Subject = Pick<ProcessOptions, "images" | "exif" | "maxPixels" | "fetch" | "wasmUrl"> & { imageSize?: ImageSize; prefix?: Prefix };

/** Answers under way at once; more wait, so that a thousand calls don't decode a thousand pictures. */
const AT_ONCE = 4;
const questionKeys = [...generateKeys, "prompt"], pictureKeys = ["exif", "maxPixels", "fetch"];

/** The order of tags, with corners that vary: what a new model is shown, so that its first answer is guessed as well as later ones. */
export const tagOrder = [1, 2, 3].map((i) => `</phrase><object><patch_index_000${i}><patch_index_003${i}></object>`);

/**
 * A model with its processor.
 *
 * @example
 *   await using kosmos = await Kosmos2.load("kosmos2-emoji");
 *   const { caption, entities } = await kosmos.caption("picture.png");
 */
export class Kosmos2 {
  private running = 0;
  private readonly waiting: (() => void)[] = [];

  private constructor(
    readonly model: Kosmos2ForConditionalGeneration, readonly processor: Kosmos2Processor, private readonly wasmUrl: WasmUrl | undefined,
  ) {}

  /**
   * @param source the model in the package by default; or a hub id, a folder, a URL, the files themselves
   * @throws {Kosmos2Error} kinds `load`, `download`, `integrity`, `memory`, `unsupported`
   */
  static async load(source: ModelSource = "kosmos2-emoji", options: LoadOptions = {}): Promise<Kosmos2> {
    checkOptions(options, loadKeys, "load a model");
    // A download is over before anything is read, so that processor and weights are of one commit.
    await openModel(source, options);
    const work = following(options.signal);
    const cached = { ...options, refresh: false, signal: work.signal };
    const { dtype, cache, threads, engine, shared, wasmUrl, workerFactory, onProgress, ...opening } = cached;
    const loading = Kosmos2ForConditionalGeneration.fromPretrained(source, cached); // first: its threads take longest to start
    void prepareImages();
    try {
      const [model, processor] = await Promise.all([loading, Kosmos2Processor.fromPretrained(source, opening)]);
      for (const text of tagOrder) model.expect(processor.tokenizer.encode(text, { addSpecialTokens: false }));
      return new Kosmos2(model, processor, wasmUrl);
    } catch (error) {
      work.abort(error);
      await loading.then((model) => model.dispose(), () => {});
      throw error;
    } finally {
      work.abort();
    }
  }

  /**
   * Describes a picture and says where each thing stands.
   *
   * @param image path, URL, encoded bytes (JPEG, PNG, WebP, GIF, BMP) or pixels
   * @example
   *   const { caption, entities } = await kosmos.caption("snowman.jpg");
   *   entities[0]; // { phrase: "a snowman", span: [12, 21], range: [12, 21], boxes: [{ normalized: [0.39, 0.05, 0.98, 0.83], … }] }
   */
  caption(image: ImageInput, options: CaptionOptions = {}): Promise<Caption> {
    return this.stream(image, options).result;
  }

  /**
   * As `caption`, piece by piece; leaving the loop stops the work.
   *
   * @example
   *   const answer = kosmos.stream("snowman.jpg");
   *   for await (const { text } of answer) process.stdout.write(text);
   *   const { entities } = await answer.result;
   */
  stream(image: ImageInput, options: CaptionOptions = {}): Answer {
    checkOptions(options, [...questionKeys, ...pictureKeys], "caption");
    const { exif, maxPixels, fetch, ...question } = options;
    const picture = { images: image, exif, maxPixels, fetch, wasmUrl: this.wasmUrl };
    return new Streamed((signal) => this.answer(picture, question, signal), options.signal);
  }

  /**
   * Looks at a picture once, for many questions: each then pays for its own words only.
   *
   * @example
   *   using scene = await kosmos.see("snowman.jpg");
   *   const { caption } = await scene.caption();
   *   const { entities } = await scene.caption({ prompt: "<grounding><phrase> a fire</phrase>" });
   */
  async see(image: ImageInput, options: SeeOptions = {}): Promise<Scene> {
    checkOptions(options, [...pictureKeys, "signal"], "see a picture");
    const { signal } = options;
    await this.enter(signal);
    try {
      const { pixelValues, imageSizes } = await this.processor.process({ ...options, images: chosen(image), wasmUrl: this.wasmUrl });
      const imageEmbeds = await this.model.getImageFeatures(pixelValues!, { signal });
      return new Scene(imageEmbeds, imageSizes[0]!, (question, prefix) => {
        checkOptions(question, questionKeys, "ask about a picture");
        const seen = { images: imageEmbeds, imageSize: imageSizes[0]!, prefix };
        return new Streamed((stop) => this.answer(seen, question, stop), question.signal);
      });
    } finally {
      this.leave();
    }
  }

  /**
   * What all work on the model cost that ran until `work` was done: time by operation, beside the least that this machine's limits allow.
   *
   * @example
   *   const { result, profile } = await kosmos.profile(() => kosmos.caption("snowman.jpg"));
   *   profile.operations[0]; // { pass: "vision", kind: "matmul_i8", shape: "257×1024×4096", times: 24, ms: 375, leastMs: 247 }
   */
  async profile<T>(work: () => Promise<T>): Promise<{ result: T; profile: Profile }> {
    return this.model.profile(work);
  }

  /** Gives memory and threads back; pending and later calls reject with code `disposed`. Twice is fine. */
  async dispose(): Promise<void> {
    await this.model.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private async *answer({ imageSize, prefix, ...picture }: Subject, question: QuestionOptions, signal: AbortSignal): AsyncGenerator<Piece, Caption> {
    const { prompt = "<grounding> An image of", ...generate } = question;
    await this.enter(signal);
    try {
      if (prefix?.disposed) throw new Kosmos2Error("disposed", "state", "Cannot ask about the picture: its scene was disposed of; see it again");
      const inputs = await this.processor.process({ ...picture, images: chosen(picture.images), text: prompt, signal });
      const tokens = this.model.stream({ ...inputs, ...generate, prefix, signal });
      const newIds: number[] = [];
      let end: Awaited<ReturnType<typeof tokens.next>>["value"] | undefined;
      const counted = async function* () {
        for (;;) {
          const { done, value } = await tokens.next();
          if (done) return void (end = value);
          newIds.push(value.id);
          yield value;
        }
      };
      const pieces = this.processor.decodeStream(inputs, counted());
      try {
        for await (const { id, text } of pieces) yield { id, text };
      } finally {
        await tokens.return(undefined as never);
      }
      const { stop, timings } = end as { stop: Stop[]; timings: Timings };
      const whole = [...inputs.inputIds.data, ...newIds];
      const decoded = this.processor.decode(whole, { skipSpecialTokens: true });
      const { caption, entities } = this.processor.postProcessGeneration(decoded, { imageSize: imageSize ?? inputs.imageSizes[0] });
      const generatedText = this.processor.postProcessGeneration(decoded, { cleanupAndExtract: false });
      return { caption, entities, generatedText, newIds, stop: stop[0], timings };
    } finally {
      this.leave();
    }
  }

  private async enter(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.running < AT_ONCE) {
      this.running++;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const go = () => {
        signal?.removeEventListener("abort", give);
        resolve();
      };
      const give = () => {
        this.waiting.splice(this.waiting.indexOf(go), 1);
        reject(signal!.reason);
      };
      signal?.addEventListener("abort", give);
      this.waiting.push(go);
    });
  }

  /** The place goes to the one who waits longest. */
  private leave(): void {
    const next = this.waiting.shift();
    if (next) next();
    else this.running--;
  }
}

/** A picture that is there: without one the processor would make a text, and the model an answer out of thin air. */
function chosen<T>(image: T): T & {} {
  if (image === undefined || image === null)
    throw new Kosmos2Error("image-invalid", "input", `Cannot look at the picture: it is ${image}; give a path, a URL, encoded bytes, a Blob or pixels (was a file chosen?)`, { found: image });
  return image;
}

/** Pieces for those who loop, the whole for those who ask; the work is done once. */
class Streamed implements Answer {
  private readonly controller: AbortController;
  private readonly work: AsyncGenerator<Piece, Caption>;
  private outcome: Promise<Caption> | undefined;
  private settle: { resolve(caption: Caption): void; reject(reason: unknown): void } | undefined;
  private looped = false;

  constructor(start: (signal: AbortSignal) => AsyncGenerator<Piece, Caption>, outer?: AbortSignal) {
    this.controller = following(outer);
    this.work = start(this.controller.signal);
  }

  get result(): Promise<Caption> {
    const outcome = this.promise();
    if (!this.looped) void this.drain();
    return outcome;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Piece> {
    if (this.looped) throw new Kosmos2Error("answer-read", "state", "Cannot read an answer twice: its pieces were given already, or its result was asked for first; await `result`, or ask again");
    this.looped = true;
    this.promise().catch(() => {}); // whoever loops hears the error there
    let finished = false;
    try {
      for (;;) {
        const { done, value } = await this.work.next();
        if (done) {
          finished = true;
          return this.settle!.resolve(value);
        }
        yield value;
      }
    } catch (error) {
      finished = true;
      this.settle!.reject(error);
      throw error;
    } finally {
      if (!finished) {
        const reason = new DOMException("The answer was not read to its end", "AbortError");
        this.settle!.reject(reason);
        this.controller.abort(reason);
        await this.work.return(undefined as never).catch(() => {});
      }
      this.controller.abort(); // lets go of the caller's signal
    }
  }

  private promise(): Promise<Caption> {
    return (this.outcome ??= new Promise((resolve, reject) => (this.settle = { resolve, reject })));
  }

  private async drain(): Promise<void> {
    try {
      for await (const _ of this);
    } catch {
      // the result says it
    }
  }
}
