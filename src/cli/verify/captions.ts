/**
 * Pictures and what a trained model says about them (the goldens' emoji part) against this engine.
 *
 * In f32 every id must be equal. Quantised: the text without its boxes equal in 97 % of the cases (i4: 95 %), boxes at a mean IoU of 0.98 (0.95) with
 * the reference's (a missing one counts 0), and, fed with the reference's answer, the same choice wherever the reference preferred it by more than 0.05
 * (i4: 1).
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Check, Wanted } from "./check.js";

/** What this part needs of processor and model: one greedy answer, and the choices made along a given answer. */
export interface Captioner {
  answer(image: string, prompt: string, options: { maxNewTokens: number; noRepeatNgramSize: number; signal?: AbortSignal }): Promise<{
    promptIds: number[]; newIds: number[]; generatedText: string; processedText: string; caption: string; entities: readonly Found[];
  }>;
  /** The most likely id at each place of `answer`, given all before it. */
  choices(image: string, prompt: string, answer: readonly number[], signal?: AbortSignal): Promise<number[]>;
}
interface Found {
  phrase: string;
  span: readonly [number, number];
  boxes: readonly { normalized: readonly [number, number, number, number] }[];
}

interface Case {
  image: string;
  prompt: string;
  prompt_ids: number[];
  new_ids: number[];
  margins: number[];
  generated_text: string;
  processed_text: string;
  caption: string;
  entities: [string, [number, number], [number, number, number, number][]][];
}
interface Cases {
  model: string;
  settings: { max_new_tokens: number; no_repeat_ngram_size: number };
  cases: Case[];
}

/**
 * What quantised weights must reach. Choices count where the reference's margin is above what rounding moves logits by: w8a8 moves them by up to
 * 0.15 on kosmos2-emoji (0.02 is all that i8 leaves between two of them there); for i4 the margin is set wide, not derived.
 */
const limits = {
  i8: { sameText: 0.97, meanIou: 0.98, margin: 0.05 },
  w8a8: { sameText: 0.97, meanIou: 0.98, margin: 0.2 },
  i4: { sameText: 0.95, meanIou: 0.95, margin: 1 },
};

/** The name of the model that a folder's cases are about. */
export function captionModel(folder: string): string {
  return (JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) as Cases).model;
}

export async function verifyCaptions(folder: string, name: string, dtype: string, wanted: Wanted, load: () => Promise<Captioner>, signal?: AbortSignal): Promise<Check[]> {
  const { settings, cases }: Cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
  const { sameText, meanIou, margin } = dtype === "i4" || dtype === "w8a8" ? limits[dtype] : limits.i8;
  const path = (part: string) => `${name}/${dtype}/${part}`;
  const parts = ["prompt_ids", ...(dtype === "f32" ? ["ids", "text"] : ["text", "boxes"]), "choices"].filter((part) => wanted(path(part)));
  if (!parts.length) return [];
  const captioner = await load();
  const checks = new Map(parts.map((part) => [part, { name: path(part), cases: 0, failed: 0, skipped: 0, messages: [] as string[], worst: undefined as number | undefined, limit: undefined as number | undefined }]));
  /** Counts a case of a part; `why` is undefined when it is as it should be. */
  const note = (part: string, why: string | undefined, of = 1) => {
    const check = checks.get(part);
    if (!check) return;
    check.cases += of;
    if (why !== undefined) check.failed++, check.messages.push(why);
  };
  const overlaps: number[] = [];

  for (const one of cases) {
    signal?.throwIfAborted();
    const where = `${one.image}, "${one.prompt}"`;
    const image = join(folder, one.image);
    const found = await captioner.answer(image, one.prompt, { maxNewTokens: settings.max_new_tokens, noRepeatNgramSize: settings.no_repeat_ngram_size, signal });
    const differ = (what: string, a: unknown, b: unknown) => (JSON.stringify(a) === JSON.stringify(b) ? undefined : `${where}: ${what} ${JSON.stringify(a)}, wanted ${JSON.stringify(b)}`);
    note("prompt_ids", differ("prompt ids", found.promptIds, one.prompt_ids));
    if (dtype === "f32") {
      note("ids", differ("ids", found.newIds, one.new_ids));
      const entities = found.entities.map(({ phrase, span, boxes }) => [phrase, span, boxes.map((box) => box.normalized)]);
      note("text", differ("generated text", found.generatedText, one.generated_text) ?? differ("processed text", found.processedText, one.processed_text)
        ?? differ("caption", found.caption, one.caption) ?? differ("entities", entities, one.entities));
    } else {
      note("text", differ("text", withoutBoxes(found.processedText), withoutBoxes(one.processed_text)));
      for (const [k, [, , boxes]] of one.entities.entries()) {
        for (const [i, box] of boxes.entries()) overlaps.push(iou(found.entities[k]?.boxes[i]?.normalized, box));
      }
    }
    if (checks.has("choices")) {
      const chosen = await captioner.choices(image, one.prompt, one.new_ids, signal);
      const clear = one.new_ids.filter((_, i) => one.margins[i] > margin).length;
      const wrong = one.new_ids.findIndex((id, i) => chosen[i] !== id && one.margins[i] > margin);
      note("choices", wrong < 0 ? undefined : `${where}: choice ${wrong} is ${chosen[wrong]}, wanted ${one.new_ids[wrong]} (margin ${one.margins[wrong]})`, clear);
    }
  }

  if (dtype !== "f32") {
    const text = checks.get("text");
    if (text) { // a share of equal texts, as a difference from all of them
      const worst = text.failed / text.cases, limit = 1 - sameText;
      Object.assign(text, { worst, limit, failed: worst <= limit + 1e-12 ? 0 : text.failed });
    }
    const boxes = checks.get("boxes");
    if (boxes) {
      const worst = overlaps.length ? 1 - overlaps.reduce((sum, x) => sum + x, 0) / overlaps.length : 0, limit = 1 - meanIou;
      Object.assign(boxes, { cases: overlaps.length, worst, limit });
      if (worst > limit + 1e-12) boxes.failed = overlaps.filter((x) => x < meanIou).length, boxes.messages.push(`mean IoU ${(1 - worst).toFixed(4)}, wanted ${meanIou}`);
    }
  }
  return [...checks.values()];
}

export function withoutBoxes(text: string): string {
  return text.replace(/<object>.*?(<\/object>|$)/gs, "");
}

/** Intersection over union of two boxes; 0 for a missing one, 1 for equal ones, whatever their shape. */
export function iou(a: readonly number[] | undefined, b: readonly number[]): number {
  if (!a) return 0;
  if (a.every((value, i) => value === b[i])) return 1;
  const area = ([x1, y1, x2, y2]: readonly number[]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  const either = area(a) + area(b) - both;
  return either > 0 ? both / either : 0;
}
