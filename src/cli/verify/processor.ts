/** Checks the processor against a goldens folder: every case of encode, decode, prompts, postprocess and boxes, all of them exactly. */
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { Kosmos2Error } from "../../errors.js";
import { boxOfPatches, patchesOfBox, type NormalizedBox, type PatchPair } from "../../processor/boxes.js";
import { Kosmos2Processor, type ImagePreprocessor, type ProcessOptions } from "../../processor/processor.js";
import { encodePrompts, type PromptOptions } from "../../processor/prompt.js";
import { tensor, type Tensor } from "../../tensor.js";
import type { ModelSource } from "../../weights/source.js";

/** One file of cases. */
export interface CaseReport {
  readonly name: string;
  readonly cases: number;
  readonly failed: number;
  /** Cases that cannot be told in JavaScript. */
  readonly skipped: number;
  /** What failed, or was skipped and why. */
  readonly messages: readonly string[];
}

/** undefined: as wanted; a string: what was wrong; `{ skipped }`: not checked, and why. */
type Verdict = string | { skipped: string } | undefined;

interface EncodeCase { text: string; ids: number[]; ids_special: number[] }
interface DecodeCase { ids: number[]; text: string; text_with_special: string }
interface PostprocessCase { text: string; raw: string; clean: string; entities: { name: string; span: number[]; boxes: number[][] }[] }
interface BoxCase { box: NormalizedBox; indices: PatchPair; error?: string }
interface PromptCase {
  text: string | string[] | null;
  images: "one" | number | null;
  bboxes: unknown;
  padding_side: "left" | "right";
  flags: Record<string, unknown>;
  output?: { input_ids?: number[] | number[][]; attention_mask?: unknown; image_embeds_position_mask?: unknown };
  has_pixel_values?: boolean;
  error?: string;
  message?: string;
  python_types_only?: boolean;
}

/**
 * @param goldens folder with `processor/`
 * @param model whose tokenizer the cases are for. Default: `processor/hub` of `goldens`
 * @returns a report for each file of cases
 */
export async function verifyProcessor(goldens: string, model?: ModelSource): Promise<CaseReport[]> {
  const folder = resolve(goldens, "processor");
  const processor = await Kosmos2Processor.fromPretrained(model ?? pathToFileURL(join(folder, "hub")));
  const withImages = new Kosmos2Processor(processor.tokenizer, blankPixels, processor.numImageTokens);
  const read = async <T>(name: string, key = "cases"): Promise<T[]> => JSON.parse(await readFile(join(folder, `${name}.json`), "utf8"))[key];

  return [
    await report("encode", await read<EncodeCase>("encode"), ({ text, ids, ids_special }) =>
      different(processor.tokenizer.encode(text, { addSpecialTokens: false }), ids) ?? different(processor.tokenizer.encode(text), ids_special)),
    await report("decode", await read<DecodeCase>("decode"), ({ ids, text, text_with_special }) =>
      different(processor.decode(ids, { skipSpecialTokens: true }), text) ?? different(processor.decode(ids), text_with_special)),
    await report("prompts", await read<PromptCase>("prompts"), (prompt) => promptVerdict(withImages, prompt)),
    await report("postprocess", await read<PostprocessCase>("postprocess"), ({ text, raw, clean, entities }) => {
      const found = processor.postProcessGeneration(text);
      return different(processor.postProcessGeneration(text, { cleanupAndExtract: false }), raw) ?? different(found.caption, clean)
        ?? different(found.entities.map(({ phrase: name, span, boxes }) => ({ name, span, boxes: boxes.map((box) => box.normalized) })), entities);
    }),
    await report("boxes: encode", await read<BoxCase>("boxes", "encode"), ({ box, indices, error }) => different(patchesOfBox(box), error ? undefined : indices)),
    await report("boxes: decode", await read<BoxCase>("boxes", "decode"), ({ box, indices }) => different(boxOfPatches(indices), box)),
  ];
}

