/** Windows bitmaps, which neither sharp nor Pillow's rules for them leave to anyone else: 1 to 32 bits, palettes, bit fields. */
import { turns } from "../pause.js";
import type { Picture } from "../platform/platform.js";
import { broken, unsupported } from "./format-errors.js";

/** Places of red, green and blue in 16-bit and 32-bit pixels by their masks: those that Pillow knows. */
const masks: Readonly<Record<string, readonly [number, number, number]>> = {
  "ff0000,ff00,ff": [16, 8, 0],
  "ff000000,ff0000,ff00": [24, 16, 8],
  "ff000000,ff00,ff": [24, 8, 0],
  "ff,ff00,ff0000": [0, 8, 16],
  "0,0,0": [16, 8, 0],
};

interface BmpHeader {
  readonly width: number;
  readonly height: number;
  /** Rows go downwards. */
  readonly down: boolean;
  readonly bits: 1 | 4 | 8 | 16 | 24 | 32;
  /** First byte of the pixels. */
  readonly pixels: number;
  /** Palette as R G B of 256 colours. */
  readonly palette?: Uint8Array;
  /** Where a 32-bit pixel has its colours. */
  readonly shifts: readonly [number, number, number];
  /** Green has 6 bits of 16. */
  readonly six: boolean;
}

/** @throws {Kosmos2Error} code `image-unreadable`, or `image-format` when the file is compressed or of an unknown layout */
export function bmpHeader(bytes: Uint8Array): BmpHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 26) throw broken("BMP", "it ends in its header");
  const pixels = view.getUint32(10, true), size = view.getUint32(14, true), old = size === 12;
  if (!old && ![40, 52, 56, 64, 108, 124].includes(size)) throw unsupported(`a BMP with a header of ${size} bytes`);
  if (bytes.length < 14 + size) throw broken("BMP", "it ends in its header");
  const width = old ? view.getUint16(18, true) : view.getInt32(18, true);
  const tall = old ? view.getUint16(20, true) : view.getInt32(22, true), height = Math.abs(tall);
  const bits = view.getUint16(old ? 24 : 28, true), compression = old ? 0 : view.getUint32(30, true);
  if (width <= 0 || height === 0) throw broken("BMP", `it says ${width} × ${tall} pixels`);
  if (![1, 4, 8, 16, 24, 32].includes(bits)) throw unsupported(`a BMP of ${bits} bits a pixel`);
  if (compression !== 0 && compression !== 3) throw unsupported(`a BMP with compression ${compression}`);
  let shifts = masks["0,0,0"], six = false;
  if (compression === 3) {
    if (bytes.length < 66) throw broken("BMP", "it ends in its header");
    const fields = [54, 58, 62].map((at) => view.getUint32(at, true).toString(16)).join();
    six = bits === 16 && fields === "f800,7e0,1f";
    const known = bits === 32 ? masks[fields] : bits === 24 ? fields === "ff0000,ff00,ff" && shifts : (six || fields === "7c00,3e0,1f") && shifts;
    if (!known) throw unsupported(`a BMP of ${bits} bits with masks ${fields}`);
    shifts = known;
  }
  const colours = bits > 8 ? 0 : (old ? 0 : view.getUint32(46, true)) || 1 << bits;
  return { width, height, down: tall < 0, bits: bits as BmpHeader["bits"], pixels, shifts, six,
    palette: bits > 8 ? undefined : bmpPalette(bytes, 14 + size + (size === 40 && compression === 3 ? 12 : 0), old ? 3 : 4, colours, pixels) };
}

function bmpPalette(bytes: Uint8Array, at: number, entry: number, colours: number, end: number): Uint8Array {
  const palette = new Uint8Array(768);
  for (let i = 0; i < Math.min(colours, 256) && at + 3 <= Math.min(end, bytes.length); i++, at += entry)
    for (let c = 0; c < 3; c++) palette[3 * i + c] = bytes[at + 2 - c];
  return palette;
}

/** Reads a bitmap as RGB. The fourth byte of a pixel is never looked at. */
export async function readBmp(bytes: Uint8Array, signal?: AbortSignal): Promise<Picture> {
  const { width, height, down, bits, pixels, palette, shifts, six } = bmpHeader(bytes);
  const pitch = Math.ceil((width * bits) / 32) * 4;
  // The last row may come without the bytes that fill it up.
  const needed = pixels + pitch * (height - 1) + Math.ceil((width * bits) / 8);
  if (bytes.length < needed) throw broken("BMP", `it has ${bytes.length} bytes of ${needed}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const data = new Uint8Array(width * height * 3), turn = turns(signal);
  const [r, g, b] = shifts, greenShift = 5, redShift = six ? 11 : 10, greens = six ? 63 : 31;
  for (let y = 0, to = 0; y < height; y++) {
    if (y % 16 === 0) await turn();
    const row = pixels + pitch * (down ? y : height - 1 - y);
    for (let x = 0; x < width; x++, to += 3) {
      if (palette) {
        const index = bits === 8 ? bytes[row + x] : bits === 4 ? (bytes[row + (x >> 1)] >> (4 - 4 * (x & 1))) & 15 : (bytes[row + (x >> 3)] >> (7 - (x & 7))) & 1;
        for (let c = 0; c < 3; c++) data[to + c] = palette[3 * index + c];
      } else if (bits === 16) {
        const pixel = view.getUint16(row + 2 * x, true);
        data[to] = (((pixel >> redShift) & 31) * 255) / 31;
        data[to + 1] = (((pixel >> greenShift) & greens) * 255) / greens;
        data[to + 2] = ((pixel & 31) * 255) / 31;
      } else {
        const pixel = row + (bits >> 3) * x;
        data[to] = bytes[pixel + (r >> 3)];
        data[to + 1] = bytes[pixel + (g >> 3)];
        data[to + 2] = bytes[pixel + (b >> 3)];
      }
    }
  }
  return { width, height, channels: 3, data };
}
