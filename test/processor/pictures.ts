/** Tiny encoders, so that tests have pictures of kinds that no library writes. */
import { crc32 as zlibCrc, deflateSync } from "node:zlib";

const table = Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});
const crc32 = (zlibCrc as typeof zlibCrc | undefined) ?? ((bytes: Uint8Array) => ~bytes.reduce((crc, byte) => table[(crc ^ byte) & 255] ^ (crc >>> 8), ~0) >>> 0);

const joined = (...parts: Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};
const ascii = (text: string): Uint8Array => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const big = (...values: number[]): Uint8Array => new Uint8Array(values.flatMap((v) => [v >>> 24, (v >> 16) & 255, (v >> 8) & 255, v & 255]));
const little = (bytes: 2 | 4, ...values: number[]): Uint8Array => new Uint8Array(values.flatMap((v) => [v & 255, (v >> 8) & 255, (v >> 16) & 255, v >>> 24].slice(0, bytes)));

function chunk(kind: string, data: Uint8Array): Uint8Array {
  const body = joined(ascii(kind), data);
  return joined(big(data.length), body, big(crc32(body)));
}

/** PNG. `colour` is its number for the kind (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA); `rows` are the packed samples. */
export function png(width: number, height: number, bits: number, colour: number, rows: Uint8Array, options: { palette?: Uint8Array; hidden?: Uint8Array; orientation?: number } = {}): Uint8Array<ArrayBuffer> {
  const pitch = Math.floor(rows.length / Math.max(height, 1)), raw = new Uint8Array(rows.length + height);
  for (let y = 0; y < height; y++) raw.set(rows.subarray(y * pitch, (y + 1) * pitch), y * (pitch + 1) + 1);
  const { palette, hidden, orientation } = options;
  return joined(ascii("\x89PNG\r\n\x1a\n"), chunk("IHDR", joined(big(width, height), Uint8Array.of(bits, colour, 0, 0, 0))),
    palette ? chunk("PLTE", palette) : new Uint8Array(), hidden ? chunk("tRNS", hidden) : new Uint8Array(),
    orientation ? chunk("eXIf", joined(ascii("II*\0"), little(4, 8), little(2, 1, 274, 3), little(4, 1), little(2, orientation, 0), little(4, 0))) : new Uint8Array(),
    chunk("IDAT", deflateSync(rows.length ? raw : new Uint8Array(1000))), chunk("IEND", new Uint8Array()));
}

/** GIF with one frame, whose codes are never longer than they begin: a clear code stands before the table could grow. */
export function gif(frame: { x?: number; y?: number; width: number; height: number }, indices: number[], palette: number[], options:
  { screen?: [number, number]; transparent?: number; own?: number[]; interlaced?: boolean; bits?: number; more?: number[] } = {}): Uint8Array<ArrayBuffer> {
  const { screen = [frame.width, frame.height], transparent, own, interlaced, bits = 2 } = options;
  const sized = (colours: number[]): number => 0x80 | (Math.log2(colours.length / 3) - 1), clear = 1 << bits;
  const codes: number[] = [];
  indices.forEach((index, i) => codes.push(...(i % (clear - 2) === 0 ? [clear] : []), index));
  const bytes: number[] = [];
  let held = 0, count = 0;
  for (const code of [...codes, clear + 1]) {
    held |= code << count;
    for (count += bits + 1; count >= 8; count -= 8, held >>= 8) bytes.push(held & 255);
  }
  if (count) bytes.push(held & 255);
  const blocks: number[] = [];
  for (let at = 0; at < bytes.length; at += 255) blocks.push(Math.min(255, bytes.length - at), ...bytes.slice(at, at + 255));
  return joined(ascii("GIF89a"), little(2, ...screen), Uint8Array.of(palette.length ? sized(palette) : 0, 0, 0, ...palette),
    transparent === undefined ? new Uint8Array() : Uint8Array.of(0x21, 0xf9, 4, 1, 0, 0, transparent, 0),
    ascii(","), little(2, frame.x ?? 0, frame.y ?? 0, frame.width, frame.height), Uint8Array.of((own ? sized(own) : 0) | (interlaced ? 64 : 0), ...(own ?? []), bits, ...blocks, 0, ...(options.more ?? []), 0x3b));
}

/** BMP with a header of 40 bytes; a negative height goes downwards. */
export function bmp(width: number, height: number, bits: number, rows: number[], palette: number[] = [], options: { masks?: number[]; colours?: number; compression?: number } = {}): Uint8Array<ArrayBuffer> {
  const { masks = [], colours = 0, compression = masks.length ? 3 : 0 } = options, start = 54 + 4 * masks.length + palette.length;
  return joined(ascii("BM"), little(4, start + rows.length, 0, start), little(4, 40, width, height), little(2, 1, bits),
    little(4, compression, rows.length, 0, 0, colours, 0), little(4, ...masks), Uint8Array.from(palette), Uint8Array.from(rows));
}

export { big, joined, ascii, little };
