/**
 * Keys and values of one sequence, for all layers: blocks of BLOCK rows, added as the sequence grows, that never move.
 * A block holds, layer after layer, its keys and then its values. A table in the backend's memory says where the blocks are.
 */
import type { Memory } from "./memory.js";
import { bytesOf } from "./memory.js";
import { BLOCK, strideOf } from "./record.js";

export class Cache {
  /** Rows stored so far. */
  length = 0;
  /** Address of the table of block addresses. */
  readonly table: number;
  /** Distance of two rows of values, in numbers. */
  readonly stride: number;
  private readonly blocks: number[] = [];

  /** @param capacity the most rows it will ever hold, which only sizes the table */
  constructor(private readonly memory: Memory, private readonly layers: number, readonly width: number, readonly capacity: number) {
    this.stride = strideOf(width);
    this.table = memory.alloc(4 * Math.ceil(capacity / BLOCK));
  }

  /** Makes room for `rows` more; call it between runs. */
  reserve(rows: number): void {
    if (this.length + rows > this.capacity) throw new RangeError(`Cannot cache ${this.length + rows} rows: room for ${this.capacity}`);
    const known = this.blocks.length;
    while (this.blocks.length * BLOCK < this.length + rows) this.blocks.push(this.memory.alloc(this.offset(this.layers, "keys")));
    if (this.blocks.length > known) this.memory.write(this.table, bytesOf(Uint32Array.from(this.blocks)));
  }

  /** Where in a block a layer's keys or values begin, in bytes. */
  offset(layer: number, part: "keys" | "values"): number {
    return (layer * (this.width + this.stride) + (part === "values" ? this.width : 0)) * BLOCK * 4;
  }

  free(): void {
    for (const block of this.blocks.splice(0)) this.memory.free(block);
    this.memory.free(this.table);
  }
}
