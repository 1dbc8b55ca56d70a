/** Rules of the house that no compiler checks: who may import whom, what is depended on, what the wasm modules may hold. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { root } from "./support.js";

/** Which parts of src/ each part may import, besides itself and the shared files; ARCHITECTURE.md says why. */
const below: Record<string, readonly string[]> = {
  graph: [],
  platform: ["weights/files", "hub"],
  weights: ["graph", "platform", "model", "hub"],
  model: ["graph", "weights"],
  generate: ["model", "graph", "weights"],
  backend: ["graph", "platform"],
  processor: ["platform", "weights"],
  hub: ["platform", "weights/files"],
};
/** Files of src/ itself that anything may import; the others there are the top, and only users may import those. */
const shared = ["errors", "globals", "options", "pause", "tensor"];
/** What may be written in platform-dependent words. */
const nodeOnly = /^(platform\/node(\.ts|\/)|cli\/|server\/|backend\/wasm\/worker\.node\.ts$)/;

const sources = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts")).map((file) => file.replaceAll("\\", "/"));

/** Every import and export … from of a file, types or not. */
function imports(file: string): string[] {
  const text = readFileSync(join(root, "src", file), "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  return [...text.matchAll(/^(?:import|export)\s(?:[^;"']*?\sfrom\s)?["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']\s*\)/gm)].map((match) => match[1] ?? match[2]);
}

/** "graph" for graph/record.ts; "" for a file of src/ itself. */
const part = (file: string) => (file.includes("/") ? file.split("/")[0] : "");
const target = (file: string, specifier: string) => relative(join(root, "src"), join(root, "src", dirname(file), specifier)).replaceAll("\\", "/").replace(/\.js$/, "");

test("src/ imports downwards only", () => {
  const wrong: string[] = [];
  assert.deepEqual(imports("graph/record.ts"), ["./graph.js"]);
  for (const file of sources) {
    const own = part(file);
    if (own === "" || own === "cli" || own === "server") continue;
    assert.ok(below[own], `src/${own} is a new part: say in test/policy.test.ts and ARCHITECTURE.md what it may import`);
    for (const specifier of imports(file).filter((specifier) => specifier.startsWith("."))) {
      const to = target(file, specifier);
      const fine = part(to) === own || shared.includes(to) || (own === "processor" && to === "index") || below[own].some((name) => to === name || to.startsWith(`${name}/`));
      if (!fine) wrong.push(`src/${file} imports ${to}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("src/model and src/backend meet nowhere but at the top", () => {
  const meeting = sources.filter((file) => !["", "cli"].includes(part(file))).filter((file) => {
    const parts = new Set(imports(file).filter((specifier) => specifier.startsWith(".")).map((specifier) => part(target(file, specifier))));
    return parts.has("model") && parts.has("backend");
  });
  assert.deepEqual(meeting, []);
});

test("only the files made for Node import its modules or name its globals", () => {
  const wrong = sources.filter((file) => !nodeOnly.test(file)).filter((file) => {
    const text = readFileSync(join(root, "src", file), "utf8").replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    return imports(file).some((specifier) => specifier.startsWith("node:")) || /(?<![."'\w])process\.\w/.test(text) || (/\bBuffer\b/.test(text) && !/\bclass Buffer\b/.test(text));
  });
  assert.deepEqual(wrong, []);
});

test("the package depends on what the allow-list names and on nothing else", () => {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  assert.deepEqual(Object.keys(manifest.dependencies).sort(), ["@huggingface/tokenizers", "wasm-feature-detect"]);
  assert.deepEqual(Object.keys(manifest.optionalDependencies), ["sharp"]);
  assert.equal(manifest.peerDependencies, undefined);
  const named = new Set(sources.flatMap(imports).filter((specifier) => !/^(\.|#|node:)/.test(specifier)));
  assert.deepEqual([...named].filter((name) => !["@huggingface/tokenizers", "wasm-feature-detect", "sharp"].includes(name)), []);
});

test("no wasm module has a data segment, a start function or memory of its own", () => {
  assert.deepEqual([...sections(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 5, 3, 1, 0, 1, 12, 1, 0, 11, 2, 1, 1))], [5, 11]);
  for (const file of readdirSync(join(root, "dist/wasm")).filter((file) => file.endsWith(".wasm"))) {
    const found = sections(readFileSync(join(root, "dist/wasm", file)));
    for (const [id, name] of [[5, "memory"], [8, "start"], [11, "data"], [12, "data count"]] as const) {
      assert.ok(!found.has(id), `${file} has a ${name} section`);
    }
  }
});

/** The ids of a module's sections that hold anything. */
function sections(bytes: Uint8Array): Set<number> {
  const found = new Set<number>();
  for (let at = 8; at < bytes.length; ) {
    const id = bytes[at++];
    let size = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      size |= (byte & 127) << shift;
      if (byte < 128) break;
    }
    if (size > 1 || bytes[at] !== 0) found.add(id); // one byte of 0: a section of no entries
    at += size;
  }
  return found;
}
