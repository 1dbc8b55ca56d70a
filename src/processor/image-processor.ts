/**
 * Pixels for the vision tower: planes of red, green and blue, normalised as the checkpoint was trained (MODEL.md, "Pixels").
 * What a picture may be is in decode.ts, how it is resized in resize.ts.
 */
import { Kosmos2Error } from "../errors.js";
import { checkOptions, shown } from "../options.js";
import type { WasmUrl } from "../platform/modules.js";
import type { Picture } from "../platform/platform.js";
import { tensor, type Tensor } from "../tensor.js";
import { inFolder, readJson, type ModelFiles } from "../weights/files.js";
import { openKeys, openModel, type ModelSource, type OpenOptions } from "../weights/source.js";
import { decode, type ImageOptions, type ImageInput } from "./decode.js";
import { resize } from "./resize.js";

/** To a fixed shape, whatever the picture's own was; or the shortest edge, with the shape kept. Pixels. */
export type TargetSize = { height: number; width: number } | { shortestEdge: number };

/** Fields of preprocessor_config.json in camelCase; defaults are those of the released model. */
export interface ImageProcessorConfig {
  /** All pictures are RGB by the time they are resized, so this changes nothing. */
  doConvertRgb: boolean;
  doResize: boolean;
  /** Default 224 × 224. With `useSquareSize`, a shortest edge means a square of that side. */
  size: TargetSize;
  useSquareSize: boolean;
  /** Pillow's number of the filter: 3, bicubic, is the one that is known here. */
  resample: number;
  doCenterCrop: boolean;
  cropSize: { height: number; width: number };
  doRescale: boolean;
  rescaleFactor: number;
  doNormalize: boolean;
  /** Of red, green and blue, after the rescale. */
  imageMean: readonly number[];
  imageStd: readonly number[];
}

const released: ImageProcessorConfig = {
  doConvertRgb: true,
  doResize: true,
  size: { shortestEdge: 224 },
  useSquareSize: true,
  resample: 3,
  doCenterCrop: true,
  cropSize: { height: 224, width: 224 },
  doRescale: true,
  rescaleFactor: 0.00392156862745098,
  doNormalize: true,
  imageMean: [0.48145466, 0.4578275, 0.40821073],
  imageStd: [0.26862954, 0.26130258, 0.27577711],
};

/** Most pixels that a picture may be resized to: a thin strip grows very long when its shape is kept. */
const MOST_RESIZED = 100_000_000;

export interface PreprocessOptions extends ImageOptions {
  /** Where pixels.wasm is loaded from. Default: beside the package's code. */
  wasmUrl?: WasmUrl;
}

export interface PreprocessedImages {
  /** [B, 3, H, W] */
  pixelValues: Tensor;
  /** Of each picture: upright, before resizing. What pixel boxes refer to. */
  imageSizes: { width: number; height: number }[];
}

/**
 * Turns pictures into what the model sees, bit for bit as Hugging Face's processor with Pillow does.
 *
 * @example
 *   const processor = new Kosmos2ImageProcessor();
 *   const { pixelValues, imageSizes } = await processor.preprocess("snowman.png"); // dims [1, 3, 224, 224]
 */
export class Kosmos2ImageProcessor {
  readonly config: Readonly<ImageProcessorConfig>;
  /** What each byte of each channel becomes. */
  readonly #levels: readonly Float32Array[];

