/**
 * From what users hand in to rows of pixels: where the bytes are, what they are, and who decodes them.
 *
 * Formats are told by their first bytes and must be on the list: JPEG, PNG, WebP, GIF, BMP. Their size is read from the header and
 * checked before anything is decoded. GIF and BMP are read here (gif.ts, bmp.ts), the others by the platform: sharp in Node, Deno
 * and Bun, createImageBitmap in browsers. Alpha is discarded, never blended; colour profiles are ignored; of animations the first
 * frame counts (MODEL.md, "Pixels").
 */
import { decodeImage, drawnPicture, imageAddress, openPath } from "#platform";
import { Kosmos2Error, reason } from "../errors.js";
import { abortable } from "../pause.js";
import type { ImageHeader, Picture } from "../platform/platform.js";
import { bmpHeader, readBmp } from "./bmp.js";
import { broken, unsupported } from "./format-errors.js";
import { gifFrame, readGif } from "./gif.js";

/** Decoded pixels, 8 bits a sample, rows from the top without gaps; an `ImageData` is one. Alpha is not looked at. */
export interface RawImage {
  readonly width: number;
  readonly height: number;
  /** Default: as many as `data` has room for. */
  readonly channels?: 1 | 3 | 4;
  readonly data: Uint8Array | Uint8ClampedArray;
}

/** A `Blob` or `File`. */
export interface BlobImage {
  readonly size: number;
  arrayBuffer(): Promise<ArrayBuffer>;
}

/** What a browser can draw: an `ImageBitmap`, an image element, a canvas, a `VideoFrame`. */
export interface DrawableImage {
  readonly width: number;
  readonly height: number;
}

/**
 * A picture:
 * - a path or `file:` URL (Node, Deno, Bun); in a page a string is a URL relative to it
 * - an `http:`, `https:`, `blob:` or `data:` URL
 * - encoded bytes: JPEG, PNG, WebP, GIF, BMP
 * - pixels, or something that a browser can draw
 *
 * Nothing that is handed in is changed, detached or closed.
 */
export type ImageInput = string | URL | Uint8Array | ArrayBuffer | BlobImage | RawImage | DrawableImage;

/** As much of `fetch` as is needed. */
export type Fetch = (url: string, init?: { signal?: AbortSignal }) =>
  Promise<{ readonly ok: boolean; readonly status: number; arrayBuffer(): Promise<ArrayBuffer> }>;

export interface ImageOptions {
  /** Turn encoded pictures as their EXIF orientation says. Default true; pixels and drawables are never turned. */
  exif?: boolean;
  /** Most pixels of an encoded picture. Default 100 000 000. */
  maxPixels?: number;
  /** Fetches URLs in place of the runtime's own. */
  fetch?: Fetch;
  signal?: AbortSignal;
}

const DEFAULT_MAX_PIXELS = 100_000_000;

/**
 * The pixels of a picture, upright.
 *
 * @throws {Kosmos2Error} code `image-not-found` (nothing at a path or URL), `path-refused` (a path to what is no file), `file-unreadable`,
 *   `image-format` (not on the list), `image-unreadable` (damaged), `image-too-large`, `image-invalid` (no picture at all, or pixels
 *   whose numbers disagree), `sharp-missing`
 */
export async function decode(image: ImageInput, options: ImageOptions = {}): Promise<Picture> {
  const { signal, exif = true, maxPixels = DEFAULT_MAX_PIXELS } = options;
  signal?.throwIfAborted();
  const bytes = await encoded(image, options);
  if (!bytes) return (await drawnPicture(image as object)) ?? rawPicture(image as RawImage);
  const header = readHeader(bytes), { format, width, height } = header;
  if (!(width * height <= maxPixels)) {
    throw new Kosmos2Error("image-too-large", "input",
      `Cannot decode the picture: it says ${width} × ${height} pixels, wanted ${maxPixels} at most; make it smaller, or raise maxPixels if you trust it`,
      { found: width * height, wanted: maxPixels });
  }
  if (format === "bmp") return readBmp(bytes, signal);
  if (format === "gif") return readGif(bytes, signal);
  return abortable(decodeImage(bytes, header, { exif, maxPixels, signal }), signal);
}

