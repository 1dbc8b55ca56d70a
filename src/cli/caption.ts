/** `kosmos2 caption`: pictures to captions and boxes, one after another through one model. */
import { accessSync, constants, existsSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { addAbortSignal } from "node:stream";
import { buffer } from "node:stream/consumers";
import { annotate, Kosmos2, type Caption, type Entity, type Piece } from "../index.js";
import { imageAddress } from "../platform/node/images.js";
import { profileJson, profileTable } from "./profile.js";
import { count, engineOptions, loadOptions, modelSource, parse, UsageError } from "./options.js";
import { unwritable } from "./output.js";
import { logger, paint, table, type Terminal } from "./terminal.js";

const PROMPT = "<grounding> An image of";

export const captionUsage = `kosmos2 caption IMAGE… [--prompt TEXT] [--model MODEL] [--max-new-tokens N] [--annotate OUT.png] [--profile] [--json]

Says what is in pictures, and where: boxes in pixels, as fractions 0…1, and as cells of the 32 × 32 grid.
An IMAGE is a file, a URL, or - for standard input.

  --prompt TEXT         what to go on from. Default: "${PROMPT}"; boxes need <grounding> in front
  --model MODEL         a Kosmos-2 of the Hugging Face hub ("microsoft/kosmos-2-patch14-224", fetched once), its folder or URL, or
                        a pack. Default: kosmos2-emoji, which knows emoji and nothing else
  --dtype T             how weights are held: auto, f32, f16, i8, i4 or w8a8. Default: auto
  --cache T             how keys and values are held: auto, f32, f16 or i16. Default: f32 beside f32 weights, f16 beside f16, else i16
  --threads N           Default: what this machine has, or KOSMOS2_THREADS
  --max-new-tokens N    longest answer. Default: 128
  --annotate OUT        writes the picture with its boxes: a .png file, or a folder for many pictures
  --profile             what each picture's answer cost: time of each operation in the passes themselves, taken by a clock that
                        thread 0 looks at between two operations (one ends when the last thread is done with it), and the part
                        of the machine's limits that it reached, which are measured right before
  --json                one object a picture and line
  --engine plain|relaxed, --no-shared   force a kind of wasm module, for comparisons

Exit code: 0 all captioned, 1 one failed (the others are done), 2 wrong usage, 130 interrupted.
`;

/** What the command needs of the engine; tests put another in its place. */
export interface Engine {
  load: typeof Kosmos2.load;
  annotate: typeof annotate;
}

export async function caption(args: string[], terminal: Terminal, signal: AbortSignal, engine: Engine = { load: Kosmos2.load.bind(Kosmos2), annotate }): Promise<number> {
  const { values, positionals: images } = parse(args, {
    ...engineOptions, prompt: { type: "string" }, model: { type: "string" }, "max-new-tokens": { type: "string" }, annotate: { type: "string" }, profile: { type: "boolean" },
  });
  if (!images.length) throw new UsageError("caption needs a picture");
  const prompt = values.prompt ?? PROMPT;
  const maxNewTokens = count("max-new-tokens", values["max-new-tokens"]) ?? 128;
  const outputs = annotations(values.annotate, images);
  const load = loadOptions(values);
  if (!prompt.includes("<grounding>")) terminal.err("kosmos2: the prompt has no <grounding>, so there will be no boxes\n");

  const kosmos = await engine.load(modelSource(values.model), { ...load, signal, logger: logger(terminal), ...(terminal.live && { onProgress: progress(terminal) }) });
  let stdin: Promise<Uint8Array> | undefined; // read once, however often it is named
  const answer = async (image: string, picture: string | Uint8Array): Promise<Caption> => {
    const stream = kosmos.stream(picture, { prompt, maxNewTokens, signal }), pieces: Piece[] = [];
    try {
      for await (const piece of stream) {
        pieces.push(piece);
        if (terminal.live && !values.json) terminal.err(piece.text);
      }
    } catch (error) {
      if (signal.aborted && values.json && pieces.length) terminal.out(`${JSON.stringify(line(image, prompt, cut(kosmos, prompt, pieces)))}\n`);
      throw error;
    } finally {
      if (terminal.live && !values.json && pieces.length) terminal.err("\n");
    }
    return stream.result;
  };
  let failed = 0;
  try {
    for (const [i, image] of images.entries()) {
      try {
        const picture = image === "-" ? await (stdin ??= buffer(addAbortSignal(signal, process.stdin))) : image;
        const { result, profile } = values.profile ? await kosmos.profile(() => answer(image, picture)) : { result: await answer(image, picture), profile: undefined };
        const told = { ...line(image, prompt, result), ...(profile && { profile: profileJson(profile) }) };
        terminal.out(values.json ? `${JSON.stringify(told)}\n` : people(terminal, image, result, images.length > 1));
        if (profile && !values.json) terminal.out(profileTable(profile));
        if (outputs) save(outputs[i], await engine.annotate(picture, result, { signal }));
      } catch (error) {
        if (signal.aborted) throw error;
        failed++;
        terminal.err(`kosmos2: ${image}: ${error instanceof Error ? error.message : String(error)}\n`);
      }
    }
  } finally {
    await kosmos.dispose();
  }
  return failed ? 1 : 0;
}

/** Where each picture's annotated copy goes: one file for one picture, else files of a folder, each named once and none of them a picture itself. */
function annotations(to: string | undefined, images: readonly string[]): string[] | undefined {
  if (to === undefined) return undefined;
  const folder = /[/\\]$/.test(to) || (existsSync(to) && statSync(to).isDirectory());
  if (!folder && images.length > 1) throw new UsageError(`--annotate takes a folder for ${images.length} pictures`);
  if (!folder && !/\.png$/i.test(to)) throw new UsageError(`--annotate writes .png, not "${to}"`);
  const into = folder ? to : dirname(to);
  if (!existsSync(into)) throw new UsageError(`there is no folder ${into}`);
  const taken = new Set<string>();
  const outputs = folder ? images.map((image) => {
    const stem = image === "-" ? "stdin" : basename(image).replace(/\.\w+$/, "") || "picture";
    let name = stem;
    for (let n = 2; taken.has(name.toLowerCase()); n++) name = `${stem}-${n}`; // a and A are one file on some disks
    taken.add(name.toLowerCase());
    return join(to, `${name}.png`);
  }) : [to];
  const pictures = new Set(images.map(realPath));
  for (const output of outputs) {
    if (pictures.has(realPath(output))) throw new UsageError(`--annotate would write over the picture ${output}; give another ${folder ? "folder" : "name"}`);
    try {
      accessSync(existsSync(output) ? output : into, constants.W_OK);
    } catch (error) {
      throw new UsageError(`--annotate cannot write ${output}: ${(error as Error).message}`);
    }
  }
  return outputs;
}

/** Where a name leads, links followed; what isn't there is only what it is called. */
function realPath(name: string): string {
  try {
    const address = imageAddress(name === "-" ? "/dev/stdin" : name);
    return realpathSync.native("path" in address ? address.path : name);
  } catch {
    return resolve(name);
  }
}

function save(output: string, png: Uint8Array): void {
  try {
    writeFileSync(output, png);
  } catch (error) {
    throw unwritable(output, "write", error);
  }
}

/** Draws how far loading is, over itself. */
function progress(terminal: Terminal) {
  return ({ loaded, total }: { loaded: number; total: number }) =>
    terminal.err(loaded < total ? `\r\x1b[KLoading ${Math.floor((100 * loaded) / total)} % of ${(total / 1e6).toFixed(1)} MB` : "\r\x1b[K");
}

/** What an interrupted answer comes to. */
function cut({ processor }: Kosmos2, prompt: string, pieces: readonly Piece[]): Told {
  const generatedText = prompt + pieces.map(({ text }) => text).join("");
  return { ...processor.postProcessGeneration(generatedText), generatedText, newIds: pieces.map(({ id }) => id), stop: "abort", timings: {} };
}

/** An answer, whole or interrupted. */
type Told = Omit<Caption, "entities" | "stop" | "timings"> & { entities: readonly Entity[]; stop: Caption["stop"] | "abort"; timings: Partial<Caption["timings"]> };

/** The line of `--json`. */
function line(image: string, prompt: string, { generatedText, newIds, caption, entities, stop, timings }: Told): object {
  return {
    image, prompt, generatedText, newIds, caption,
    entities: entities.map(({ phrase, span, range, boxes }) => ({
      phrase, span, range, boxes: boxes.map(({ normalized, pixels, patches }) => ({ normalized, pixels, patches })),
    })),
    stop, timings,
  };
}

/** What people read: the caption, and a line for each box. */
function people(terminal: Terminal, image: string, { caption, entities, stop }: Caption, named: boolean): string {
  const numbers = (values: readonly number[], digits: number) => values.map((value) => value.toFixed(digits)).join(" ");
  const cell = (index: number) => `${index % 32},${Math.floor(index / 32)}`;
  const rows = entities.flatMap(({ phrase, boxes }) => boxes.map(({ normalized, pixels, patches: [from, to] }, i) =>
    [`  ${i ? "" : phrase}`, pixels ? numbers(pixels, 0) : "", numbers(normalized, 3), `${cell(from)} – ${cell(to)}`]));
  return (named ? `${paint(terminal, "dim", image)}\n` : "")
    + `${paint(terminal, "bold", caption)}\n`
    + (rows.length ? table([["", "pixels", "0…1", "cells"], ...rows]) : "")
    + (stop === "length" ? paint(terminal, "dim", "  (cut: --max-new-tokens reached)\n") : stop === "context" ? paint(terminal, "dim", "  (cut: the context is full)\n") : "")
    + (named ? "\n" : "");
}
