import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Kosmos2Error } from "#src/errors.js";
import { Charsmap } from "#src/processor/charsmap.js";
import { parseTokenizer } from "#src/processor/sliced-json.js";
import { Kosmos2Tokenizer } from "#src/processor/tokenizer.js";
import { Unigram } from "#src/processor/unigram.js";
import { openModel } from "#src/weights/source.js";
import { root } from "../support.js";

const json = () => JSON.parse(readFileSync(`${root}models/kosmos2-emoji/tokenizer.json`, "utf8"));
const emoji = await Kosmos2Tokenizer.fromFiles(await openModel("kosmos2-emoji"));
const code = (wanted: string, words = /./) => (error: unknown) => {
  assert.ok(error instanceof Kosmos2Error && error.code === wanted, String(error));
  assert.match(error.message, words);
  return true;
};

/** A word's pieces with the given scores, "?" being the unknown. */
function pieces(scores: Record<string, number>, word: string): string[] {
  const names = ["?", ...Object.keys(scores)];
  const unigram = new Unigram(names.length, 0);
  names.forEach((name, id) => unigram.add(name, id, scores[name] ?? 0));
  return unigram.encode(word).map((id) => names[id]);
}

test("Unigram takes the likeliest cut, the earliest begin of equal ones, and one unknown for neighbours", () => {
  assert.deepEqual(pieces({ a: -1, b: -1, ab: -3 }, "ab"), ["a", "b"]);
  assert.deepEqual(pieces({ a: -2, b: -2, ab: -3 }, "ab"), ["ab"]);
  assert.deepEqual(pieces({ a: -1, aa: -2 }, "aaa"), ["a", "aa"]); // a+a+a, aa+a and a+aa are all −3: the last piece begins earliest
  assert.deepEqual(pieces({ a: -1 }, "xya😀😀z"), ["?", "a", "?"]);
  assert.deepEqual(pieces({ a: -1, "😀": -1 }, "😀a"), ["😀", "a"]);
  assert.deepEqual(pieces({ a: -1 }, ""), []);
});

test("Unigram gives an unknown character 10 less than the least likely piece", () => {
  // a + bx against ab + unknown, which is −1 − 20 − 10
  assert.deepEqual(pieces({ a: -10.9, bx: -20, ab: -1 }, "abx"), ["a", "bx"]);
  assert.deepEqual(pieces({ a: -11.1, bx: -20, ab: -1 }, "abx"), ["ab", "?"]);
});

/** The blob of a charsmap for keys that share no first byte: a chain of units for each, placed where nothing is yet. */
function charsmap(entries: Record<string, string>): string {
  const units = new Map<number, number>();
  const strings: number[] = [];
  const utf8 = new TextEncoder();
  const unit = (label: number, offset: number, leaf = false): number => label | (offset << 10) | (leaf ? 0x100 : 0);
  let base = 256;
  units.set(0, unit(0, base));
  for (const [key, value] of Object.entries(entries)) {
    const bytes = utf8.encode(key);
    let at = 256; // of all keys' first bytes
    bytes.forEach((byte, i) => {
      const last = i === bytes.length - 1;
      const place = at ^ byte;
      base += 256;
      if (base > 2 ** 20) throw new Error("too many keys");
      units.set(place, unit(byte, place ^ base, last));
      if (last) units.set(base, 0x80000000 | strings.length);
      at = base;
    });
    strings.push(...utf8.encode(value), 0);
  }
  const count = Math.max(...units.keys()) + 256;
  const bytes = new Uint8Array(4 + 4 * count + strings.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 4 * count, true);
  for (const [at, value] of units) view.setUint32(4 + 4 * at, value >>> 0, true);
  bytes.set(strings, 4 + 4 * count);
  return btoa(String.fromCharCode(...bytes));
}

