/**
 * Text to ids and back, exactly as Hugging Face's tokenizer of Kosmos-2 does it (SPEC 9): added tokens are cut out, the rest is
 * normalised, split into words that begin with "▁", and each word into its most likely pieces.
 *
 * @huggingface/tokenizers reads tokenizer.json's normalisers and template. What it does otherwise is done here instead, since
 * Rust's and Python's results were wanted to the last id: its stand-in for the precompiled normaliser (charsmap.ts), its idea of
 * whitespace, its decoder's first token, and its table of pieces, slow and large at 64 thousand of them (unigram.ts).
 */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import { Kosmos2Error } from "../errors.js";
import { pause } from "../pause.js";
import { inFolder, notFound, readJson, readText, type ModelFiles } from "../weights/files.js";
import { AddedTokens, escapeMark, type AddedToken } from "./added-tokens.js";
import { Charsmap } from "./charsmap.js";
import { parseTokenizer } from "./sliced-json.js";
import { isSpace, leadingSpace, trimEnd } from "./text.js";
import { Unigram } from "./unigram.js";

export interface EncodeOptions {
  /** Put `<s>` in front and `</s>` behind. Default true, as in Hugging Face's tokenizers */
  addSpecialTokens?: boolean;
  /** Cut the end off, so that no more ids than this come out, special tokens counted. Default: no limit */
  maxLength?: number;
}
export interface DecodeOptions {
  /** Leave out `<s>`, `</s>`, `<pad>`, `<unk>`, `<mask>`; tags as `<phrase>` stay. Default false */
  skipSpecialTokens?: boolean;
  /** Take out the space in " .", " ?", " 's" and the like. Default: what tokenizer_config.json says, true for Kosmos-2 */
  cleanUpTokenizationSpaces?: boolean;
}

/** What the processor needs of a tokenizer. */
export interface Tokenizer {
  encode(text: string, options?: EncodeOptions): number[];
  decode(ids: Iterable<number>, options?: DecodeOptions): string;
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
  /** One more than the largest id. */
  readonly vocabSize: number;
}

/** Ids with a role, found by the names that tokenizer_config.json gives. */
export interface SpecialIds {
  readonly bos: number;
  readonly eos: number;
  readonly pad: number;
  readonly unk: number;
}

interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[];
  readonly normalizer?: Part | null;
  readonly pre_tokenizer?: Part | null;
  readonly post_processor?: Part | null;
  readonly decoder?: Part | null;
  readonly model?: { readonly type?: string; readonly vocab?: readonly (readonly [string, number])[]; readonly unk_id?: number | null; readonly byte_fallback?: boolean };
}
/** A normaliser, pre-tokenizer and so on, as tokenizer.json has it. */
interface Part {
  readonly type: string;
  readonly normalizers?: readonly Part[];
  readonly pretokenizers?: readonly Part[];
  readonly precompiled_charsmap?: string | null;
  readonly strip_left?: boolean;
  readonly strip_right?: boolean;
  readonly replacement?: string;
  readonly prepend_scheme?: string;
  readonly add_prefix_space?: boolean;
  readonly split?: boolean;
}
type Step = (text: string) => string;
/** One stretch of text into words. `first`: the stretch begins the text. */
type Split = (texts: string[], first: boolean) => string[];

/** How many pieces are added at one go: about 5 ms. */
const piecesAtOnce = 8192;

