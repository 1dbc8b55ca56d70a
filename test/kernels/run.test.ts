/** Lists of records: order, abort, unknown kinds; and threads that really run side by side. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { writeRecord } from "#src/graph/record.js";
import { random } from "../support.js";
import { assertSameBits, Machine, moduleBytes } from "./machine.js";

const CONTROL = 64, LIST = 1024;

test("run carries records out in order and returns 0", () => {
  const m = new Machine("plain"), view = new DataView(m.memory.buffer), x = 8192;
  view.setFloat32(x, 3, true);
  for (let i = 0; i < 4; i++) writeRecord(new DataView(m.memory.buffer, LIST), i, "copy", { dst: x, ldd: 1, x, ldx: 1, y: x, ldy: 1, M: 1, D: 1 });
  assert.equal(m.kernels.run(LIST, 4, 0, 1, CONTROL), 0);
  assert.equal(view.getFloat32(x, true), 48);
});

test("run leaves with 1 after the record during which abort was asked for", () => {
  const m = new Machine("plain"), view = new DataView(m.memory.buffer), x = 8192;
  view.setFloat32(x, 3, true);
  view.setUint32(CONTROL + 16, 1, true);
  for (let i = 0; i < 4; i++) writeRecord(new DataView(m.memory.buffer, LIST), i, "copy", { dst: x, ldd: 1, x, ldx: 1, y: x, ldy: 1, M: 1, D: 1 });
  assert.equal(m.kernels.run(LIST, 4, 0, 1, CONTROL), 1);
  assert.equal(view.getFloat32(x, true), 6);
});

test("run traps on a kind that does not exist", () => {
  const m = new Machine("plain");
  new DataView(m.memory.buffer).setUint32(LIST, 99, true);
  assert.throws(() => m.kernels.run(LIST, 1, 0, 1, CONTROL), WebAssembly.RuntimeError);
});

test("modules export functions only, import a memory and where threads sleep, and have no mutable globals", () => {
  for (const name of ["plain", "plain-shared"]) {
    const module = new WebAssembly.Module(moduleBytes(name));
    const imports = WebAssembly.Module.imports(module).map(({ name, kind }) => `${kind} ${name}`).sort();
    assert.deepEqual(imports, name === "plain" ? ["memory memory"] : ["function sleep", "memory memory"]);
    const names = WebAssembly.Module.exports(module).map(({ name }) => name).sort();
    assert.deepEqual(names.filter((name) => name !== "memory"), ["run", "spinForJob"]);
  }
  for (const name of ["plain", "plain-shared", "relaxed", "relaxed-shared"]) assert.deepEqual(mutableGlobals(moduleBytes(name)), 0, name);
});

/** Counts the mutable entries of a module's global section. */
function mutableGlobals(bytes: Uint8Array): number {
  let at = 8;
  const number = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const id = bytes[at++], size = number(), end = at + size;
    if (id === 6) {
      let mutable = 0;
      for (let count = number(); count > 0; count--) {
        at++; // type
        mutable += bytes[at++];
        while (bytes[at++] !== 0x0b);
      }
      return mutable;
    }
    at = end;
  }
  return 0;
}

const workerSource = `
  const { parentPort, workerData: { module, memory, t, n } } = require("node:worker_threads");
  const words = new Int32Array(memory.buffer);
  const sleep = (address, value) => void Atomics.wait(words, address / 4, value, 5);
  const { run, spinForJob } = new WebAssembly.Instance(module, { env: { memory, sleep } }).exports;
  let job = 0;
  parentPort.postMessage("ready");
  (function next() {
    for (;;) {
      const now = spinForJob(${CONTROL}, job, 100);
      if (now === job) Atomics.wait(words, ${CONTROL / 4 + 6}, job, 50);
      if (now === job) continue;
      job = now;
      if (job < 0) return parentPort.close();
      const code = run(${LIST}, words[16 + 32], t, n, ${CONTROL});
      parentPort.postMessage(code);
    }
  })();`;