test("Charsmap replaces a cluster under 6 bytes by the first key it begins with, and longer ones by code point", () => {
  const map = new Charsmap(charsmap({ "ﬁ": "fi", "\t": " ", "½": "1⁄2", "\u007f": "", "é": "E" }));
  assert.equal(map.normalize("a\tﬁ ½\u007f!"), "a fi 1⁄2!");
  assert.equal(map.normalize("ﬁ\u0301x"), "fix"); // 3 + 2 bytes: the accent goes with the cluster
  assert.equal(map.normalize("ﬁ\u0301\u0301x"), "fi\u0301\u0301x"); // 7 bytes: each for itself
  assert.equal(map.normalize("e\u0301"), "e\u0301");
  assert.equal(map.normalize("\u0600½ ½\r\n\0"), "\u06001⁄2 1⁄2\r\n\0"); // a sign that joins what follows it
});

test("Charsmap gives the same for a text and for its stretches, wherever ASCII meets other characters", () => {
  const map = new Charsmap(charsmap({ "é": "e", a: "A" }));
  const one = (text: string): string => [...new Intl.Segmenter("en").segment(text)].map(({ segment }) => map.normalize(segment)).join("");
  for (const text of ["aaé", "éaa", "aéa\u0301a", "\u0600aa\u0600", "a\u0301\u0301ab", "\r\né\r\n", "éa\r\na\u0301"]) assert.equal(map.normalize(text), one(text), JSON.stringify(text));
});

test("Kosmos2Tokenizer finds ids by the tokens' names", () => {
  assert.deepEqual(emoji.ids, { bos: 0, pad: 1, eos: 2, unk: 3 });
  assert.deepEqual([emoji.tokenToId("<image>"), emoji.idToToken(451), emoji.tokenToId("▁of"), emoji.tokenToId("no such"), emoji.idToToken(99999)], [451, "<image>", 27, undefined, undefined]);
  assert.equal(emoji.vocabSize, 1485);
  assert.equal(emoji.modelMaxLength, 2048);
});

test("encode cuts at maxLength, special tokens counted", () => {
  const whole = emoji.encode("An image of two keys");
  assert.deepEqual(emoji.encode("An image of two keys", { maxLength: 4 }), [0, ...whole.slice(1, 3), 2]);
  assert.deepEqual(emoji.encode("An image of two keys", { addSpecialTokens: false, maxLength: 2 }), whole.slice(1, 3));
});

test("escape makes every token's name plain text, loses nothing and does nothing twice", () => {
  for (const token of ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "<image>", "</phrase>", "<patch_index_0044>", "<<s>", "a <s></s> b<image>"]) {
    const escaped = emoji.escape(token);
    const ids = emoji.encode(escaped, { addSpecialTokens: false });
    const control = ids.filter((id) => id >= 449 || id < 3);
    assert.deepEqual(control, [], `${token} gives ${ids}`);
    assert.ok(emoji.encode(token, { addSpecialTokens: false }).some((id) => id >= 449 || id <= 3), token);
    assert.equal(escaped.replaceAll("\ufdd0", ""), token);
    assert.equal(emoji.escape(escaped), escaped);
  }
  assert.equal(emoji.escape("5 < 6, <b>"), "5 < 6, <b>");
});

test("an escaped name reads as the characters it is made of", () => {
  const letters = json();
  letters.model.vocab.push(["<", -1], ["▁<", -1], [">", -1], ["s>", -1], ["▁<s", -1], ["image", -5]);
  letters.added_tokens = letters.added_tokens.filter((token: { content: string }) => !token.content.includes("patch"));
  letters.model.vocab = letters.model.vocab.map(([piece, score]: [string, number], id: number) => (id === 449 ? ["unused", -99] : [piece, score]));
  for (const token of letters.added_tokens) if (token.id >= 449) token.id += 100;
  return Kosmos2Tokenizer.fromJSON(letters).then((tokenizer) => {
    const text = (words: string): string[] => tokenizer.encode(tokenizer.escape(words), { addSpecialTokens: false }).map((id) => tokenizer.idToToken(id)!);
    assert.deepEqual(text("a <s>"), ["▁a", "▁<", "s>"]);
    assert.deepEqual(text("<image>"), ["▁<", "image", ">"]);
  });
});

