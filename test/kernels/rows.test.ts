/** The kernels that go row by row, and attention: against the reference, and a row's bits whatever runs beside it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type CacheFormat, partBytes } from "#src/graph/cache.js";
import { attentionScratch, BLOCK, EIGHT, EIGHT_SCRATCH, formats, SCRATCH, types } from "#src/graph/record.js";
import { linear, matrix, norm, past, Reference, valuesOf, type Values } from "#src/graph/reference.js";
import { sinusoids } from "#src/graph/sinusoids.js";
import { chosen } from "#src/graph/recorder.js";
import { fromBF16, fromF16 } from "#src/weights/quant.js";
import { pack, quantize, quantizeI8, toF16, unpack } from "#src/weights/reference.js";
import { random } from "../support.js";
import { assertClose, assertSameBits, engines, EPS, inEights, largest, machine, scalesInEights, type Machine } from "./machine.js";

const reference = new Reference();
const m0 = () => machine("plain");

/** Runs `compute` on all rows with 1, 2 and 3 threads and on single rows; holds that the bits agree. Returns all rows. */
function rowsAgree(M: number, columns: number, compute: (from: number, to: number, n: number) => Float32Array): Float32Array {
  const together = compute(0, M, 1);
  for (const n of [2, 3]) assertSameBits(compute(0, M, n), together, `${n} threads`);
  for (let row = 0; row < M; row++) assertSameBits(compute(row, row + 1, 2), together.slice(row * columns, (row + 1) * columns), `row ${row} alone`);
  return together;
}

