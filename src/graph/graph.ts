/**
 * The waist of the engine: the dozen operations that the model is written in (model/), and that every backend does.
 *
 * A matrix has rows (positions) and columns (features); heads are ranges of columns. Nothing is reshaped or transposed.
 * Who carries the operations out is unknown here: reference.ts computes at once in plain TypeScript, recorder.ts writes them
 * down for a backend. Handles (Matrix, Linear, …) belong to the graph that made them.
 *
 * Letters: T rows now, S rows seen, K inputs, N outputs, D width.
 */

/** f32 numbers, rows × columns; what is behind it is the graph's own affair. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
}

/** A weight w[N, K] with its bias b[N] (or none), in whatever format it is stored. */
export interface Linear {
  readonly outputs: number;
  readonly inputs: number;
}

/** The γ and β of a layer norm of one width, and its ε. */
export interface Norm {
  readonly width: number;
  readonly eps: number;
}

/** Keys and values that an attention may look at. */
export interface KeysValues {
  readonly width: number;
}

/** The caches of one batch: one per sequence, and how many rows each adds in this pass. */
export interface Past {
  readonly rows: readonly number[];
}

/**
 * Activations by Hugging Face's names (ACT2FN); a name's place is its code in the kernels (assembly/activation.ts).
 * Names of one line are synonyms.
 */
export const activations = [
  ["linear"],
  ["gelu", "gelu_python"], // u/2 · (1 + erf(u/√2))
  ["quick_gelu"], // u · σ(1.702 u)
  ["relu"],
  ["silu", "swish"],
  ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"], // u/2 · (1 + tanh(√(2/π) (u + 0.044715 u³)))
  ["tanh"],
  ["sigmoid"],
  ["relu2"],
  ["relu6"],
  ["leaky_relu"], // slope 0.01
  ["mish"],
] as const;
export type Activation = (typeof activations)[number][number];

/** The rows a table lookup takes, one entry a row: a token's id, or `-1 - r` for row r of the image rows. */
export interface Tokens {
  readonly ids: readonly number[];
  /** Position of each row, for the sinusoid table (MODEL.md, "Positions"). */
  readonly positions: readonly number[];
}

export interface Graph {
  /** x · wᵀ + b, then the activation, then plus the residual: [T, K] → [T, N]. */
  linear(x: Matrix, w: Linear, options?: { activation?: Activation; residual?: Matrix }): Matrix;

  /** Each row to mean 0 and variance 1 (biased), then γ and β. */
  layernorm(x: Matrix, w: Norm): Matrix;

  /** Each row divided by max(‖row‖₂, 1e-12). */
  l2normalize(x: Matrix): Matrix;

  /** softmax(q kᵀ / √d) v, head by head; causal when `seen` came from `append`. `weights` names a tap [heads · T, S]. */
  attention(q: Matrix, seen: KeysValues, options: { heads: number; weights?: string }): Matrix;

  /** Keys and values of this pass alone. */
  keysValues(k: Matrix, v: Matrix): KeysValues;

  /**
   * Adds this pass's rows to the caches of one layer; row i of a sequence sees all rows up to its own.
   *
   * @param asking how many rows of each sequence, its last, will attend (default: all that are added)
   */
  append(past: Past, layer: number, k: Matrix, v: Matrix, asking?: readonly number[]): KeysValues;

  /** Pixels [C · H, W] in planes → one row of C · patch² numbers (c, y, x) for each patch, row-major. */
  patches(pixels: Matrix, options: { channels: number; patch: number }): Matrix;

  /** scale · (table row or image row) + sinusoid of the position. */
  embed(tokens: Tokens, table: Linear, options: { scale: number; images?: Matrix }): Matrix;

  /** The parts one below the other. */
  concat(parts: readonly Matrix[]): Matrix;

  /** x + y. */
  add(x: Matrix, y: Matrix): Matrix;

  /** Rows from … to − 1: the same numbers, not a copy. */
  rows(x: Matrix, from: number, to: number): Matrix;

  /** Names a stage, so that a caller can ask for its numbers. Asking changes no number. */
  tap(name: string, x: Matrix): void;
}
