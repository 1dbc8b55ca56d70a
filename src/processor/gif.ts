/**
 * The first frame of a GIF, with the colours that transparent pixels hide (MODEL.md, "Pixels"): decoders made for showing pictures
 * blank them. Rules are Pillow's: a frame may enlarge the screen; around a smaller one lies its transparent colour, or colour 0.
 */
import { turns } from "../pause.js";
import type { Picture } from "../platform/platform.js";
import { broken } from "./format-errors.js";

interface Frame {
  /** Size of the whole picture. */
  readonly width: number;
  readonly height: number;
  /** The frame in it. */
  readonly x: number;
  readonly y: number;
  readonly frameWidth: number;
  readonly frameHeight: number;
  readonly interlaced: boolean;
  /** R G B of 256 colours. */
  readonly palette: Uint8Array;
  /** Colour around the frame. */
  readonly background: number;
  /** Where the code's width is, followed by blocks of codes. */
  readonly codes: number;
}

const ends = () => broken("GIF", "it ends before its first frame does");

/** Walks to the first frame. @throws {Kosmos2Error} code `image-unreadable` */
export function gifFrame(bytes: Uint8Array): Frame {
  const word = (at: number): number => bytes[at] | (bytes[at + 1] << 8);
  /** A palette at `at`; undefined when it is a plain ramp of greys, which Pillow takes for none. */
  const palette = (at: number, flags: number): Uint8Array | undefined => {
    const size = 3 << ((flags & 7) + 1);
    if (at + size > bytes.length) throw ends();
    const colours = bytes.subarray(at, at + size);
    if (colours.every((value, i) => value === Math.floor(i / 3))) return undefined;
    const all = new Uint8Array(768);
    all.set(colours);
    return all;
  };
  if (bytes.length < 13) throw ends();
  let common: Uint8Array | undefined, at = 13, background = 0;
  if (bytes[10] & 128) {
    common = palette(at, bytes[10]);
    at += 3 << ((bytes[10] & 7) + 1);
  }
  for (;;) {
    const kind = bytes[at++];
    if (kind === undefined || kind === 0x3b) throw broken("GIF", "it has no frame");
    if (kind === 0x21) { // an extension: what it is, then blocks
      if (bytes[at] === 0xf9 && bytes[at + 1] >= 4 && bytes[at + 2] & 1) background = bytes[at + 5];
      at++;
      while (bytes[at]) at += bytes[at] + 1;
      at++;
    } else if (kind === 0x2c) {
      if (at + 9 >= bytes.length) throw ends();
      const x = word(at), y = word(at + 2), frameWidth = word(at + 4), frameHeight = word(at + 6), flags = bytes[at + 8];
      if (frameWidth === 0 || frameHeight === 0) throw broken("GIF", "its first frame is empty");
      const own = flags & 128 ? palette(at + 9, flags) : undefined;
      return {
        width: Math.max(word(6), x + frameWidth), height: Math.max(word(8), y + frameHeight), x, y, frameWidth, frameHeight, background,
        interlaced: (flags & 64) !== 0,
        palette: own ?? common ?? Uint8Array.from({ length: 768 }, (_, i) => i / 3),
        codes: at + 9 + (flags & 128 ? 3 << ((flags & 7) + 1) : 0),
      };
    } // any other byte is passed over
  }
}

/** Lines of an interlaced frame in the order in which they are stored. */
function* lines(height: number, interlaced: boolean): Generator<number> {
  if (!interlaced) for (let y = 0; y < height; y++) yield y;
  else for (const [first, step] of [[0, 8], [4, 8], [2, 4], [1, 2]]) for (let y = first; y < height; y += step) yield y;
}

/** Reads the first frame as RGB. */
export async function readGif(bytes: Uint8Array, signal?: AbortSignal): Promise<Picture> {
  const frame = gifFrame(bytes), { width, height, frameWidth, frameHeight, palette, background } = frame;
  const indices = await unpack(bytes, frame.codes, frameWidth * frameHeight, signal);
  const data = new Uint8Array(width * height * 3), turn = turns(signal);
  if (frameWidth < width || frameHeight < height) {
    for (let at = 0; at < data.length; at += 3) {
      if (at % 196608 === 0) await turn();
      for (let c = 0; c < 3; c++) data[at + c] = palette[3 * background + c];
    }
  }
  let from = 0;
  for (const y of lines(frameHeight, frame.interlaced)) {
    await turn();
    for (let x = 0, to = 3 * ((frame.y + y) * width + frame.x); x < frameWidth; x++, to += 3) {
      const colour = 3 * indices[from++];
      data[to] = palette[colour];
      data[to + 1] = palette[colour + 1];
      data[to + 2] = palette[colour + 2];
    }
  }
  return { width, height, channels: 3, data };
}

/** LZW: codes of growing width, lowest bit first, in blocks of up to 255 bytes. Gives exactly `count` indices. */
async function unpack(bytes: Uint8Array, at: number, count: number, signal?: AbortSignal): Promise<Uint8Array> {
  const start = bytes[at++], clear = 1 << start, turn = turns(signal);
  if (!(start >= 1 && start <= 8)) throw broken("GIF", `its codes begin with ${start} bits; wanted 1 to 8`);
  const out = new Uint8Array(count);
  // Every code is a code before it, and one more index; strings are written from their ends.
  const before = new Uint16Array(4096), last = new Uint8Array(4096), lengths = new Uint16Array(4096);
  for (let i = 0; i < clear; i++) [last[i], lengths[i]] = [i, 1];
  let next = clear + 2, size = start + 1, previous = -1, bits = 0, held = 0, done = 0, first = 0;
  for (let block = 0; done < count; block++) {
    if (block % 256 === 0) await turn();
    const length = bytes[at++], end = at + length;
    if (!length || end > bytes.length) throw broken("GIF", `it ends after ${done} of ${count} pixels`);
    while (at < end && done < count) {
      held |= bytes[at++] << bits;
      bits += 8;
      while (bits >= size && done < count) {
        const code = held & ((1 << size) - 1);
        held >>= size;
        bits -= size;
        if (code === clear) {
          [next, size, previous] = [clear + 2, start + 1, -1];
          continue;
        }
        if (code === clear + 1) throw broken("GIF", `it ends after ${done} of ${count} pixels`);
        if (code > next || (code === next && previous < 0) || (previous < 0 && code >= clear)) throw broken("GIF", `code ${code} has no meaning after ${done} pixels`);
        // A code that is only now being made is the previous string and its own first index.
        const string = code === next ? previous : code, total = lengths[string] + (code === next ? 1 : 0);
        let from = string;
        for (let to = done + lengths[string] - 1; ; to--, from = before[from]) {
          if (to < count) out[to] = last[from];
          if (to === done) break;
        }
        first = last[from];
        if (code === next && done + total <= count) out[done + total - 1] = first;
        done = Math.min(done + total, count);
        if (previous >= 0 && next < 4096) {
          [before[next], last[next], lengths[next]] = [previous, first, lengths[previous] + 1];
          next++;
          if (next === 1 << size && size < 12) size++;
        }
        previous = code;
      }
    }
    at = end;
  }
  return out;
}
