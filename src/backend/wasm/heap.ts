/** Who owns which addresses of one linear memory. Ranges never move; freed ones are joined with their neighbours and used again. */

interface Range {
  start: number;
  end: number;
}

/** Bytes that may be read past the end of a range (a kernel's last vector load). */
const SLACK = 64;

export class Heap {
  private free_: Range[];
  private readonly taken = new Map<number, number>();

  /**
   * @param end bytes of memory there are now
   * @param grow makes the memory at least that large, or throws
   * @returns nothing: the heap begins at `start`, which must not be 0, since 0 means "none"
   */
  constructor(start: number, private end: number, private readonly grow: (bytes: number) => number) {
    this.free_ = [{ start, end }];
  }

  alloc(bytes: number): number {
    const size = Math.ceil((bytes + SLACK) / 64) * 64;
    let range = this.free_.find(({ start, end }) => end - start >= size);
    if (!range) {
      const last = this.free_.at(-1);
      const begin = last?.end === this.end ? last.start : this.end;
      const end = this.grow(begin + size);
      range = begin === this.end ? { start: begin, end } : last!;
      if (begin === this.end) this.free_.push(range);
      range.end = this.end = end;
    }
    const address = range.start;
    range.start += size;
    if (range.start === range.end) this.free_.splice(this.free_.indexOf(range), 1);
    this.taken.set(address, size);
    return address;
  }

  free(address: number): void {
    const size = this.taken.get(address);
    if (size === undefined) throw new RangeError(`Cannot free ${address}: nothing was allocated there`);
    this.taken.delete(address);
    const after = this.free_.findIndex(({ start }) => start > address);
    const at = after < 0 ? this.free_.length : after;
    const range = { start: address, end: address + size };
    this.free_.splice(at, 0, range);
    const next = this.free_[at + 1], before = this.free_[at - 1];
    if (next?.start === range.end) {
      range.end = next.end;
      this.free_.splice(at + 1, 1);
    }
    if (before?.end === range.start) {
      before.end = range.end;
      this.free_.splice(at, 1);
    }
  }
}
