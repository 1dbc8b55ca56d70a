/** What a recorder needs of a backend: room, and a way to put bytes there. Addresses never move. */
export interface Memory {
  /** Room for `bytes`, 64-byte aligned. Memory may grow, so not during a run, unless the backend allows it (`queues`). */
  alloc(bytes: number): number;
  free(address: number): void;
  write(address: number, bytes: Uint8Array): void;
}

/** The bytes behind numbers, not a copy. */
export const bytesOf = (numbers: ArrayBufferView): Uint8Array =>
  new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);

/** A place that is used again and again, and replaced by a larger one when it must be: what it held is lost then. */
export class Room {
  private address = 0;
  private bytes = 0;

  /** @param extra bytes to ask for beyond those needed, if more are needed than there are */
  in(memory: Pick<Memory, "alloc" | "free">, bytes: number, extra = 0): number {
    if (bytes > this.bytes) {
      if (this.address) memory.free(this.address);
      this.address = this.bytes = 0; // until there is another: alloc may throw
      this.address = memory.alloc(bytes + extra);
      this.bytes = bytes + extra;
    }
    return this.address;
  }
}
