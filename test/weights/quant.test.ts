import assert from "node:assert/strict";
import { test } from "node:test";
import { clearOutput, fromBF16, fromF16, offsetOf, packedBytes, panelBytes, panelOf, placeByte } from "#src/weights/quant.js";
import { pack, quantize, quantizeI8, toF16, unpack } from "#src/weights/reference.js";
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

test("panelBytes and packedBytes count padded outputs, in i8, i4 and w8a8 the scales and shares, and a last step's inputs that are not there", () => {
  assert.deepEqual([panelBytes("i4", 128), panelBytes("i4", 131), panelBytes("i4", 256 + 33)], [1120, 1120 + 32 + 16 + 2 * 16, 2 * 1120 + 32 + 32 + 17 * 16]);
  assert.deepEqual([panelBytes("f32", 37), panelBytes("f16", 37), panelBytes("i8", 128), panelBytes("i8", 131)],
    [37 * 32, 37 * 16, 32 + 64 * 32, 32 + 64 * 32 + 32 + 2 * 32]);
  assert.deepEqual([panelBytes("w8a8", 128), panelBytes("w8a8", 133)], [16 + 32 * 32, 16 + 32 * 32 + 16 + 2 * 32]);
  assert.deepEqual([packedBytes("i8", 9, 5), packedBytes("i8", 17, 5), packedBytes("w8a8", 9, 5)], [32 + 3 * 32, 2 * (32 + 3 * 32), 2 * (16 + 2 * 32)]);
});

for (const [N, K] of [[1, 1], [37, 131], [8, 256]] as const) {
  const w = random(N * K, 7);
  test(`unpack(pack(w)) is w at ${N}×${K}: exactly in f32, within 2⁻¹¹ relative in f16, within half a step of the group's scale in i8 and w8a8`, () => {
    assert.deepEqual(unpack("f32", pack("f32", w, N, K), N, K), w);
    const f16 = unpack("f16", pack("f16", w, N, K), N, K), i8 = unpack("i8", pack("i8", w, N, K), N, K), w8a8 = unpack("w8a8", pack("w8a8", w, N, K), N, K);
    w.forEach((value, i) => {
      assert.ok(Math.abs(f16[i]! - value) <= Math.max(2 ** -25, Math.abs(value) * 2 ** -11));
      assert.ok(Math.abs(i8[i]! - value) <= 0.5001 / 127); // largest of a group ≤ 1
      assert.ok(Math.abs(w8a8[i]! - value) <= 0.5001 / 63);
    });
  });
}

test("pack in i8 makes a group's largest number ±127, and zeros of a group of zeros and behind the last input: 128 more in low bytes", () => {
  const N = 16, K = 257, w = Float32Array.from({ length: N * K }, (_, i) => (i % K < 128 ? ((i % K) - 64) / 640 : i % K < 256 ? 0 : 7));
  const bytes = pack("i8", w, N, K), group = 32 + 64 * 32, lanes = (at: number) => [...new Int16Array(bytes.buffer, at, 16)];
  const inputs = (first: number, second: number) => Array.from({ length: 16 }, (_, lane) => 257 * (lane % 2 ? second : first) + 128);
  assert.deepEqual(lanes(32), inputs(-127, -125));
  assert.deepEqual(lanes(32 + 32 * 32), inputs(0, 2));
  for (let step = 0; step < 64; step++) assert.deepEqual(lanes(group + 32 + step * 32), inputs(0, 0));
  assert.deepEqual(lanes(2 * group + 32), inputs(127, 0));
});

test("a scale is cut to 16 bits, with which a group's largest number is ±limit whatever it is, from 2⁻¹⁰⁰ to the largest there is", () => {
  const most = 2 ** 128 - 2 ** 104, tops = Array.from({ length: 4096 }, (_, i) => 2 ** (i % 2 ? 126 : -100) * (1 + i / 4096));
  for (const top of [...tops, 2 ** -100, most, most * (1 - 2 ** -9)]) for (const [format, limit] of [["i8", 127], ["w8a8", 63]] as const) {
    const bytes = pack(format, Float32Array.of(top, -top), 1, 2), [found, other] = unpack(format, bytes, 1, 2), view = new DataView(bytes.buffer);
    assert.ok(Math.abs(found! / top - 1) < 2 ** -8 && Math.abs(found!) <= top && other === -found!, `${format}: ${top} became ${found}`);
    const numbers = [0, 1].map((k) => view.getUint8(placeByte(format, k, 0)) - offsetOf(format, 0));
    assert.deepEqual(numbers, [limit, -limit], `${format}, ${top}`);
  }
  const nothing = Float32Array.of(2 ** -101, -(2 ** -101));
  for (const format of ["i8", "i4", "w8a8"] as const) assert.ok(unpack(format, pack(format, nothing, 1, 2), 1, 2).every((x) => x === 0));
});

test("i8 puts an output and the one four further into a lane of 16 bits, inputs side by side", () => {
  for (let n = 0; n < 16; n++) {
    const w = new Float32Array(16 * 128), lane = (n >> 3) * 8 + (n % 4) * 2;
    w[n * 128] = 1;
    w[n * 128 + 1] = -1;
    const lanes = new Int16Array(pack("i8", w, 16, 128).buffer, 32, 16), times = n % 8 < 4 ? 1 : 256;
    assert.deepEqual([...lanes], Array.from({ length: 16 }, (_, i) => 128 + (i === lane ? 127 : i === lane + 1 ? -127 : 0) * times));
  }
});

