import assert from "node:assert/strict";
import { test } from "node:test";
import { formats, RECORD_BYTES, readRecord } from "#src/graph/record.js";
import type { Matrix } from "#src/graph/graph.js";
import { Cache } from "#src/graph/cache.js";
import { Batch, Recorder, type StoredLinear } from "#src/graph/recorder.js";
import { packedBytes } from "#src/weights/quant.js";

const linear = (inputs: number, outputs: number): StoredLinear => ({ inputs, outputs, format: "i8", address: 2 ** 20, bytes: packedBytes("i8", outputs, inputs), bias: 0 });

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
  const places = [...together.flatMap(({ dst, ldd, scratch }) => [[dst, 40 * ldd * 4], [scratch, 2 * (17408 + 5 * 512)]]), [together[0].x, 5 * 3584], [together[0].scales, 40 * 4]];
  places.sort((one, other) => one[0] - other[0]);
  places.slice(1).forEach(([from], i) => assert.ok(places[i][0] + places[i][1] <= from, `${places}`));
});

test("products of the same row are one where weights and biases lie behind those of the product before, and no others", () => {
  const x = (g: Recorder, rows = 1) => g.input(new Float32Array(rows * 64), rows, 64), first: StoredLinear = { ...linear(64, 32), bias: 4096 };
  const second: StoredLinear = { ...linear(64, 16), address: first.address + first.bytes, bias: 4096 + 4 * 32 };
  const third: StoredLinear = { ...linear(64, 8), address: second.address + second.bytes, bias: second.bias + 4 * 16 };
  const outputs = (record: (g: Recorder) => void): number[] => {
    const g = new Recorder(2, undefined);
    record(g);
    const pass = g.finish(), view = new DataView(pass.at(4096, { write() {} }).buffer);
    return Array.from({ length: pass.count }, (_, i) => readRecord(view, i)).filter(({ kind }) => kind.startsWith("matmul")).map(({ words }) => words.N);
  };
  const both = (one: StoredLinear, other: StoredLinear, between = (_: Recorder, made: Matrix): unknown => made) =>
    outputs((g) => { const row = x(g); between(g, g.linear(row, one)); g.linear(row, other); });
  assert.deepEqual(both(first, second), [48]);
  assert.deepEqual(both({ ...first, bias: 0 }, { ...second, bias: 0 }), [48]);
  assert.deepEqual(outputs((g) => { const row = x(g); for (const w of [first, second, third, first]) g.linear(row, w); }), [56, 32]);
  assert.deepEqual(both(second, first), [16, 32]);
  assert.deepEqual(both(first, { ...second, address: second.address + 64 }), [32, 16]);
  for (const bias of [0, second.bias + 64]) assert.deepEqual(both(first, { ...second, bias }), [32, 16]);
  assert.deepEqual(both({ ...first, bias: 0 }, second), [32, 16]);
  assert.deepEqual(both(first, { ...second, format: "w8a8" }), [32, 16]);
  assert.deepEqual(both({ ...first, outputs: 31 }, { ...second, bias: first.bias + 4 * 31 }), [31, 16]); // its last panel is not full
  assert.deepEqual(both(first, second, (g, made) => g.add(made, made)), [32, 16]);
  assert.deepEqual(outputs((g) => { const row = x(g); g.linear(row, first); g.linear(row, second, { activation: "gelu" }); g.linear(row, third); }), [32, 16, 8]);
  assert.deepEqual(outputs((g) => { const row = x(g), made = g.linear(row, first); g.linear(row, { ...second, outputs: 32 }, { residual: made }); }), [32, 32]);
  assert.deepEqual(outputs((g) => { g.linear(x(g), first); g.linear(x(g), second); }), [32, 16]);
  assert.deepEqual(outputs((g) => { const rows = x(g, 2); g.linear(rows, first); g.linear(rows, second); }), [32, 16]);
});

test("what joined products make lies side by side, for stages and sums too, and over nothing else", () => {
  const g = new Recorder(1, undefined), row = g.input(new Float32Array(64), 1, 64), first: StoredLinear = { ...linear(64, 1024), format: "f32", bytes: 64 * 1024 * 4 };
  const [one, other] = [first, { ...first, address: first.address + first.bytes }].map((w) => g.linear(row, w)), sum = g.add(other, one);
  for (const [name, x] of Object.entries({ one, other, sum })) g.keep(name, x);
  const pass = g.finish(), view = new DataView(pass.at(4096, { write() {} }).buffer), at = (name: string) => 4096 + pass.kept.get(name)!.offset;
  const [product, added] = [0, 1].map((i) => readRecord(view, i).words);
  assert.deepEqual([product.dst, product.N, at("other")], [at("one"), 2048, at("one") + 4 * 1024]);
  assert.deepEqual([added.x, added.y, added.dst], [at("other"), at("one"), at("sum")]);
  assert.ok(at("sum") >= at("other") + 4 * 1024 && pass.arenaBytes >= at("sum") + 4 * 1024 - 4096);
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

test("keys and values of a pass alone are int16 where the recorder is for whole numbers and heads are narrow enough, else f32", () => {
  for (const [integers, heads, format] of [[true, 2, formats.i16], [false, 2, formats.f32], [true, 1, formats.f32]] as const) {
    const g = new Recorder(2, undefined, integers), x = g.input(new Float32Array(3 * 128), 3, 128);
    g.keep("mixed", g.attention(x, g.keysValues(x, x), { heads }));
    const pass = g.finish(), records = pass.at(4096, { write() {} }), view = new DataView(records.buffer);
    const found = Array.from({ length: pass.count }, (_, i) => readRecord(view, i));
    assert.deepEqual(found.map(({ kind, words }) => [kind, words.format]), ["store_keys", "store_values", "attention"].map((kind) => [kind, format]));
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
