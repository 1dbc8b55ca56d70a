/**
 * The graph in plain TypeScript: every op computed at once, as its equation says. The specification that kernels and backends
 * are tested against; not fast, and nothing it does depends on a format.
 *
 * Stored numbers are f32; sums and functions in between are f64.
 */
import { activations, type Activation, type Graph, type KeysValues, type Linear, type Matrix, type Norm, type Past, type Tokens } from "./graph.js";
import { sinusoids } from "./sinusoids.js";

/** A matrix with its numbers, row-major. */
export interface Values extends Matrix {
  readonly data: Float32Array;
}

interface Weight extends Linear {
  readonly w: Float32Array;
  readonly bias: Float32Array | undefined;
}

interface Affine extends Norm {
  readonly gamma: Float32Array;
  readonly beta: Float32Array;
}

/** What the rows of q from … to − 1 may look at; row i of them sees `past + i + 1` rows, or all when past is undefined. */
interface Seen {
  readonly from: number;
  readonly to: number;
  readonly keys: Values;
  readonly values: Values;
  readonly past: number | undefined;
}

interface ReferenceKeysValues extends KeysValues {
  readonly parts: readonly Seen[];
}

/** Caches of a batch: `layers[layer][sequence]`. */
export interface ReferencePast extends Past {
  readonly layers: { keys: Values; values: Values }[][];
}

/** @param data f32 [rows, columns]; zeros when left out */
export function matrix(rows: number, columns: number, data: Float32Array = new Float32Array(rows * columns)): Values {
  if (data.length !== rows * columns) throw new RangeError(`Cannot make a matrix [${rows}, ${columns}]: ${data.length} numbers`);
  return { rows, columns, data };
}

/** @param w f32 [outputs, inputs] */
export function linear(outputs: number, inputs: number, w: Float32Array, bias?: Float32Array): Linear {
  return { outputs, inputs, w, bias } as Weight;
}

export function norm(gamma: Float32Array, beta: Float32Array, eps: number): Norm {
  return { width: gamma.length, eps, gamma, beta } as Affine;
}

/** Empty caches for a batch, or those of an earlier pass that now adds `rows[i]` rows to sequence i. */
export function past(rows: readonly number[], before?: ReferencePast): ReferencePast {
  return { rows, layers: before?.layers ?? [] };
}

/** The numbers of a handle of this graph. */
export const valuesOf = (x: Matrix): Values => x as Values;

export class Reference implements Graph {
  /** What `tap` named, copied. */
  readonly taps = new Map<string, Values>();

  /** @param padId the position whose sinusoid is zero */
  constructor(private readonly padId = 1) {}

  linear(x: Matrix, w: Linear, { activation = "linear", residual }: { activation?: Activation; residual?: Matrix } = {}): Matrix {
    const { w: weight, bias, outputs: N, inputs: K } = w as Weight;
    if (x.columns !== K) throw new RangeError(`Cannot multiply x[${x.rows}, ${x.columns}] by w[${N}, ${K}]ᵀ: ${x.columns} columns meet ${K}`);
    const { data } = valuesOf(x), rest = residual && valuesOf(residual).data;
    const act = activationOf(activation);
    return fill(x.rows, N, (m, n) => {
      let total = 0;
      for (let k = 0; k < K; k++) total += data[m * K + k] * weight[n * K + k];
      return act(total + (bias?.[n] ?? 0)) + (rest?.[m * N + n] ?? 0);
    });
  }

  layernorm(x: Matrix, w: Norm): Matrix {
    const { gamma, beta, eps } = w as Affine, D = x.columns;
    return rowwise(x, (row) => {
      const mean = row.reduce((total, v) => total + v, 0) / D;
      const variance = row.reduce((total, v) => total + (v - mean) ** 2, 0) / D;
      return row.map((v, k) => ((v - mean) / Math.sqrt(variance + eps)) * gamma[k] + beta[k]);
    });
  }

  l2normalize(x: Matrix): Matrix {
    return rowwise(x, (row) => {
      const length = Math.max(Math.sqrt(row.reduce((total, v) => total + v * v, 0)), 1e-12);
      return row.map((v) => v / length);
    });
  }

  attention(q: Matrix, seen: KeysValues, { heads, weights }: { heads: number; weights?: string }): Matrix {
    const D = q.columns, d = D / heads, query = valuesOf(q).data, { parts } = seen as ReferenceKeysValues;
    const S = Math.max(...parts.map((part) => part.keys.rows));
    const out = matrix(q.rows, D), probabilities = matrix(heads * q.rows, S);
    for (const { from, to, keys, values, past } of parts) {
      for (let h = 0; h < heads; h++) for (let row = from; row < Math.min(to, q.rows); row++) {
        const count = past === undefined ? keys.rows : past + row - from + 1;
        const scores = Array.from({ length: count }, (_, s) => {
          let total = 0;
          for (let c = h * d; c < (h + 1) * d; c++) total += query[row * D + c] * keys.data[s * D + c];
          return total / Math.sqrt(d);
        });
        const p = softmax(scores);
        probabilities.data.set(p, (h * q.rows + row) * S);
        for (let c = h * d; c < (h + 1) * d; c++) out.data[row * D + c] = p.reduce((total, value, s) => total + value * values.data[s * D + c], 0);
      }
    }
    if (weights !== undefined) this.tap(weights, probabilities);
    return out;
  }

