/**
 * Runs the built tests: all, or those whose path contains one of the given words.
 *
 *     node test/run.mjs                 everything
 *     node test/run.mjs graph kernels   build/test/**\/*graph*.test.js and *kernels*
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";

const words = process.argv.slice(2);
// Node 20's --test takes no globs, so the files are listed here.
const files = readdirSync("build/test", { recursive: true })
  .filter((file) => file.endsWith(".test.js") && (words.length === 0 || words.some((word) => file.includes(word))))
  .map((file) => `build/test/${file}`)
  .sort();
if (files.length === 0) {
  console.error(`No built test has ${words.join(" or ")} in its path`);
  process.exit(2);
}
const { status } = spawnSync(process.execPath, ["--test", "--test-timeout=300000", "--test-reporter=spec", ...files], { stdio: "inherit" });
process.exit(status ?? 1);