/** The encoded bytes behind an input; undefined for pixels and drawables. */
async function encoded(image: ImageInput, { signal, fetch = globalThis.fetch as Fetch }: ImageOptions): Promise<Uint8Array<ArrayBuffer> | undefined> {
  if (typeof image === "string" || image instanceof URL) {
    let address;
    try {
      address = imageAddress(String(image));
    } catch (cause) {
      throw notFound(String(image), (cause as Error).message, cause);
    }
    if ("url" in address) return fetched(address.url, fetch, signal);
    const file = await openPath(address.path, signal).catch((cause: unknown) => {
      signal?.throwIfAborted();
      throw cause instanceof Kosmos2Error ? cause : notFound(address.path, (cause as Error).message, cause);
    });
    if (!file) throw notFound(address.path, "there is no such file");
    try {
      const bytes = new Uint8Array(file.size);
      await file.read(bytes, 0, signal);
      return bytes;
    } finally {
      await file.close();
    }
  }
  if (image instanceof Uint8Array) return image.buffer instanceof ArrayBuffer ? (image as Uint8Array<ArrayBuffer>) : image.slice(); // others can't use shared memory
  if (image instanceof ArrayBuffer) return new Uint8Array(image);
  if (typeof (image as BlobImage | null)?.arrayBuffer === "function") {
    return new Uint8Array(await abortable((image as BlobImage).arrayBuffer(), signal).catch((cause: unknown) => {
      signal?.throwIfAborted();
      throw new Kosmos2Error("image-unreadable", "input", `Cannot read the picture from its Blob: ${reason(cause)}`, { found: reason(cause) }, cause);
    }));
  }
  return undefined;
}

