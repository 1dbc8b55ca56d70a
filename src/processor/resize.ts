/**
 * Pillow's bicubic resize in 8-bit fixed point, bit for bit (MODEL.md, "Pixels"): across first, then down, both antialiased, with
 * bytes in between. Plain bicubic would move the boxes.
 *
 * Here are the tables, the plain version of the arithmetic (`plainRows`), and the way through assembly/pixels.ts, which does the
 * same with SIMD. A picture passes in bands of rows, so that little is copied and the event loop gets its turns.
 */
import { loadModule } from "#platform";
import { Kosmos2Error } from "../errors.js";
import { turns } from "../pause.js";
import type { WasmUrl } from "../platform/modules.js";
import type { Picture } from "../platform/platform.js";

/** Longest side that is resized; what PNG readers allow. Tables grow with it: 16 bytes a pixel of a side. */
const MAX_SIDE = 1_000_000;
/** About as many bytes are in flight as fit a core's second-level cache. */
const BAND_BYTES = 1 << 18;

/** What each place of an axis takes from the source: `counts[o]` weights at `stride · o`, from source index `starts[o]` on. */
export interface Axis {
  readonly starts: Int32Array;
  readonly counts: Int32Array;
  /** 22 fractional bits. Those of one place need not add up to 2²². */
  readonly weights: Int32Array;
  readonly stride: number;
}

/** Keys' cubic with a = −1/2. */
function cubic(x: number): number {
  const t = Math.abs(x);
  if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * -0.5 : 0;
}

/** Weights of an axis, `from` → `to` places; computed in f64 in Pillow's order. */
export function axis(from: number, to: number): Axis {
  const scale = from / to, spread = Math.max(scale, 1), radius = 2 * spread, inverse = 1 / spread;
  const stride = Math.min(from, Math.ceil(radius) * 2 + 1);
  const starts = new Int32Array(to), counts = new Int32Array(to), weights = new Int32Array(to * stride);
  const w = new Float64Array(stride);
  for (let o = 0; o < to; o++) {
    const centre = (o + 0.5) * scale;
    const low = Math.max(0, Math.trunc(centre - radius + 0.5)), high = Math.min(from, Math.trunc(centre + radius + 0.5));
    let sum = 0;
    for (let j = low; j < high; j++) sum += w[j - low] = cubic((j - centre + 0.5) * inverse);
    starts[o] = low;
    counts[o] = high - low;
    for (let j = 0; j < high - low; j++) {
      const q = (w[j] / sum) * 2 ** 22;
      weights[o * stride + j] = Math.trunc(q < 0 ? q - 0.5 : q + 0.5);
    }
  }
  return { starts, counts, weights, stride };
}

/** A resize under way: rows go in from top to bottom, then `sums` holds Σ q · v of every output, `pitch` numbers a row. */
interface Rows {
  take(band: Uint8Array | Uint8ClampedArray, row: number, rows: number): void;
  readonly sums: Int32Array;
  readonly pitch: number;
  done(): void;
}

const byte = (sum: number): number => Math.min(Math.max((sum + (1 << 21)) >> 22, 0), 255);

/** The specification of assembly/pixels.ts, and what runs where wasm can't be loaded. */
export function plainRows(width: number, channels: 1 | 3 | 4, across: Axis, down: Axis): Rows {
  const colours = channels === 1 ? 1 : 3, outWidth = across.starts.length, outHeight = down.starts.length, pitch = outWidth * colours;
  const sums = new Int32Array(outHeight * pitch), line = new Uint8Array(pitch);
  let waiting = 0;
  return {
    sums, pitch,
    done() {},
    take(band, row, rows) {
      for (let y = 0; y < rows; y++, row++) {
        for (let o = 0; o < outWidth; o++) {
          for (let c = 0; c < colours; c++) {
            let sum = 0;
            const at = (y * width + across.starts[o]) * channels + c;
            for (let j = 0; j < across.counts[o]; j++) sum += across.weights[o * across.stride + j] * band[at + j * channels];
            line[o * colours + c] = byte(sum);
          }
        }
        while (waiting < outHeight && down.starts[waiting] + down.counts[waiting] <= row) waiting++;
        for (let o = waiting; o < outHeight && down.starts[o] <= row; o++) {
          const q = down.weights[o * down.stride + row - down.starts[o]];
          for (let i = 0; i < pitch; i++) sums[o * pitch + i] += q * line[i];
        }
      }
    },
  };
}

/** One instance of assembly/pixels.ts with a memory of its own. */
interface Kernel {
  readonly memory: WebAssembly.Memory;
  readonly resize: (job: number) => void;
}

let compiled: { from: WasmUrl | undefined; module: Promise<WebAssembly.Module> } | undefined;
let idle: Kernel | undefined;
/** A kernel that a large picture has blown up is let go. */
const KEPT_BYTES = 8 << 20;

async function kernel(from: WasmUrl | undefined): Promise<Kernel> {
  if (!compiled || compiled.from !== from) {
    compiled = { from, module: loadModule("pixels", from) };
    idle = undefined;
  }
  const kept = idle;
  idle = undefined;
  if (kept) return kept;
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const { exports } = await WebAssembly.instantiate(await compiled.module.catch((error: unknown) => {
    compiled = undefined; // it may be there next time
    throw error;
  }), { env: { memory } });
  return { memory, resize: exports.resize as Kernel["resize"] };
}

const aligned = (bytes: number): number => (bytes + 63) & ~63;

