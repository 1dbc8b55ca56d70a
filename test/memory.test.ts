import assert from "node:assert/strict";
import { test } from "node:test";
import { estimateMemory, Kosmos2, Kosmos2Error, Kosmos2Config, type ModelSource } from "kosmos2-wasm";
import { createWasmBackend, capabilities } from "#src/backend/wasm/wasm.js";
import { cacheDtypeOf } from "#src/dtype.js";
import { modelTensors } from "#src/weights/tensors.js";
import { safetensorsHeader } from "#src/weights/safetensors.js";
import { root } from "./support.js";

/** A checkpoint of the released sizes, all of it but its numbers. */
function released(dtype: "F32" | "BF16"): { source: ModelSource; read: () => number } {
  const config = new Kosmos2Config(), tensors = modelTensors(config).slice(0, -1).map(({ name, shape }) => ({ name, shape, dtype }));
  const { header, size } = safetensorsHeader(tensors);
  let read = 0;
  const part = (from: number, to: number) => ({
    size: to - from, slice: (a = 0, b = to - from) => part(from + a, from + b),
    async arrayBuffer(): Promise<ArrayBuffer> {
      read = Math.max(read, to);
      assert.ok(to <= header.length, `bytes ${from} … ${to} are weights`);
      return header.slice(from, to).buffer as ArrayBuffer;
    },
  });
  return { source: { "config.json": new TextEncoder().encode(JSON.stringify(config.toJSON())), "model.safetensors": part(0, size) }, read: () => read };
}

test("estimateMemory says what the released model takes, from headers alone", async () => {
  const { source } = released("F32");
  const i8 = await estimateMemory(source, { dtype: "i8", threads: 2 }), f16 = await estimateMemory(source, { dtype: "f16" }), f32 = await estimateMemory(source, { dtype: "fp32" });
  // 1664 million numbers; int8 with a scale of 16 bits for 128 inputs, and f32 for what is no matrix
  assert.ok(i8.weightBytes > 1.69e9 && i8.weightBytes < 1.7e9, `${i8.weightBytes}`);
  assert.ok(f16.weightBytes > 3.32e9 && f16.weightBytes < 3.34e9, `${f16.weightBytes}`);
  assert.ok(f32.weightBytes > 6.65e9 && f32.weightBytes < 6.67e9, `${f32.weightBytes}`);
  assert.deepEqual([i8.fits, f16.fits, f32.fits], [true, true, false]);
  const i4 = await estimateMemory(source, { dtype: "q4" });
  assert.ok(i4.dtype === "i4" && i4.fits && i4.weightBytes > 1.005e9 && i4.weightBytes < 1.02e9, `${i4.weightBytes}`);
  assert.equal(i4.parts.embeddings, i8.parts.embeddings); // 8 bits in both
  assert.equal((await estimateMemory(source)).dtype, "i8");
  const parts = Object.values(i8.parts).reduce((a, b) => a + b);
  assert.ok(parts <= i8.weightBytes && parts > i8.weightBytes - 200_000, "all but the room between tensors");
  // 24 layers · 2 · 2048 numbers a token, in blocks of 32, a scale for each head of 64; and as many positions of 2048
  const cached = (bytes: number) => 256 * 24 * 2 * 2048 * bytes + 288 * 2048 * 4, wide = await estimateMemory(source, { dtype: "i8", cache: "f32" });
  assert.ok(Math.abs(i8.cacheBytes - cached(2 + 4 / 64)) < 1e6, `${i8.cacheBytes}`);
  assert.ok(Math.abs(wide.cacheBytes - cached(4)) < 1e6, `${wide.cacheBytes}`);
  assert.deepEqual([i8.cache, f16.cache, f32.cache, wide.cache], ["i16", "f16", "f32", "f32"]);
  assert.deepEqual([64, 65].map((headWidth) => [cacheDtypeOf("auto", "i8", headWidth), cacheDtypeOf("i16", "f32", headWidth)]), [["i16", "i16"], ["f16", "f16"]]);
  const long = await estimateMemory(source, { tokens: 2000 });
  assert.ok(long.cacheBytes > 7.5 * i8.cacheBytes && long.arenaBytes > i8.arenaBytes && long.totalBytes > i8.totalBytes + 300e6);
  await assert.rejects(estimateMemory(source, { dtype: "i3" as never }), { code: "option-invalid" });
  await assert.rejects(estimateMemory(source, { cache: "bf16" as never }), { code: "option-invalid" });
  for (const options of [null, { tokens: -1 }, { tokens: 0 }, { tokens: 1.5 }, { tokens: "x" }, { threads: NaN }] as never[]) await assert.rejects(estimateMemory(source, options), { code: "option-invalid" });
  await assert.rejects(estimateMemory(source, { dtyp: "i8" } as never), { code: "option-unknown" });
});

test("Kosmos2.load refuses what can't fit before it reads any weights", async () => {
  for (const type of ["F32", "BF16"] as const) {
    const { source, read } = released(type);
    const files = { ...(source as Record<string, never>) };
    const { Kosmos2Model } = await import("kosmos2-wasm");
    await assert.rejects(Kosmos2Model.fromPretrained(files, { dtype: "f32" }), (error: unknown) => {
      assert.ok(error instanceof Kosmos2Error);
      assert.equal(error.code, "memory-exhausted");
      assert.match(error.message, /as f32: it needs 6\.\d\d GB; wasm has 4\.29 GB at most: use a smaller dtype/);
      assert.ok(error.details.neededBytes! > 6.6e9);
      assert.equal(error.details.availableBytes, 2 ** 32);
      return true;
    });
    assert.ok(read() < 2 ** 18);
  }
});

