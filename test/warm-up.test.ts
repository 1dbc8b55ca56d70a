import assert from "node:assert/strict";
import { test } from "node:test";
import { Kosmos2Config } from "kosmos2-wasm";
import type { Backend } from "#src/backend/backend.js";
import { createWasmBackend, type WasmOptions } from "#src/backend/wasm/wasm.js";
import { warmUp } from "#src/warm-up.js";

/** What is allocated and not freed, and how many lists were run, while `use` has a backend. */
async function watched(options: WasmOptions, use: (backend: Backend, seen: { held: Set<number>; runs: number }) => Promise<void>): Promise<void> {
  const backend = await createWasmBackend(options), { alloc, free, run } = backend, seen = { held: new Set<number>(), runs: 0 };
  backend.alloc = (bytes) => {
    const address = alloc.call(backend, bytes);
    seen.held.add(address);
    return address;
  };
  backend.free = (address) => {
    seen.held.delete(address);
    free.call(backend, address);
  };
  backend.run = (...list) => {
    seen.runs++;
    return run.apply(backend, list);
  };
  try {
    await use(backend, seen);
  } finally {
    await backend.dispose();
  }
}

const odd = { visionConfig: { imageSize: 1200, patchSize: 600 } }; // 16 patches a side would be more than a config may have
for (const [name, config] of [["the released model", new Kosmos2Config()], ["a model of few large patches", new Kosmos2Config(odd)]] as const)
  test(`warmUp runs a small likeness of ${name} until it is enough, in every format, and gives all back`, () => watched({ threads: 2 }, async (backend, seen) => {
    for (const [dtype, cache] of [["f32", "f32"], ["f16", "f16"], ["i8", "i16"], ["i4", "f32"], ["w8a8", "f16"]] as const) {
      const before = seen.runs;
      let asked = 0;
      await warmUp(backend, config, dtype, cache, { enough: () => ++asked === 1 });
      assert.deepEqual([seen.held.size, seen.runs - before, asked], [0, 1, 1]);
    }
  }));

test("warmUp ends by itself, and does nothing where there is no room for it", async () => {
  await watched({ threads: 1 }, async (backend, { held }) => {
    await warmUp(backend, new Kosmos2Config(), "i8", "f16", { enough: () => false });
    assert.equal(held.size, 0);
  });
  await watched({ threads: 1, maxBytes: 2 ** 16 }, async (backend, seen) => {
    await warmUp(backend, new Kosmos2Config(), "f32", "f32", { enough: () => false });
    assert.deepEqual([seen.held.size, seen.runs], [0, 0]);
  });
});

test("warmUp, aborted, rejects with the signal's reason and gives all back", () => watched({ threads: 2 }, async (backend, { held }) => {
  const stop = new AbortController(), reason = new Error("enough");
  setTimeout(() => stop.abort(reason), 5);
  await assert.rejects(warmUp(backend, new Kosmos2Config(), "i8", "f16", { signal: stop.signal, enough: () => false }), reason);
  assert.equal(held.size, 0);
}));