  /** @throws {Kosmos2Error} code `config-invalid` when a field makes no sense, `resample-unsupported` for a filter other than bicubic */
  constructor(config: Partial<ImageProcessorConfig> = {}) {
    const all = { ...released, ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined && value !== null)) };
    check(all);
    // Hugging Face drops use_square_size once it is followed.
    if (all.useSquareSize && "shortestEdge" in all.size) all.size = { height: all.size.shortestEdge, width: all.size.shortestEdge };
    this.config = all;
    this.#levels = levels(all);
  }

  /**
   * Reads preprocessor_config.json.
   *
   * @throws {Kosmos2Error} as the constructor, and as opening a model does
   * @example const processor = await Kosmos2ImageProcessor.fromPretrained("kosmos2-emoji");
   */
  static async fromPretrained(source: ModelSource, options: OpenOptions = {}): Promise<Kosmos2ImageProcessor> {
    checkOptions(options, [...openKeys, "need"], "load an image processor");
    return Kosmos2ImageProcessor.fromFiles(await openModel(source, { need: "processor", ...options }), options);
  }

  /** @throws {Kosmos2Error} as the constructor; code `config-invalid` also for what is no JSON. Without the file the released values hold. */
  static async fromFiles(files: ModelFiles, options: { signal?: AbortSignal } = {}): Promise<Kosmos2ImageProcessor> {
    const file = "preprocessor_config.json", json = await readJson(files, file, options.signal);
    return inFolder(files, file, () => (json === undefined ? new Kosmos2ImageProcessor() : Kosmos2ImageProcessor.fromJSON(json)));
  }

  /** From the fields of preprocessor_config.json by the file's own names; others are passed over. */
  static fromJSON(json: unknown): Kosmos2ImageProcessor {
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw invalid("preprocessor_config.json", json, "an object");
    const fields = json as Record<string, unknown>, config: Record<string, unknown> = {};
    for (const name of Object.keys(released)) config[name] = fields[name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)];
    const square = (value: unknown): unknown => (typeof value === "number" ? { height: value, width: value } : value);
    const { shortest_edge, ...rest } = (typeof fields.size === "object" && fields.size !== null ? fields.size : {}) as Record<string, unknown>;
    if (typeof fields.size === "number") config.size = { shortestEdge: fields.size }; // old files: CLIP read a bare number so
    else if (shortest_edge !== undefined) config.size = { ...rest, shortestEdge: shortest_edge };
    config.cropSize = square(fields.crop_size);
    // A re-saved file says the square in numbers and has no use_square_size.
    if (fields.use_square_size === undefined && fields.size !== undefined) config.useSquareSize = false;
    return new Kosmos2ImageProcessor(config as Partial<ImageProcessorConfig>);
  }

  /** The fields by the names of preprocessor_config.json. */
  toJSON(): Record<string, unknown> {
    const { useSquareSize: _, ...config } = this.config;
    const json: Record<string, unknown> = { image_processor_type: "CLIPImageProcessor" };
    for (const [name, value] of Object.entries(config)) json[name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)] = value;
    if ("shortestEdge" in config.size) json.size = { shortest_edge: config.size.shortestEdge };
    return json;
  }

  /**
   * Decodes, resizes and normalises.
   *
   * @param images one picture or several; all must come out in one size, as they do unless the config keeps shapes
   * @param options.exif turn encoded pictures as their EXIF orientation says. Default true
   * @param options.maxPixels most pixels of an encoded picture. Default 100 000 000
   * @throws {Kosmos2Error} codes of decode.ts, and `image-sizes-differ`
   */
  async preprocess(images: ImageInput | readonly ImageInput[], options: PreprocessOptions = {}): Promise<PreprocessedImages> {
    const list = Array.isArray(images) ? (images as readonly ImageInput[]) : [images as ImageInput];
    if (list.length === 0) throw new Kosmos2Error("image-invalid", "input", "Cannot preprocess pictures: the list is empty");
    const imageSizes: PreprocessedImages["imageSizes"] = [];
    let values: Float32Array | undefined, first: Shaped | undefined;
    for (const [i, image] of list.entries()) { // one after the other: a decoded picture is large
      const picture = await decode(image, options);
      imageSizes.push({ width: picture.width, height: picture.height });
      const shaped = this.#crop(await this.#resize(picture, options));
      first ??= shaped;
      if (shaped.width !== first.width || shaped.height !== first.height) {
        throw new Kosmos2Error("image-sizes-differ", "input",
          `Cannot preprocess picture ${i}: it comes out as ${shaped.width} × ${shaped.height}, picture 0 as ${first.width} × ${first.height}; process them one by one`,
          { found: [shaped.width, shaped.height], wanted: [first.width, first.height] });
      }
      values ??= new Float32Array(list.length * shaped.data.length);
      this.#normalise(shaped, values.subarray(i * shaped.data.length, (i + 1) * shaped.data.length));
    }
    const { width, height } = first!;
    return { pixelValues: tensor("float32", values!, [list.length, 3, height, width]), imageSizes };
  }

  /**
   * What `preprocess` does before it normalises: bytes R G B R G B …, rows from the top.
   * For looking at what the model sees.
   */
  async shape(image: ImageInput, options: PreprocessOptions = {}): Promise<{ width: number; height: number; data: Uint8Array }> {
    return this.#crop(await this.#resize(await decode(image, options), options));
  }

  async #resize(picture: Picture, options: PreprocessOptions): Promise<Shaped> {
    const { size, doResize } = this.config;
    let { width, height } = picture;
    if (doResize && "shortestEdge" in size) {
      const short = Math.min(width, height), to = (side: number) => (side === short ? size.shortestEdge : Math.trunc((size.shortestEdge * side) / short));
      [width, height] = [to(width), to(height)];
      if (width * height > MOST_RESIZED) {
        throw new Kosmos2Error("image-too-large", "input",
          `Cannot resize a picture of ${picture.width} × ${picture.height}: with a shortest edge of ${short === picture.width ? width : height} it becomes ${width} × ${height}`,
          { found: width * height, wanted: MOST_RESIZED });
      }
    } else if (doResize) ({ width, height } = size as { width: number; height: number });
    return { width, height, data: await resize(picture, width, height, options) }; // to its own size it stays what it is, but becomes RGB
  }

  /** The middle; zeros around what is smaller, one more above and to the left when they can't be even. */
  #crop(picture: Shaped): Shaped {
    const { width, height } = this.config.cropSize;
    if (!this.config.doCenterCrop || (picture.width === width && picture.height === height)) return picture;
    // Where the result's corner lies in the picture: ⌊(H − h) / 2⌋, which for a smaller picture is minus the larger half.
    const left = Math.floor((picture.width - width) / 2), top = Math.floor((picture.height - height) / 2);
    const data = new Uint8Array(width * height * 3);
    const from = Math.max(left, 0), to = Math.min(left + width, picture.width);
    for (let y = Math.max(top, 0); y < Math.min(top + height, picture.height); y++) {
      data.set(picture.data.subarray((y * picture.width + from) * 3, (y * picture.width + to) * 3), ((y - top) * width + from - left) * 3);
    }
    return { width, height, data };
  }

  #normalise({ data }: Shaped, to: Float32Array): void {
    const plane = data.length / 3;
    for (let c = 0; c < 3; c++) {
      const level = this.#levels[c], into = to.subarray(c * plane, (c + 1) * plane);
      for (let i = 0, from = c; i < plane; i++, from += 3) into[i] = level[data[from]];
    }
  }
}

