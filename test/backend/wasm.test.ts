import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import type { Backend } from "#src/backend/backend.js";
import { capabilities, createWasmBackend, type WasmOptions } from "#src/backend/wasm/wasm.js";
import { bytesOf } from "#src/graph/memory.js";
import { RECORD_BYTES, writeRecord } from "#src/graph/record.js";
import { Kosmos2Error } from "#src/errors.js";
import { random, root } from "../support.js";

/** Adds x to dst, `times` records long. */
function additions(dst: number, x: number, columns: number, times: number): Uint8Array {
  const records = new Uint8Array(times * RECORD_BYTES), view = new DataView(records.buffer);
  for (let i = 0; i < times; i++) writeRecord(view, i, "copy", { dst, ldd: columns, x: i ? dst : x, ldx: columns, y: x, ldy: columns, M: 1, D: columns });
  return records;
}

async function withBackend(options: WasmOptions, use: (backend: Backend) => Promise<void>): Promise<void> {
  const backend = await createWasmBackend(options);
  try {
    await use(backend);
  } finally {
    await backend.dispose();
  }
}

const code = (wanted: string) => (error: unknown) => error instanceof Kosmos2Error && error.code === wanted;
const forms: Record<string, WasmOptions> = {
  "one thread, shared memory": { threads: 1 },
  "two threads": { threads: 2 },
  "five threads": { threads: 5 },
  "a worker with a memory of its own": { shared: false },
  "the caller's thread": { worker: false },
};

for (const [form, options] of Object.entries(forms)) {
  test(`the wasm backend on ${form} carries out records in order`, () => withBackend({ engine: "plain", ...options }, async (backend) => {
    const x = random(1000, 3), address = backend.alloc(4000), dst = backend.alloc(4000);
    backend.write(address, bytesOf(x));
    for (let round = 1; round <= 3; round++) {
      await backend.run(additions(dst, address, 1000, 7), 7);
      const sum = new Float32Array((await backend.read(dst, 4000)).buffer);
      let wanted = x.map((v) => v + v);
      for (let i = 1; i < 7; i++) wanted = wanted.map((v, j) => v + x[j]);
      assert.deepEqual(sum, wanted);
      if (round === 2) await new Promise((resolve) => setTimeout(resolve, 60)); // threads have gone back to their event loops
    }
  }));

  test(`the wasm backend on ${form} grows without moving anything`, () => withBackend({ engine: "plain", ...options }, async (backend) => {
    const x = backend.alloc(40);
    backend.write(x, bytesOf(random(10, 5)));
    const far = backend.alloc(2 ** 24);
    backend.write(far + 2 ** 24 - 40, bytesOf(random(10, 6)));
    await backend.run(additions(far, x, 10, 1), 1);
    assert.deepEqual(new Float32Array((await backend.read(x, 40)).buffer), random(10, 5));
    assert.deepEqual(new Float32Array((await backend.read(far, 40)).buffer), random(10, 5).map((v) => v + v));
    assert.deepEqual(new Float32Array((await backend.read(far + 2 ** 24 - 40, 40)).buffer), random(10, 6));
  }));

  test(`the wasm backend on ${form} stops between records on abort, keeps the event loop free, and goes on`, () =>
    withBackend({ engine: "plain", ...options }, async (backend) => {
      const columns = 250_000, x = backend.alloc(4 * columns), dst = backend.alloc(4 * columns), reason = new Error("enough");
      backend.write(x, bytesOf(random(columns, 9)));
      const long = additions(dst, x, columns, 40_000); // seconds of work
      const controller = new AbortController();
      let lag = 0, tick = performance.now();
      const timer = setInterval(() => {
        lag = Math.max(lag, performance.now() - tick - 2);
        tick = performance.now();
      }, 2);
      const start = performance.now();
      setTimeout(() => controller.abort(reason), 30);
      await assert.rejects(backend.run(long, 40_000, controller.signal), reason);
      clearInterval(timer);
      assert.ok(performance.now() - start < 1500, "far from the end");
      assert.ok(lag < 250, `the event loop stood still for ${lag} ms`); // 50 on a quiet machine; tests run side by side
      await backend.run(additions(dst, x, columns, 1), 1);
    }));

  test(`the wasm backend on ${form} ends a run that it is told to, and an end that comes late hits no other`, () =>
    withBackend({ engine: "plain", ...options }, async (backend) => {
      const columns = 250_000, x = backend.alloc(4 * columns), dst = backend.alloc(4 * columns), values = random(columns, 9);
      backend.write(x, bytesOf(values));
      const start = performance.now();
      setTimeout(() => backend.abort(), 30);
      await backend.run(additions(dst, x, columns, 40_000), 40_000);
      assert.ok(performance.now() - start < 1500, "far from the end");
      backend.abort(); // of nothing
      await new Promise((resolve) => setTimeout(resolve, 5));
      await backend.run(additions(dst, x, columns, 3), 3);
      assert.deepEqual(new Float32Array((await backend.read(dst, 4 * columns)).buffer), values.map((v) => Math.fround(v + v) + v).map((v, i) => v + values[i]));
    }));

  test(`the wasm backend on ${form} rejects what is under way when it is disposed of, and all that follows`, async () => {
    const backend = await createWasmBackend({ engine: "plain", ...options });
    const columns = 250_000, x = backend.alloc(4 * columns);
    const run = backend.run(additions(x, x, columns, 40_000), 40_000);
    setTimeout(() => void backend.dispose(), 20);
    await assert.rejects(run, code("disposed"));
    await backend.dispose();
    assert.throws(() => void backend.run(new Uint8Array(RECORD_BYTES), 1), code("disposed"));
    assert.throws(() => backend.alloc(1), code("disposed"));
  });

  test(`the wasm backend on ${form} rejects with worker-lost when a kernel traps, and leaves no thread waiting`, async () => {
    const backend = await createWasmBackend({ engine: "plain", ...options });
    const unknown = new Uint8Array(RECORD_BYTES).fill(77);
    if (options.worker !== false) await assert.rejects(backend.run(unknown, 1), (error) => {
      assert.ok(code("worker-lost")(error));
      const { message, details } = error as Kosmos2Error;
      assert.match(message, /^Cannot go on: a thread of the engine died: RuntimeError: unreachable; load the model again$/);
      assert.match(String(details.found), /^RuntimeError: unreachable\n +at [\s\S]*wasm/);
      return true;
    });
    else await assert.rejects(backend.run(unknown, 1), code("worker-lost"));
    assert.throws(() => void backend.run(unknown, 1), code("worker-lost"));
    await backend.dispose();
  });
}

