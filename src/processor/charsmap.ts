/**
 * SentencePiece's precompiled normaliser, as Hugging Face applies it (SPEC 9.4): a double-array trie from UTF-8 byte strings to
 * their replacements. @huggingface/tokenizers approximates it by NFKC, which gives other ids on combining accents and much else.
 */
let segmenter: Intl.Segmenter | undefined; // made when first wanted: 5 ms

/** Stretches in which every character is a cluster (ASCII, less its last character), and others. */
const stretches = /[\0-\x7f]+(?=[\0-\x7f]|$)|[\0-\x7f]?(?:[^\0-\x7f]+[\0-\x7f]?)+|[^]/g;

/** Grapheme clusters. Where the runtime has no segmenter, near enough: a character and its marks. */
function* clusters(text: string): Generator<string> {
  if (!/[^\0-\x7f]|\r\n/.test(text)) return yield* text;
  if (typeof Intl.Segmenter === "function") segmenter ??= new Intl.Segmenter("en", { granularity: "grapheme" });
  if (!segmenter) yield* text.match(/\r\n|\P{M}?[\p{M}\u200d]+|[^]/gu) ?? [];
  else if (text.includes("\r\n")) for (const { segment } of segmenter.segment(text)) yield segment;
  else // a segmenter takes 30 µs a character
    for (const [stretch] of text.matchAll(stretches)) {
      if (/^[\0-\x7f]*$/.test(stretch)) yield* stretch;
      else for (const { segment } of segmenter.segment(stretch)) yield segment;
    }
}

export class Charsmap {
  readonly #units: Uint32Array;
  /** Replacements, UTF-8, each ended by a NUL. */
  readonly #strings: Uint8Array;
  readonly #known = new Map<string, string | undefined>();

  /** @param base64 `precompiled_charsmap` of tokenizer.json: length of the trie in bytes (u32), its units (u32 each, little endian), the strings */
  constructor(base64: string) {
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
    const view = new DataView(bytes.buffer);
    const trieBytes = view.getUint32(0, true);
    this.#units = new Uint32Array(trieBytes >>> 2);
    for (let i = 0; i < this.#units.length; i++) this.#units[i] = view.getUint32(4 + 4 * i, true);
    this.#strings = bytes.subarray(4 + trieBytes);
  }

  /** Replaces whole grapheme clusters under 6 bytes by what their shortest known beginning maps to, else code point by code point. */
  normalize(text: string): string {
    let out = "";
    for (const cluster of clusters(text)) {
      const whole = this.#replacement(cluster);
      if (whole !== undefined) out += whole;
      else for (const char of cluster) out += this.#replacement(char) ?? char;
    }
    return out;
  }

  #replacement(text: string): string | undefined {
    if (text.length > 5) return undefined;
    if (this.#known.has(text)) return this.#known.get(text);
    if (this.#known.size > 4096) this.#known.clear();
    const found = this.#search(new TextEncoder().encode(text));
    this.#known.set(text, found);
    return found;
  }

  /** The first key met along `bytes`, not the longest: Hugging Face's rule, which drops the accent of "ﬁ́". */
  #search(bytes: Uint8Array): string | undefined {
    if (bytes.length > 5) return undefined;
    const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);
    let at = offset(this.#units[0]);
    for (const byte of bytes) {
      at ^= byte;
      const unit = this.#units[at];
      if (byte === 0 || (unit & 0x800000ff) !== byte) return undefined; // past the end: undefined & n is 0
      at ^= offset(unit);
      if (unit & 0x100) return this.#string(this.#units[at] & 0x7fffffff);
    }
    return undefined;
  }

  #string(from: number): string {
    const end = this.#strings.indexOf(0, from);
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.#strings.subarray(from, end < 0 ? undefined : end));
  }
}
