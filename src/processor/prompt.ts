/**
 * What a user says into what the model reads: the image's place in front, boxes as tags after their phrases, ids, padding, masks
 * (SPEC 7). Knows no pictures: only how many there are.
 */
import { Kosmos2Error } from "../errors.js";
import { gridSide, patchesOfBox, type NormalizedBox, type PatchPair } from "./boxes.js";
import { strip } from "./text.js";
import type { EncodeOptions, SpecialIds } from "./tokenizer.js";

/** One box: two cells of the grid, or corners as fractions of the image. The length says which. */
export type PromptBox = PatchPair | NormalizedBox;
/** Boxes of one `<phrase>…</phrase>`. */
export type PhraseBoxes = PromptBox | readonly PromptBox[] | null;
/** Boxes of one text: an entry for each phrase, or null. */
export type TextBoxes = readonly PhraseBoxes[] | null;

export interface PromptOptions {
  /** Boxes of the phrases, one entry a phrase; for a list of texts one such list a text. Default: none */
  bboxes?: TextBoxes | readonly TextBoxes[];
  /** true or "longest": to the longest row; "max_length": to `maxLength`. Batches with images are always padded. Default false */
  padding?: boolean | "longest" | "max_length";
  /** Default: the tokenizer's, right for Kosmos-2. Left is what generating in batches wants */
  paddingSide?: "left" | "right";
  /** Cut at `maxLength`. Default: only when `maxLength` is given and `padding` is not */
  truncation?: boolean;
  /** In ids, the image's place counted */
  maxLength?: number;
  /** Round padded lengths up */
  padToMultipleOf?: number;
  /** Begin with `<s>`. Default true */
  addSpecialTokens?: boolean;
  /** End with `</s>`; for training, not for prompts. Default false */
  addEosToken?: boolean;
  /** Rows that an image takes. Default 64; must be the model's latentQueryNum */
  numImageTokens?: number;
  /** Id of the first of them; their embeddings are never looked up. Default: the unknown token's + 1 */
  firstImageTokenId?: number;
}

/** Rows of ids and masks, one a text; of one length only where padding made them so. */
export interface PromptRows {
  inputIds: number[][];
  attentionMask: number[][];
  /** 1 where an image's row goes. All 0 without images. */
  imageEmbedsPositionMask: number[][];
}

/** The part of Kosmos2Tokenizer that is used here. */
export interface PromptTokenizer {
  encode(text: string, options?: EncodeOptions): number[];
  idToToken(id: number): string | undefined;
  readonly ids: SpecialIds;
  readonly paddingSide: "left" | "right";
  readonly modelMaxLength: number;
}

const refuse = (code: string, message: string, found?: unknown, wanted?: unknown): Kosmos2Error =>
  new Kosmos2Error(code, "input", message, { found, wanted });

/**
 * Ids and masks of texts.
 *
 * @param images how many pictures come with them, one a text; undefined: none
 * @throws {Kosmos2Error} `images-count`, `bboxes-count`, `bboxes-invalid`, `box-invalid`, `box-inverted`, `box-out-of-range`,
 *   `phrase-count`, `max-length-too-small`, `option-invalid`
 */
