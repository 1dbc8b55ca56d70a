/**
 * The packed formats of a weight w[N, K]: where what lies. Threads pack them (assembly/pack.ts) and multiply by them (assembly/matmul_*.ts);
 * reference.ts says in plain TypeScript what comes out.
 *
 * All formats are panels of 8 outputs, i8 and i4 of 16; outputs past N are 0. One panel is
 *
 *   f32   [K][8] f32
 *   f16   [K][8] IEEE halves, rounded to nearest even; 65520 and more become infinite, which the loader refuses
 *   i8    for each GROUP inputs: 16 scales, then ⌈inputs / 2⌉ steps of 2 · [4][2 inputs][2] bytes: output n of an 8 beside n + 4.
 *         w = scale · number, −127 … 127. Of the first one the byte is number + 128, of the second number. Behind an odd last input there is 0
 *   i4    for each GROUP inputs: 16 scales, then for each 32 of them 16 int8 shares, −63 … 63, then ⌈inputs / 2⌉ steps of
 *         [4][2 inputs] u16: the lowest 4 bits are of output n of a 4, the next ones of n + 4, n + 8 and n + 12.
 *         w = scale · share · number, −8 … 7. The bits are those of number + 8, of the last output of number. Behind an odd last input there is 0.
 *         The sum of share · number · int16 of a group is exact: 63 · 8 · 8191 · 128 < 2³¹
 *   w8a8  for each GROUP inputs: 8 scales, then ⌈inputs / 4⌉ steps of [8 outputs][4 inputs] bytes 1 … 127;
 *         w = scale · (byte − 64). Behind the last input there is 64
 *
 * A scale is a u16, bits 30 … 15 of an f32: no sign, 8 bits of exponent, 8 of fraction. The others are cut off, less than 2⁻⁸ of it, so
 * that the largest number of a group is still ±limit: 127 · (1 + 2⁻⁸) < 127.5.
 *
 * Everything is in the byte order of wasm: little-endian.
 */
import { GROUP, SHARED } from "../graph/record.js";

/** From the most bytes to the least, and w8a8. */
export type Format = "f32" | "f16" | "i8" | "i4" | "w8a8";

/** Of formats with a byte for each weight: inputs of a step, and the largest number. */
export const grouped = { i8: { step: 2, limit: 127 }, w8a8: { step: 4, limit: 63 } } as const;
export type Grouped = keyof typeof grouped;
export const isGrouped = (format: Format | "rows"): format is Grouped => Object.hasOwn(grouped, format);

/** Outputs of a panel. */
export const panelOf = (format: Format): number => (format === "i8" || format === "i4" ? 16 : 8);

/** Bytes of a scale. */
export const SCALE = 2;

/** Bytes of one panel of a weight with K inputs. */
export function panelBytes(format: Format, K: number): number {
  if (format === "f32" || format === "f16") return K * panelOf(format) * (format === "f32" ? 4 : 2);
  const last = K % GROUP;
  return Math.floor(K / GROUP) * groupBytes(format, GROUP) + (last === 0 ? 0 : groupBytes(format, last));
}

function groupBytes(format: Grouped | "i4", inputs: number): number {
  const outputs = panelOf(format);
  if (format === "i4") return outputs * SCALE + Math.ceil(inputs / SHARED) * outputs + Math.ceil(inputs / 2) * outputs;
  const { step } = grouped[format];
  return outputs * SCALE + Math.ceil(inputs / step) * step * outputs;
}

/** Bytes of a packed weight [N, K]. */
export function packedBytes(format: Format, N: number, K: number): number {
  return Math.ceil(N / panelOf(format)) * panelBytes(format, K);
}

/**
 * Makes one output of a panel zero, and its scales with it.
 *
 * @param panel the bytes of the panel alone
 * @param lane which of its outputs
 */
export function clearOutput(format: Format, panel: Uint8Array, K: number, lane: number): void {
  const clear = (at: number, bytes: number, value = 0) => panel.fill(value, at, at + bytes);
  const size = format === "f32" ? 4 : 2;
  if (format === "f32" || format === "f16") for (let k = 0; k < K; k++) clear((k * panelOf(format) + lane) * size, size);
  else
    groups(format, panelOf(format), K, (n, from, to, group) => {
      if (n !== lane) return;
      const inputs = to - from;
      clear(group + lane * SCALE, SCALE);
      if (isGrouped(format)) for (let k = 0; k < inputs; k++) clear(group + placeByte(format, k, lane), 1, offsetOf(format, lane));
      else
        for (let k = 0; k < inputs; k++) {
          const at = group + placeI4(k, inputs, lane), byte = at + (lane >> 3);
          clear(group + shareOfI4(k, lane), 1);
          clear(byte, 1, panel[byte] & (lane & 4 ? 15 : 240));
        }
    });
}

/** Calls `use` with every group of a packing in groups: the inputs from … to − 1 of output n, which is a lane of its panel, and where the group begins. */
export function groups(format: Grouped | "i4", N: number, K: number, use: (n: number, from: number, to: number, group: number, lane: number) => void): void {
  const outputs = panelOf(format);
  for (let n = 0; n < N; n++) {
    const panel = Math.floor(n / outputs) * panelBytes(format, K);
    for (let from = 0; from < K; from += GROUP) use(n, from, Math.min(from + GROUP, K), panel + (from / GROUP) * groupBytes(format, GROUP), n % outputs);
  }
}

/** Where in an i8 or w8a8 group its input i lies. */
export function placeByte(format: Grouped, i: number, lane: number): number {
  if (format === "i8") return 16 * SCALE + (i >> 1) * 32 + (lane >> 3) * 16 + (lane & 3) * 4 + (i & 1) * 2 + ((lane >> 2) & 1);
  return 8 * SCALE + (i >> 2) * 32 + lane * 4 + (i & 3);
}

/** What is added to the numbers of an output; a byte keeps the lowest 8 bits of it. */
export function offsetOf(format: Grouped, lane: number): number {
  if (format === "w8a8") return 64;
  return lane & 4 ? 0 : 128;
}

/** Where in an i4 group the share of input i lies. */
export const shareOfI4 = (i: number, lane: number): number => 16 * SCALE + Math.floor(i / SHARED) * 16 + lane;

/** Where in an i4 group of so many inputs the u16 lies that has the number of input i. */
export const placeI4 = (i: number, inputs: number, lane: number): number => 16 * SCALE + Math.ceil(inputs / SHARED) * 16 + (i >> 1) * 16 + (lane & 3) * 4 + (i & 1) * 2;

/** How far up in it that number is, and what is added to it. */
export const inI4 = (lane: number) => ({ shift: lane & 12, offset: lane < 12 ? 8 : 0 });

/** The number of a lane in the u16 at `place`. */
export function numberI4(view: DataView, place: number, lane: number): number {
  const { shift, offset } = inI4(lane);
  return ((((view.getUint16(place, true) >> shift) & 15) - offset) << 28) >> 28;
}

/** The scale of a lane of the group that begins at `group`. */
export function scaleAt(view: DataView, group: number, lane: number): number {
  bits[0] = view.getUint16(group + lane * SCALE, true) << 15;
  return float[0];
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** What the bits of an IEEE half are worth. */
export function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1, exponent = (half >>> 10) & 31, fraction = half & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** What the bits of a bfloat16 are worth. */
export function fromBF16(half: number): number {
  bits[0] = half << 16;
  return float[0];
}
