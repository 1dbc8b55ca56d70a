/**
 * Generated text into a clean caption and the things in it that have boxes (SPEC 8.4). Never throws: whatever a model writes that
 * does not follow the grammar gives no entity, and its tags are still taken out.
 */
import { toBox, type Box, type ImageSize, type PatchPair } from "./boxes.js";
import { codePoints, leadingSpace, strip, trailingSpace } from "./text.js";

/** A phrase of the caption and where it is seen. */
export interface Entity {
  /** As in the caption, trimmed; a box without a phrase is called `<patch_index_5><patch_index_40>`. */
  readonly phrase: string;
  /** Start and end in the caption, in code points, as Hugging Face counts; empty without a phrase. Odd text can give −1. */
  readonly span: readonly [start: number, end: number];
  /** The same in UTF-16 units: `caption.slice(...range) === phrase`, where there is a phrase. Never below 0. */
  readonly range: readonly [start: number, end: number];
  readonly boxes: readonly Box[];
}

export interface Grounded {
  readonly caption: string;
  readonly entities: readonly Entity[];
}

const delimiter = "</delimiter_of_multi_objects/>";
const pair = "<patch_index_\\p{Nd}+><patch_index_\\p{Nd}+>"; // Python's \d: digits of any script
const grounded = new RegExp(`(?:<phrase>([^<]+)</phrase>)?<object>((?:${pair}${delimiter})*${pair})</object>`, "gu");

/**
 * Deletes every shortest run from a "<" to the next ">" without a newline between them. A stray "<" in prose takes text with it:
 * Hugging Face's rule.
 */
export function stripTags(text: string): string {
  let out = "";
  let done = 0;
  for (let open = text.indexOf("<"), close = -1, line = -1; open >= 0; open = text.indexOf("<", open)) {
    if (close < open) close = text.indexOf(">", open);
    if (line < open) line = text.indexOf("\n", open);
    if (close < 0) break;
    if (line < 0) line = text.length;
    if (line < close) {
      open = line; // no "<" of this line meets a ">"
      continue;
    }
    out += text.slice(done, open);
    open = done = close + 1;
  }
  return out + text.slice(done);
}

/** Caption and entities of a text with tags, in the order of the text. `imageSize` adds boxes in pixels. */
export function extractEntities(text: string, imageSize?: ImageSize | null): Grounded {
  const stripped = stripTags(text);
  const lead = leadingSpace(stripped);
  const entities: Entity[] = [];

  for (const match of text.matchAll(grounded)) {
    const [, phrase, objects] = match;
    const pairs = objects.split(delimiter).map((text) => [...text.matchAll(/\p{Nd}+/gu)].map(([digits]) => plainDigits(digits)));
    const boxes = pairs.map((digits) => toBox(digits.map(Number) as unknown as PatchPair, imageSize));
    const at = match.index + (phrase === undefined ? 0 : "<phrase>".length);
    const before = stripTags(text.slice(0, at));

    if (phrase === undefined) {
      const start = codePoints(before) - lead;
      const from = Math.max(0, before.length - lead);
      for (const [i, [a, b]] of pairs.entries())
        entities.push({ phrase: `<patch_index_${a}><patch_index_${b}>`, span: [start, start], range: [from, from], boxes: [boxes[i]] });
      continue;
    }
    const through = stripTags(text.slice(0, at + phrase.length));
    const skip = leadingSpace(phrase) - lead;
    const drop = trailingSpace(phrase) + lead;
    const range: [number, number] = [Math.max(0, before.length + skip), Math.max(0, through.length - drop)];
    entities.push({ phrase: strip(phrase), span: [codePoints(before) + skip, codePoints(through) - drop], range, boxes });
  }
  return { caption: strip(stripped), entities };
}

/** ASCII digits without leading zeros. In every script digits lie in a row from 0 to 9, and rows follow rows in tens. */
function plainDigits(digits: string): string {
  let plain = "";
  for (const digit of digits) {
    const code = digit.codePointAt(0)!;
    let run = 0;
    while (/\p{Nd}/u.test(String.fromCodePoint(code - run - 1))) run++;
    plain += run % 10;
  }
  return plain.replace(/^0+(?=.)/, "");
}