test("U+FDD0 that escapes nothing is an unknown character like others", () => {
  assert.deepEqual(emoji.encode("\ufdd0a <\ufdd0b>"), emoji.encode("\ufdd1a <\ufdd1b>"));
});

test("decode skips ids that no token has, and special ones on request", () => {
  assert.equal(emoji.decode([0, 25, 99999, 21, 2, 1]), "<s> An image</s><pad>");
  assert.equal(emoji.decode([0, 25, 99999, 21, 2, 1], { skipSpecialTokens: true }), "An image");
  assert.equal(emoji.decode(Int32Array.of(25, emoji.tokenToId("▁.")!)), "An.");
  assert.equal(emoji.decode([25, emoji.tokenToId("▁.")!], { cleanUpTokenizationSpaces: false }), "An .");
});

test("a tokenizer.json that can't be used is refused by code, with what was found", async () => {
  const files = (text?: string) => openModel(text === undefined ? { "config.json": new Uint8Array() } : { "tokenizer.json": new TextEncoder().encode(text) });
  await assert.rejects(Kosmos2Tokenizer.fromFiles(await files()), code("model-not-found", /tokenizer\.json/));
  await assert.rejects(Kosmos2Tokenizer.fromFiles(await files("{ nonsense")), code("tokenizer-invalid", /"given files: tokenizer\.json": it is not JSON/));
  await assert.rejects(Kosmos2Tokenizer.fromFiles(await files('{ "model": { "type": "BPE" } }')), code("tokenizer-unsupported", /"given files: tokenizer\.json": its model is BPE/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON({ ...json(), model: { type: "BPE" } }), code("tokenizer-unsupported", /BPE/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON(null), code("tokenizer-unsupported"));
  await assert.rejects(Kosmos2Tokenizer.fromJSON({ ...json(), pre_tokenizer: { type: "Digits" } }), code("tokenizer-unsupported", /Digits/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON({ ...json(), normalizer: { type: "Nonsense" } }), code("tokenizer-unsupported", /Nonsense/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON({ ...json(), model: { type: "Unigram", vocab: [["a"]], unk_id: 0 } }), code("tokenizer-invalid", /vocab\[0\]/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON({ ...json(), model: { type: "Unigram", vocab: [], unk_id: 0 } }), code("tokenizer-invalid", /unk_id/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON({ ...json(), added_tokens: [{ id: -1, content: "x" }] }), code("tokenizer-invalid", /added token/));
  await assert.rejects(Kosmos2Tokenizer.fromJSON(json(), { bos_token: "<begin>" }), code("tokenizer-invalid", /<begin>/));
});

test("reading a tokenizer stops with the signal's reason", async () => {
  const stop = new AbortController();
  const reading = Kosmos2Tokenizer.fromJSON(json(), {}, { signal: stop.signal });
  stop.abort(new Error("enough"));
  await assert.rejects(reading, /^Error: enough$/);
});

test("parseTokenizer gives what JSON.parse gives, pieces that look like JSON included", async () => {
  const vocab = Array.from({ length: 30000 }, (_, i) => [`${i % 7 === 0 ? '"],["' : "]],\\"}piece ${i}`, -1 - i / 3]);
  for (const value of [{ model: { type: "Unigram", vocab, unk_id: 0 }, other: 1 }, { vocab, model: { vocab: [["a", 0]] } }, { model: { vocab: [] } }, vocab, { model: { vocab, merges: [["a", "b"]] } }])
    for (const indent of [0, 2]) {
      const text = JSON.stringify(value, null, indent);
      assert.deepEqual(await parseTokenizer(text), value);
    }
  await assert.rejects(parseTokenizer(JSON.stringify({ model: { vocab } }).replace("piece 29000", '"')), SyntaxError);
});
