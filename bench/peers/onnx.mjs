/**
 * ONNX models of one kind of product, written byte by byte (protobuf's wire format; field numbers are onnx.proto's): `count`
 * products of the same x with weights of their own, so that one call can go round more weights than a cache holds.
 */

const varint = (value) => {
  const bytes = [];
  let left = BigInt(value);
  do {
    bytes.push(Number(left & 127n) | (left > 127n ? 128 : 0));
    left >>= 7n;
  } while (left > 0n);
  return Uint8Array.from(bytes);
};
const joined = (parts) => {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};
const number = (field, value) => joined([varint(field << 3), varint(value)]);
const bytes = (field, value) => joined([varint((field << 3) | 2), varint(value.length), value]);
const text = (field, value) => bytes(field, new TextEncoder().encode(value));

const FLOAT = 1, UINT8 = 2, INT8 = 3;

const tensor = (name, type, dims, data) =>
  joined([...dims.map((dim) => number(1, dim)), number(2, type), text(8, name), bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))]);
const value = (name, type, dims) => {
  const shape = joined(dims.map((dim) => bytes(1, number(1, dim))));
  return joined([text(1, name), bytes(2, bytes(1, joined([number(1, type), bytes(2, shape)])))]);
};
const attribute = ([name, int]) => joined([text(1, name), number(3, int), number(20, 2)]);
const node = (type, inputs, output, domain, attributes = {}) =>
  joined([
    ...inputs.map((input) => text(1, input)), text(2, output), text(4, type), ...Object.entries(attributes).map((pair) => bytes(5, attribute(pair))), text(7, domain),
  ]);

function model(M, K, N, nodes, initializers, outputs) {
  const graph = joined([
    ...nodes.map((each) => bytes(1, each)), text(2, "products"), ...initializers.map((each) => bytes(5, each)), bytes(11, value("x", FLOAT, [M, K])),
    ...outputs.map((name) => bytes(12, value(name, FLOAT, [M, N]))),
  ]);
  const opset = (domain, version) => bytes(8, joined([text(1, domain), number(2, version)]));
  return joined([number(1, 8), opset("", 17), opset("com.microsoft", 1), bytes(7, graph)]);
}

/** Numbers that look random, cheaply. */
function noise(array, scale) {
  let state = 2463534242;
  for (let i = 0; i < array.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    array[i] = (state / 2 ** 31) * scale;
  }
  return array;
}

/** @param kind "f32"; "i8 signed" or "i8 unsigned" (activations quantised on the fly); "i4" (blocks of 32, int8 activations allowed) */
export function product(kind, M, K, N, count) {
  const nodes = [], initializers = [], outputs = [];
  const size = kind === "i4" ? (N * K) / 2 : K * N, all = size + count;
  const noises = {
    f32: () => noise(new Float32Array(all), 0.04), i4: () => noise(new Uint8Array(all), 255),
    "i8 signed": () => noise(new Int8Array(all), 127), "i8 unsigned": () => noise(new Uint8Array(all), 127),
  }[kind]();
  for (let i = 0; i < count; i++) {
    const [w, scale, zero, y] = ["w", "scale", "zero", "y"].map((name) => `${name}${i}`);
    const numbers = noises.subarray(i, i + size); // no two are alike: weights of the same bytes lie in memory once, and come from a cache
    outputs.push(y);
    if (kind === "f32") {
      nodes.push(node("MatMul", ["x", w], y, ""));
      initializers.push(tensor(w, FLOAT, [K, N], numbers));
    } else if (kind === "i4") {
      nodes.push(node("MatMulNBits", ["x", w, scale], y, "com.microsoft", { K, N, bits: 4, block_size: 32, accuracy_level: 4 }));
      initializers.push(tensor(w, UINT8, [N, K / 32, 16], numbers), tensor(scale, FLOAT, [(N * K) / 32], new Float32Array((N * K) / 32).fill(0.005)));
    } else {
      const signed = kind === "i8 signed", type = signed ? INT8 : UINT8;
      nodes.push(node("DynamicQuantizeMatMul", ["x", w, scale, zero], y, "com.microsoft"));
      initializers.push(
        tensor(w, type, [K, N], numbers), tensor(scale, FLOAT, [N], new Float32Array(N).fill(0.0003)),
        tensor(zero, type, [N], signed ? new Int8Array(N) : new Uint8Array(N).fill(128)),
      );
    }
  }
  return model(M, K, N, nodes, initializers, outputs);
}
