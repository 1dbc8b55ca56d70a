import assert from "node:assert/strict";
import { test } from "node:test";
import { sinusoids } from "#src/graph/sinusoids.js";

test("sinusoids equals PyTorch's table at the published places, to 1e-6", () => {
  // Hugging Face's Kosmos2TextSinusoidalPositionalEmbedding, width 2048, padding 1
  const table = sinusoids(0, 501, 2048, 1);
  const places: [row: number, column: number, value: number][] = [
    [2, 0, 0.90929741], [2, 1, 0.91661066], [2, 2, 0.92356777], [2, 1023, 0.00020000017], [2, 1024, -0.41614684], [2, 1025, -0.39978102],
    [2, 1026, -0.38343516], [2, 2047, 1], [72, 0, 0.25382337], [72, 1, 0.78454113], [72, 2, 0.99957079], [72, 1024, -0.96725059], [500, 0, -0.4677718],
  ];
  for (const [row, column, value] of places) {
    assert.ok(Math.abs(table[row * 2048 + column] - value) < 1e-6, `S[${row}, ${column}] = ${table[row * 2048 + column]}, wanted ${value}`);
  }
});

test("sinusoids leaves the padding's row and an odd last column zero", () => {
  const table = sinusoids(0, 3, 7, 1);
  assert.deepEqual([...table.subarray(7, 14)], [0, 0, 0, 0, 0, 0, 0]);
  assert.equal(table[20], 0);
  assert.equal(table[0 + 3], 1, "cos 0");
});
