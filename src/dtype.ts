/** How weights can be held, by the names that people give. */
import { Kosmos2Error } from "./errors.js";

/** How weights are stored and computed with. `"auto"`: a pack's own, else i8. `"w8a8"`: activations in 8 bits too. */
export type Dtype = "auto" | "f32" | "f16" | "i8" | "i4" | "w8a8";
/** `fp32`, `fp16`, `q8` and `q4` are understood as well. */
export type DtypeName = Dtype | "fp32" | "fp16" | "q8" | "q4";

/** How keys and values of a text are kept. `"auto"`: f32 beside f32 weights, else f16. */
export type CacheDtype = "auto" | "f32" | "f16";

/**
 * Halves change logits by 1e-4, where int8 weights change them by 6e-3, and not one token of the reference captions; they halve what
 * decoding reads besides weights, and what a text takes (bench/RESULTS.md). Weights in f32 are asked for when every digit counts.
 *
 * @throws {Kosmos2Error} code `option-invalid`
 */
export function cacheDtypeOf(name: CacheDtype = "auto", dtype: Exclude<Dtype, "auto">): Exclude<CacheDtype, "auto"> {
  const wanted = ["auto", "f32", "f16"];
  if (!wanted.includes(name)) {
    throw new Kosmos2Error("option-invalid", "input", `Cannot load with cache ${JSON.stringify(name)}: wanted ${wanted.join(", ")}`, { found: name, wanted });
  }
  return name !== "auto" ? name : dtype === "f32" ? "f32" : "f16";
}

const names: Readonly<Record<string, Dtype>> = {
  auto: "auto", f32: "f32", fp32: "f32", f16: "f16", fp16: "f16", i8: "i8", q8: "i8", i4: "i4", q4: "i4", w8a8: "w8a8",
};

/** @throws {Kosmos2Error} code `option-invalid` */
export function dtypeOf(name: DtypeName = "auto"): Dtype {
  if (Object.hasOwn(names, name)) return names[name];
  const wanted = Object.keys(names);
  throw new Kosmos2Error("option-invalid", "input", `Cannot load with dtype ${JSON.stringify(name)}: wanted ${wanted.join(", ")}`, { found: name, wanted });
}
