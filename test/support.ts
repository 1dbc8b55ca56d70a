/** Where things are, and how a test says that it needs what is not here. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The project's folder. */
export const root = fileURLToPath(new URL("../../", import.meta.url));
/** The project's own small fixtures, always there. */
export const fixtures = `${root}test/fixtures/`;
/** Reference values of Hugging Face's own code, beside the project; not in every clone. */
export const goldens = fileURLToPath(new URL("../../../shared/goldens/", import.meta.url));

/** For a test's options: `{ skip: without goldens }`. Says loudly what was not checked. */
export const noGoldens = existsSync(goldens) ? false : `SKIPPED, NOT CHECKED: ${goldens} is not there`;

/** Numbers that look random and are the same every time (xorshift32); uniform in −1 … 1. */
export function random(length: number, seed = 1, scale = 1): Float32Array {
  let state = seed * 2654435761 || 1;
  return Float32Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) / 2 ** 31 - 1) * scale;
  });
}