export function encodePrompts(
  tokenizer: PromptTokenizer, text: string | readonly string[], images: number | undefined, options: PromptOptions = {},
): PromptRows {
  const { bboxes = null, padding = false, paddingSide = tokenizer.paddingSide, truncation, maxLength, padToMultipleOf = 1 } = options;
  const { addSpecialTokens: bos = true, addEosToken = false, numImageTokens = 64, firstImageTokenId = tokenizer.ids.unk + 1 } = options;
  const pads = padding !== false;
  const withEos = bos && addEosToken;

  const batched = typeof text !== "string";
  const texts = batched ? text : [text];
  if (images !== undefined && images !== texts.length)
    throw refuse("images-count", `Cannot make a prompt: ${texts.length} texts meet ${images} images; give each text one image`, images, texts.length);
  const boxes = boxesOfTexts(texts, bboxes, batched);
  const strings = texts.map((text, i) => {
    const tagged = insertBoxes((images === undefined ? "" : `${imagePlace(numImageTokens)} `) + strip(text), boxes[i]);
    return bos && !withEos ? tokenizer.idToToken(tokenizer.ids.bos) + tagged : tagged;
  });

  /** Where Hugging Face cuts: `maxLength` alone cuts too, unless something is padded. */
  const limit = (pads: boolean): number | undefined =>
    truncation === true ? (maxLength ?? finite(tokenizer.modelMaxLength)) : truncation === undefined && !pads ? maxLength : undefined;
  const encode = (text: string, pads: boolean): number[] => tokenizer.encode(text, { addSpecialTokens: withEos, maxLength: limit(pads) });
  const cut = limit(images === undefined && pads);
  const least = images === undefined ? (withEos ? 2 : 0) : numImageTokens + 2 + (bos ? 1 : 0) + (withEos ? 1 : 0);
  if (cut !== undefined && cut < least)
    throw refuse("max-length-too-small", `Cannot cut prompts at ${cut} ids: ${images === undefined ? "special tokens" : "the image's place"} alone takes ${least}; raise maxLength`, cut, least);
  if (pads && (batched || images === undefined) && truncation === true && maxLength !== undefined && maxLength % padToMultipleOf !== 0)
    throw refuse("option-invalid", `Cannot cut at ${maxLength} ids and pad to multiples of ${padToMultipleOf}: the first is no multiple of the second`, maxLength, padToMultipleOf);
  const ids = strings.map((text) => encode(text, images === undefined && pads));

  const rows: PromptRows = { inputIds: ids, attentionMask: ids.map((row) => row.map(() => 1)), imageEmbedsPositionMask: ids.map((row) => row.map(() => 0)) };
  if (images !== undefined) {
    const start = bos ? 2 : 1; // after <s> and <image>
    for (const [i, row] of ids.entries())
      for (let k = 0; k < numImageTokens; k++) {
        row[start + k] = firstImageTokenId + k;
        rows.imageEmbedsPositionMask[i][start + k] = 1;
      }
  }

  /** Length that rows are padded to when the longest is `longest`; 0: they are not. */
  const target = (longest: number): number => {
    const length = !pads ? 0 : padding === "max_length" ? (maxLength ?? finite(tokenizer.modelMaxLength) ?? 0) : longest;
    return Math.ceil(length / padToMultipleOf) * padToMultipleOf;
  };
  const lengths = ids.map((row) => row.length);
  const longest = Math.max(...lengths);
  if (images === undefined) padRows(rows, target(longest), paddingSide, tokenizer.ids.pad);
  else if (batched) {
    // Hugging Face reads the longest text a second time to learn the length, now with the caller's padding, and always pads.
    const length = encode(strings[lengths.lastIndexOf(longest)], pads).length;
    padRows(rows, Math.max(length, target(length)), paddingSide, tokenizer.ids.pad);
  }
  return rows;
}

const finite = (length: number): number | undefined => (Number.isFinite(length) ? length : undefined);

function padRows(rows: PromptRows, length: number, side: "left" | "right", padId: number): void {
  const pad = (all: number[][], value: number): number[][] => all.map((row) => {
    const padding = new Array<number>(Math.max(0, length - row.length)).fill(value);
    return side === "left" ? [...padding, ...row] : [...row, ...padding];
  });
  rows.inputIds = pad(rows.inputIds, padId);
  rows.attentionMask = pad(rows.attentionMask, 0);
  rows.imageEmbedsPositionMask = pad(rows.imageEmbedsPositionMask, 0);
}

/** `<image>`, a placeholder for each of its rows, `</image>`. The placeholders' ids are overwritten. */
function imagePlace(rows: number): string {
  return `${"<image> ".repeat(rows + 1)}</image>`;
}

