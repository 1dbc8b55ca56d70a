/** Compares a pack (weights/packs.ts) with the checkpoint that it was made of: every hash, and every number against what rounding may do to it. */
import { createHash, type Hash } from "node:crypto";
import { Kosmos2Error } from "../errors.js";
import { GROUP } from "../graph/record.js";
import { Kosmos2Config } from "../model/config.js";
import { Checkpoint } from "../weights/checkpoint.js";
import { findPacked, packInfo, sourceLine, type PackInfo } from "../weights/packs.js";
import { fromBF16, fromF16, type Grouped, isGrouped, numberI4, offsetOf, panelBytes, panelOf, placeByte, placeI4, scaleAt, shareOfI4, type Format } from "../weights/quant.js";
import { openModel, type ModelSource } from "../weights/source.js";
import { embedTokens, findTensors, type FoundTensor, lmHead } from "../weights/tensors.js";

export interface VerifyPackOptions {
  readonly pack: ModelSource;
  readonly against: ModelSource;
  readonly signal?: AbortSignal;
  /** In bytes of the source. */
  readonly onProgress?: (progress: { loaded: number; total: number; file: string }) => void;
}

/** A tensor beside its source. */
export interface Verified {
  readonly name: string;
  readonly format: Format | "rows";
  /** ‖packed − source‖ / ‖source‖ */
  readonly relativeError: number;
  /** The largest error, in units of what rounding to the format may do to that number; 1 and less is right. */
  readonly worst: number;
  /** What is wrong; undefined when nothing is. */
  readonly problem?: string;
}

export interface VerifiedPack {
  readonly ok: boolean;
  readonly info: PackInfo;
  /** Of all matrices together. */
  readonly relativeError: number;
  readonly tensors: readonly Verified[];
  /** What is wrong with the whole. */
  readonly problems: readonly string[];
}

const BLOCK_BYTES = 2 ** 23;

export async function verifyPack(options: VerifyPackOptions): Promise<VerifiedPack> {
  const { signal, onProgress } = options;
  const files = await openModel(options.pack, { signal }), sourceFiles = await openModel(options.against, { signal });
  const config = await Kosmos2Config.fromFiles(files, signal);
  const pack = await Checkpoint.open(files, { signal });
  try {
    const info = packInfo(pack);
    if (!info) throw new Kosmos2Error("pack-invalid", "input", `Cannot verify "${files.name}": it is no pack`, { found: files.name });
    const packed = findPacked(pack, info, config).found;
    const source = await Checkpoint.open(sourceFiles, { signal });
    try {
      // sizes are the pack's: another model is found out by its shapes
      const found = findTensors(source, config).found.filter(({ spec }) => packed.has(spec.name));
      const total = found.reduce((sum, { stored }) => sum + stored.end - stored.start, 0), lines: string[] = [], tensors: Verified[] = [], sum = new Difference();
      let loaded = 0;
      const { padTokenId } = config.textConfig, table = packed.has(embedTokens) ? embedTokens : lmHead;
      for (const tensor of found) {
        const { spec: { name }, stored } = tensor;
        const difference = new Difference(), hashes = new Hashes(), { format, N, K, parts } = packed.get(name)!;
        const unit = format === "rows" ? 1 : panelOf(format), unitBytes = format === "rows" ? K * 4 : panelBytes(format, K), rowBytes = (stored.end - stored.start) / N;
        const step = Math.max(1, Math.floor(BLOCK_BYTES / rowBytes / unit)) * unit;
        let row = 0;
        for (const part of parts) {
          const last = Math.min(N, row + ((part.end - part.start) / unitBytes) * unit), first = row;
          for (; row < last; row += Math.min(step, last - row)) {
            signal?.throwIfAborted();
            const rows = Math.min(step, last - row), from = new Uint8Array(rows * rowBytes), to = new Uint8Array(Math.ceil(rows / unit) * unitBytes);
            await source.read(stored.file, from, stored.start + row * rowBytes, signal);
            await pack.read(part.file, to, part.start + ((row - first) / unit) * unitBytes, signal);
            hashes.source.update(from);
            hashes.part.update(to);
            const wanted = numbers(from, stored.dtype);
            if (name === table && padTokenId >= row && padTokenId < row + rows) wanted.fill(0, (padTokenId - row) * K, (padTokenId - row + 1) * K);
            difference.add(format, to, wanted, rows, K);
            onProgress?.({ loaded: (loaded += from.length), total, file: part.file });
          }
          hashes.endPart();
        }
        if (format !== "rows") sum.join(difference);
        lines.push(sourceLine(name, stored.dtype, stored.shape, hashes.source.copy().digest("hex")));
        tensors.push({ name, format, relativeError: difference.relative, worst: difference.worst, problem: problemOf(info, tensor, hashes, difference) });
      }
      const sha256 = createHash("sha256").update(lines.sort().join("")).digest("hex"), problems: string[] = [];
      if (sha256 !== info.sourceSha256) problems.push(`the source's hash is ${sha256}; the pack was made of ${info.sourceSha256 || "an unknown one"}`);
      return { ok: problems.length === 0 && tensors.every(({ problem }) => problem === undefined), info, relativeError: sum.relative, tensors, problems };
    } finally {
      await source.close();
    }
  } finally {
    await pack.close();
  }
}

class Hashes {
  readonly source = createHash("sha256");
  part: Hash = createHash("sha256");
  readonly parts: string[] = [];
  endPart(): void {
    this.parts.push(this.part.digest("hex"));
    this.part = createHash("sha256");
  }
}

