/**
 * Ids as they come into text as it grows. Put together, the pieces are the whole answer to the last character: what decoding prompt
 * and answer at once gives, less the prompt. So a space that the clean-up may still take out is held back until it is settled.
 */
import { cleanUp } from "./tokenizer.js";

/** A new id of one row of a batch. */
export interface StreamedToken {
  readonly row: number;
  readonly id: number;
}
/** The same with the text that it settles; often a word with its leading space, sometimes "". */
export interface StreamedText extends StreamedToken {
  readonly text: string;
}

/** The part of Kosmos2Tokenizer that is used here. */
export interface PieceTokenizer {
  piece(id: number, first: boolean, skipSpecialTokens: boolean): string | undefined;
  readonly cleansUp: boolean;
}

/** One row: the prompt goes in first, then the answer, id by id. */
export class TextStream {
  readonly #tokenizer: PieceTokenizer;
  /** Text whose clean-up is not settled. */
  #open = "";
  #first = true;
  /** What of the prompt's text is still to come out of `#open`; not part of the answer. */
  #prompt = "";

  constructor(tokenizer: PieceTokenizer, prompt: Iterable<number>) {
    this.#tokenizer = tokenizer;
    for (const id of prompt) this.#add(id);
    this.#settle();
    this.#prompt = this.#clean(this.#open);
  }

  /** @returns the text that is settled now that `id` is known */
  push(id: number): string {
    this.#add(id);
    return this.#answer(this.#settle());
  }

  /** @returns the rest: nothing follows */
  end(): string {
    const rest = this.#clean(this.#open);
    this.#open = "";
    return this.#answer(rest);
  }

  /** Whether text is held back. */
  get holds(): boolean {
    return this.#open !== "";
  }

  #add(id: number): void {
    const piece = this.#tokenizer.piece(id, this.#first, true);
    if (piece === undefined) return;
    this.#open += piece;
    this.#first = false;
  }

  #clean(text: string): string {
    return this.#tokenizer.cleansUp ? cleanUp(text) : text;
  }

  /**
   * Takes off the settled part. The clean-up only takes out spaces, and what is behind a space decides on it: some of " 'nvr" and one
   * more character. So a space with nothing but those behind it is open, and everything before the first such space is settled.
   */
  #settle(): string {
    let end = this.#open.length;
    if (this.#tokenizer.cleansUp)
      for (let i = end - 1; i >= 0 && " 'nvr".includes(this.#open[i]); i--) if (this.#open[i] === " ") end = i;
    const settled = this.#clean(this.#open.slice(0, end));
    this.#open = this.#open.slice(end);
    return settled;
  }

  /** `text` without what is the prompt's. */
  #answer(text: string): string {
    let same = 0;
    while (same < Math.min(text.length, this.#prompt.length) && text[same] === this.#prompt[same]) same++;
    const differs = same < text.length && same < this.#prompt.length;
    this.#prompt = differs ? "" : this.#prompt.slice(same); // the answer's first word changed the prompt's end
    return text.slice(same);
  }
}

/**
 * Texts of the tokens of a batch, as they come. A token is passed on at once, or after the row's next when its text is not settled.
 *
 * @param prompts each row's prompt, without padding
 */
export async function* streamText(
  tokenizer: PieceTokenizer, prompts: readonly Iterable<number>[], tokens: AsyncIterable<StreamedToken> | Iterable<StreamedToken>,
): AsyncGenerator<StreamedText, void, undefined> {
  const rows = prompts.map((prompt) => ({ stream: new TextStream(tokenizer, prompt), waiting: undefined as StreamedText | undefined }));
  for await (const { row, id } of tokens) {
    const state = rows[row];
    const text = state.stream.push(id);
    if (state.waiting) yield state.waiting;
    state.waiting = { row, id, text };
    if (state.stream.holds) continue;
    yield state.waiting;
    state.waiting = undefined;
  }
  for (const { stream, waiting } of rows) if (waiting) yield { ...waiting, text: waiting.text + stream.end() };
}
