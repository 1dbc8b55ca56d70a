/** Kernels without a backend: a module over a memory of its own, records run one by one, threads one after another. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { RECORD_BYTES, writeRecord, type Fields, type Kind } from "#src/graph/record.js";
import { root } from "../support.js";

export type Engine = "plain" | "relaxed";

export const moduleBytes = (name: string) => readFileSync(`${root}dist/wasm/${name}.wasm`);

// Node 20 has relaxed SIMD behind a flag, to be set before the first module is compiled.
if (!WebAssembly.validate(moduleBytes("relaxed"))) setFlagsFromString("--experimental-wasm-relaxed-simd");

/** The builds that this runtime can run. */
export const engines = (["plain", "relaxed"] as const).filter((name) => WebAssembly.validate(moduleBytes(name)));

const BYTES = 2 ** 24, GUARD = 64, UNTOUCHED = 0xff;

export class Machine {
  readonly memory = new WebAssembly.Memory({ initial: BYTES / 65536, maximum: 65536 });
  readonly kernels: { run(list: number, count: number, t: number, n: number, control: number): number };
  private readonly ends: number[] = [];
  private next = 1024;

  constructor(engine: Engine) {
    const module = new WebAssembly.Module(moduleBytes(engine));
    this.kernels = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports as never;
  }

  /** Room full of NaN, with a guard behind it. Aligned to 4, no better. */
  alloc(bytes: number): number {
    const address = this.next;
    this.next += Math.ceil((bytes + GUARD) / 4) * 4;
    assert.ok(this.next <= BYTES, "the machine's memory is large enough");
    new Uint8Array(this.memory.buffer, address, bytes + GUARD).fill(UNTOUCHED);
    this.ends.push(address + bytes);
    return address;
  }

  put(numbers: ArrayBufferView): number {
    const address = this.alloc(numbers.byteLength);
    new Uint8Array(this.memory.buffer, address).set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
    return address;
  }

  bytes(address: number, count: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, count).slice();
  }

  floats(address: number, count: number): Float32Array {
    return new Float32Array(this.bytes(address, count * 4).buffer);
  }

  /** Runs one record as threads 0 … n − 1, and holds that nothing was written behind anything. */
  run<K extends Kind>(kind: K, fields: Fields<K>, n = 1): void {
    writeRecord(new DataView(this.memory.buffer, 128), 0, kind, fields);
    assert.ok(128 + RECORD_BYTES <= 1024);
    new Uint8Array(this.memory.buffer, 64, 64).fill(0);
    for (let t = n - 1; t >= 0; t--) assert.equal(this.kernels.run(128, 1, t, n, 64), 0);
    for (const end of this.ends) {
      const guard = new Uint8Array(this.memory.buffer, end, GUARD);
      assert.ok(guard.every((byte) => byte === UNTOUCHED), `${kind} wrote behind the end of a range`);
    }
  }

  /** Forgets all ranges. */
  reset(): this {
    this.ends.length = 0;
    this.next = 1024;
    return this;
  }
}

const machines = new Map<Engine, Machine>();

/** The machine of an engine, emptied. */
export function machine(engine: Engine): Machine {
  const known = machines.get(engine) ?? new Machine(engine);
  machines.set(engine, known);
  return known.reset();
}

/** Bit for bit; says where the first difference is. */
export function assertSameBits(found: Float32Array, wanted: Float32Array, what: string): void {
  assert.equal(found.length, wanted.length, what);
  const a = new Uint32Array(found.buffer, found.byteOffset, found.length), b = new Uint32Array(wanted.buffer, wanted.byteOffset, wanted.length);
  const at = a.findIndex((bits, i) => bits !== b[i]);
  if (at >= 0) assert.fail(`${what}: number ${at} is ${found[at]}, wanted ${wanted[at]}`);
}

/** Every number within `tolerance` of the wanted (a number, or one for each). Says which is worst. */
export function assertClose(found: Float32Array, wanted: ArrayLike<number>, tolerance: number | ((i: number) => number), columns: number, what: string): void {
  assert.equal(found.length, wanted.length, what);
  let worst = 0, at = -1;
  found.forEach((value, i) => {
    const ratio = Math.abs(value - wanted[i]) / (typeof tolerance === "number" ? tolerance : tolerance(i));
    if (!(ratio <= worst) && value !== wanted[i]) [worst, at] = [ratio, i];
  });
  if (!(worst <= 1)) {
    assert.fail(`${what}: row ${Math.floor(at / columns)}, column ${at % columns} is ${found[at]}, wanted ${wanted[at]}: ${worst} times the tolerance`);
  }
}

/** One f32 rounding. */
export const EPS = 2 ** -24;
export const largest = (x: Float32Array) => x.reduce((top, value) => Math.max(top, Math.abs(value)), 0);

/**
 * int16 rows as quantize makes them where the last come in eights, by the definition in assembly/rows_i16.ts.
 *
 * @param rows [M, ldq], zeros from column K on
 */
export function inEights(rows: Int16Array, M: number, K: number, ldq: number, eights: number): Int16Array {
  const singles = Math.max(M - 8 * eights, 0), out = [...rows.subarray(0, singles * ldq)];
  for (let g = 0; g < K; g += 128) for (let e = 0; e < eights; e++) {
    const x = (row: number, k: number) => (singles + 8 * e + row < M && g + k < K ? rows[(singles + 8 * e + row) * ldq + g + k] : 0);
    const a11 = x, a12: typeof x = (row, k) => x(row, k + 64), a21: typeof x = (row, k) => x(row + 4, k), a22: typeof x = (row, k) => x(row + 4, k + 64);
    const s1: typeof x = (row, k) => a21(row, k) + a22(row, k), s2: typeof x = (row, k) => s1(row, k) - a11(row, k);
    for (const quarter of [a11, a12, s2, (row: number, k: number) => a11(row, k) - a21(row, k), a22, s1, (row: number, k: number) => a12(row, k) - s2(row, k)]) {
      for (let k = 0; k < 64; k += 2) for (let row = 0; row < 4; row++) out.push(quarter(row, k), quarter(row, k + 1));
    }
  }
  return Int16Array.from(out);
}

/** Their scales likewise: pairs of single rows as they are, then of each group and eight f32 alone, 0 past row M. */
export function scalesInEights(pairs: Uint8Array, M: number, groups: number, eights: number): Uint8Array {
  const singles = Math.max(M - 8 * eights, 0), all = new Float32Array(pairs.slice().buffer), scales = new Float32Array(8 * groups * eights);
  for (let i = 0; i < scales.length; i++) {
    const row = singles + 8 * ((i >> 3) % eights) + (i & 7), g = Math.floor((i >> 3) / eights);
    scales[i] = row < M ? all[2 * (row * groups + g)] : 0;
  }
  return Uint8Array.from([...pairs.subarray(0, 8 * groups * singles), ...new Uint8Array(scales.buffer)]);
}
