/**
 * Tokens that are found in the text itself, before anything else is done with it: `<s>`, `<image>`, `<patch_index_0044>` (SPEC 9.3).
 * Also how users' literal `<image>` is kept from becoming one.
 */
import { isSpace, leadingSpace, trimEnd } from "./text.js";

/** An entry of tokenizer.json's `added_tokens`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Swallows the whitespace on its left. */
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  /** Left out of decoded text on request. */
  readonly special?: boolean;
  /** Looked for in normalised text. None of Kosmos-2's is. */
  readonly normalized?: boolean;
}

/**
 * Stands after the first character of an escaped token. A noncharacter: no text has a use for it, no normaliser touches it.
 * Only before the rest of a token's name does it mean anything.
 */
export const escapeMark = "\ufdd0";
/** What any other `escapeMark` becomes: as unknown to every vocabulary. */
const plainMark = "\ufdd1";

export class AddedTokens {
  readonly #tokens = new Map<string, AddedToken>();
  /** By the first character: the lengths its tokens have, longest first. */
  readonly #lengths = new Map<string, number[]>();
  #longest = 0;

  constructor(tokens: Iterable<AddedToken>) {
    for (const token of tokens) {
      if (token.content === "") continue;
      this.#tokens.set(token.content, token);
      this.#longest = Math.max(this.#longest, token.content.length);
      const lengths = this.#lengths.get(token.content[0]) ?? [];
      if (lengths.includes(token.content.length)) continue;
      lengths.push(token.content.length);
      this.#lengths.set(token.content[0], lengths.sort((a, b) => b - a));
    }
  }

  id(content: string): number | undefined {
    return this.#tokens.get(content)?.id;
  }

  /** The longest token that begins at `at`. */
  #at(text: string, at: number): AddedToken | undefined {
    for (const length of this.#lengths.get(text[at]) ?? []) {
      const token = this.#tokens.get(text.slice(at, at + length));
      if (token) return token;
    }
    return undefined;
  }

  /** Tokens and the stretches of text between them, in order; leftmost and longest wins. No stretch is empty. */
  split(text: string): (AddedToken | string)[] {
    const parts: (AddedToken | string)[] = [];
    let done = 0;
    for (let at = 0; at < text.length; ) {
      const token = this.#at(text, at);
      if (!token) {
        at++;
        continue;
      }
      const between = text.slice(done, at);
      const before = token.lstrip ? trimEnd(between) : between;
      if (before) parts.push(before);
      parts.push(token);
      at += token.content.length;
      if (token.rstrip) at += leadingSpace(text.slice(at), isSpace);
      done = at;
    }
    if (done < text.length) parts.push(text.slice(done));
    return parts;
  }

  /** The same text with every token's name broken by `escapeMark`. Doing it twice changes nothing more. */
  escape(text: string): string {
    let out = "";
    for (let at = 0; at < text.length; at++) {
      const token = this.#at(text, at);
      out += text[at];
      if (token && token.content.length > 1) out += escapeMark;
    }
    return out;
  }

  /** Text in which every `escapeMark` still there is one of `escape`'s. */
  keepEscapes(text: string): string {
    if (!text.includes(escapeMark)) return text;
    return text.replaceAll(escapeMark, (mark, at: number) =>
      at > 0 && this.#at(text[at - 1] + text.slice(at + 1, at + this.#longest), 0) ? mark : plainMark);
  }
}
