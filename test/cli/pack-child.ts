/** Packs in a process of its own, to be killed; writes a byte for every block. */
import { writeSync } from "node:fs";
import { pack, type PackOptions } from "#src/cli/pack.js";

await pack({ ...(JSON.parse(process.argv[2]) as PackOptions), onProgress: () => void writeSync(1, ".") });
