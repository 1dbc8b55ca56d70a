/**
 * The safetensors format: 8 bytes with the header's length, the header (JSON: name → type, shape, place), then the numbers.
 * Nothing of a header is believed before all of it has been checked; below this file sizes and places are trusted.
 */
import { Kosmos2Error } from "../errors.js";
import type { ByteSource } from "../platform/platform.js";

/** Bits of one number of each type of the format. */
const bits = {
  BOOL: 8, U8: 8, I8: 8, F8_E4M3: 8, F8_E5M2: 8, F8_E8M0: 8, U16: 16, I16: 16, F16: 16, BF16: 16, U32: 32, I32: 32, F32: 32,
  U64: 64, I64: 64, F64: 64, C64: 64, F4: 4, F6_E2M3: 6, F6_E3M2: 6,
} as const;
export type Dtype = keyof typeof bits;

/** Where a tensor lies: the bytes start … end − 1 of its file. Rows are the first axis, row-major; `start` may be odd. */
export interface TensorPlace {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

export interface Header {
  readonly tensors: ReadonlyMap<string, TensorPlace>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Where the first tensor begins, and the end of the file. */
  readonly start: number;
  readonly end: number;
}

/** Longest header, as in Hugging Face's own reader. */
const mostHeader = 100_000_000;

/** Bytes of a tensor; undefined when the type is unknown or the size is not a whole number of bytes that can be counted. */
export function byteLength(dtype: string, shape: readonly number[]): number | undefined {
  if (!Object.hasOwn(bits, dtype)) return undefined;
  let size: number = bits[dtype as Dtype];
  for (const dim of shape) size *= dim;
  return Number.isSafeInteger(size) && size % 8 === 0 ? size / 8 : undefined;
}

/**
 * Reads and checks the header of a file.
 *
 * @param file its name, for messages
 * @throws {Kosmos2Error} code `weights-header-invalid`; `weights-incomplete` when the file is shorter than its header says
 */
export async function readHeader(source: ByteSource, file: string, signal?: AbortSignal): Promise<Header> {
  if (source.size < 8) throw incomplete(file, source.size, 8);
  const length = new Uint8Array(8);
  await source.read(length, 0, signal);
  const size = Number(new DataView(length.buffer).getBigUint64(0, true));
  if (size > mostHeader || size < 2) throw invalid(file, undefined, `its header is ${size} bytes; wanted 2 to ${mostHeader}: it is not a safetensors file`, size);
  if (8 + size > source.size) throw incomplete(file, source.size, 8 + size);
  const header = new Uint8Array(size);
  await source.read(header, 8, signal);
  return parseHeader(header, 8 + size, source.size, file);
}

/**
 * @param header the JSON, without the 8 bytes before it
 * @param dataStart where the numbers begin
 * @param fileSize bytes of the whole file: the numbers must fill it, without gaps or overlaps
 */
export function parseHeader(header: Uint8Array, dataStart: number, fileSize: number, file: string): Header {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header));
  } catch (error) {
    throw invalid(file, undefined, `its header is not JSON (${(error as Error).message})`, undefined, error);
  }
  if (!isObject(json)) throw invalid(file, undefined, "its header is not a JSON object");

  const tensors = new Map<string, TensorPlace>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") metadata = readMetadata(entry, file);
    else tensors.set(name, readPlace(name, entry, dataStart, file));
  }

  // One after another, each beginning where the last one ends: no overlaps, and no holes for anything to hide in. A name that is
  // there twice leaves a hole where its first one lay.
  let end = dataStart;
  for (const [name, place] of [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)) {
    if (place.start !== end)
      throw invalid(file, name, `it begins at byte ${place.start - dataStart} of the data; wanted ${end - dataStart}, where the one before it ends`, place.start - dataStart);
    end = place.end;
  }
  if (end > fileSize) throw incomplete(file, fileSize, end);
  if (end < fileSize) throw invalid(file, undefined, `it is ${fileSize} bytes; wanted ${end}, where the last tensor ends`, fileSize);
  return { tensors, metadata, start: dataStart, end };
}

function readMetadata(entry: unknown, file: string): Record<string, string> {
  if (!isObject(entry) || !Object.values(entry).every((value) => typeof value === "string"))
    throw invalid(file, undefined, "its __metadata__ is not an object of strings");
  return entry as Record<string, string>;
}

function readPlace(name: string, entry: unknown, dataStart: number, file: string): TensorPlace {
  if (!isObject(entry)) throw invalid(file, name, "its entry is not an object");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(bits, dtype))
    throw invalid(file, name, `its dtype is ${show(dtype)}; wanted one of ${Object.keys(bits).join(", ")}`, dtype);
  if (!isSizes(shape)) throw invalid(file, name, `its shape is ${show(shape)}; wanted a list of whole numbers`, shape);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1])
    throw invalid(file, name, `its data_offsets are ${show(offsets)}; wanted [begin, end]`, offsets);
  const bytes = byteLength(dtype, shape);
  if (bytes !== offsets[1] - offsets[0])
    throw invalid(file, name, `${dtype} ${show(shape)} lies in ${offsets[1] - offsets[0]} bytes; wanted ${bytes ?? "a size that can be counted"}`, offsets[1] - offsets[0]);
  return { dtype: dtype as Dtype, shape, start: dataStart + offsets[0], end: dataStart + offsets[1] };
}

const isObject = (found: unknown): found is Record<string, unknown> => typeof found === "object" && found !== null && !Array.isArray(found);
const isSizes = (found: unknown): found is number[] =>
  Array.isArray(found) && found.length <= 64 && found.every((n) => Number.isSafeInteger(n) && n >= 0);

function show(found: unknown): string {
  const text = JSON.stringify(found) ?? "missing";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function invalid(file: string, tensor: string | undefined, problem: string, found?: unknown, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("weights-header-invalid", "integrity",
    `Cannot read "${file}": ${tensor === undefined ? "" : `tensor "${tensor.slice(0, 200)}": `}${problem}`, { file, tensor, found }, cause);
}

function incomplete(file: string, found: number, wanted: number): Kosmos2Error {
  return new Kosmos2Error("weights-incomplete", "integrity",
    `Cannot read "${file}": it is ${found} bytes; wanted ${wanted}: download it again`, { file, found, wanted });
}

/**
 * The bytes before the numbers, for tensors that will follow in the given order; padded so that the numbers begin at a multiple of `align`.
 *
 * @param align a multiple of 8
 * @returns the bytes, and where in the file each tensor begins
 */
export function safetensorsHeader(
  tensors: readonly { name: string; dtype: Dtype; shape: readonly number[] }[],
  metadata?: Readonly<Record<string, string>>,
  align = 8,
): { header: Uint8Array; starts: number[]; size: number } {
  const json: [string, unknown][] = metadata ? [["__metadata__", metadata]] : [];
  const offsets: number[] = [];
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    offsets.push(end);
    const bytes = byteLength(dtype, shape);
    if (bytes === undefined) throw new RangeError(`Cannot write "${name}": ${dtype} [${shape}] has no size in bytes`);
    end += bytes;
    json.push([name, { dtype, shape, data_offsets: [offsets.at(-1), end] }]);
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(json)));
  const header = new Uint8Array(Math.ceil((8 + text.length) / align) * align).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(text, 8);
  return { header, starts: offsets.map((offset) => header.length + offset), size: header.length + end };
}