  keysValues(k: Matrix, v: Matrix): KeysValues {
    const part = { from: 0, to: Infinity, keys: valuesOf(k), values: valuesOf(v), past: undefined };
    return { width: k.columns, parts: [part] } as KeysValues;
  }

  append(past: Past, layer: number, k: Matrix, v: Matrix, asking = past.rows): KeysValues {
    const caches = ((past as ReferencePast).layers[layer] ??= []);
    let end = 0, from = 0;
    const parts = past.rows.map((count, i): Seen => {
      const start = end;
      end += count;
      const grow = (old: Values | undefined, x: Matrix) => valuesOf(this.concat([...(old ? [old] : []), this.rows(x, start, end)]));
      const { keys, values } = (caches[i] = { keys: grow(caches[i]?.keys, k), values: grow(caches[i]?.values, v) });
      return { from, to: (from += asking[i]), keys, values, past: keys.rows - asking[i] };
    });
    return { width: k.columns, parts } as KeysValues;
  }

  patches(pixels: Matrix, { channels, patch }: { channels: number; patch: number }): Matrix {
    const width = pixels.columns, height = pixels.rows / channels, across = Math.floor(width / patch), { data } = valuesOf(pixels);
    return fill(across * Math.floor(height / patch), channels * patch * patch, (i, column) => {
      const c = Math.floor(column / (patch * patch)), y = Math.floor(column / patch) % patch, x = column % patch;
      return data[(c * height + Math.floor(i / across) * patch + y) * width + (i % across) * patch + x];
    });
  }

  embed(tokens: Tokens, table: Linear, { scale, images }: { scale: number; images?: Matrix }): Matrix {
    const D = table.inputs, { w } = table as Weight;
    const positions = tokens.positions.map((position) => sinusoids(position, 1, D, this.padId));
    return fill(tokens.ids.length, D, (m, k) => {
      const id = tokens.ids[m];
      const value = id < 0 ? valuesOf(images!).data[(-1 - id) * D + k] : w[id * D + k];
      return Math.fround(scale * value) + positions[m][k];
    });
  }

  concat(parts: readonly Matrix[]): Matrix {
    const columns = parts[0].columns, out = matrix(parts.reduce((rows, part) => rows + part.rows, 0), columns);
    let at = 0;
    for (const part of parts) {
      out.data.set(valuesOf(part).data, at);
      at += part.rows * columns;
    }
    return out;
  }

  add(x: Matrix, y: Matrix): Matrix {
    return fill(x.rows, x.columns, (m, k) => valuesOf(x).data[m * x.columns + k] + valuesOf(y).data[m * x.columns + k]);
  }

  rows(x: Matrix, from: number, to: number): Matrix {
    return matrix(to - from, x.columns, valuesOf(x).data.subarray(from * x.columns, to * x.columns));
  }

  tap(name: string, x: Matrix): void {
    this.taps.set(name, matrix(x.rows, x.columns, valuesOf(x).data.slice()));
  }
}

function fill(rows: number, columns: number, value: (row: number, column: number) => number): Values {
  const out = matrix(rows, columns);
  for (let m = 0; m < rows; m++) for (let k = 0; k < columns; k++) out.data[m * columns + k] = value(m, k);
  return out;
}

function rowwise(x: Matrix, change: (row: number[]) => number[]): Values {
  const out = matrix(x.rows, x.columns);
  for (let m = 0; m < x.rows; m++) {
    out.data.set(change([...valuesOf(x).data.subarray(m * x.columns, (m + 1) * x.columns)]), m * x.columns);
  }
  return out;
}

export function softmax(scores: readonly number[]): number[] {
  const top = Math.max(...scores), e = scores.map((score) => Math.exp(score - top));
  const total = e.reduce((sum, value) => sum + value, 0);
  return e.map((value) => value / total);
}

/** erf by a series of positive terms: 2 / √π · e^(−x²) Σ 2ⁿ x²ⁿ⁺¹ / (2n + 1)!!. */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, total = x;
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(total); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    total += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

const sigmoid = (u: number) => 1 / (1 + Math.exp(-u));
const relu = (u: number) => (u < 0 ? 0 : u);

/** In the order of `activations`. */
const functions: readonly ((u: number) => number)[] = [
  (u) => u,
  (u) => (u / 2) * (1 + erf(u / Math.SQRT2)),
  (u) => u * sigmoid(1.702 * u),
  relu,
  (u) => u * sigmoid(u),
  (u) => (u / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (u + 0.044715 * u ** 3))),
  Math.tanh,
  sigmoid,
  (u) => relu(u) ** 2,
  (u) => Math.min(relu(u), 6),
  (u) => (u < 0 ? 0.01 * u : u),
  (u) => u * Math.tanh(Math.log1p(Math.exp(u))),
];

/** An activation's function, by any of its names. */
export function activationOf(name: Activation): (u: number) => number {
  return functions[activations.findIndex((names) => (names as readonly string[]).includes(name))];
}
