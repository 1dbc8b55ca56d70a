/** Pictures in Node, Deno and Bun: sharp, when it is installed. web/images.ts gives the same names. */
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type { Sharp } from "sharp";
import { Kosmos2Error } from "../../errors.js";
import { pause, turns } from "../../pause.js";
import type { DecodeSettings, ImageHeader, Picture } from "../platform.js";

/** Where a string leads: a path, or a URL to fetch. One letter before a colon is a drive. */
export function imageAddress(text: string): { path: string } | { url: string } {
  if (/^file:/i.test(text)) return { path: fileURLToPath(text) };
  return /^[a-z][a-z0-9+.-]+:/i.test(text) ? { url: text } : { path: text };
}

/** Required, not imported: Node reads CommonJS twice to import it, which for the sixty files behind sharp is 0.15 s of CPU more. */
const require = createRequire(import.meta.url);
let loaded: typeof import("sharp").default | undefined;

function loadSharp(): typeof import("sharp").default {
  if (loaded) return loaded;
  try {
    const sharp: typeof import("sharp").default = require("sharp");
    // Once, so that who thinks otherwise can say so later. Its cache of operations grows for a hundred pictures, and none comes twice.
    sharp.cache(false);
    return (loaded = sharp);
  } catch (cause) {
    throw new Kosmos2Error("sharp-missing", "unsupported",
      "Cannot decode the picture: JPEG, PNG and WebP need sharp, which did not load; run `npm install sharp` (Deno: --allow-env --allow-ffi), or give pixels as { width, height, channels: 4, data }",
      { wanted: "sharp" }, cause);
  }
}

/** Does what takes long before a first picture: loads sharp, if it is there. */
export async function prepareImages(): Promise<void> {
  await pause(); // what is under way begins first
  try {
    loadSharp();
  } catch {} // said when a picture needs it
}

/** Decodes JPEG, PNG and WebP to RGB. @throws {Kosmos2Error} code `image-unreadable`, `sharp-missing` */
export async function decodeImage(bytes: Uint8Array<ArrayBuffer>, header: ImageHeader, { exif, maxPixels, signal }: DecodeSettings): Promise<Picture> {
  const sharp = loadSharp();
  signal?.throwIfAborted();
  try {
    let image = sharp(bytes, { failOn: "error", ignoreIcc: true, limitInputPixels: Number.isFinite(maxPixels) ? maxPixels : false });
    if (exif) image = image.autoOrient();
    if (header.kind === "cmyk") return await fromCmyk(image, signal);
    if (header.kind === "grey16") return await fromGrey16(image, signal);
    const { data, info } = await image.removeAlpha().raw().toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, channels: info.channels as 1 | 3, data };
  } catch (cause) {
    signal?.throwIfAborted();
    const problem = firstLine(cause);
    throw new Kosmos2Error("image-unreadable", "input", `Cannot decode the ${header.format.toUpperCase()} picture: ${problem}`, { found: problem }, cause);
  }
}

/** libvips ends in a colon where it has no more to say. */
const firstLine = (cause: unknown): string => (cause as Error).message.trim().split("\n")[0].replace(/:$/, "");

/** Inks to RGB in Pillow's way: k' − C · k' / 255, without a profile (MODEL.md, "Pixels"). */
async function fromCmyk(image: Sharp, signal?: AbortSignal): Promise<Picture> {
  const { data: inks, info: { width, height } } = await image.pipelineColourspace("cmyk").toColourspace("cmyk").raw().toBuffer({ resolveWithObject: true });
  const data = new Uint8Array(width * height * 3), turn = turns(signal);
  for (let from = 0, to = 0; from < inks.length; from += 4, to += 3) {
    if (from % (1 << 18) === 0) await turn();
    const white = 255 - inks[from + 3];
    for (let c = 0; c < 3; c++) {
      const product = inks[from + c] * white + 128;
      data[to + c] = Math.max(0, white - ((product + (product >> 8)) >> 8)); // the rounded quotient by 255
    }
  }
  return { width, height, channels: 3, data };
}

/** 16-bit greys saturate: all from 255 up are white, as Pillow has it. */
async function fromGrey16(image: Sharp, signal?: AbortSignal): Promise<Picture> {
  const { data: bytes, info: { width, height, channels } } =
    await image.removeAlpha().toColourspace("grey16").raw({ depth: "ushort" }).toBuffer({ resolveWithObject: true });
  const greys = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2), data = new Uint8Array(width * height), turn = turns(signal);
  for (let i = 0; i < data.length; i++) {
    if (i % (1 << 18) === 0) await turn();
    data[i] = Math.min(greys[i * channels], 255);
  }
  return { width, height, channels: 1, data };
}

/** There is nothing that draws here. */
export async function drawnPicture(_image: object): Promise<Picture | undefined> {
  return undefined;
}

/** The picture with an SVG of its size over it, as PNG. */
export async function drawOver({ width, height, channels, data }: Picture, svg: string): Promise<Uint8Array> {
  const sharp = loadSharp();
  try {
    const raw = { width, height, channels };
    return await sharp(data, { raw, limitInputPixels: false }).removeAlpha().toColourspace("srgb")
      .composite([{ input: Buffer.from(svg), limitInputPixels: false }]).png().toBuffer();
  } catch (cause) {
    throw new Kosmos2Error("annotate-failed", "unsupported", `Cannot draw on a picture of ${width} × ${height}: ${firstLine(cause)}`, {}, cause);
  }
}