function problemOf(info: PackInfo, { spec: { name } }: FoundTensor, hashes: Hashes, { worst }: Difference): string | undefined {
  const entries = [...info.entries].filter(([stored, { of }]) => (of ?? stored) === name).map(([, entry]) => entry).sort((a, b) => (a.panel ?? 0) - (b.panel ?? 0));
  if (hashes.parts.some((hash, i) => hash !== entries[i].sha256)) return "its bytes are not those that were packed: it is damaged";
  if (hashes.source.copy().digest("hex") !== entries[0].source_sha256) return "the source has other numbers";
  if (!(worst <= 1)) return `a number is off by ${worst.toFixed(2)} of what rounding may do`;
  return undefined;
}

/** A checkpoint's numbers as f32. */
function numbers(bytes: Uint8Array<ArrayBuffer>, dtype: "F32" | "F16" | "BF16"): Float32Array {
  if (dtype === "F32") return new Float32Array(bytes.buffer);
  const table = (tables[dtype] ??= Float32Array.from({ length: 65536 }, (_, bits) => (dtype === "F16" ? fromF16 : fromBF16)(bits)));
  const bits = new Uint16Array(bytes.buffer), values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]];
  return values;
}
const tables: { F16?: Float32Array; BF16?: Float32Array } = {};

/** Adds up how far packed numbers are from their sources. Plain loops: billions go through them. */
class Difference {
  worst = 0;
  #error = 0;
  #size = 0;

  get relative(): number {
    return this.#size === 0 ? 0 : Math.sqrt(this.#error / this.#size);
  }

  join(other: Difference): void {
    this.worst = Math.max(this.worst, other.worst);
    this.#error += other.#error;
    this.#size += other.#size;
  }

  /** @param packed rows 0 … rows − 1 of `w`, beginning with a panel */
  add(format: Format | "rows", packed: Uint8Array<ArrayBuffer>, w: Float32Array, rows: number, K: number): void {
    if (format === "rows") return this.#plain(new Float32Array(packed.buffer), w, rows * K);
    const outputs = panelOf(format), bytes = panelBytes(format, K);
    for (let row = 0; row < rows; row += outputs) {
      const panel = new DataView(packed.buffer, (row / outputs) * bytes, bytes), lanes = Math.min(outputs, rows - row);
      if (isGrouped(format)) this.#groups(format, panel, w.subarray(row * K, (row + lanes) * K), lanes, K);
      else if (format === "i4") this.#i4(panel, w.subarray(row * K, (row + lanes) * K), lanes, K);
      else this.#floats(format, panel, w.subarray(row * K, (row + lanes) * K), lanes, K);
    }
  }

  #plain(found: Float32Array, w: Float32Array, count: number): void {
    for (let i = 0; i < count; i++) this.#one(w[i], found[i], 0);
  }

  #floats(format: "f32" | "f16", panel: DataView, w: Float32Array, lanes: number, K: number): void {
    for (let lane = 0; lane < lanes; lane++)
      for (let k = 0; k < K; k++) {
        const x = w[lane * K + k], at = k * 8 + lane;
        if (format === "f32") this.#one(x, panel.getFloat32(at * 4, true), 0);
        else this.#one(x, fromF16(panel.getUint16(at * 2, true)), Math.max(Math.abs(x) * 2 ** -11, 2 ** -25)); // half a unit of the last of 11 bits; of a subnormal
      }
  }

  #groups(format: Grouped, panel: DataView, w: Float32Array, lanes: number, K: number): void {
    for (let from = 0; from < K; from += GROUP) {
      const count = Math.min(GROUP, K - from), group = panelBytes(format, from);
      for (let lane = 0; lane < lanes; lane++) {
        // half a step, and what rounding the inverse and the product may add to it: 127.5 · 2 · 2⁻²⁴ of a step
        const scale = scaleAt(panel, group, lane), limit = scale * 0.50003 + 2 ** -100, offset = offsetOf(format, lane);
        for (let k = 0; k < count; k++)
          this.#one(w[lane * K + from + k], scale * (((panel.getInt8(group + placeByte(format, k, lane)) - offset) << 24) >> 24), limit);
      }
    }
  }

  #i4(panel: DataView, w: Float32Array, lanes: number, K: number): void {
    for (let from = 0; from < K; from += GROUP) {
      const count = Math.min(GROUP, K - from), group = panelBytes("i4", from);
      for (let lane = 0; lane < lanes; lane++) {
        const scale = scaleAt(panel, group, lane);
        for (let k = 0; k < count; k++) {
          const step = Math.fround(scale * panel.getInt8(group + shareOfI4(k, lane))), wanted = w[lane * K + from + k];
          const number = numberI4(panel, group + placeI4(k, count, lane), lane);
          // half a step, or how far a number is beyond the last one; none where there is no step
          this.#one(wanted, step * number, (step === 0 ? 0 : Math.max(Math.abs(step) * 0.50001, wanted * Math.sign(step) - 7 * Math.abs(step), -wanted * Math.sign(step) - 8 * Math.abs(step)) * 1.000001) + 2 ** -100);
        }
      }
    }
  }

  #one(wanted: number, found: number, limit: number): void {
    const error = Math.abs(found - wanted);
    this.#error += error * error;
    this.#size += wanted * wanted;
    if (!(error <= this.worst * limit)) this.worst = error / limit; // no limit: Infinity; nor does NaN pass
  }
}
