/**
 * Builds everything that runs: assembly/ → dist/wasm/*.wasm, src/ → dist/, test/ and bench/ → build/.
 * Wasm modules are compiled one after the other, and only when a file of assembly/ is newer than they are.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";

const only = process.argv[2]; // "wasm" or "ts", else both; "bench" for both and what the benchmark needs besides

function run(file, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file, ...args], { stdio: "inherit" });
    child.on("exit", (code) => (code === 0 ? resolve() : reject(new Error(`${file} ${args.join(" ")}: exit ${code}`))));
  });
}

const modified = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

async function wasm() {
  const sources = readdirSync("assembly").filter((f) => f.endsWith(".ts")).map((f) => `assembly/${f}`);
  const newest = Math.max(...[...sources, "asconfig.json"].map(modified));
  const { targets } = JSON.parse(readFileSync("asconfig.json", "utf8"));
  const stale = Object.entries(targets).filter(([, { outFile }]) => modified(outFile) <= newest);
  if (stale.length) console.error("Compiling kernels: half a minute, this once");
  for (const [target] of stale) {
    const entry = target === "pixels" ? "assembly/pixels.ts" : "assembly/index.ts";
    await run("node_modules/assemblyscript/bin/asc.js", entry, "--target", target);
  }
}

async function types() {
  for (const name of existsSync("dist") ? readdirSync("dist") : []) if (name !== "wasm") rmSync(`dist/${name}`, { recursive: true }); // a deleted file must not be packed
  // declarations keep their comments, for people; what pages load does without
  await run("node_modules/typescript/bin/tsc", "-p", "tsconfig.json", "--emitDeclarationOnly");
  await run("node_modules/typescript/bin/tsc", "-p", "tsconfig.json", "--declaration", "false", "--removeComments");
  rmSync("build", { recursive: true, force: true }); // a deleted test must not go on running
  await run("node_modules/typescript/bin/tsc", "-p", "test/tsconfig.json");
}

/** Loops that find a machine's limits; never in the package. */
async function limits() {
  const options = ["--runtime", "stub", "--importMemory", "--initialMemory", "1", "--maximumMemory", "65536", "-O3", "--converge", "--noAssert", "--enable", "simd"];
  for (const [name, more] of [["limits", []], ["limits-relaxed", ["--enable", "relaxed-simd"]]]) {
    await run("node_modules/assemblyscript/bin/asc.js", "bench/assembly/limits.ts", ...options, ...more, "-o", `build/bench/${name}.wasm`);
  }
}

try {
  if (only !== "ts") await wasm();
  if (only !== "wasm") await types();
  if (only === "bench") await limits();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