for (const [M, D] of [[1, 1], [3, 5], [7, 37], [4, 192], [3, 259], [19, 200]] as const) {
  const x = random(M * D, 1, 4).map((v) => v + 2), gamma = random(D, 2).map((v) => v + 1), beta = random(D, 3);

  test(`layernorm equals the reference at ${M}×${D}`, () => {
    const found = rowsAgree(M, D, (from, to, n) => {
      const m = m0(), dst = m.alloc((to - from) * D * 4);
      m.run("layernorm", { dst, ldd: D, x: m.put(x.subarray(from * D, to * D)), ldx: D, gamma: m.put(gamma), beta: m.put(beta), M: to - from, D, eps: 1e-5, ldq: 0 }, n);
      return m.floats(dst, (to - from) * D);
    });
    const wanted = valuesOf(reference.layernorm(matrix(M, D, x), norm(gamma, beta, 1e-5))).data;
    // mean and variance are sums of D / 8 + 4 roundings; ×3 since numbers lie up to 3 deviations from 0
    if (D > 1) assertClose(found, wanted, EPS * (D / 4 + 24) * 3, D, "layernorm");
    else assertClose(found, wanted, EPS * 4, D, "layernorm of one column");
  });

  test(`layernorm makes the int16 rows that quantize makes of its f32 rows at ${M}×${D}, which it need not keep`, () => {
    const ldq = Math.ceil(D / 8) * 8, groups = Math.ceil(D / 128);
    const run = (n: number, kept: boolean) => {
      const m = m0(), dst = kept ? m.alloc(M * D * 4) : 0, quantized = m.alloc(M * ldq * 2), scales = m.alloc(M * groups * 8);
      m.run("layernorm", { dst, ldd: D, x: m.put(x), ldx: D, gamma: m.put(gamma), beta: m.put(beta), M, D, eps: 1e-5, quantized, ldq, scales }, n);
      return { rows: m.floats(dst || quantized, kept ? M * D : 0), numbers: new Int16Array(m.bytes(quantized, M * ldq * 2).buffer), pairs: m.bytes(scales, M * groups * 8) };
    };
    const kept = run(1, true), wanted = quantize(kept.rows, M, D, ldq);
    for (const found of [kept, run(1, false), run(3, false)]) {
      assert.deepEqual(found.numbers, wanted.rows);
      assert.deepEqual(found.pairs, wanted.pairs);
    }
  });

  test(`layernorm makes the int8 rows that quantize_i8 makes of its f32 rows at ${M}×${D}, which it need not keep`, () => {
    const ldq = Math.ceil(D / 8) * 8, groups = Math.ceil(D / 128);
    const run = (n: number, kept: boolean) => {
      const m = m0(), dst = kept ? m.alloc(M * D * 4) : 0, bytes = m.alloc(M * ldq), scales = m.alloc(M * groups * 8);
      m.run("layernorm", { dst, ldd: D, x: m.put(x), ldx: D, gamma: m.put(gamma), beta: m.put(beta), M, D, eps: 1e-5, bytes, ldq, scales }, n);
      return { rows: m.floats(dst || bytes, kept ? M * D : 0), numbers: m.bytes(bytes, M * ldq), pairs: m.bytes(scales, M * groups * 8) };
    };
    const kept = run(1, true), wanted = quantizeI8(kept.rows, M, D, ldq);
    for (const found of [kept, run(1, false), run(3, false)]) {
      assert.deepEqual(new Int8Array(found.numbers.buffer), wanted.rows);
      assert.deepEqual(found.pairs, wanted.pairs);
    }
  });

  test(`quantize_i8 gives the bits of the reference at ${M}×${D}`, () => {
    for (const n of [1, 2, 3]) for (const ldd of [Math.ceil(D / 8) * 8, Math.ceil(D / 8) * 8 + 16]) {
      const m = m0(), dst = m.alloc(M * ldd), groups = Math.ceil(D / 128), scales = m.alloc(M * groups * 8);
      m.run("quantize_i8", { dst, ldd, x: m.put(x), ldx: D, M, K: D, scales }, n);
      const wanted = quantizeI8(x, M, D, ldd);
      assert.deepEqual(new Int8Array(m.bytes(dst, M * ldd).buffer), wanted.rows);
      assert.deepEqual(m.bytes(scales, M * groups * 8), wanted.pairs);
    }
  });

  test(`quantize gives the bits of the reference at ${M}×${D}`, () => {
    for (const n of [1, 2, 3]) for (const ldd of [Math.ceil(D / 8) * 8, Math.ceil(D / 8) * 8 + 16]) {
      const m = m0(), dst = m.alloc(M * ldd * 2), groups = Math.ceil(D / 128), scales = m.alloc(M * groups * 8);
      m.run("quantize", { dst, ldd, x: m.put(x), ldx: D, M, K: D, scales }, n);
      const wanted = quantize(x, M, D, ldd);
      assert.deepEqual(new Int16Array(m.bytes(dst, M * ldd * 2).buffer), wanted.rows);
      assert.deepEqual(m.bytes(scales, M * groups * 8), wanted.pairs);
    }
  });

  test(`quantize and layernorm put the last rows of ${M}×${D} in eights, with sums of quarters, and give rows past the end zeros`, () => {
    for (const n of [1, 2, 3]) for (let eights = 1; eights <= Math.ceil(M / 8) + 1; eights++) {
      const ldd = Math.ceil(D / 8) * 8, singles = Math.max(M - 8 * eights, 0), groups = Math.ceil(D / 128), bytes = 2 * singles * ldd + eights * groups * EIGHT;
      const scaleBytes = (singles + 4 * eights) * groups * 8;
      const hold = (run: (m: Machine, quantized: number, scales: number, scratch: number) => Float32Array) => {
        const m = m0(), quantized = m.alloc(bytes), scales = m.alloc(scaleBytes), rows = run(m, quantized, scales, m.alloc(n * EIGHT_SCRATCH)), wanted = quantize(rows, M, D, ldd);
        assert.deepEqual(new Int16Array(m.bytes(quantized, bytes).buffer), inEights(wanted.rows, M, D, ldd, eights));
        assert.deepEqual(m.bytes(scales, scaleBytes), scalesInEights(wanted.pairs, M, groups, eights));
      };
      hold((m, dst, scales, scratch) => {
        m.run("quantize", { dst, ldd, x: m.put(x), ldx: D, M, K: D, scales, eights, scratch }, n);
        return x;
      });
      hold((m, quantized, scales, scratch) => {
        const dst = m.alloc(M * D * 4);
        m.run("layernorm", { dst, ldd: D, x: m.put(x), ldx: D, gamma: m.put(gamma), beta: m.put(beta), M, D, eps: 1e-5, quantized, ldq: ldd, scales, eights, scratch }, n);
        return m.floats(dst, M * D);
      });
    }
  });

  test(`l2normalize equals the reference at ${M}×${D}, and leaves a row of zeros`, () => {
    const some = x.slice();
    some.fill(0, 0, D);
    const found = rowsAgree(M, D, (from, to, n) => {
      const m = m0(), dst = m.alloc((to - from) * D * 4);
      m.run("l2normalize", { dst, ldd: D, x: m.put(some.subarray(from * D, to * D)), ldx: D, M: to - from, D }, n);
      return m.floats(dst, (to - from) * D);
    });
    assertClose(found, valuesOf(reference.l2normalize(matrix(M, D, some))).data, EPS * (D / 8 + 6), D, "l2normalize");
  });

  test(`copy moves and adds at ${M}×${D}, between rows of any distance`, () => {
    const y = random(M * D, 5);
    for (const n of [1, 2, 3]) {
      const m = m0(), ldd = D + 3, dst = m.alloc(M * ldd * 4), from = m.put(x), other = m.put(y);
      const column = (sum: Float32Array) => Float32Array.from({ length: M * D }, (_, i) => sum[Math.floor(i / D) * ldd + (i % D)]);
      m.run("copy", { dst, ldd, x: from, ldx: D, ldy: 0, M, D }, n);
      assertSameBits(column(m.floats(dst, M * ldd)), x, "copy");
      m.run("copy", { dst, ldd, x: from, ldx: D, y: other, ldy: D, M, D }, n);
      assertSameBits(column(m.floats(dst, M * ldd)), valuesOf(reference.add(matrix(M, D, x), matrix(M, D, y))).data, "sum");
      assert.ok(Number.isNaN(m.floats(dst, M * ldd)[D]), "the gap between rows is untouched");
    }
  });
}

