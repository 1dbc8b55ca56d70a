import assert from "node:assert/strict";
import { test } from "node:test";
import { activations, type Activation } from "#src/graph/graph.js";
import { activationCode, SCRATCH } from "#src/graph/record.js";
import { linear, matrix, Reference, valuesOf } from "#src/graph/reference.js";
import { type Format } from "#src/weights/quant.js";
import { pack, quantize, quantizeI8, unpack } from "#src/weights/reference.js";
import { random } from "../support.js";
import { assertClose, assertSameBits, engines, EPS, inEights, largest, machine, scalesInEights, type Engine } from "./machine.js";

interface Case {
  engine: Engine;
  format: Format;
  M: number;
  K: number;
  N: number;
  x: Float32Array;
  w: Float32Array;
  /** w, where it was packed before. */
  packed?: Uint8Array;
  bias?: Float32Array;
  residual?: Float32Array;
  activation?: Activation;
}

/** The product as the kernel makes it, by n threads; `widen`: with weights widened once for all rows, of int16 for those in `eights`. */
function multiply({ engine, format, M, K, N, x, w, packed = pack(format, w, N, K), bias, residual, activation = "linear" }: Case, n = 1, widen = false, eights = widen ? Math.ceil(M / 8) : 0): Float32Array {
  const m = machine(engine);
  const shape = {
    ...((widen || format === "f32") && { scratch: m.alloc(n * SCRATCH) }),
    M, K, N, ldd: N, ldr: N, activation: activationCode(activation), w: m.put(packed),
    ...(bias && { bias: m.put(bias) }), ...(residual && { residual: m.put(residual) }), dst: m.alloc(M * N * 4),
  };
  if (format === "i8" || format === "i4") {
    const ldx = Math.ceil(K / 8) * 8, { rows, pairs } = quantize(x, M, K, ldx), singles = Math.max(M - 8 * eights, 0), groups = Math.ceil(K / 128);
    const scratch = m.alloc(n * ((eights && SCRATCH + 512 * Math.min(eights, 64)) + 4 * singles * Math.ceil(K / 32))), scales = m.put(scalesInEights(pairs, M, groups, eights));
    m.run(`matmul_${format}`, { ...shape, x: m.put(inEights(rows, M, K, ldx, eights)), ldx, scales, scratch, eights }, n);
  } else if (format === "w8a8") {
    const ldx = Math.ceil(K / 8) * 8, { rows, pairs } = quantizeI8(x, M, K, ldx);
    m.run("matmul_w8a8", { ...shape, x: m.put(rows), ldx, scales: m.put(pairs) }, n);
  } else m.run(`matmul_${format}`, { ...shape, x: m.put(x), ldx: K }, n);
  return m.floats(shape.dst, M * N);
}

/** The product by the reference, of what the packed numbers are worth. */
function wanted({ format, M, K, N, x, w, bias, residual, activation = "linear" }: Case): Float32Array {
  if (format === "i8" || format === "i4" || format === "w8a8") {
    const { rows, scales } = (format === "w8a8" ? quantizeI8 : quantize)(x, M, K, K), groups = Math.ceil(K / 128);
    x = Float32Array.from(rows, (value, i) => value * scales[Math.floor(i / K) * groups + ((i % K) >> 7)]);
  }
  const weight = linear(N, K, unpack(format, pack(format, w, N, K), N, K), bias);
  const options = residual ? { activation, residual: matrix(M, N, residual) } : { activation };
  return valuesOf(new Reference().linear(matrix(M, K, x), weight, options)).data;
}

const sizes = [[1, 1, 1], [2, 3, 9], [5, 37, 37], [7, 192, 99], [9, 131, 40], [4, 300, 64], [1, 257, 75]] as const;
const formats = ["f32", "f16", "i8", "i4", "w8a8"] as const;