test("i4 puts an output and those four, eight and twelve further into a lane of 16 bits, inputs side by side", () => {
  for (let n = 0; n < 16; n++) {
    const w = Float32Array.from({ length: 16 * 32 }, (_, i) => (i % 32 === 31 ? -8 : 0)); // for a step of 1
    w[n * 32] = 1;
    w[n * 32 + 1] = -1;
    const lanes = new Int16Array(pack("i4", w, 16, 32).buffer, 48, 8), times = 16 ** (n >> 2), zeros = 0x888;
    assert.deepEqual([...lanes], Array.from({ length: 8 }, (_, i) => zeros + (i === (n % 4) * 2 ? 1 : i === (n % 4) * 2 + 1 ? -1 : 0) * times));
  }
});

test("pack in i4 errs by half a step or what is past −8 … 7, less than with any one step tried alone, and keeps zeros", () => {
  for (const [N, K] of [[1, 1], [3, 37], [8, 32], [9, 293]] as const) {
    const w = random(N * K, K), found = unpack("i4", pack("i4", w, N, K), N, K);
    let plain = 0, ours = 0;
    for (let n = 0; n < N; n++) for (let from = 0; from < K; from += 32) {
      const some = w.subarray(n * K + from, n * K + Math.min(K, from + 32)), step = some.reduce((top, x) => Math.max(top, Math.abs(x)), 0) / 7;
      some.forEach((x, i) => {
        plain += (x - step * Math.round(x / step)) ** 2;
        ours += (x - found[n * K + from + i]) ** 2;
      });
    }
    assert.ok(ours < plain || ours < 1e-5, `${N}×${K}: ${ours}, with the plain step ${plain}`);
  }
  const w = Float32Array.from({ length: 160 }, (_, k) => (k < 64 ? 0 : k < 128 ? k - 96 : 0)), found = unpack("i4", pack("i4", w, 1, 160), 1, 160);
  assert.ok(found.every((x, k) => (k >= 64 && k < 128) || x === 0));
  assert.ok(found.every((x, k) => Math.abs(x - w[k]) < 32 / 7.5));
  assert.ok(pack("i4", new Float32Array(160), 1, 160).every((byte) => byte === 0));
});

test("a share is signed: a lone large number of either sign is as wide as 8 steps", () => {
  for (const sign of [1, -1]) {
    const w = Float32Array.from({ length: 32 }, (_, k) => (k === 5 ? 8 * sign : ((k % 7) - 3) * sign * -1));
    unpack("i4", pack("i4", w, 1, 32), 1, 32).forEach((x, k) => assert.ok(Math.abs(x - w[k]) < 0.07, `${x}, wanted ${w[k]}`));
  }
});

for (const format of ["f32", "f16", "i8", "i4", "w8a8"] as const) test(`clearOutput makes one output of a panel of ${format} zero and leaves the others`, () => {
  const N = panelOf(format);
  for (const K of [1, 5, 37, 128, 165]) for (const lane of [0, 3, 7, N - 1]) {
    const w = random(N * K, K), panel = pack(format, w, N, K), before = unpack(format, panel, N, K);
    clearOutput(format, panel, K, lane);
    assert.deepEqual(unpack(format, panel, N, K).map((x) => x + 0), before.map((x, i) => (Math.floor(i / K) === lane ? 0 : x + 0)));
  }
});

test("pack in w8a8 makes bytes 1 … 127: 64 of zero, of a group of zeros and behind the last input", () => {
  const w = Float32Array.from({ length: 257 }, (_, k) => (k < 128 ? (k - 64) / 640 : k < 256 ? 0 : 7));
  const bytes = pack("w8a8", w, 1, 257), group = 16 + 128 * 8, outputs = (at: number, count: number) => [...bytes.subarray(at, at + count)];
  assert.deepEqual(outputs(16, 4), [1, 2, 3, 4], "one output has 4 inputs side by side");
  assert.deepEqual(outputs(16 + 16 * 32, 4), [64, 65, 66, 67]);
  for (let step = 0; step < 32; step++) assert.deepEqual(outputs(group + 16 + step * 32, 4), [64, 64, 64, 64]);
  assert.deepEqual(outputs(2 * group + 16, 4), [127, 64, 64, 64]);
});

for (const [name, make, bits, times] of [["quantize", quantize, 13, 128], ["quantizeI8", quantizeI8, 7, 64]] as const) test(`${name} keeps ${bits} bits of a group's largest number, zeroes the padding, and has beside a scale what ${times} times the group adds to a sum`, () => {
  const K = 131, ldq = 136, x = random(3 * K, 3, 50);
  const { rows, scales, pairs } = make(x, 3, K, ldq), view = new DataView(pairs.buffer);
  for (let i = 0; i < 6; i++) {
    const m = i >> 1, from = (i & 1) * 128, group = [...rows.subarray(m * ldq + from, m * ldq + Math.min(from + 128, K))], scale = scales[i]!;
    group.forEach((value, k) => assert.ok(Math.abs(value * scale - x[m * K + from + k]!) <= 0.501 * scale));
    assert.equal(view.getFloat32(i * 8, true), scale);
    assert.equal(view.getInt32(i * 8 + 4, true), -times * group.reduce((a, b) => a + b));
  }
  for (let m = 0; m < 3; m++) assert.ok(rows.subarray(m * ldq + K, (m + 1) * ldq).every((value) => value === 0));
});