test("a row with NaN or an infinity leaves the others of its eight as they are", () => {
  const M = 8, K = 150, N = 9, x = random(M * K, 1), w = random(N * K, 2);
  const product = (x: Float32Array) => {
    const m = m0(), bytes = 2 * EIGHT, quantized = m.alloc(bytes), scales = m.alloc(M * 2 * 8), scratch = m.alloc(SCRATCH + 512), dst = m.alloc(M * N * 4);
    m.run("quantize", { dst: quantized, ldd: 152, x: m.put(x), ldx: K, M, K, scales, eights: 1, scratch });
    m.run("matmul_i8", { dst, ldd: N, x: quantized, ldx: 152, w: m.put(pack("i8", w, N, K)), ldr: 0, M, K, N, activation: 0, scales, scratch, eights: 1 });
    return m.floats(dst, M * N);
  };
  const wanted = product(x);
  for (const odd of [NaN, Infinity, -Infinity]) for (const row of [0, 3, 4, 7]) for (const count of [1, K]) {
    const found = product(x.slice().fill(odd, row * K, row * K + count));
    for (let other = 0; other < M; other++) if (other !== row) assertSameBits(found.slice(other * N, (other + 1) * N), wanted.slice(other * N, (other + 1) * N), `${odd} in row ${row}, row ${other}`);
  }
});

