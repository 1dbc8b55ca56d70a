import assert from "node:assert/strict";
import { test } from "node:test";
import { RECORD_BYTES, readRecord } from "#src/graph/record.js";
import { Cache } from "#src/graph/cache.js";
import { Batch, Recorder, type StoredLinear } from "#src/graph/recorder.js";

const linear = (inputs: number, outputs: number): StoredLinear => ({ inputs, outputs, format: "i8", address: 2 ** 20, bias: 0 });

test("threads go on between products of the same rows, whose results and rows lie apart, and wait before one that needs another's", () => {
  const g = new Recorder(2, undefined);
  const x = g.linear(g.input(new Float32Array(40 * 64), 40, 64), linear(64, 64));
  const [a, , c] = [64, 32, 16].map((outputs) => g.linear(x, linear(64, outputs)));
  g.keep("sum", g.linear(a, linear(64, 16), { residual: c }));
  const pass = g.finish(), records = pass.at(4096, { write() {} }), view = new DataView(records.buffer);
  const found = Array.from({ length: pass.count }, (_, i) => ({ ...readRecord(view, i), goesOn: view.getUint32((i + 1) * RECORD_BYTES - 4, true) }));
  assert.deepEqual(found.map(({ kind, goesOn }) => [kind, goesOn]), [
    ["quantize", 0], ["matmul_i8", 0], ["quantize", 0], ["matmul_i8", 1], ["matmul_i8", 1], ["matmul_i8", 0], ["quantize", 0], ["matmul_i8", 0],
  ]);
  const together = found.slice(3, 6).map(({ words }) => words);
  const places = [...together.flatMap(({ dst, ldd, scratch }) => [[dst, 40 * ldd * 4], [scratch, 2 * (17408 + 5 * 512)]]), [together[0].x, 5 * 3584], [together[0].scales, 40 * 8]];
  places.sort((one, other) => one[0] - other[0]);
  places.slice(1).forEach(([from], i) => assert.ok(places[i][0] + places[i][1] <= from, `${places}`));
});

test("rows come in eights for products of many of them, at most four of the first ones as they are, and both ways where two products want it", () => {
  for (const [M, i8, i4] of [[5, 0, 0], [6, 0, 1], [23, 0, 3], [24, 3, 3], [28, 3, 3], [29, 4, 4], [257, 32, 32]]) {
    const g = new Recorder(1, undefined), x = g.input(new Float32Array(M * 64), M, 64);
    for (const format of ["i8", "i4", "i8", "w8a8"] as const) {
      const weight: StoredLinear = { ...linear(64, 8), format };
      g.linear(x, weight);
    }
    const pass = g.finish(), records = pass.at(4096, { write() {} }), view = new DataView(records.buffer);
    const found = Array.from({ length: pass.count }, (_, i) => readRecord(view, i));
    assert.deepEqual(found.map(({ kind, words }) => [kind, words.eights]), [
      ["quantize", i8], ["matmul_i8", i8], ...(i4 === i8 ? [] : [["quantize", i4]]), ["matmul_i4", i4], ["matmul_i8", i8], ["quantize_i8", 0], ["matmul_w8a8", 0],
    ]);
  }
});

test("a row that attends to a cache alone does so without waiting for all stores, more rows wait", () => {
  const memory = { alloc: () => 2 ** 16, free() {}, write() {} };
  for (const [rows, goesOn] of [[1, [1, 1, 0]], [2, [1, 0, 0]]] as const) {
    const g = new Recorder(2, undefined), cache = new Cache(memory, { layers: 1, heads: 2, headWidth: 8, format: "f16" }, 64), x = g.input(new Float32Array(rows * 16), rows, 16);
    g.keep("mixed", g.attention(x, g.append(new Batch([{ cache, rows }]), 0, x, x), { heads: 2 }));
    const pass = g.finish(), records = pass.at(4096, { write() {} }), view = new DataView(records.buffer);
    assert.deepEqual(
      Array.from({ length: pass.count }, (_, i) => [readRecord(view, i).kind, view.getUint32((i + 1) * RECORD_BYTES - 4, true)]),
      ["store_keys", "store_values", "attention"].map((kind, i) => [kind, goesOn[i]]),
    );
  }
});
