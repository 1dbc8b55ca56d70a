/** The public names. */
import "./globals.js";
export { Kosmos2, type Answer, type Caption, type CaptionOptions, type PictureOptions, type Piece, type QuestionOptions, type SeeOptions } from "./kosmos2.js";
export type { Scene } from "./scene.js";
export { Prefix } from "./prefix.js";
export type { Limits, PassName, Profile, ProfiledOperation } from "./profile.js";
export {
  Kosmos2ForConditionalGeneration, Kosmos2Model, type CausalOutput, type ForwardOptions, type GenerateInputs, type GenerateOutput, type LoadOptions,
  type ModelInputs, type ModelOutput, type Session, type Timings,
} from "./modeling.js";
export type { CacheDtype, Dtype, DtypeName } from "./dtype.js";
export type { LoadProgress } from "./engine.js";
export { estimateMemory, type EstimateOptions, type MemoryEstimate } from "./memory.js";
export type { GenerateOptions } from "./generate/config.js";
export type { Stop } from "./generate/greedy.js";
export { Kosmos2Config, type Kosmos2TextConfig, type Kosmos2VisionConfig } from "./model/config.js";
export { capabilities, type Capabilities } from "./capabilities.js";
export type { ModelSource } from "./weights/source.js";
export { annotate, annotateSvg, type Annotation, type AnnotateSvgOptions } from "./annotate.js";
export * from "./processor/index.js";
export { Kosmos2Error, type ErrorKind, type ErrorDetails } from "./errors.js";
export type { Tensor } from "./tensor.js";