test("layernorm, attention and gelu give the same bits in plain and relaxed builds", { skip: engines.length < 2 && "NOT CHECKED: no relaxed SIMD here" }, () => {
  const M = 5, D = 75, x = random(M * D, 1, 4), gamma = random(D, 2), beta = random(D, 3);
  const [plain, relaxed] = engines.map((engine) => {
    const m = machine(engine), dst = m.alloc(M * D * 4);
    m.run("layernorm", { dst, ldd: D, x: m.put(x), ldx: D, gamma: m.put(gamma), beta: m.put(beta), M, D, eps: 1e-5, ldq: 0 });
    return [m.floats(dst, M * D), ...cacheFormats.map((format) => attend(machine(engine), { ...toy(M, 70, 3, 25), causal: true, format }).out)];
  });
  plain.forEach((found, i) => assertSameBits(relaxed[i], found, ["layernorm", ...cacheFormats][i]));
});

test("patches cuts pixels into squares by channel, row and column, and leaves what is no whole square", () => {
  const channels = 3, height = 11, width = 14, patch = 3, pixels = random(channels * height * width);
  const wanted = reference.patches(matrix(channels * height, width, pixels), { channels, patch }) as Values;
  for (const n of [1, 2, 3]) {
    const m = m0(), dst = m.alloc(wanted.data.byteLength);
    m.run("patches", { dst, ldd: wanted.columns, pixels: m.put(pixels), channels, height, width, patch }, n);
    assertSameBits(m.floats(dst, wanted.data.length), wanted.data, "patches");
  }
});

for (const format of ["f32", "f16", "i8", "i4", "w8a8"] as const) for (const D of [5, 37, 192, 300]) {
  test(`embed takes rows of a packed ${format} table and of images at width ${D}`, () => {
    const vocab = 21, table = random(vocab * D, 1), images = random(3 * D, 2), scale = Math.fround(Math.sqrt(D));
    const ids = [0, 20, -1, 8, -3, 7], positions = [2, 3, 4, 1, 600, 5], M = ids.length;
    const found = rowsAgree(M, D, (from, to, n) => {
      const m = m0(), dst = m.alloc((to - from) * D * 4);
      const where = positions.slice(from, to).map((position) => m.put(sinusoids(position, 1, D, 1)));
      m.run("embed", {
        dst, ldd: D, ids: m.put(Int32Array.from(ids.slice(from, to))), table: m.put(pack(format, table, vocab, D)), format: formats[format],
        images: m.put(images), ldi: D, positions: m.put(Uint32Array.from(where)), M: to - from, D, scale,
      }, n);
      return m.floats(dst, (to - from) * D);
    });
    const worth = unpack(format, pack(format, table, vocab, D), vocab, D);
    const wanted = valuesOf(reference.embed({ ids, positions }, linear(vocab, D, worth), { scale, images: matrix(3, D, images) })).data;
    assertClose(found, wanted, EPS * 4 * scale, D, "embed"); // the product, the sum, and in i8 and i4 the row itself
  });
}

test("embed takes the best of what threads found in the pass before", () => {
  const D = 37, vocab = 21, table = random(vocab * D, 1), ids = [0, 20, 7];
  for (const n of [1, 2, 5]) {
    const m = m0(), found = m.alloc(12 * n * ids.length), dst = m.alloc(4 * D * ids.length), given = m.alloc(4 * D * ids.length), logits = new Float32Array(vocab);
    ids.forEach((id, row) => {
      logits.fill(-1).fill(3, id); // the lowest of equals
      m.run("argmax", { dst: found + 12 * n * row, x: m.put(logits), N: vocab, bans: 0 }, n);
    });
    const shape = { ldd: D, table: m.put(pack("f32", table, vocab, D)), format: formats.f32, ldi: 0, M: ids.length, D, scale: 3 };
    const positions = m.put(Uint32Array.from([2, 3, 4], (position) => m.put(sinusoids(position, 1, D, 1)))), none = m.put(new Int32Array(3));
    m.run("embed", { dst: given, ids: m.put(Int32Array.from(ids)), positions, ...shape }, n);
    m.run("embed", { dst, ids: none, positions, found, ...shape }, n);
    assertSameBits(m.floats(dst, D * ids.length), m.floats(given, D * ids.length), `${n} threads`);
  }
});