test("estimateMemory is what a loaded model takes", async () => {
  for (const dtype of ["f32", "i8", "i4", "w8a8"] as const) {
    const { weightBytes, totalBytes } = await estimateMemory("kosmos2-emoji", { dtype });
    const kosmos = await Kosmos2.load("kosmos2-emoji", { dtype });
    try {
      const { engine } = kosmos.model as unknown as { engine: { weights: { bytes: number }; passes: { arenas: { room: { bytes: number } }[] }; backend: { memory: WebAssembly.Memory } } };
      assert.equal(engine.weights.bytes, weightBytes);
      await kosmos.caption(`${root}demo/pictures/keys.png`, { maxNewTokens: 64 });
      const taken = engine.backend.memory.buffer.byteLength;
      assert.ok(taken < totalBytes && taken > weightBytes, `${taken} of ${totalBytes}, weights ${weightBytes}`);
      assert.ok(engine.passes.arenas[0].room.bytes > 0);
    } finally {
      await kosmos.dispose();
    }
  }
});

/** Runs with a runtime that can share so many bytes at most. */
async function withSharedUpTo<T>(bytes: number, work: () => Promise<T>): Promise<T> {
  const { Memory } = WebAssembly;
  class Limited extends Memory {
    constructor(options: WebAssembly.MemoryDescriptor) {
      if (options.shared && options.maximum! * 65536 > bytes) throw new RangeError("could not allocate memory");
      super(options);
    }
  }
  WebAssembly.Memory = Limited;
  try {
    return await work();
  } finally {
    WebAssembly.Memory = Memory;
  }
}

test("createWasmBackend shares less memory, or none, where a runtime has no room for more, and says so", async () => {
  const heard: string[] = [], logger = { warn: (message: string) => void heard.push(message) };
  const start = async (sizes: object) => {
    const backend = await createWasmBackend({ threads: 2, logger, ...sizes });
    try {
      const address = backend.alloc(2 ** 20); // it works
      backend.write(address, Uint8Array.of(1, 2, 3));
      assert.deepEqual(await backend.read(address, 3), Uint8Array.of(1, 2, 3));
      return backend.description;
    } finally {
      await backend.dispose();
    }
  };
  await withSharedUpTo(2 ** 30, async () => {
    assert.match(await start({ minBytes: 2 ** 28, maxBytes: 2 ** 29 }), /2 threads, shared memory/);
    assert.match(await start({ minBytes: 2 ** 28, maxBytes: 2 ** 32 }), /2 threads, shared memory/);
    assert.deepEqual(heard, []);
    assert.match(await start({ minBytes: 2 ** 31, maxBytes: 2 ** 32 }), /1 thread, memory of its own/);
    assert.match(heard.join(), /^One thread computes: 2147483648 bytes of memory can't be shared here$/);
    await assert.rejects(createWasmBackend({ shared: true, maxBytes: 2 ** 31 }), { code: "memory-exhausted" });
    const { used, reasons } = await capabilities({ threads: 2, maxBytes: 2 ** 32, minBytes: 2 ** 31 });
    assert.deepEqual([used.shared, used.threads], [false, 1]);
    assert.ok(reasons.includes("one thread: 2147483648 bytes of memory can't be shared here"), reasons.join("\n"));
    const some = await capabilities({ threads: 2, maxBytes: 2 ** 32 });
    assert.deepEqual([some.used.shared, some.used.threads], [true, 2]);
    assert.ok(some.reasons.some((reason) => /^only \d+ of 4294967296 bytes of memory can be shared here/.test(reason)), some.reasons.join("\n"));
  });
  assert.equal((await capabilities({ threads: 2, maxBytes: 2 ** 32 })).used.threads, 2);
});

test("capabilities finds out how much memory can be shared where a runtime takes fewer addresses than it was asked for and says nothing", async () => {
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    override grow(pages: number): number {
      if (this.buffer.byteLength + pages * 65536 > 2 ** 28) throw new RangeError("Unable to grow instance memory");
      return super.grow(pages);
    }
  };
  try {
    const { used, reasons } = await capabilities({ threads: 2, maxBytes: 2 ** 30 });
    assert.deepEqual([used.shared, used.threads], [true, 2]);
    const found = Number(/^only (\d+) of \d+ bytes of memory can be shared here$/.exec(reasons.find((reason) => reason.startsWith("only")) ?? "")?.[1]);
    assert.ok(found <= 2 ** 28 && found > 2 ** 28 - 2 ** 25, `${found}`);
  } finally {
    WebAssembly.Memory = Memory;
  }
});

test("createWasmBackend computes with fewer threads when not all of them start", async () => {
  const { Worker } = await import("node:worker_threads");
  const url = new URL("../../dist/backend/wasm/worker.node.js", import.meta.url), heard: string[] = [];
  let alive = 0;
  const workerFactory = () => {
    if (++alive > 1) return new Worker("throw new RangeError('no more threads')", { eval: true });
    return new Worker(url);
  };
  const backend = await createWasmBackend({ threads: 4, workerFactory: () => (heard.length === 2 ? new Worker(url) : workerFactory()), logger: { warn: (message) => void heard.push(message) } });
  assert.match(backend.description, /1 thread, shared memory/);
  assert.match(heard[0], /Of 4 threads not all did start \(.*no more threads.*\): 2 compute/);
  assert.match(heard[1], /Of 2 threads not all did start/);
  await backend.dispose();
});