async function report<T>(name: string, cases: readonly T[], judge: (testCase: T) => Verdict | Promise<Verdict>): Promise<CaseReport> {
  let failed = 0, skipped = 0;
  const messages: string[] = [];
  for (const [i, testCase] of cases.entries()) {
    const verdict = await Promise.resolve().then(() => judge(testCase)).catch((error: unknown) => String(error));
    if (verdict === undefined) continue;
    if (typeof verdict === "string") failed++;
    else skipped++;
    messages.push(`${name}[${i}]: ${typeof verdict === "string" ? verdict : `skipped: ${verdict.skipped}`}`);
  }
  return { name, cases: cases.length, failed, skipped, messages };
}

function different(found: unknown, wanted: unknown): string | undefined {
  return isDeepStrictEqual(found, wanted) ? undefined : `found ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`;
}

/** Pixels are other files' business. */
const blankPixels: ImagePreprocessor = {
  async preprocess(images) {
    const count = Array.isArray(images) ? images.length : 1;
    return { pixelValues: tensor("float32", new Float32Array(count), [count, 1, 1, 1]), imageSizes: [] };
  },
};

const anyPicture = new Uint8Array();

/** Hugging Face's messages and our codes. */
const codes: readonly (readonly [RegExp, readonly string[]])[] = [
  [/specify either images or text/, ["input-missing"]],
  [/`texts` and `images` should be the same/, ["images-count"]],
  [/`texts` and `bboxes` should be the same/, ["bboxes-count"]],
  [/should be either `None`, a tuple|should not contain any `None`/, ["box-invalid", "bboxes-invalid"]],
  [/should be `None` or a list/, ["bboxes-invalid"]],
  [/the same as the number of `<phrase>/, ["phrase-count"]],
  [/x2 > x1/, ["box-inverted"]],
  [/is not a multiple of pad_to_multiple_of/, ["option-invalid"]],
];

async function promptVerdict(processor: Kosmos2Processor, testCase: PromptCase): Promise<Verdict> {
  const { images, output, message = "" } = testCase;
  if (testCase.python_types_only) return { skipped: "the refusal depends on Python's types" };
  const text = testCase.text ?? undefined;
  const prompt: PromptOptions = { ...camelCase(testCase.flags), bboxes: testCase.bboxes as PromptOptions["bboxes"], paddingSide: testCase.padding_side };
  const options: ProcessOptions = { ...prompt, text, images: images === null ? undefined : images === "one" ? anyPicture : Array.from({ length: images }, () => anyPicture) };
  const [inputs, error] = await processor.process(options).then((inputs) => [inputs, undefined] as const, (error: unknown) => [undefined, error] as const);

  const code = error instanceof Kosmos2Error ? error.code : error === undefined ? undefined : String(error);
  if (!output) {
    const wanted = codes.find(([words]) => words.test(message))?.[1] ?? [];
    return code !== undefined && wanted.includes(code) ? undefined : `found ${code ?? "no error"}, wanted ${wanted.join(" or ") || message}`;
  }
  if (code === "box-out-of-range" && text !== undefined) return undefined; // Hugging Face lets these through as text; refusing is wanted
  const wanted = [output.input_ids, output.attention_mask, output.image_embeds_position_mask];
  if (code === "batch-ragged" && typeof text === "object") { // lists of Hugging Face's, no tensor of anyone's
    const rows = encodePrompts(processor.tokenizer, text, undefined, prompt);
    return different([rows.inputIds, rows.attentionMask], wanted.slice(0, 2));
  }
  if (!inputs) return `found ${code}: ${(error as Error).message}`;
  if (("pixelValues" in inputs) !== testCase.has_pixel_values) return `pixelValues: found ${"pixelValues" in inputs}, wanted ${testCase.has_pixel_values}`;
  if (!("inputIds" in inputs)) return different(undefined, output.input_ids);
  const found = [inputs.inputIds, inputs.attentionMask, inputs.imageEmbedsPositionMask].map((t) => (typeof text === "string" ? rows(t)[0] : rows(t)));
  if (images === null) { // Hugging Face gives no mask then; ours says that there is no image
    if (inputs.imageEmbedsPositionMask.data.some((value) => value !== 0)) return "imageEmbedsPositionMask is not all 0 without images";
    found[2] = undefined!;
  }
  return different(found, wanted);
}

function rows({ data, dims: [B, T] }: Tensor<"int32">): number[][] {
  return Array.from({ length: B }, (_, row) => [...data.subarray(row * T, (row + 1) * T)]);
}

function camelCase(flags: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(flags).map(([name, value]) => [name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()), value]));
}