for (const engine of engines) for (const format of formats) for (const [M, K, N] of sizes) {
  const x = random(M * K, 1, 3), w = random(N * K, 2), bias = random(N, 3), residual = random(M * N, 4);
  const all = { engine, format, M, K, N, x, w, bias, residual };

  test(`matmul_${format} (${engine}) equals the reference at ${M}×${K}×${N}, with and without bias and residual`, () => {
    const tolerance = (K + 3) * EPS * K * largest(x) * largest(w) + 8 * EPS; // K roundings of sums no larger than K max|x| max|w|
    for (const { bias, residual } of [all, { bias: undefined, residual: undefined }]) {
      const one = { engine, format, M, K, N, x, w, ...(bias && { bias }), ...(residual && { residual }) };
      assertClose(multiply(one), wanted(one), tolerance, N, "product");
    }
  });

  test(`matmul_${format} (${engine}) gives a row the same bits for any number of rows and threads at ${M}×${K}×${N}`, () => {
    const together = multiply(all);
    for (const n of [2, 3]) assertSameBits(multiply(all, n), together, `${n} threads`);
    for (const n of [1, 3]) assertSameBits(multiply(all, n, true), together, `${n} threads, weights widened first`);
    for (let rows = 1; rows < M; rows++) {
      const some = multiply({ ...all, M: rows, x: x.subarray(0, rows * K), residual: residual.subarray(0, rows * N) });
      assertSameBits(some, together.slice(0, rows * N), `the first ${rows} rows`);
      const last = multiply({ ...all, M: M - rows, x: x.subarray(rows * K), residual: residual.subarray(rows * N) });
      assertSameBits(last, together.slice(rows * N), `without the first ${rows} rows`);
    }
  });
}

for (const engine of engines) for (const format of ["i8", "i4"] as const) test(`a row of matmul_${format} (${engine}) has in an eight the bits it has alone, whichever of 1 … 40, 71, 72, 79 or 257 rows it is`, () => {
  // groups of 128, of more than half of it and of less; outputs that end in the first half of 16 and in the second
  for (const [K, N] of [[200, 21], [290, 30]] as const) {
    const most = 257, all: Case = { engine, format, M: most, K, N, x: random(most * K, 1, 3), w: random(N * K, 2), bias: random(N, 3), residual: random(most * N, 4) };
    const alone = multiply(all);
    for (const M of [...Array.from({ length: 40 }, (_, i) => i + 1), 71, 72, 79, 257]) {
      const some = { ...all, M, x: all.x.subarray(0, M * K), residual: all.residual!.subarray(0, M * N) };
      for (const n of M > 40 ? [1, 2, 3] : [1 + (M % 3)]) for (const eights of new Set([Math.floor((M + 3) / 8), Math.ceil(M / 8)])) {
        assertSameBits(multiply(some, n, false, eights), alone.slice(0, M * N), `${M} rows, ${eights} eights, ${n} threads`);
      }
    }
    for (const activation of ["gelu", "quick_gelu", "relu"] as const) {
      const one = { ...all, activation };
      assertSameBits(multiply(one, 2, false, 32), multiply(one), activation);
    }
  }
});

for (const [M, K, some] of [[80, 17000, [0, 23, 24, 47, 48, 79]], [515, 130, [0, 263, 264, 511, 512, 514]]] as const) {
  test(`a row of more rows or inputs than one pass goes through has the bits it has alone (${M}×${K})`, () => {
    const N = 9, x = random(M * K, 5), w = random(N * K, 6);
    for (const format of formats) {
      const all: Case = { engine: "plain", format, M, K, N, x, w };
      const together = multiply(all);
      for (const row of some) {
        const alone = multiply({ ...all, M: 1, x: x.subarray(row * K, (row + 1) * K) });
        assertSameBits(alone, together.slice(row * N, (row + 1) * N), `${format}, row ${row}`);
      }
      assertSameBits(multiply(all, 1, true), together, `${format}, weights widened first`);
    }
  });
}