async function fetched(url: string, fetch: Fetch, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  // A data URL may be long; its head says enough.
  const shown = url.length > 200 ? `${url.slice(0, 60)}…` : url;
  try {
    const response = await fetch(url, { signal });
    if (!response.ok) throw notFound(shown, `the server answers ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    signal?.throwIfAborted();
    throw cause instanceof Kosmos2Error ? cause : notFound(shown, reason(cause), cause);
  }
}

function notFound(address: string, problem: string, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("image-not-found", "input", `Cannot read the picture "${address}": ${problem}`, { file: address, found: problem }, cause);
}

/** Checks that pixels are what they say. */
export function rawPicture(image: RawImage): Picture {
  const invalid = (found: string) => new Kosmos2Error("image-invalid", "input",
    `Cannot use the picture: ${found}; give a path, a URL, encoded bytes, a Blob, or { width, height, channels: 1 | 3 | 4, data: Uint8Array }`, { found });
  if (typeof image !== "object" || image === null) throw invalid(`it is ${image === null ? "null" : typeof image}`);
  const { width, height, data } = image;
  if (ArrayBuffer.isView(data) && !(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) {
    throw invalid(`its pixels are a ${(data as object).constructor.name}, not bytes; scale to 0 … 255 first`);
  }
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) throw invalid("it is an object without bytes in data");
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) throw invalid(`it says ${width} × ${height} pixels`);
  const channels = image.channels ?? data.length / (width * height);
  if (channels !== 1 && channels !== 3 && channels !== 4) throw invalid(`it has ${channels} channels`);
  if (data.length !== width * height * channels) throw invalid(`${width} × ${height} × ${channels} are ${width * height * channels} bytes, data has ${data.length}`);
  return { width, height, channels, data };
}

const starts = (bytes: Uint8Array, text: string, at = 0): boolean => {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text.charCodeAt(i)) return false;
  return true;
};

/** Formats that people have and we don't read, by what they begin with. */
const others: readonly (readonly [string, string, number?])[] = [
  ["TIFF", "II*\0"], ["TIFF", "MM\0*"], ["AVIF", "ftypavi", 4], ["HEIC", "ftyphei", 4], ["HEIF", "ftypmif1", 4], ["JPEG XL", "\xff\x0a"],
  ["JPEG XL", "\0\0\0\x0cJXL "], ["JPEG 2000", "\0\0\0\x0cjP  "], ["PDF", "%PDF"], ["Icon", "\0\0\x01\0"], ["SVG", "<svg"], ["SVG", "<?xml"], ["SVG", "\xef\xbb\xbf<"],
];

/**
 * Format and size of encoded bytes.
 * @throws {Kosmos2Error} code `image-format` when they are no format of the list, `image-unreadable` when the header makes no sense
 */
export function readHeader(bytes: Uint8Array): ImageHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const sized = (name: string, header: ImageHeader): ImageHeader => {
    if (header.width > 0 && header.height > 0) return header;
    throw broken(name, `it says ${header.width} × ${header.height} pixels`);
  };
  if (starts(bytes, "\x89PNG\r\n\x1a\n")) {
    if (bytes.length < 33 || !starts(bytes, "IHDR", 12)) throw broken("PNG", "it has no header");
    const kind = bytes[24] === 16 && bytes[25] === 0 ? "grey16" : undefined;
    return sized("PNG", { format: "png", width: view.getUint32(16), height: view.getUint32(20), kind });
  }
  if (starts(bytes, "\xff\xd8\xff")) return sized("JPEG", jpegHeader(bytes, view));
  if (starts(bytes, "RIFF") && starts(bytes, "WEBP", 8)) return sized("WebP", webpHeader(bytes, view));
  if (starts(bytes, "GIF87a") || starts(bytes, "GIF89a")) {
    const { width, height } = gifFrame(bytes);
    return { format: "gif", width, height };
  }
  if (starts(bytes, "BM")) {
    const { width, height } = bmpHeader(bytes);
    return { format: "bmp", width, height };
  }
  for (const [name, start, at] of others) if (starts(bytes, start, at)) throw unsupported(name);
  if (bytes.length === 0) throw unsupported("a file of no bytes");
  throw unsupported(`data beginning with ${Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join(" ")}`);
}

function jpegHeader(bytes: Uint8Array, view: DataView): ImageHeader {
  for (let at = 2; at + 9 < bytes.length; ) {
    if (bytes[at] !== 0xff) { // rubbish between segments is passed over, as by decoders
      at++;
      continue;
    }
    const marker = bytes[at + 1];
    if (marker === 0xff) at++;
    else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) at += 2; // these stand alone
    else if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      return { format: "jpeg", height: view.getUint16(at + 5), width: view.getUint16(at + 7), kind: bytes[at + 9] === 4 ? "cmyk" : undefined };
    } else if (marker === 0xd9 || marker === 0xda) break;
    else at += 2 + view.getUint16(at + 2);
  }
  throw broken("JPEG", "it has no frame header");
}

function webpHeader(bytes: Uint8Array, view: DataView): ImageHeader {
  if (bytes.length < 30) throw broken("WebP", "it ends in its header");
  const triple = (at: number): number => view.getUint16(at, true) | (bytes[at + 2] << 16);
  if (starts(bytes, "VP8X", 12)) return { format: "webp", width: triple(24) + 1, height: triple(27) + 1 };
  if (starts(bytes, "VP8L", 12)) {
    const packed = view.getUint32(21, true);
    return { format: "webp", width: (packed & 0x3fff) + 1, height: ((packed >> 14) & 0x3fff) + 1 };
  }
  if (starts(bytes, "VP8 ", 12)) return { format: "webp", width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  throw broken("WebP", "it begins with no known chunk");
}