interface Shaped {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** All that a byte can become, in NumPy's order of f64 and f32. */
function levels({ doRescale, rescaleFactor, doNormalize, imageMean, imageStd }: ImageProcessorConfig): Float32Array[] {
  const f = Math.fround;
  return [0, 1, 2].map((c) => Float32Array.from({ length: 256 }, (_, value) => {
    const scaled = doRescale ? f(value * rescaleFactor) : value;
    return doNormalize ? f(f(scaled - f(imageMean[c])) / f(imageStd[c])) : scaled;
  }));
}

function invalid(field: string, found: unknown, wanted: string): Kosmos2Error {
  return new Kosmos2Error("config-invalid", "load", `Cannot use an image processor with ${field} = ${shown(found)}: wanted ${wanted}`, { found, wanted });
}

function check(config: ImageProcessorConfig): void {
  const side = (value: unknown): boolean => Number.isInteger(value) && (value as number) > 0 && (value as number) <= 16384;
  const rectangle = (size: unknown): boolean => {
    const { height, width } = size as { height?: unknown; width?: unknown };
    return side(height) && side(width);
  };
  for (const [name, value] of Object.entries(config)) {
    if (/^(do|use)[A-Z]/.test(name) && typeof value !== "boolean") throw invalid(name, value, "true or false");
  }
  const { size, cropSize, rescaleFactor, imageMean, imageStd, resample } = config;
  if (typeof size !== "object" || !("shortestEdge" in size ? side(size.shortestEdge) && Object.keys(size).length === 1 : rectangle(size))) {
    throw invalid("size", size, "{ height, width } or { shortestEdge } in pixels");
  }
  if (typeof cropSize !== "object" || !rectangle(cropSize)) throw invalid("cropSize", cropSize, "{ height, width } in pixels");
  if (!Number.isFinite(rescaleFactor)) throw invalid("rescaleFactor", rescaleFactor, "a number");
  for (const [name, list] of [["imageMean", imageMean], ["imageStd", imageStd]] as const) {
    if (!Array.isArray(list) || list.length !== 3 || !list.every(Number.isFinite)) throw invalid(name, list, "three numbers");
  }
  if (imageStd.includes(0)) throw invalid("imageStd", imageStd, "numbers other than 0");
  if (resample !== 3 && config.doResize) {
    throw new Kosmos2Error("resample-unsupported", "unsupported",
      `Cannot use an image processor with resample = ${shown(resample)}: only 3 (bicubic) is known here`, { found: resample, wanted: 3 });
  }
}