for (const threads of [1, 2, 5]) {
  test(`${threads} threads go on to the next run by themselves, in order, while the host reads and writes what is not in use`, () => withBackend({ threads }, async (backend) => {
    assert.ok(backend.queues);
    const x = backend.alloc(40), sums = [backend.alloc(40), backend.alloc(40)], ones = new Float32Array(10).fill(1);
    backend.write(x, bytesOf(ones));
    let last = backend.run(additions(sums[0], x, 10, 1), 1);
    for (let i = 1; i < 300; i++) {
      const next = backend.run(additions(sums[i & 1], sums[(i - 1) & 1], 10, 1), 1); // twice what the one before made
      await last;
      assert.equal(new Float32Array((await backend.read(sums[(i - 1) & 1], 40)).buffer)[9], 2 ** (i % 100));
      if (i % 100 === 99) {
        await next;
        backend.write(sums[i & 1], bytesOf(ones));
      }
      if (i % 60 === 30) await new Promise((resolve) => setTimeout(resolve, i % 120 === 30 ? 30 : 1)); // threads sleep, or are just about to
      backend.free(backend.alloc(i % 50 === 1 ? i * 100_000 : 40));
      last = next;
    }
    await last;
  }));

  test(`${threads} threads end both runs on abort, and begin anew`, () => withBackend({ threads }, async (backend) => {
    const columns = 250_000, x = backend.alloc(4 * columns), dst = backend.alloc(4 * columns), reason = new Error("enough");
    backend.write(x, bytesOf(random(columns, 9)));
    const long = additions(dst, x, columns, 40_000), controller = new AbortController();
    const first = backend.run(long, 40_000, controller.signal), second = backend.run(long, 40_000);
    const start = performance.now();
    setTimeout(() => controller.abort(reason), 30);
    await assert.rejects(first, reason);
    await second;
    assert.ok(performance.now() - start < 1500, "far from the end");
    await backend.run(additions(dst, x, columns, 1), 1);
    assert.deepEqual(new Float32Array((await backend.read(dst, 40)).buffer), random(columns, 9).slice(0, 10).map((v) => v + v));
  }));

  test(`${threads} threads begin no run after one that was ended: what it goes on from may not be there`, () => withBackend({ threads }, async (backend) => {
    const columns = 20_000, x = backend.alloc(4 * columns), dst = backend.alloc(4 * columns), untouched = backend.alloc(40), zeros = new Float32Array(10);
    backend.write(x, bytesOf(random(columns, 9)));
    backend.write(untouched, bytesOf(zeros));
    const long = additions(dst, x, columns, 20_000), reason = new Error("enough");
    for (let round = 0; round < 20; round++) {
      const controller = new AbortController(), first = backend.run(long, 20_000, controller.signal);
      if (round % 3 === 2) await new Promise((resolve) => setTimeout(resolve, 1));
      const second = backend.run(additions(untouched, x, 10, 2), 2, controller.signal);
      if (round % 2) await new Promise((resolve) => setTimeout(resolve, round));
      controller.abort(reason);
      await Promise.all([assert.rejects(first, reason), assert.rejects(second, reason)]);
      assert.deepEqual(new Float32Array((await backend.read(untouched, 40)).buffer), zeros);
    }
    await backend.run(additions(untouched, x, 10, 1), 1);
    assert.deepEqual(new Float32Array((await backend.read(untouched, 40)).buffer), random(columns, 9).slice(0, 10).map((v) => v + v));
  }));

  test(`${threads} threads: both runs reject when the backend is disposed of, or a kernel traps`, async () => {
    for (const trap of [false, true]) {
      const backend = await createWasmBackend({ threads }), x = backend.alloc(4_000_000);
      const first = backend.run(trap ? new Uint8Array(RECORD_BYTES).fill(77) : additions(x, x, 1_000_000, 10_000), trap ? 1 : 10_000);
      const second = backend.run(additions(x, x, 10, 1), 1), wanted = code(trap ? "worker-lost" : "disposed");
      if (!trap) setTimeout(() => void backend.dispose(), 20);
      await Promise.all([assert.rejects(first, wanted), assert.rejects(second, wanted)]);
      await backend.dispose();
    }
  });
}

