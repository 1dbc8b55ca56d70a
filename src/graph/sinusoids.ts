/** Positions of text: sines in the first half of the columns, cosines in the second (MODEL.md, "Positions"). */
import { BLOCK } from "./record.js";
import { bytesOf, type Memory } from "./memory.js";

/**
 * Rows `from` … `from + count − 1` of the table, as Hugging Face computes them: angles and frequencies rounded to f32, where an
 * angle in f64 would be off by up to 1.6e-4. Row `padId` is zero, so is the last column of an odd width.
 *
 * @returns [count, width], row-major
 */
export function sinusoids(from: number, count: number, width: number, padId: number): Float32Array {
  const half = width >> 1;
  const step = Math.fround(-Math.log(10000) / (half - 1));
  const table = new Float32Array(count * width);
  for (let j = 0; j < half; j++) {
    const frequency = Math.fround(Math.exp(Math.fround(j * step)));
    for (let row = 0; row < count; row++) {
      if (from + row === padId) continue;
      const angle = Math.fround((from + row) * frequency);
      table[row * width + j] = Math.sin(angle);
      table[row * width + half + j] = Math.cos(angle);
    }
  }
  return table;
}

/** The table in a backend's memory, in blocks that are made when a position is first met. */
export class SinusoidTable {
  private readonly blocks: number[] = [];

  constructor(private readonly memory: Memory, private readonly width: number, private readonly padId: number) {}

  /** Makes all positions up to `last` known; no run may need them yet. */
  reserve(last: number): void {
    while (this.blocks.length * BLOCK <= last) {
      const from = this.blocks.length * BLOCK;
      const block = this.memory.alloc(BLOCK * this.width * 4);
      this.memory.write(block, bytesOf(sinusoids(from, BLOCK, this.width, this.padId)));
      this.blocks.push(block);
    }
  }

  /** Where the row of a position is. */
  address(position: number): number {
    return this.blocks[Math.floor(position / BLOCK)] + (position % BLOCK) * this.width * 4;
  }
}
