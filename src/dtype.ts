/** How weights can be held, by the names that people give. */
import { Kosmos2Error } from "./errors.js";
import { inIntegers, WIDEST_IN_INT16 } from "./graph/record.js";

/** How weights are stored and computed with. `"auto"`: a pack's own, else i8. `"w8a8"`: activations in 8 bits too. */
export type Dtype = "auto" | "f32" | "f16" | "i8" | "i4" | "w8a8";
/** `fp32`, `fp16`, `q8` and `q4` are understood as well. */
export type DtypeName = Dtype | "fp32" | "fp16" | "q8" | "q4";

/** How keys and values of a text are kept. `"auto"`: f32 beside f32 weights, f16 beside f16, i16 beside i8, i4 and w8a8. */
export type CacheDtype = "auto" | "f32" | "f16" | "i16";

/**
 * Halves change logits by 1e-4, where int8 weights change them by 6e-3, and not one token of the reference captions; they halve what
 * decoding reads besides weights, and what a text takes (bench/RESULTS.md). Numbers of 14 bits with a scale for each row and head are as close and as
 * small, and attention multiplies them as they are. Weights in f32 are asked for when every digit counts.
 *
 * @param headWidth columns of a head: where there are too many for sums in int32, i16 becomes f16. Default 0: for who only asks whether the name is one
 * @throws {Kosmos2Error} code `option-invalid`
 */
export function cacheDtypeOf(name: CacheDtype = "auto", dtype: Exclude<Dtype, "auto">, headWidth = 0): Exclude<CacheDtype, "auto"> {
  const wanted = ["auto", "f32", "f16", "i16"];
  if (!wanted.includes(name)) {
    throw new Kosmos2Error("option-invalid", "input", `Cannot load with cache ${JSON.stringify(name)}: wanted ${wanted.join(", ")}`, { found: name, wanted });
  }
  const format = name !== "auto" ? name : dtype === "f32" ? "f32" : inIntegers(dtype) ? "i16" : "f16";
  return format === "i16" && headWidth > WIDEST_IN_INT16 ? "f16" : format;
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