test("argmax finds the best and second without the banned ids, takes the lowest of equals, and leaves the logits as they were", () => {
  const x = random(1201, 4);
  x[700] = x[33] = 2;
  x[1200] = 5;
  const run = (bans: number[], threads = 3) => {
    const m = m0(), dst = m.alloc(12 * threads), logits = m.put(x), banned = m.put(Uint32Array.from(bans.flatMap((id) => [id, 0])));
    m.run("argmax", { dst, x: logits, N: x.length, banned: bans.length ? banned : 0, bans: bans.length }, threads);
    assertSameBits(m.floats(logits, x.length), x, "logits");
    const [{ id, logit, second }] = chosen(m.floats(dst, 3 * threads), threads);
    return [id, logit, second];
  };
  for (const bans of [[], [1200], [33, 5, 1200, 700], [0, 1]]) for (const threads of [1, 2, 5]) assert.deepEqual(run(bans, threads), run(bans));
  assert.deepEqual(run([]), [1200, 5, 2]);
  assert.deepEqual(run([1200, 5, 1200]), [33, 2, 2]);
  assert.deepEqual(run([33, 1200]), [700, 2, largest(x.filter((v) => v > 0 && v < 2))]);
  assert.deepEqual(run(Array.from({ length: 1201 }, (_, id) => id)), [0, -Infinity, -Infinity]);
  assert.deepEqual(run(Array.from({ length: 1200 }, (_, id) => id)), [1200, 5, -Infinity]);
});

for (const type of ["F32", "F16", "BF16"] as const) for (const format of ["f32", "f16", "i8", "i4", "w8a8", "rows"] as const) {
  test(`pack makes of ${type} numbers the bits of reference.ts in ${format}, also part by part and from odd addresses`, () => {
    for (const [N, K] of [[1, 1], [8, 128], [19, 131], [24, 37], [9, 262]] as const) {
      const values = random(N * K, N, type === "F16" ? 1 : 3);
      values[0] = 1e-6; // subnormal as f16
      // rows far below and above others, where scales have other exponents
      if (type !== "F16") values.forEach((value, i) => { if (Math.floor(i / K) % 3 === 1) values[i] = value * (Math.floor(i / K) % 2 ? 2 ** -98 : 2 ** 120); });
      const halves = Uint16Array.from(values, (v) => (type === "F16" ? toF16(v) : new Uint32Array(Float32Array.of(v).buffer)[0] >>> 16));
      const exact = type === "F32" ? values : Float32Array.from(halves, type === "F16" ? fromF16 : fromBF16);
      const raw = type === "F32" ? new Uint8Array(values.buffer) : new Uint8Array(halves.buffer);
      const wanted = format === "rows" ? new Uint8Array(exact.buffer) : pack(format, exact, N, K);
      for (const n of [1, 2, 3]) {
        const m = m0(), dst = m.alloc(wanted.length), src = m.alloc(raw.length + 1) + 1;
        new Uint8Array(m.memory.buffer, src).set(raw);
        m.run("pack", { dst, format: formats[format], src, type: types[type], N, K }, n);
        assert.deepEqual(Buffer.compare(m.bytes(dst, wanted.length), wanted), 0, `${N}×${K}`);
      }
    }
  });
}

