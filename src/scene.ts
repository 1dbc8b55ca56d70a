/** A picture that was looked at once, for many questions. */
import type { Answer, Caption, QuestionOptions } from "./kosmos2.js";
import { Prefix } from "./prefix.js";
import type { ImageSize } from "./processor/boxes.js";
import type { Tensor } from "./tensor.js";

/**
 * What `Kosmos2.see` gives: the picture's image rows, and, from the first answer on, what every question about it begins with. So a
 * question pays neither for looking nor for that beginning; its answer is the one that `Kosmos2.caption` gives. A scene that is
 * forgotten costs nothing: the engine keeps the beginnings of the scenes that were asked last, and reads others again.
 */
export class Scene {
  private readonly prefix = new Prefix();

  /** Made by `Kosmos2.see`. */
  constructor(
    /** [1, latentQueryNum, embedDim]; what `imageEmbeds` of a model and `images` of a processor take. */
    readonly imageEmbeds: Tensor,
    /** Of the upright picture. */
    readonly imageSize: ImageSize,
    private readonly ask: (question: QuestionOptions, prefix: Prefix) => Answer,
  ) {}

  /**
   * Answers a question about the picture.
   *
   * @example
   *   const { caption, entities } = await scene.caption({ prompt: "<grounding> Question: Where is the dog? Answer:" });
   */
  caption(options: QuestionOptions = {}): Promise<Caption> {
    return this.stream(options).result;
  }

  /** As `caption`, piece by piece; leaving the loop stops the work. */
  stream(options: QuestionOptions = {}): Answer {
    return this.ask(options, this.prefix);
  }

  /** Gives memory back; answers under way go on, later questions reject with code `disposed`. Twice is fine. */
  dispose(): void {
    this.prefix.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