/** @param n threads that are started, of `of` that the list is shared by */
async function withThreads(n: number, use: (memory: WebAssembly.Memory, job: (count: number) => Promise<number[]>, words: Int32Array) => Promise<void>, of = n) {
  const module = new WebAssembly.Module(moduleBytes("plain-shared"));
  const memory = new WebAssembly.Memory({ initial: 256, maximum: 65536, shared: true }), words = new Int32Array(memory.buffer);
  const workers = Array.from({ length: n }, (_, t) => new Worker(workerSource, { eval: true, workerData: { module, memory, t, n: of } }));
  const messages = () => Promise.all(workers.map((worker) => new Promise<number>((resolve) => worker.once("message", resolve))));
  await messages();
  const start = (job: number) => {
    Atomics.store(words, CONTROL / 4 + 6, job);
    Atomics.notify(words, CONTROL / 4 + 6);
  };
  let jobs = 0;
  try {
    await use(memory, (count) => {
      words[48] = count;
      const done = messages();
      start(++jobs);
      return done;
    }, words);
  } finally {
    start(-1);
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("exit", resolve))));
  }
}

test("a thread that sleeps at a barrier stays there until the last one comes, however often it looks, in code that was never run before", async () => {
  const at = 65536, records = 20, arrived = CONTROL / 4, generation = arrived + 1, sleepers = arrived + 2;
  await withThreads(1, async (memory, job, words) => {
    for (let i = 0; i < records; i++) {
      writeRecord(new DataView(memory.buffer, LIST), i, "copy", { dst: at, ldd: 1, x: at, ldx: 1, y: 0, ldy: 0, M: 1, D: 1 });
    }
    const done = job(records);
    for (let i = 0; i < records; i++) { // the second thread is this one
      while (Atomics.load(words, sleepers) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      await new Promise((resolve) => setTimeout(resolve, 20)); // it looks four times
      assert.deepEqual([Atomics.load(words, arrived), Atomics.load(words, generation)], [1, i]);
      Atomics.store(words, arrived, 0);
      Atomics.add(words, generation, 1);
      Atomics.notify(words, generation);
      while (Atomics.load(words, sleepers) === 1 && Atomics.load(words, arrived) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.deepEqual(await done, [0]);
  }, 2);
});

test("three threads with barriers give the bits of one, and sleep and wake where one is slow", async () => {
  const M = 9, D = 64, x = random(M * D), w = random(D * D, 2), rounds = 30, at = 65536;
  const lists = (memory: WebAssembly.Memory) => {
    new Float32Array(memory.buffer, at, x.length).set(x);
    for (let panel = 0; panel < D / 8; panel++) for (let k = 0; k < D; k++) for (let o = 0; o < 8; o++) {
      new Float32Array(memory.buffer, 2 * at, D * D)[(panel * D + k) * 8 + o] = w[(panel * 8 + o) * D + k] / 4;
    }
    for (let i = 0; i < rounds; i++) { // back and forth between two places: a missing barrier shows
      const [from, to] = i % 2 ? [at + 8192, at] : [at, at + 8192];
      writeRecord(new DataView(memory.buffer, LIST), i, "matmul_f32", { dst: to, ldd: D, x: from, ldx: D, w: 2 * at, ldr: 0, M, K: D, N: D, activation: 6, scratch: 4 * at });
    }
  };
  const one = new Machine("plain");
  lists(one.memory);
  assert.equal(one.kernels.run(LIST, rounds, 0, 1, CONTROL), 0);
  await withThreads(3, async (memory, job) => {
    for (let repeat = 0; repeat < 5; repeat++) {
      lists(memory);
      assert.deepEqual(await job(rounds), [0, 0, 0]);
      assertSameBits(new Float32Array(new Uint8Array(memory.buffer, at, x.byteLength).slice().buffer), one.floats(at, x.length), "result");
    }
  });
});

test("an abort takes all threads out at the same record, a poisoned run lets nobody wait", async () => {
  const at = 65536, D = 256;
  await withThreads(2, async (memory, job, words) => {
    for (let i = 0; i < 100; i++) {
      writeRecord(new DataView(memory.buffer, LIST), i, "copy", { dst: at, ldd: D, x: at, ldx: D, y: at + 65536, ldy: D, M: 4, D });
    }
    words[CONTROL / 4 + 4] = 1;
    assert.deepEqual(await job(100), [1, 1]);
    words[CONTROL / 4 + 4] = 0;
    assert.deepEqual(await job(100), [0, 0]);
    words[CONTROL / 4 + 3] = 1;
    assert.deepEqual(await job(100), [2, 2]);
  });
});