test("pack rounds to halves as reference.ts does: to even, into subnormals, to infinity; and keeps what is not finite", () => {
  const special = [0, -0, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 65504, 65519.996, 65520, -1e9, 6e-8, 2.98e-8, 2 ** -25, 6.1e-5, 6.1035e-5, Infinity, -Infinity];
  const values = Float32Array.from([...special, ...random(2000, 8, 7e-5), ...random(2000, 9, 7e4)]), N = 1, K = values.length;
  const m = m0(), wanted = pack("f16", values, N, K), dst = m.alloc(wanted.length);
  m.run("pack", { dst, format: formats.f16, src: m.put(values), type: types.F32, N, K });
  assert.equal(Buffer.compare(m.bytes(dst, wanted.length), wanted), 0);
  const odd = Uint16Array.of(0x7c00, 0xfc00, 0x7e00, 1, 0x8001), out = m.alloc(20);
  m.run("pack", { dst: out, format: formats.rows, src: m.put(odd), type: types.F16, N: 1, K: 5 });
  assert.deepEqual([...m.floats(out, 5)], [Infinity, -Infinity, NaN, 2 ** -24, -(2 ** -24)]);
});

// Attention -----------------------------------------------------------------------------------------------------------------------

const cacheFormats = ["f32", "f16", "i16"] as const;

interface Attend {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  T: number;
  S: number;
  heads: number;
  d: number;
  causal?: boolean;
  n?: number;
  format?: CacheFormat;
  /** Tiles that go together. */
  tiles?: number;
}

function toy(T: number, S: number, heads: number, d: number): Attend {
  const D = heads * d;
  return { T, S, heads, d, q: random(T * D, 1, 2), k: random(S * D, 2, 2), v: random(S * D, 3) };
}

/** Stores keys and values in blocks that lie apart, in two goes, and attends. Rows of q, k and v are further apart than they are long. */
function attend(m: Machine, { q, k, v, T, S, heads, d, causal = false, n = 1, format = "f32", tiles = 1 }: Attend) {
  const D = heads * d, ld = D + 3, blocks = Math.ceil(S / BLOCK), offset = 64, shape = { D, headWidth: d, format: formats[format] };
  const tables = [k, v].map((x, i) => {
    const table = m.put(Uint32Array.from({ length: blocks }, () => m.alloc(offset + partBytes({ heads, headWidth: d, format }))));
    const first = Math.floor(S / 3), kind = i === 0 ? "store_keys" : "store_values";
    m.run(kind, { x: m.put(spread(x.subarray(0, first * D), D, ld)), ldx: ld, table, offset, position: 0, M: first, ...shape }, n);
    m.run(kind, { x: m.put(spread(x.subarray(first * D), D, ld)), ldx: ld, table, offset, position: first, M: S - first, ...shape }, n);
    return table;
  });
  const scratchBytes = attentionScratch(T, S, d, tiles);
  const dst = m.alloc(T * D * 4), weights = m.alloc(heads * T * S * 4);
  m.run("attention", {
    dst, ldd: D, q: m.put(spread(q, D, ld)), ldq: ld, keyTable: tables[0], keyOffset: offset, valueTable: tables[1], valueOffset: offset, format: formats[format],
    T, S, heads, headWidth: d, causal: causal ? 1 : 0, scale: d ** -0.5, weights, scratch: m.alloc(scratchBytes * n), scratchBytes,
  }, n);
  return { out: m.floats(dst, T * D), weights: m.floats(weights, heads * T * S) };
}

/** Rows `ld` apart, NaN between them. */
function spread(x: Float32Array, columns: number, ld: number): Float32Array {
  const rows = x.length / columns, out = new Float32Array(rows * ld).fill(NaN);
  for (let row = 0; row < rows; row++) out.set(x.subarray(row * columns, (row + 1) * columns), row * ld);
  return out;
}

test("attention in int16 of the largest sums there can be stays exact: 64 columns and whole blocks of rows, all of the largest number", () => {
  const T = 4, S = 64, d = 64, ones = (rows: number) => new Float32Array(rows * d).fill(3);
  const { out, weights } = attend(m0(), { T, S, heads: 1, d, q: ones(T), k: ones(S), v: ones(S), format: "i16" });
  assert.ok(out.every((x) => Math.abs(x - 3) < 1e-5) && weights.every((p) => Math.abs(p - 1 / 64) < 1e-8));
});

