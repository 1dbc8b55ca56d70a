/**
 * Pictures in browsers and workers: createImageBitmap and a canvas. node/images.ts gives the same names.
 * A canvas holds colours multiplied by alpha, so what transparent pixels hide is lost here, and half-transparent ones are rounded.
 */
import { Kosmos2Error } from "../../errors.js";
import type { DecodeSettings, ImageHeader, Picture } from "../platform.js";

/** A string is a URL, relative to the page or the worker's script. */
export function imageAddress(text: string): { path: string } | { url: string } {
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  try {
    return { url: new URL(text, base).href };
  } catch {
    return { path: text }; // no base: said where paths are refused
  }
}

/** There is nothing that takes long before a first picture. */
export async function prepareImages(): Promise<void> {}

/** Decodes JPEG, PNG and WebP. @throws {Kosmos2Error} code `image-unreadable` */
export async function decodeImage(bytes: Uint8Array<ArrayBuffer>, header: ImageHeader, { exif, signal }: DecodeSettings): Promise<Picture> {
  let bitmap: ImageBitmap;
  try {
    const blob = new Blob([exif ? bytes : withoutExif(bytes, header.format)], { type: `image/${header.format}` });
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" });
  } catch (cause) {
    throw new Kosmos2Error("image-unreadable", "input",
      `Cannot decode the ${header.format.toUpperCase()} picture: ${(cause as Error).message}`, { found: (cause as Error).message }, cause);
  }
  try {
    signal?.throwIfAborted();
    return pixelsOf(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close(); // our own
  }
}

/** A copy whose EXIF data no decoder finds: browsers don't agree on how to be told to pass it over. */
function withoutExif(bytes: Uint8Array<ArrayBuffer>, format: ImageHeader["format"]): Uint8Array<ArrayBuffer> {
  const copy = bytes.slice(), view = new DataView(copy.buffer);
  const reads = (text: string, at: number): boolean => [...text].every((letter, i) => copy[at + i] === letter.charCodeAt(0));
  if (format === "jpeg") {
    for (let at = 2; at + 4 < copy.length && copy[at] === 0xff && copy[at + 1] !== 0xda; at += 2 + view.getUint16(at + 2)) {
      if (copy[at + 1] === 0xe1 && reads("Exif", at + 4)) copy[at + 1] = 0xef; // another application's segment
    }
  } else if (format === "webp") {
    for (let at = 12; at + 8 <= copy.length; at += 8 + ((view.getUint32(at + 4, true) + 1) & ~1)) if (reads("EXIF", at)) copy[at] = 0x58;
  } else {
    for (let at = 8; at + 12 <= copy.length; ) {
      const size = 12 + view.getUint32(at);
      if (reads("eXIf", at + 4)) return copy.copyWithin(at, at + size).subarray(0, copy.length - size);
      at += size;
    }
  }
  return copy;
}

/** Pixels of what can be drawn on a canvas; undefined for anything else. The thing itself stays as it is. */
export async function drawnPicture(image: object): Promise<Picture | undefined> {
  const is = (name: "ImageBitmap" | "HTMLImageElement" | "HTMLCanvasElement" | "OffscreenCanvas" | "HTMLVideoElement" | "VideoFrame"): boolean =>
    name in globalThis && image instanceof (globalThis[name] as new () => object);
  if (is("HTMLImageElement")) {
    const element = image as HTMLImageElement;
    await element.decode().catch((cause: Error) => {
      throw new Kosmos2Error("image-unreadable", "input",
        `Cannot decode the image element of "${element.currentSrc.slice(0, 200)}": ${cause.message.replace(/\.$/, "")}; give one that has loaded`, { file: element.currentSrc, found: cause.message }, cause);
    });
    return pixelsOf(element, element.naturalWidth, element.naturalHeight);
  }
  if (is("HTMLVideoElement")) return pixelsOf(image as HTMLVideoElement, (image as HTMLVideoElement).videoWidth, (image as HTMLVideoElement).videoHeight);
  if (is("VideoFrame")) return pixelsOf(image as VideoFrame, (image as VideoFrame).displayWidth, (image as VideoFrame).displayHeight);
  if (is("ImageBitmap") || is("HTMLCanvasElement") || is("OffscreenCanvas")) {
    const { width, height } = image as OffscreenCanvas;
    return pixelsOf(image as OffscreenCanvas, width, height);
  }
  return undefined;
}

function pixelsOf(source: CanvasImageSource, width: number, height: number): Picture {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context || width === 0 || height === 0) {
    throw new Kosmos2Error("image-unreadable", "input", `Cannot read the pixels of a picture of ${width} × ${height}: ${context ? "it is empty" : "no canvas is to be had"}`);
  }
  context.drawImage(source, 0, 0, width, height);
  try {
    return { width, height, channels: 4, data: context.getImageData(0, 0, width, height).data };
  } catch (cause) {
    throw new Kosmos2Error("image-unreadable", "input", `Cannot read the pixels of the picture: ${(cause as Error).message}; serve it with CORS headers`, {}, cause);
  }
}

/** @throws {Kosmos2Error} code `annotate-unsupported`, always */
export async function drawOver(_picture: Picture, _svg: string): Promise<Uint8Array> {
  throw new Kosmos2Error("annotate-unsupported", "unsupported", "Cannot draw a PNG here: annotate needs Node, Deno or Bun; lay the SVG of annotateSvg over the picture");
}
