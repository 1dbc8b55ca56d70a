/** What a recorder needs of a backend: room, and a way to put bytes there. Addresses never move. */
export interface Memory {
  /** Room for `bytes`, 64-byte aligned. Memory may grow, so not during a run. */
  alloc(bytes: number): number;
  free(address: number): void;
  write(address: number, bytes: Uint8Array): void;
}

/** The bytes behind numbers, not a copy. */
export const bytesOf = (numbers: ArrayBufferView): Uint8Array =>
  new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