/** One list of boxes a text, checked. */
function boxesOfTexts(texts: readonly string[], bboxes: TextBoxes | readonly TextBoxes[], batched: boolean): readonly TextBoxes[] {
  if (bboxes !== null && !Array.isArray(bboxes))
    throw refuse("bboxes-invalid", `Cannot use bboxes: it is ${typeof bboxes}; wanted a list with an entry for each phrase${batched ? " for each text" : ""}`, bboxes);
  const lists = (batched ? (bboxes ?? texts.map(() => null)) : [bboxes]) as readonly TextBoxes[];
  for (const list of lists) checkBoxes(list);
  if (lists.length !== texts.length)
    throw refuse("bboxes-count", `Cannot use bboxes: ${texts.length} texts meet ${lists.length} lists of boxes; give each text one list, or null`, lists.length, texts.length);
  return lists;
}

const isBox = (entry: unknown): entry is PromptBox =>
  Array.isArray(entry) && entry.every((value) => typeof value === "number") && (entry.length === 2 ? entry.every(Number.isInteger) : entry.length === 4);

/** A box's form can be told from a list's: it holds numbers. An empty list is a phrase without boxes. */
const boxList = (entry: PhraseBoxes): readonly PromptBox[] =>
  entry === null ? [] : entry.length > 0 && !Array.isArray(entry[0]) ? [entry as PromptBox] : (entry as readonly PromptBox[]);

function checkBoxes(list: TextBoxes): void {
  if (list === null) return;
  if (!Array.isArray(list)) throw refuse("bboxes-invalid", `Cannot use bboxes: boxes of a text are ${typeof list}; wanted a list with an entry for each phrase`, list);
  for (const entry of list as readonly unknown[]) {
    if (entry !== null && !Array.isArray(entry)) throw invalidBox(entry);
    for (const box of boxList(entry as PhraseBoxes)) if (!isBox(box)) throw invalidBox(box);
  }
}

function invalidBox(box: unknown): Kosmos2Error {
  return refuse("box-invalid",
    `Cannot use box ${JSON.stringify(box)}: wanted two whole numbers (cells of the grid), four fractions of the image, a list of such, or null; bboxes of one text are a list, of a list of texts a list of lists`, box);
}

const phrases = /<phrase>[^\n]+?<\/phrase>/g;

/** The text with `<object>…</object>` behind each phrase that has boxes. */
function insertBoxes(text: string, boxes: TextBoxes): string {
  if (boxes === null || boxes.length === 0) return text;
  const found = text.match(phrases)?.length ?? 0;
  if (found !== boxes.length)
    throw refuse("phrase-count", `Cannot place boxes: the text has ${found} <phrase>…</phrase>, bboxes has ${boxes.length} entries; give each phrase one entry, or null`, boxes.length, found);
  let i = 0;
  return text.replace(phrases, (phrase) => {
    const pairs = boxList(boxes[i++]).map(patchTokens);
    return pairs.length ? `${phrase}<object> ${pairs.join(" </delimiter_of_multi_objects/> ")} </object>` : phrase;
  });
}

/** `<patch_index_0044> <patch_index_0863>` */
function patchTokens(box: PromptBox): string {
  const corners = box.length === 4 ? box : undefined;
  const patches = corners ? patchesOfBox(corners) : (box as PatchPair);
  if (!patches)
    throw refuse("box-inverted", `Cannot use box [${box}]: wanted [x1, y1, x2, y2] with x2 > x1 and y2 > y1`, box);
  // Hugging Face lets these through, and a box past the right edge names a cell of the next row.
  if (corners ? !corners.every((value) => value >= 0 && value <= 1) : !patches.every((patch) => patch >= 0 && patch < gridSide ** 2))
    throw refuse("box-out-of-range", corners
      ? `Cannot use box [${box}]: it leaves the image; corners are fractions of its width and height, from 0 to 1`
      : `Cannot use box [${box}]: a cell is a number from 0 to ${gridSide ** 2 - 1}`, box);
  return patches.map((patch) => `<patch_index_${String(patch).padStart(4, "0")}>`).join(" ");
}
