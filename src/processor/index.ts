/** The processor alone, for programs that have no need of a model: no weights, no kernels. */
import "../globals.js";
export { Kosmos2Error, type ErrorDetails, type ErrorKind } from "../errors.js";
export type { Tensor } from "../tensor.js";
export type { ModelSource } from "../weights/source.js";
export { boxOfPatches, patchesOfBox, type Box, type ImageSize, type NormalizedBox, type PatchPair } from "./boxes.js";
export { extractEntities, type Entity, type Grounded } from "./entities.js";
export {
  Kosmos2Processor, type ImagePreprocessor, type Kosmos2Inputs, type PictureInputs, type PostProcessOptions, type ProcessOptions,
} from "./processor.js";
export type { BlobImage, DrawableImage, Fetch, ImageInput, ImageOptions, RawImage } from "./decode.js";
export { Kosmos2ImageProcessor, type ImageProcessorConfig, type PreprocessedImages, type PreprocessOptions, type TargetSize } from "./image-processor.js";
export type { PhraseBoxes, PromptBox, PromptOptions, TextBoxes } from "./prompt.js";
export type { StreamedText, StreamedToken } from "./stream.js";
export { Kosmos2Tokenizer, type DecodeOptions, type EncodeOptions, type Tokenizer } from "./tokenizer.js";