/** What halves make of numbers: the nearest, ±65504 at most. */
const halved = (x: Float32Array) => x.map((value) => fromF16(toF16(Math.max(-65504, Math.min(65504, value)))));

for (const [T, S, heads, d] of [[1, 1, 1, 1], [1, 201, 3, 40], [3, 3, 2, 5], [5, 37, 3, 8], [9, 130, 2, 25], [3, 65, 2, 16], [4, 64, 3, 64], [13, 77, 1, 30], [9, 257, 2, 64]] as const) {
  const all = toy(T, S, heads, d), D = heads * d;
  for (const causal of [true, false]) for (const format of cacheFormats) {
    test(`attention (${causal ? "causal" : "full"}) equals the reference for ${T} rows that see ${S} in ${format}, ${heads} heads of ${d}`, () => {
      const found = attend(m0(), { ...all, causal, format });
      const g = new Reference(), before = past([S - T]), kept = format === "f16" ? halved : (x: Float32Array) => x;
      const k = matrix(S, D, kept(all.k)), v = matrix(S, D, kept(all.v)), q = matrix(T, D, all.q);
      let seen = g.keysValues(k, v);
      if (causal) {
        if (S > T) g.append(before, 0, g.rows(k, 0, S - T), g.rows(v, 0, S - T));
        seen = g.append(past([T], before), 0, g.rows(k, S - T, S), g.rows(v, S - T, S));
      }
      const wanted = valuesOf(g.attention(q, seen, { heads, weights: "p" })).data, p = g.taps.get("p")!.data, whole = format === "i16" ? 1 : 0;
      // a score is off by 2 d roundings of at most d max|q| max|k| / √d; e^score by as much relative, then S sums of numbers within 1;
      // in int16 each q and each k is off by half of a 5792nd of the largest
      const score = ((d + 4) * EPS + (whole * 1) / 5792) * Math.sqrt(d) * largest(all.q) * largest(all.k);
      assertClose(found.weights, p, 4 * score + S * EPS, S, "weights");
      // and a value, and each e where that of the largest e is one, by half of an 8191st
      const most = Array.from({ length: heads * T }, (_, i) => largest(p.subarray(i * S, (i + 1) * S))), half = (whole * 0.5 * largest(all.v)) / 8191;
      assertClose(found.out, wanted, (i) => 4 * score + 2 * S * EPS + half * (1 + S * most[Math.floor((i % D) / d) * T + Math.floor(i / D)]), D, "attention");
    });
  }

  for (const format of cacheFormats) test(`attention gives a row the same bits for any number of threads and tiles, and in prefill as step by step: ${T} rows of ${S} in ${format}, ${heads} × ${d}`, () => {
    const together = attend(m0(), { ...all, format, causal: true });
    for (const n of [2, 3]) for (const tiles of [1, 2, 5]) {
      const found = attend(m0(), { ...all, format, causal: true, n, tiles });
      assertSameBits(found.out, together.out, `${n} threads, ${tiles} tiles together`);
      assertSameBits(found.weights, together.weights, `weights, ${n} threads, ${tiles} tiles together`);
    }
    const full = attend(m0(), { ...all, format });
    for (let row = 0; row < T; row++) {
      const seen = S - T + row + 1, q = all.q.subarray(row * D, (row + 1) * D);
      const step = attend(m0(), { ...all, format, q, T: 1, S: seen, k: all.k.subarray(0, seen * D), v: all.v.subarray(0, seen * D), causal: true });
      assertSameBits(step.out, together.out.slice(row * D, (row + 1) * D), `row ${row} as a step`);
      assertSameBits(attend(m0(), { ...all, format, q, T: 1, tiles: 2 }).out, full.out.slice(row * D, (row + 1) * D), `row ${row} alone, seeing all`);
    }
  });
}