for (const format of ["i8", "i4"] as const) test(`matmul_${format} gives each of 1 to 24 rows the bits it has alone, by more outputs than go through a cache at once`, () => {
  const K = 4100, N = 260, most = 24, x = random(most * K, 10), w = random(N * K, 11), bias = random(N, 12);
  const one: Case = { engine: "plain", format, M: 1, K, N, x, w, packed: pack(format, w, N, K), bias, activation: "gelu" };
  const alone = Float32Array.from(Array.from({ length: most }, (_, row) => [...multiply({ ...one, x: x.subarray(row * K, (row + 1) * K) })]).flat());
  for (let M = 1; M <= most; M++) assertSameBits(multiply({ ...one, M, x: x.subarray(0, M * K) }, 1 + (M % 3)), alone.slice(0, M * N), `${M} rows`);
});

for (const format of ["i8", "i4", "f16", "f32"] as const) test(`one and three rows of matmul_${format} make every output, however many panels there are for the streams that threads read`, () => {
  const K = 3, most = 16 * 21, x = random(3 * K, 13), w = random(most * K, 14), width = format === "i8" || format === "i4" ? 16 : 8;
  for (const M of [1, 3]) {
    const all = multiply({ engine: "plain", format, M, K, N: most, x: x.subarray(0, M * K), w });
    for (let panels = 1; panels <= 21; panels++) for (let threads = 1; threads <= 4; threads++) {
      const N = panels * width - (panels % 3), one: Case = { engine: "plain", format, M, K, N, x: x.subarray(0, M * K), w: w.subarray(0, N * K) };
      const expected = Float32Array.from({ length: M * N }, (_, i) => all[Math.floor(i / N) * most + (i % N)]!);
      assertSameBits(multiply(one, threads), expected, `${M}×${N}, ${threads} threads`);
    }
  }
});

for (const [format, outputs] of [["i8", 16], ["i4", 16], ["f16", 8]] as const) test(`threads that take parts of matmul_${format} reach the end of more than 65536 panels`, () => {
  const K = 1, N = outputs * 65537, x = new Float32Array([3]), w = Float32Array.from({ length: N }, (_, n) => (n % 5) - 2), packed = pack(format, w, N, K);
  const one: Case = { engine: "plain", format, M: 1, K, N, x, w, packed };
  assertSameBits(multiply(one, 2), multiply(one, 1), "2 threads");
});

for (const format of ["i8", "i4", "w8a8"] as const) test(`matmul_${format} gives the same bits in plain and relaxed builds`, { skip: engines.length < 2 && "NOT CHECKED: no relaxed SIMD here" }, () => {
  const M = 6, K = 389, N = 45;
  const all = { format, M, K, N, x: random(M * K, 7), w: random(N * K, 8), bias: random(N, 9), activation: "gelu" as const };
  assertSameBits(multiply({ ...all, engine: "relaxed" }), multiply({ ...all, engine: "plain" }), "relaxed");
});

/** A group of 16 outputs in 4 bits whose numbers are all −8: of the last four, which have the highest bits, as such, of the others 0. */
function eightLess(): Uint8Array {
  const group = new Uint8Array(1120);
  new Uint16Array(group.buffer, 96).fill(0x8000);
  return group;
}

test("products of whole numbers do not overflow when all numbers of a group are as large as can be", () => {
  const K = 256, w = new Float32Array(K).fill(3);
  for (const engine of engines) for (const format of ["i8", "i4", "w8a8"] as const) for (const M of [1, 7]) for (const sign of [1, -1]) {
    const x = new Float32Array(M * K).fill(5 * sign), one = { engine, format, M, K, N: 1, x, w };
    for (const eights of [false, true]) assertClose(multiply(one, 1, eights), wanted(one), 15 * K * 8 * EPS, 1, `product in ${format}`);
  }
  // 8 · 63 in every place: no packing makes it, but a file may hold it
  const m = machine("plain"), group = eightLess();
  new Uint16Array(group.buffer, 0, 16).fill(0x7f00); // scales of 1
  for (const share of [63, -63]) for (const M of [1, 7]) {
    new Int8Array(group.buffer, 32, 64).fill(share);
    const x = m.put(new Int16Array(M * 128).fill(-8191)), dst = m.alloc(M * 64), scales = m.put(new Float32Array(2 * M).fill(1));
    m.run("matmul_i4", { dst, ldd: 16, x, ldx: 128, w: m.put(group), ldr: 0, M, K: 128, N: 16, activation: 0, scales, scratch: m.alloc(SCRATCH) });
    assert.deepEqual([...m.floats(dst, M * 16)], new Array(M * 16).fill(Math.fround(share * 8 * 8191 * 128)));
  }
});