export class Kosmos2Tokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly ids: SpecialIds;
  /** Where `process` pads unless told otherwise. */
  readonly paddingSide: "left" | "right";
  /** Infinity when the file names none. */
  readonly modelMaxLength: number;
  readonly #pieces: Unigram;
  readonly #tokens: readonly (string | undefined)[];
  readonly #special: ReadonlySet<number>;
  readonly #raw: AddedTokens;
  readonly #normalized: AddedTokens;
  readonly #normalize: Step;
  readonly #split: Split;
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #marker: string;
  readonly #dropsFirstMarker: boolean;
  readonly #cleanUp: boolean;

  private constructor(json: TokenizerJson, config: Record<string, unknown>, pieces: Unigram, tokens: (string | undefined)[]) {
    const added = json.added_tokens ?? [];
    for (const token of added) tokens[token.id] = token.content;
    this.#pieces = pieces;
    this.#tokens = tokens;
    this.vocabSize = tokens.length;
    this.#special = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.#normalize = normalizer(json.normalizer ?? null);
    this.#raw = new AddedTokens(added.filter((token) => !token.normalized));
    this.#normalized = new AddedTokens(added.filter((token) => token.normalized)
      .map((token) => ({ ...token, content: this.#normalize(token.content) })));
    this.#split = splitter(json.pre_tokenizer ?? null);

    const named = (role: string, fallback: string): number => {
      const given = config[`${role}_token`] as string | { content?: string } | null | undefined;
      const name = (typeof given === "object" ? given?.content : given) ?? fallback;
      const id = this.tokenToId(name);
      if (id === undefined) throw invalid(`it has no token "${name}", which tokenizer_config.json calls ${role}_token`, { wanted: name });
      return id;
    };
    this.ids = { bos: named("bos", "<s>"), eos: named("eos", "</s>"), pad: named("pad", "<pad>"), unk: named("unk", "<unk>") };
    this.paddingSide = config.padding_side === "left" ? "left" : "right";
    const most = Number(config.model_max_length ?? Infinity);
    this.modelMaxLength = most < 1e20 ? most : Infinity; // Hugging Face writes 1e30 for "no limit"
    this.#cleanUp = config.clean_up_tokenization_spaces !== false;

    const { before, after } = template(json.post_processor ?? null);
    const id = (token: string): number => this.tokenToId(token) ?? this.ids.unk;
    this.#before = before.map(id);
    this.#after = after.map(id);

    const decoder = json.decoder ?? null;
    if (decoder?.type !== "Metaspace") throw unsupported("decoder", decoder);
    this.#marker = decoder.replacement ?? "▁";
    this.#dropsFirstMarker = prefix(decoder) !== "never";
  }

  /**
   * Reads `tokenizer.json`, and of `tokenizer_config.json` the names of special tokens, the padding side and the clean-up.
   *
   * @throws {Kosmos2Error} code `model-not-found` without a tokenizer.json, `tokenizer-invalid`, `tokenizer-unsupported` when it is
   *   not a Unigram tokenizer as Kosmos-2's
   */
  static async fromFiles(files: ModelFiles, options: { signal?: AbortSignal } = {}): Promise<Kosmos2Tokenizer> {
    const { signal } = options;
    const text = await readText(files, "tokenizer.json", signal);
    if (text === undefined) throw await notFound(files, "tokenizer.json");
    const config = await readJson(files, "tokenizer_config.json", signal, "tokenizer-invalid");
    return inFolder(files, "tokenizer.json", async () => {
      const json = await parseTokenizer(text, signal).catch((error: unknown) => {
        throw error instanceof SyntaxError ? invalid(`it is not JSON (${error.message})`, {}, error) : error;
      });
      return Kosmos2Tokenizer.fromJSON(json, (config ?? {}) as Record<string, unknown>, options);
    });
  }

  /** The same from what the two files hold. Yields to other work between slices of the vocabulary. */
  static async fromJSON(json: unknown, config: Record<string, unknown> = {}, options: { signal?: AbortSignal } = {}): Promise<Kosmos2Tokenizer> {
    const { signal } = options;
    const file = (typeof json === "object" && json !== null ? json : {}) as TokenizerJson;
    const { model, added_tokens = [] } = file;
    if (model?.type !== "Unigram" || model.byte_fallback)
      throw new Kosmos2Error("tokenizer-unsupported", "unsupported",
        `Cannot use tokenizer.json: its model is ${model?.type ?? "missing"}${model?.byte_fallback ? " with byte fallback" : ""}; wanted Unigram, as Kosmos-2's`,
        { file: "tokenizer.json", found: model?.type, wanted: "Unigram" });
    const { vocab, unk_id } = model;
    if (!Array.isArray(vocab)) throw invalid("model.vocab is not a list");
    if (!Number.isInteger(unk_id) || unk_id! < 0 || unk_id! >= vocab.length) throw invalid(`model.unk_id is ${unk_id}; wanted an index of model.vocab`);
    for (const token of added_tokens)
      if (!Number.isInteger(token?.id) || token.id < 0 || token.id > 2 ** 22 || typeof token.content !== "string")
        throw invalid(`an added token is ${JSON.stringify(token)}; wanted an id and its content`);

    const pieces = new Unigram(vocab.length, unk_id!);
    const tokens: (string | undefined)[] = new Array(vocab.length);
    for (let id = 0; id < vocab.length; id++) {
      if (id % piecesAtOnce === 0) {
        await pause();
        signal?.throwIfAborted();
      }
      const [piece, score] = vocab[id] as [unknown, unknown];
      if (typeof piece !== "string" || typeof score !== "number") throw invalid(`model.vocab[${id}] is ${JSON.stringify(vocab[id])}; wanted a piece and its score`);
      tokens[id] = piece;
      pieces.add(piece, id, score);
    }
    return new Kosmos2Tokenizer(file, config, pieces, tokens);
  }

  encode(text: string, { addSpecialTokens = true, maxLength = Infinity }: EncodeOptions = {}): number[] {
    let ids: number[] = [];
    let first = true; // no text was met yet
    for (const part of this.#raw.split(text)) {
      if (typeof part === "string") for (const id of this.#plain(this.#raw.keepEscapes(part), first)) ids.push(id);
      else ids.push(part.id);
      first = false;
    }
    if (!addSpecialTokens) return ids.slice(0, maxLength);
    ids = ids.slice(0, Math.max(0, maxLength - this.#before.length - this.#after.length));
    return [...this.#before, ...ids, ...this.#after];
  }

  #plain(text: string, first: boolean): number[] {
    const ids: number[] = [];
    for (const part of this.#normalized.split(this.#normalize(text))) {
      if (typeof part !== "string") ids.push(part.id);
      else for (const word of this.#split([part], first))
        for (const piece of word.split(escapeMark)) for (const id of this.#pieces.encode(piece)) ids.push(id);
      first = false;
    }
    return ids;
  }

  decode(ids: Iterable<number>, { skipSpecialTokens = false, cleanUpTokenizationSpaces = this.#cleanUp }: DecodeOptions = {}): string {
    let text = "";
    let first = true;
    for (const id of ids) {
      const piece = this.piece(id, first, skipSpecialTokens);
      if (piece === undefined) continue;
      text += piece;
      first = false;
    }
    return cleanUpTokenizationSpaces ? cleanUp(text) : text;
  }

  /** What `id` adds to a text, before any clean-up; undefined when it is left out. `first`: nothing that was kept came before. */
  piece(id: number, first: boolean, skipSpecialTokens: boolean): string | undefined {
    const token = this.#tokens[id];
    if (token === undefined || (skipSpecialTokens && this.#special.has(id))) return undefined;
    return token.replaceAll(this.#marker, first && this.#dropsFirstMarker ? "" : " ");
  }

  /** Whether `decode` cleans up unless told otherwise. */
  get cleansUp(): boolean {
    return this.#cleanUp;
  }

  tokenToId(token: string): number | undefined {
    return this.#raw.id(token) ?? this.#normalized.id(token) ?? this.#pieces.id(token);
  }

  idToToken(id: number): string | undefined {
    return this.#tokens[id];
  }

  /**
   * Text in which no token's name is taken for the token: `<image>` of a user stays six letters, two brackets. What the model
   * reads is the text itself; the mark, U+FDD0 after each such "<", is dropped before pieces are looked for. Taking the marks out
   * gives `text` again.
   *
   * @example processor.tokenizer.encode(processor.escape("What does <s> mean?"))
   */
  escape(text: string): string {
    return this.#raw.escape(text);
  }
}

/** Hugging Face's clean-up, one rule after another over the whole text (SPEC 8.1). */
export function cleanUp(text: string): string {
  for (const [from, to] of spaces) text = text.replaceAll(from, to);
  return text;
}
const spaces = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"].map((from) => [from, from.trim()]);

/** The whole chain of a normaliser. Precompiled and Strip are ours, others the library's. */
function normalizer(part: Part | null): Step {
  if (part === null) return (text) => text;
  switch (part.type) {
    case "Sequence": {
      const steps = (part.normalizers ?? []).map(normalizer);
      return (text) => steps.reduce((done, step) => step(done), text);
    }
    case "Precompiled": {
      if (!part.precompiled_charsmap) return (text) => text;
      let charsmap: Charsmap | undefined; // read when first wanted: 3 ms
      return (text) => (charsmap ??= new Charsmap(part.precompiled_charsmap!)).normalize(text);
    }
    case "Strip": {
      const left = part.strip_left !== false;
      const right = part.strip_right !== false;
      return (text) => {
        if (left) text = text.slice(leadingSpace(text, isSpace));
        return right ? trimEnd(text) : text;
      };
    }
    default: {
      const step = library({ normalizer: part }, "normalizer", part).normalizer as Step;
      return (text) => step(text);
    }
  }
}

/** Words, each beginning with "▁": Metaspace, alone or after a split at whitespace. */
function splitter(part: Part | null): Split {
  switch (part?.type) {
    case "Sequence": {
      const steps = (part.pretokenizers ?? []).map(splitter);
      return (texts, first) => steps.reduce((done, step) => step(done, first), texts);
    }
    case "WhitespaceSplit":
      return (texts) => texts.flatMap((text) => text.split(/\p{White_Space}+/u)).filter((word) => word !== "");
    case "Metaspace": {
      const marker = part.replacement ?? "▁";
      const scheme = prefix(part);
      return (texts, first) => texts.flatMap((text, i) => {
        const spaced = text.replaceAll(" ", marker);
        const marked = !spaced.startsWith(marker) && (scheme === "always" || (scheme === "first" && first && i === 0)) ? marker + spaced : spaced;
        if (part.split === false) return [marked];
        return marked.split(marker).map((word, j) => (j > 0 ? marker + word : word)).filter((word) => word !== "");
      });
    }
    default:
      throw unsupported("pre_tokenizer", part);
  }
}

/** A Metaspace's rule for the first marker; older files have `add_prefix_space`. */
function prefix(part: Part): string {
  return part.prepend_scheme ?? (part.add_prefix_space === false ? "never" : "always");
}

/** Tokens that the template puts before and after a text. */
function template(part: Part | null): { before: string[]; after: string[] } {
  if (part === null) return { before: [], after: [] };
  const text = "\0text";
  const run = library({ post_processor: part }, "post_processor", part).post_processor as
    (tokens: string[], pair: null, special: boolean) => { tokens: string[] };
  const { tokens } = run([text], null, true);
  return { before: tokens.slice(0, tokens.indexOf(text)), after: tokens.slice(tokens.indexOf(text) + 1) };
}

/** The library's reading of one part of tokenizer.json, over a vocabulary of one piece. */
function library(parts: { normalizer?: Part; post_processor?: Part }, name: string, part: Part): { normalizer: unknown; post_processor: unknown } {
  const model = { type: "Unigram", vocab: [["<unk>", 0]], unk_id: 0 };
  try {
    return new Library({ added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, model, ...parts }, {});
  } catch (error) {
    throw unsupported(name, part, error);
  }
}

function invalid(what: string, details: object = {}, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("tokenizer-invalid", "load", `Cannot use tokenizer.json: ${what}`, { file: "tokenizer.json", ...details }, cause);
}

function unsupported(name: string, part: Part | null | undefined, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("tokenizer-unsupported", "unsupported", `Cannot use tokenizer.json: its ${name} is ${part?.type ?? "missing"}, which Kosmos-2's tokenizer has no use for`,
    { file: "tokenizer.json", found: part?.type }, cause);
}
