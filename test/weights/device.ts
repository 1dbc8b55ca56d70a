/** A backend in plain TypeScript that carries out pack records alone, by the specification of the formats. */
import assert from "node:assert/strict";
import type { Backend } from "#src/backend/backend.js";
import { RECORD_BYTES, formats, kinds, types } from "#src/graph/record.js";
import { fromBF16, fromF16, type Format } from "#src/weights/quant.js";
import { pack } from "#src/weights/reference.js";

const nameOf = <T extends Record<string, number>>(table: T, code: number): keyof T => Object.keys(table).find((name) => table[name] === code)!;

export class PackingDevice implements Backend {
  readonly description = "pack records in TypeScript";
  readonly threads = 1;
  readonly queues = false;
  readonly memory = new SharedArrayBuffer(2 ** 24);
  /** Sizes of what is allocated. */
  readonly live = new Map<number, number>();
  runs = 0;
  running = false;
  /** Called before each run; may throw. */
  onRun: (run: number) => void = () => {};
  #next = 64;

  /** @param shared false: memory is out of the caller's reach */
  constructor(private readonly shared = true) {}

  alloc(bytes: number): number {
    assert.ok(!this.running, "no alloc during a run");
    const address = this.#next;
    this.#next += Math.ceil(bytes / 64) * 64 + 64;
    assert.ok(this.#next <= this.memory.byteLength, "enough for tests");
    this.live.set(address, bytes);
    return address;
  }

  free(address: number): void {
    assert.ok(!this.running, "nothing is freed during a run");
    assert.ok(this.live.delete(address), `${address} is allocated`);
  }

  view(address: number, bytes: number): Uint8Array | undefined {
    return this.shared ? new Uint8Array(this.memory, address, bytes) : undefined;
  }

  write(address: number, bytes: Uint8Array): void {
    assert.ok(!this.running, "no write during a run");
    new Uint8Array(this.memory, address, bytes.length).set(bytes);
  }

  async read(address: number, bytes: number): Promise<Uint8Array> {
    return new Uint8Array(this.memory, address, bytes).slice();
  }

  abort(): void {}

  async run(records: Uint8Array, count: number, signal?: AbortSignal): Promise<void> {
    assert.ok(!this.running, "one run at a time");
    this.running = true;
    try {
      await new Promise((resolve) => setTimeout(resolve, 1)); // others go on meanwhile
      signal?.throwIfAborted();
      this.onRun(this.runs++);
      for (let i = 0; i < count; i++) this.#pack(new DataView(records.buffer, records.byteOffset + i * RECORD_BYTES));
    } finally {
      this.running = false;
    }
  }

  async dispose(): Promise<void> {}

  #pack(record: DataView): void {
    const word = (place: number): number => record.getUint32(place * 4, true);
    assert.equal(word(0), kinds.pack);
    const dst = word(1), format = nameOf(formats, word(2)), src = word(3), type = nameOf(types, word(4)), N = word(5), K = word(6);
    const view = new DataView(this.memory);
    const values = Float32Array.from({ length: N * K }, (_, i) =>
      type === "F32" ? view.getFloat32(src + i * 4, true) : (type === "F16" ? fromF16 : fromBF16)(view.getUint16(src + i * 2, true)));
    const bytes = format === "rows" ? new Uint8Array(values.buffer) : pack(format as Format, values, N, K);
    const room = [...this.live].find(([address, size]) => dst >= address && dst + bytes.length <= address + size);
    assert.ok(room, `${bytes.length} bytes at ${dst} lie inside what is allocated`);
    new Uint8Array(this.memory, dst, bytes.length).set(bytes);
  }
}
