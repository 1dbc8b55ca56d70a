/**
 * The picture cases of a goldens folder: images/ (what is decoded, what is resized, what is refused) and demo/ (the pictures of the
 * original demo). Everything here is exact: hashes of bytes, bits of floats.
 */
import { createHash } from "node:crypto";
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Kosmos2Error } from "../../errors.js";
import { openPath } from "../../platform/node/files.js";
import { decode, type ImageInput } from "../../processor/decode.js";
import { Kosmos2ImageProcessor } from "../../processor/image-processor.js";
import { readHeader } from "../../weights/safetensors.js";

/** What came of one group of cases. */
export interface CaseGroup {
  name: string;
  cases: number;
  failed: number;
  skipped: number;
  /** A line for each case that failed or was skipped. */
  messages: string[];
}

interface Row {
  file: string;
  expect?: "error";
  why?: string;
  width: number;
  height: number;
  rgb_sha256: string;
  rgb224_sha256: string;
  pixel_values?: string;
  exif?: { rgb224_sha256_if_applied: string };
}

interface Demo {
  file: string;
  raw: { rgb224_sha256: string };
  jpg?: { file?: string; rgb224_sha256: string; pixel_values?: string };
}

/** How long a damaged picture may take to be refused. */
const REFUSAL_MS = 1000;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/**
 * Runs the picture cases of a folder.
 *
 * @param folder where `images/images.json` and `demo/demo.json` are; one that is missing gives no groups
 */
export async function verifyImages(folder: string, options: { signal?: AbortSignal } = {}): Promise<CaseGroup[]> {
  const { signal } = options, processor = new Kosmos2ImageProcessor();
  const groups = new Map<string, CaseGroup>();
  /** Runs a case; `check` gives what is wrong, or undefined. */
  const run = async (group: string, file: string, check: () => Promise<string | undefined>): Promise<void> => {
    signal?.throwIfAborted();
    const counts = groups.get(group) ?? { name: group, cases: 0, failed: 0, skipped: 0, messages: [] };
    groups.set(group, counts);
    counts.cases++;
    let problem: string | undefined;
    try {
      problem = await check();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof Kosmos2Error && error.code === "sharp-missing") {
        counts.skipped++;
        counts.messages.push(`${file}: skipped, ${error.message}`);
        return;
      }
      problem = String(error);
    }
    if (problem === undefined) return;
    counts.failed++;
    counts.messages.push(`${file}: ${problem}`);
  };
  const differs = (found: string, wanted: string): string | undefined => (found === wanted ? undefined : `sha256 ${found.slice(0, 16)}…, wanted ${wanted.slice(0, 16)}…`);
  const resized = async (path: string, exif: boolean, wanted: string) => differs(sha256((await processor.shape(path, { exif, signal })).data), wanted);
  const values = async (path: string, name: string, tensors: string) => {
    const { pixelValues } = await processor.preprocess(path, { exif: false, signal });
    const wanted = await floats(tensors, name, signal);
    if (wanted.length !== pixelValues.data.length) return `${pixelValues.data.length} values, wanted ${wanted.length}`;
    const at = pixelValues.data.findIndex((value, i) => value !== wanted[i]);
    return at < 0 ? undefined : `value ${at} is ${pixelValues.data[at]}, wanted ${wanted[at]}`;
  };

  const images = join(folder, "images");
  for (const row of await rows<Row>(join(images, "images.json"))) {
    const path = join(images, row.file);
    if (row.expect === "error") {
      await run("images: refused", row.file, () => refused(path, row.why, signal));
      continue;
    }
    await run("images: decoded", row.file, async () => {
      const { width, height, channels, data } = await decode(path, { exif: false, signal });
      if (width !== row.width || height !== row.height) return `${width} × ${height}, wanted ${row.width} × ${row.height}`;
      return differs(sha256(rgb(data, channels)), row.rgb_sha256);
    });
    await run("images: resized", row.file, () => resized(path, false, row.rgb224_sha256));
    await run("images: turned and resized", row.file, () => resized(path, true, row.exif?.rgb224_sha256_if_applied ?? row.rgb224_sha256));
    if (row.pixel_values) await run("images: pixel values", row.file, () => values(path, row.pixel_values!, join(images, "images.safetensors")));
  }
  const demo = join(folder, "demo");
  for (const { file, raw, jpg } of await rows<Demo>(join(demo, "demo.json"))) {
    await run("demo: resized", file, () => resized(join(demo, file), false, raw.rgb224_sha256));
    if (!jpg?.file) continue;
    await run("demo: resized", jpg.file, () => resized(join(demo, jpg.file!), false, jpg.rgb224_sha256));
    if (jpg.pixel_values) await run("demo: pixel values", jpg.file, () => values(join(demo, jpg.file!), jpg.pixel_values!, join(demo, "demo.safetensors")));
  }
  return [...groups.values()];
}

/** The `images` of a JSON file; none when there is no such file. */
async function rows<T>(path: string): Promise<T[]> {
  try {
    await access(path);
  } catch {
    return [];
  }
  return (JSON.parse(await readFile(path, "utf8")) as { images: T[] }).images;
}

/** A damaged file must be refused with an error of ours, as a path and as bytes, and soon. */
async function refused(path: string, why = "", signal?: AbortSignal): Promise<string | undefined> {
  for (const input of [path, new Uint8Array(await readFile(path))] as ImageInput[]) {
    const start = performance.now();
    try {
      await decode(input, { signal });
      return `was accepted: ${why}`;
    } catch (error) {
      if (!(error instanceof Kosmos2Error)) throw error;
      if (error.code === "sharp-missing") throw error;
    }
    const took = performance.now() - start;
    if (took > REFUSAL_MS) return `was refused after ${took.toFixed(0)} ms, wanted ${REFUSAL_MS}`;
  }
  return undefined;
}

function rgb(data: Uint8Array | Uint8ClampedArray, channels: number): Uint8Array {
  if (channels === 3) return data as Uint8Array;
  const all = new Uint8Array((data.length / channels) * 3);
  for (let i = 0, from = 0; i < all.length; i += 3, from += channels) for (let c = 0; c < 3; c++) all[i + c] = data[from + (channels === 1 ? 0 : c)];
  return all;
}

/** An F32 tensor of a safetensors file. */
async function floats(path: string, name: string, signal?: AbortSignal): Promise<Float32Array> {
  const source = await openPath(path, signal);
  const place = source && (await readHeader(source, path, signal)).tensors.get(name);
  if (!place || place.dtype !== "F32") throw new RangeError(`Cannot find ${name}: ${path} has no such F32 tensor`);
  try {
    const bytes = new Uint8Array(place.end - place.start);
    await source.read(bytes, place.start, signal);
    return new Float32Array(bytes.buffer);
  } finally {
    await source.close();
  }
}