for (const format of cacheFormats) test(`a row's attention in ${format} has the same bits at every context up to 200, in a prompt, by fours and 72s, and as a step`, () => {
  const S = 200, heads = 2, d = 64, D = heads * d, all = toy(S, S, heads, d), together = attend(m0(), { ...all, format, causal: true, tiles: 4 }).out;
  for (const T of [1, 4, 72]) for (let from = 0; from < S; from += T) {
    const seen = Math.min(from + T, S), rows = { q: all.q.subarray(from * D, seen * D), k: all.k.subarray(0, seen * D), v: all.v.subarray(0, seen * D), T: seen - from, S: seen };
    assertSameBits(attend(m0(), { ...rows, heads, d, format, causal: true, tiles: 2 }).out, together.slice(from * D, seen * D), `rows ${from} … ${seen - 1}`);
  }
});

for (const format of cacheFormats) test(`attention in ${format} never looks at rows that a row does not see, whatever they hold`, () => {
  const all = toy(6, 70, 2, 12), clean = attend(m0(), { ...all, format, causal: true }).out;
  const k = all.k.slice(), v = all.v.slice(), D = 24;
  k.fill(NaN, 68 * D);
  v.fill(Infinity, 68 * D);
  assertSameBits(attend(m0(), { ...all, k, v, format, causal: true }).out.slice(0, 4 * D), clean.slice(0, 4 * D), "rows 0 … 3");
});

test("NaN in a head of a row of q, k or v makes NaN in int16 of the rows that see it, in that head, and of nothing else", () => {
  const all = toy(6, 70, 3, 12), D = 36, clean = attend(m0(), { ...all, format: "i16", causal: true }).out;
  for (const [name, row, first, last] of [["q", 2, 2, 2], ["k", 66, 2, 5], ["v", 66, 2, 5], ["k", 3, 0, 5], ["v", 3, 0, 5]] as const) {
    const odd = all[name].slice();
    odd[row * D + 17] = NaN; // of the second head
    const { out } = attend(m0(), { ...all, [name]: odd, format: "i16", causal: true });
    const wanted = clean.map((x, i) => (i >= first * D && i < (last + 1) * D && Math.floor((i % D) / 12) === 1 ? NaN : x));
    assert.deepEqual([...out], [...wanted], `${name}, row ${row}`);
  }
});

test("attention of scores far apart underflows to 0 and not to NaN", () => {
  const q = Float32Array.of(100, 0), k = Float32Array.of(100, 0, -100, 0, 0, 0), v = Float32Array.of(1, 2, 3, 4, 5, 6);
  const { out, weights } = attend(m0(), { q, k, v, T: 1, S: 3, heads: 1, d: 2 });
  assert.deepEqual([...out, ...weights], [1, 2, 1, 0, 0]);
});

test("values kept in f16 are the nearest halves, to even, also subnormal, and ±65504 where halves end: one infinity would make a NaN of every row that sees it", () => {
  const special = [0, 1 + 2 ** -11, 1 + 3 * 2 ** -11, -65519, 65520, 1e9, -Infinity, 6e-8, 2 ** -25, 6.1e-5, -3.3e-6], S = special.length + 120, d = 5;
  const v = random(S * d, 3, 7e-5);
  special.forEach((value, i) => v.fill(value, i * d, (i + 1) * d));
  for (let row = 0; row < special.length; row++) { // one key far nearer than all others: its value alone comes out
    const k = new Float32Array(S * d).fill(-100);
    k.fill(100, row * d, (row + 1) * d);
    const { out } = attend(m0(), { q: new Float32Array(d).fill(1), k, v, T: 1, S, heads: 1, d, format: "f16" });
    assertSameBits(out, halved(v.slice(row * d, (row + 1) * d)).map((value) => value + 0), `${special[row]}`);
  }
});
