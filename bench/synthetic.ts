/**
 * A checkpoint of the real size that is nowhere: a file whose bytes are made as they are read. The engine loads it as it loads any
 * other, through its public API. Of each tensor a few rows are made (cli/synthetic.ts) and then repeated, so that making them
 * costs next to nothing; addresses, sizes, and the spread of the numbers are those of a real one.
 */
import { syntheticTensor } from "#src/cli/synthetic.js";
import { Kosmos2Config } from "#src/model/config.js";
import { safetensorsHeader } from "#src/weights/safetensors.js";
import type { BlobLike } from "#src/weights/source.js";
import { storedTensors, type TensorSpec } from "#src/weights/tensors.js";

/** Numbers of a tensor that are made; the rest repeats them. */
const MADE = 2 ** 17;

/** A file of bfloat16, whose tensors are made when their turn comes. */
class Checkpoint implements BlobLike {
  readonly size: number;
  private readonly header: Uint8Array;
  private readonly starts: number[];
  private readonly specs: TensorSpec[];
  private made: { tensor: number; bytes: Uint8Array } | undefined;

  constructor(private readonly config: Kosmos2Config) {
    this.specs = storedTensors(config);
    ({ header: this.header, starts: this.starts, size: this.size } = safetensorsHeader(this.specs.map(({ name, shape }) => ({ name, shape, dtype: "BF16" as const }))));
  }

  slice(start = 0, end = this.size): BlobLike {
    const part = { size: end - start, slice: (from = 0, to = end - start) => this.slice(start + from, start + to), arrayBuffer: async () => this.read(start, end) };
    return part;
  }

  arrayBuffer(): Promise<ArrayBuffer> {
    return this.slice().arrayBuffer();
  }

  private read(start: number, end: number): ArrayBuffer {
    const into = new Uint8Array(end - start);
    if (start < this.header.length) into.set(this.header.subarray(start, end));
    for (let i = 0; i < this.specs.length; i++) {
      const begin = this.starts[i], stop = this.starts[i + 1] ?? this.size;
      if (stop <= start || begin >= end) continue;
      const bytes = this.pattern(i);
      for (let at = Math.max(begin, start); at < Math.min(stop, end); ) {
        const from = (at - begin) % bytes.length, length = Math.min(bytes.length - from, Math.min(stop, end) - at);
        into.set(bytes.subarray(from, from + length), at - start);
        at += length;
      }
    }
    return into.buffer;
  }

  private pattern(i: number): Uint8Array {
    if (this.made?.tensor === i) return this.made.bytes;
    const { columns, fill } = syntheticTensor(this.specs[i], this.config, 0);
    const rows = Math.min(this.specs[i].shape.reduce((a, b) => a * b, 1) / columns, Math.ceil(MADE / columns));
    const numbers = new Float32Array(rows * columns);
    fill(numbers);
    const halves = Uint16Array.from(new Uint32Array(numbers.buffer), (word) => (word + 0x7fff) >>> 16);
    this.made = { tensor: i, bytes: new Uint8Array(halves.buffer) };
    return this.made.bytes;
  }
}

/** The files of a model of the released sizes, or others, for `fromPretrained`. */
export function syntheticModel(config = new Kosmos2Config()): Record<string, BlobLike | Uint8Array> {
  return { "config.json": new TextEncoder().encode(JSON.stringify(config.toJSON())), "model.safetensors": new Checkpoint(config) };
}