test("eights read nothing behind the last weight", () => {
  const M = 16;
  for (const format of ["i8", "i4"] as const) for (const K of [7, 128, 200, 290]) for (const N of [8, 16, 24, 40]) {
    const m = machine("plain"), { rows, pairs } = quantize(random(M * K, 1), M, K, K), packed = pack(format, random(N * K, 2), N, K);
    const x = m.put(inEights(rows, M, K, K, 2)), scales = m.put(scalesInEights(pairs, M, Math.ceil(K / 128), 2)), scratch = m.alloc(SCRATCH + 1024), last = m.memory.buffer.byteLength - packed.length;
    const [here, there] = [m.put(packed), last].map((w) => {
      new Uint8Array(m.memory.buffer, w, packed.length).set(packed);
      const dst = m.alloc(M * N * 4);
      m.run(`matmul_${format}`, { dst, ldd: N, x, ldx: K, w, ldr: 0, M, K, N, activation: 0, scales, scratch, eights: 2 });
      return m.floats(dst, M * N);
    });
    assertSameBits(there, here, `${format}, ${M}×${K}×${N}`);
  }
});

test("sums of four quarters, each as large as can be, fit into int16", () => {
  // rows, inputs and outputs in quarters: of either sign, S4 and T4 among them four numbers of one sign
  const M = 8, K = 128, N = 16, signs = [1, -1], scales = new Float32Array(M).fill(1);
  for (const engine of engines) for (let quarters = 0; quarters < 256; quarters++) {
    const sign = (first: boolean, second: boolean, from: number) => signs[(quarters >> (from + (first ? 0 : 2) + (second ? 0 : 1))) & 1];
    const rows = Int16Array.from({ length: M * K }, (_, i) => 8191 * sign(i < 4 * K, i % K < 64, 0));
    const group = eightLess(); // times shares of 63 or −63
    const w = Float32Array.from({ length: N * K }, (_, i) => sign(i % K < 64, i < 8 * K, 4));
    new Uint16Array(group.buffer, 0, 16).fill(0x7f00); // scales of 1
    new Int8Array(group.buffer, 32, 64).forEach((_, i, shares) => (shares[i] = -63 * sign(i < 32, i % 16 < 8, 4)));
    const bytes = pack("i8", w.map((v) => 127 * v), N, K);
    for (const [kind, packed, most] of [["matmul_i8", bytes, 127], ["matmul_i4", group, 504]] as const) {
      const m = machine(engine), dst = m.alloc(M * N * 4);
      m.run(kind, {
        dst, ldd: N, x: m.put(inEights(rows, M, K, K, 1)), ldx: K, w: m.put(packed), ldr: 0, M, K, N, activation: 0, scales: m.put(scales), scratch: m.alloc(SCRATCH + 512), eights: 1,
      });
      const exact = Float32Array.from({ length: M * N }, (_, i) => {
        let sum = 0;
        for (let k = 0; k < K; k++) sum += rows[Math.floor(i / N) * K + k] * most * w[(i % N) * K + k];
        return sum;
      });
      assertSameBits(m.floats(dst, M * N).map((v) => v + 0), exact.map((v) => v + 0), `${kind} of quarters ${quarters.toString(2)}`);
    }
  }
});

test("matmul_w8a8 sums four products exactly, whichever signs and sizes meet", () => {
  // scales are 1: numbers are their integers, ±63 in weights and ±127 in x, so that every sum is a whole number below 2²⁴
  const extremes = [127, -127, 1, -1, 0, 126], small = [63, -63, 1, -1, 0, 62];
  const K = 128, N = 16, M = 7;
  const x = Float32Array.from({ length: M * K }, (_, i) => (i % K === 0 ? 127 : extremes[(i * 7 + Math.floor(i / 11)) % 6]!));
  const w = Float32Array.from({ length: N * K }, (_, i) => (i % K === 1 ? 63 : small[(i * 5 + Math.floor(i / 13)) % 6]!));
  const exact = valuesOf(new Reference().linear(matrix(M, K, x), linear(N, K, w))).data;
  for (const engine of engines) assertSameBits(multiply({ engine, format: "w8a8", M, K, N, x, w }), exact, engine);
});

