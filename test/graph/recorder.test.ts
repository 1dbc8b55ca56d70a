import assert from "node:assert/strict";
import { test } from "node:test";
import { RECORD_BYTES, readRecord } from "#src/graph/record.js";
import { Recorder, type StoredLinear } from "#src/graph/recorder.js";

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
  const places = [...together.flatMap(({ dst, ldd, scratch }) => [[dst, 40 * ldd * 4], [scratch, 2 * 17408]]), [together[0].x, 40 * together[0].ldx * 2], [together[0].scales, 40 * 4]];
  places.sort((one, other) => one[0] - other[0]);
  places.slice(1).forEach(([from], i) => assert.ok(places[i][0] + places[i][1] <= from, `${places}`));
});