/** The same through wasm. Addresses and words are those of `Job` in assembly/pixels.ts. */
export function wasmRows(kernel: Kernel, width: number, channels: 1 | 3 | 4, across: Axis, down: Axis, bandBytes: number): Rows {
  const colours = channels === 1 ? 1 : 3, outWidth = across.starts.length, outHeight = down.starts.length;
  const blocks = Math.ceil(across.counts.reduce((most, count) => Math.max(most, count), 0) / 8);
  const planeBytes = aligned(2 * (width + 8) + 16 * blocks), lineBytes = (4 * outWidth * colours + 15) & ~15;
  let end = 64;
  const room = (bytes: number): number => {
    const address = end;
    end += aligned(bytes);
    return address;
  };
  const job = room(128), starts = room(4 * outWidth), taps = room(32 * blocks * outWidth);
  const windows = room(8 * outHeight), weights = room(down.weights.byteLength);
  const planes = room(3 * planeBytes), lines = room(3 * lineBytes + 16), sums = room(outHeight * lineBytes), source = room(bandBytes + 32);
  const missing = end - kernel.memory.buffer.byteLength;
  try {
    if (missing > 0) kernel.memory.grow(Math.ceil(missing / 65536));
  } catch (cause) {
    throw new Kosmos2Error("memory-exhausted", "memory", `Cannot resize the picture: ${end} bytes are not to be had`, { neededBytes: end }, cause);
  }
  const { buffer } = kernel.memory;
  const bytes = new Uint8Array(buffer), words = new Int32Array(buffer), halves = new Int16Array(buffer);

  for (let o = 0; o < outWidth; o++) {
    words[starts / 4 + o] = 2 * across.starts[o];
    const to = (taps + 32 * blocks * o) / 2;
    halves.fill(0, to, to + 16 * blocks);
    for (let j = 0; j < across.counts[o]; j++) {
      const q = across.weights[o * across.stride + j], at = to + (j >> 3) * 16 + (j & 7);
      halves[at] = q & 0x7fff;
      halves[at + 8] = q >> 15;
    }
  }
  for (let o = 0; o < outHeight; o++) {
    words[windows / 4 + 2 * o] = down.starts[o];
    words[windows / 4 + 2 * o + 1] = down.starts[o] + down.counts[o];
  }
  words.set(down.weights, weights / 4);
  bytes.fill(0, sums, sums + outHeight * lineBytes);
  words.set([source, channels, width, 0, 0, planes, planeBytes, starts, taps, blocks, outWidth,
    lines, lineBytes, windows, weights, down.stride, outHeight, sums, 0], job / 4);
  return {
    sums: words.subarray(sums / 4, (sums + outHeight * lineBytes) / 4),
    pitch: lineBytes / 4,
    take(band, row, rows) {
      bytes.set(band, source);
      words[job / 4 + 3] = rows;
      words[job / 4 + 4] = row;
      kernel.resize(job);
    },
    done() {
      if (buffer.byteLength <= KEPT_BYTES) idle = kernel;
    },
  };
}

export interface ResizeOptions {
  signal?: AbortSignal;
  /** true: without wasm, the same bytes, thirty times slower; false: never so. Default: only where wasm can't be loaded. */
  plain?: boolean;
  /** Where pixels.wasm is loaded from. */
  wasmUrl?: WasmUrl;
}

/**
 * Resizes a picture; its shape is not kept.
 *
 * @param width of the result, pixels
 * @param height of the result, pixels
 * @returns width · height · 3 bytes, R G B R G B …; grey gives three equal colours
 * @throws {Kosmos2Error} code `image-size` when a side has over 1 000 000 pixels
 */
export async function resize(picture: Picture, width: number, height: number, options: ResizeOptions = {}): Promise<Uint8Array> {
  if (Math.max(picture.width, picture.height) > MAX_SIDE) {
    throw new Kosmos2Error("image-size", "input",
      `Cannot resize a picture of ${picture.width} × ${picture.height}: its sides may have ${MAX_SIDE} pixels at most`, { found: [picture.width, picture.height] });
  }
  // Pillow 12 takes very tall pictures down first. To the length that it has, a side stays what it is, so each call is one pass.
  if (picture.height > 100 * picture.width && height < picture.height) {
    picture = { width: picture.width, height, channels: 3, data: await passes(picture, picture.width, height, options) };
  }
  return passes(picture, width, height, options);
}

/** Across, then down. */
async function passes(picture: Picture, width: number, height: number, options: ResizeOptions): Promise<Uint8Array> {
  const { signal } = options, { channels } = picture;
  const across = axis(picture.width, width), down = axis(picture.height, height);
  const rowBytes = picture.width * channels;
  // A band is as much work when a narrow picture grows wide as when a wide one is read.
  let rows = Math.max(1, Math.floor(BAND_BYTES / Math.max(rowBytes, 16 * width)));
  if (channels === 1) rows = Math.ceil(rows / 3) * 3; // the kernel takes grey rows by threes
  rows = Math.min(rows, picture.height);
  const wasm = options.plain ? undefined : await kernel(options.wasmUrl).catch((error: unknown) => {
    if (options.plain === false) throw error;
    return undefined;
  });
  const work = wasm ? wasmRows(wasm, picture.width, channels, across, down, rows * rowBytes) : plainRows(picture.width, channels, across, down);
  try {
    const turn = turns(signal);
    for (let row = 0; row < picture.height; row += rows) {
      await turn();
      const count = Math.min(rows, picture.height - row);
      work.take(picture.data.subarray(row * rowBytes, (row + count) * rowBytes), row, count);
    }
    const { sums, pitch } = work, result = new Uint8Array(width * height * 3), colours = channels === 1 ? 1 : 3;
    for (let y = 0, to = 0; y < height; y++)
      for (let from = y * pitch, end = from + width * colours; from < end; from++) {
        const value = byte(sums[from]);
        result[to++] = value;
        if (colours === 1) result[to++] = result[to++] = value;
      }
    return result;
  } finally {
    work.done();
  }
}
