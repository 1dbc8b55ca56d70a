import assert from "node:assert/strict";
import { test } from "node:test";
import { Heap } from "#src/backend/wasm/heap.js";
import { random } from "../support.js";

test("Heap gives aligned ranges that never overlap, also after many frees", () => {
  let end = 4096;
  const heap = new Heap(1024, end, (bytes) => (end = Math.ceil(bytes / 65536) * 65536));
  const live = new Map<number, number>();
  for (const r of random(4000, 7)) {
    const some = [...live.keys()];
    if (r < -0.1 && some.length) {
      const address = some[Math.floor(-r * some.length) % some.length];
      heap.free(address);
      live.delete(address);
    } else {
      const bytes = Math.floor(Math.abs(r) ** 4 * 20000);
      const address = heap.alloc(bytes);
      assert.equal(address % 64, 0);
      assert.ok(address >= 1024 && address + bytes + 64 <= end, `${address} + ${bytes} lies in ${end}`);
      for (const [other, size] of live) assert.ok(address + bytes + 64 <= other || other + size + 64 <= address, "ranges are apart");
      live.set(address, bytes);
    }
  }
  for (const address of live.keys()) heap.free(address);
  assert.equal(heap.alloc(end - 1024 - 64), 1024, "all that was freed is one range again");
});

test("Heap refuses to free what it did not give", () => {
  const heap = new Heap(1024, 4096, (bytes) => bytes);
  assert.throws(() => heap.free(2048), RangeError);
});
