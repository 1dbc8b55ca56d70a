/** Weights as the model asks for them: by the checkpoint's names, seen from inside a prefix. */
import type { Weights as Handles } from "../model/kosmos2.js";
import { storedRows, type StoredLinear, type StoredNorm } from "../graph/recorder.js";
import type { Weights } from "./load.js";

export function handles(weights: Weights, prefix = ""): Handles {
  const row = (name: string) => weights.rows(prefix + name);
  return {
    at: (inner) => handles(weights, `${prefix}${inner}.`),
    linear: (name): StoredLinear => weights.matrix(prefix + name),
    norm(name, eps): StoredNorm {
      const gamma = row(`${name}.weight`);
      return { width: gamma.columns, eps, gamma: gamma.address, beta: row(`${name}.bias`).address };
    },
    matrix(name) {
      const { address, rows, columns } = row(name);
      return storedRows(address, rows, columns);
    },
  };
}