test("matmul_f16 takes every finite half, subnormal ones too, at its exact worth", () => {
  const halves = Uint16Array.from({ length: 0x7c00 }, (_, i) => i), N = halves.length;
  const w = unpack("f16", new Uint8Array(halves.buffer), 8, N / 8); // a panel that is these halves
  const m = machine("plain"), dst = m.alloc(N * 4), identity = new Float32Array(N / 8), K = N / 8;
  const x = m.put(identity), packed = m.put(halves);
  for (const k of [0, 1, 63, 64, 127, 128, 1000, K - 1]) {
    const one = new DataView(m.memory.buffer);
    one.setFloat32(x + 4 * k, 1, true);
    m.run("matmul_f16", { dst, ldd: 8, x, ldx: K, w: packed, ldr: 0, M: 1, K, N: 8, activation: 0 });
    one.setFloat32(x + 4 * k, 0, true);
    assert.deepEqual([...m.floats(dst, 8)], Array.from({ length: 8 }, (_, n) => w[n * K + k]));
  }
});

for (const names of activations) {
  test(`activation ${names[0]} equals the reference from −30 to 30, to the last digits and of small results too`, () => {
    const M = 6001, x = Float32Array.from({ length: M }, (_, i) => (i - 3000) / 100 + (i % 7) * 1e-3);
    const one: Case = { engine: "plain", format: "f32", M, K: 1, N: 1, x, w: Float32Array.of(1), activation: names[0] };
    const correct = cancelled(names[0]) ? exactTail(names[0], x) : wanted(one);
    // 16 roundings, and those of what the exponential is of (gelu_new: of a cube); results below f32's normal numbers are cut to 0
    const inside = (u: number) => (names[0] === "gelu_new" ? 0.3 * u ** 3 : 0) + 2 * u + (u * u) / 2;
    const tolerance = (i: number) => EPS * (16 + inside(Math.abs(x[i]))) * Math.abs(correct[i]) + 1e-36;
    assertClose(multiply(one), correct, tolerance, 1, names[0]);
  });
}

/** The reference writes 1 + erf and 1 + tanh, which in f64 too leave nothing of results below 1e-16. */
const cancelled = (name: Activation) => name === "gelu" || name === "gelu_new";

function exactTail(name: Activation, x: Float32Array): Float32Array {
  return x.map((u) => {
    if (name === "gelu_new") return u / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (u + 0.044715 * u ** 3)));
    if (u > -3) return valuesOf(new Reference().linear(matrix(1, 1, Float32Array.of(u)), linear(1, 1, Float32Array.of(1)), { activation: "gelu" })).data[0];
    let fraction = 0; // Q(a) = φ(a) / (a + 1 / (a + 2 / (a + 3 / …)))
    for (let n = 200; n >= 1; n--) fraction = n / (-u + fraction);
    return (u * Math.exp(-u * u / 2)) / Math.sqrt(2 * Math.PI) / (-u + fraction);
  });
}

test("activations keep NaN and end at infinities as their functions do", () => {
  const x = Float32Array.of(NaN, -1e30, 1e30);
  const of = (activation: Activation) => [...multiply({ engine: "plain", format: "f32", M: 3, K: 1, N: 1, x, w: Float32Array.of(1), activation })];
  const big = Math.fround(1e30);
  assert.deepEqual(of("gelu"), [NaN, -0, big]);
  assert.deepEqual(of("quick_gelu"), [NaN, -0, big]);
  assert.deepEqual(of("sigmoid"), [NaN, 0, 1]);
  assert.deepEqual(of("tanh"), [NaN, -1, 1]);
  assert.deepEqual(of("mish"), [NaN, -0, big]);
  assert.deepEqual(of("relu"), [NaN, 0, big]);
});
