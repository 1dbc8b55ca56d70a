import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBF16, fromF16, pack, packedBytes, panelBytes, quantize, toF16, unpack } from "#src/weights/quant.js";
import { random } from "../support.js";

test("toF16 gives every half back, and halfway numbers go to the even neighbour", () => {
  for (let half = 0; half < 65536; half++) {
    const x = fromF16(half);
    if (Number.isNaN(x)) assert.ok(Number.isNaN(fromF16(toF16(x))));
    else assert.equal(toF16(x), half);
    if ((half & 0x7fff) >= 0x7bff) continue; // no finite neighbour above
    const between = (x + fromF16(half + 1)) / 2;
    assert.equal(toF16(between), half + (half & 1), `halfway above ${x}`);
  }
  assert.deepEqual([toF16(65519.99), toF16(65520), toF16(-Infinity), toF16(1e-30)], [0x7bff, 0x7c00, 0xfc00, 0]);
});

test("fromBF16 is the upper half of an f32", () => assert.deepEqual([0x3f80, 0xc000, 0].map(fromBF16), [1, -2, 0]));

test("panelBytes and packedBytes count padded outputs, and in i8 the scales and odd last inputs", () => {
  assert.deepEqual([panelBytes("f32", 37), panelBytes("f16", 37), panelBytes("i8", 128), panelBytes("i8", 131)],
    [37 * 32, 37 * 16, 32 + 64 * 16, 32 + 64 * 16 + 32 + 2 * 16]);
  assert.equal(packedBytes("i8", 9, 5), 2 * (32 + 3 * 16));
});

for (const [N, K] of [[1, 1], [37, 131], [8, 256]] as const) {
  const w = random(N * K, 7);
  test(`unpack(pack(w)) is w at ${N}×${K}: exactly in f32, within 2⁻¹¹ relative in f16, within half a step of the group's scale in i8`, () => {
    assert.deepEqual(unpack("f32", pack("f32", w, N, K), N, K), w);
    const f16 = unpack("f16", pack("f16", w, N, K), N, K), i8 = unpack("i8", pack("i8", w, N, K), N, K);
    w.forEach((value, i) => {
      assert.ok(Math.abs(f16[i]! - value) <= Math.max(2 ** -25, Math.abs(value) * 2 ** -11));
      assert.ok(Math.abs(i8[i]! - value) <= 0.5001 / 127); // largest of a group ≤ 1
    });
  });
}

test("pack in i8 makes a group's largest number ±127, and zeros of a group of zeros", () => {
  const w = Float32Array.from({ length: 256 }, (_, k) => (k < 128 ? (k - 64) / 640 : 0));
  const bytes = new Int8Array(pack("i8", w, 1, 256).buffer);
  assert.equal(bytes[32], -127);
  assert.ok(bytes.subarray(32 + 64 * 16).every((byte) => byte === 0));
});

test("quantize keeps 15 bits of a group's largest number and zeroes the padding", () => {
  const K = 131, ldq = 136, x = random(3 * K, 3, 50);
  const { rows, scales } = quantize(x, 3, K, ldq);
  for (let m = 0; m < 3; m++) {
    for (let k = 0; k < K; k++) {
      const scale = scales[m * 2 + (k >> 7)]!;
      assert.ok(Math.abs(rows[m * ldq + k]! * scale - x[m * K + k]!) <= 0.501 * scale);
    }
    assert.ok(rows.subarray(m * ldq + K, (m + 1) * ldq).every((value) => value === 0));
  }
});
