/**
 * Keys and values of one sequence, for all layers: blocks of BLOCK rows, added as the sequence grows, that never move.
 * A block holds, layer after layer, its keys and then its values. A table in the backend's memory says where the blocks are.
 */
import type { Memory } from "./memory.js";
import { bytesOf } from "./memory.js";
import { BLOCK } from "./record.js";

/** How keys and values are kept. `i16` has a scale for each row and head, and heads of no more than WIDEST_IN_INT16 columns. */
export type CacheFormat = "f32" | "f16" | "i16";

/** What a cache is for: the sizes of a decoder's attention, and how its numbers are kept. */
export interface CacheShape {
  readonly layers: number;
  readonly heads: number;
  readonly headWidth: number;
  readonly format: CacheFormat;
}

/** Bytes of a block's keys, or values, of one layer: each head's columns are one piece (assembly/store.ts). */
export const partBytes = ({ heads, headWidth, format }: Omit<CacheShape, "layers">): number =>
  heads * BLOCK * (Math.ceil(headWidth / 8) * 8 * (format === "f32" ? 4 : 2) + (format === "i16" ? 4 : 0));

/** Room for BLOCK rows, and how many caches have it. */
interface Block {
  readonly address: number;
  users: number;
}

export class Cache {
  /** Rows stored so far. */
  length = 0;
  /** Address of the table of block addresses. */
  readonly table: number;
  private readonly blocks: Block[] = [];

  /** @param capacity the most rows it will ever hold, which only sizes the table */
  constructor(private readonly memory: Memory, readonly shape: CacheShape, readonly capacity: number) {
    this.table = memory.alloc(4 * Math.ceil(capacity / BLOCK));
  }

  /** Makes room for `rows` more, which no run may need yet. */
  reserve(rows: number): void {
    if (this.length + rows > this.capacity) throw new RangeError(`Cannot cache ${this.length + rows} rows: room for ${this.capacity}`);
    const known = this.blocks.length;
    while (this.blocks.length * BLOCK < this.length + rows) this.blocks.push({ address: this.memory.alloc(this.offset(this.shape.layers, "keys")), users: 1 });
    if (this.blocks.length > known) this.writeTable();
  }

  /** A cache that begins with the first rows of this one: whole blocks that both have and neither writes again. */
  share(rows: number): Cache {
    if (rows % BLOCK !== 0 || rows > this.length) throw new RangeError(`Cannot share ${rows} rows of ${this.length}: whole blocks of ${BLOCK}`);
    const blocks = this.blocks.slice(0, rows / BLOCK);
    for (const block of blocks) block.users++; // first: where memory is short, room for the table is made by giving up this very cache
    try {
      const other = new Cache(this.memory, this.shape, this.capacity);
      other.blocks.push(...blocks);
      other.length = rows;
      other.writeTable();
      return other;
    } catch (error) {
      this.leave(blocks);
      throw error;
    }
  }

  /** Where in a block a layer's keys or values begin, in bytes. */
  offset(layer: number, part: "keys" | "values"): number {
    return (2 * layer + (part === "values" ? 1 : 0)) * partBytes(this.shape);
  }

  free(): void {
    this.leave(this.blocks.splice(0));
    this.memory.free(this.table);
  }

  private leave(blocks: readonly Block[]): void {
    for (const block of blocks) if (--block.users === 0) this.memory.free(block.address);
  }

  private writeTable(): void {
    this.memory.write(this.table, bytesOf(Uint32Array.from(this.blocks, ({ address }) => address)));
  }
}