test("capabilities says what is used and why not more", async () => {
  const { used, reasons, simd } = await capabilities({ shared: false });
  assert.deepEqual([used.shared, used.threads, simd], [false, 1, true]);
  assert.ok(reasons.some((reason) => reason.includes("declined")));
  await assert.rejects(capabilities({ threads: 0 }), code("option-invalid"));
  await assert.rejects(capabilities({ threads: NaN }), (error) => code("option-invalid")(error) && /found NaN/.test((error as Error).message));
  const many = await capabilities({ threads: 1000 });
  assert.equal(many.used.threads, 128);
  assert.ok(many.reasons.includes("128 threads: the most there can be, not 1000"), many.reasons.join());
  await assert.rejects(capabilities({ engine: "fast" as "plain" }), code("option-invalid"));
});

test("the logger hears when fewer threads compute than were asked for, and nothing else", async () => {
  const heard: string[] = [], logger = { warn: (line: string) => void heard.push(line) };
  for (const options of [{ threads: 2 }, { shared: false }, { threads: 1, shared: false }]) await withBackend({ ...options, logger }, async () => {});
  assert.deepEqual(heard, []);
  await withBackend({ threads: 3, shared: false, logger }, async () => {});
  assert.deepEqual(heard, ["Of 3 threads not all compute (one thread: shared memory was declined)"]);
});

test("a memory that would outgrow its limit is refused with what was needed", () => withBackend({ threads: 1, maxBytes: 2 ** 20 }, async (backend) => {
  assert.throws(() => backend.alloc(2 ** 26), (error) => code("memory-exhausted")(error) && (error as Kosmos2Error).details.neededBytes! > 2 ** 26);
  backend.alloc(1000); // and the rest is still there
}));

test("a script that loaded the backend and forgot it ends by itself", () => {
  const script = `import { createWasmBackend } from "./dist/backend/wasm/wasm.js";
    const backend = await createWasmBackend({ threads: 2 });
    const { RECORD_BYTES, writeRecord } = await import("./dist/graph/record.js");
    const x = backend.alloc(64), records = new Uint8Array(RECORD_BYTES);
    writeRecord(new DataView(records.buffer), 0, "copy", { dst: x, ldd: 4, x, ldx: 4, y: 0, ldy: 0, M: 1, D: 4 });
    await backend.run(records, 1); console.log("done");`;
  assert.equal(execFileSync(process.execPath, ["--input-type=module", "-e", script], { cwd: root, timeout: 10_000, encoding: "utf8" }).trim(), "done");
});
