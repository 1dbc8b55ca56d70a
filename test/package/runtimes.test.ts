/** The installed package captions one emoji picture wherever WebAssembly runs: the same ids as in Node. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { fixtures } from "../support.js";
import { page, run, serve, tool, toolPackage, visit, withChromium, withProject, withTools, write } from "./consumer.js";

const picture = join(fixtures, "emoji/keys.png");
/** What Hugging Face's own code says about it. */
const reference: number[] = JSON.parse(readFileSync(join(fixtures, "emoji/cases.json"), "utf8")).cases[0].new_ids;

const { project, skip: noProject } = withProject();
const skip = noProject || withTools();

interface Said {
  f32: number[];
  auto: number[];
}

// f32 must be as the reference; the default must be the same numbers everywhere
const ask = (image: string) => `
const said = {};
for (const dtype of ["f32", "auto"]) {
  const kosmos = await Kosmos2.load("kosmos2-emoji", { dtype });
  said[dtype] = (await kosmos.caption(${image})).newIds;
  await kosmos.dispose();
}`;
const program = `import { Kosmos2 } from "kosmos2-wasm";${ask("process.argv[2]")}\nconsole.log(JSON.stringify(said));\n`;

let inNode: Said | undefined;
if (project) {
  write(project.folder, { "smoke.mjs": program });
  inNode = JSON.parse(await run(process.execPath, ["smoke.mjs", picture], { cwd: project.folder }));
}

function same(said: Said): void {
  assert.deepEqual(said.f32, reference);
  assert.deepEqual(said.auto, inNode!.auto);
}

test("the installed package captions in this Node", { skip: noProject }, () => same(inNode!));

for (const [name, command, ...args] of [
  ["Node 24", toolPackage("node/bin/node")],
  ["Deno", tool("deno"), "run", "--allow-all", "--quiet"],
  ["Deno with the permissions that README.md names", tool("deno"), "run", "--no-prompt", "--allow-read", "--allow-env", "--allow-ffi", "--quiet"],
  ["Bun", tool("bun")],
] as const) {
  test(`the installed package captions in ${name}, with the same ids`, { skip }, async () => {
    same(JSON.parse(await run(command, [...args, "smoke.mjs", picture], { cwd: project!.folder })));
  });
}

for (const isolated of [true, false]) {
  test(`the installed package captions in Chromium, ${isolated ? "cross-origin isolated with threads" : "not isolated"}, with the same ids`, { skip: skip || withChromium() }, async () => {
    const map = { imports: {
      "kosmos2-wasm": "/node_modules/kosmos2-wasm/dist/index.js",
      "#platform": "/node_modules/kosmos2-wasm/dist/platform/web.js",
      "@huggingface/tokenizers": "/node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs",
      "wasm-feature-detect": "/node_modules/wasm-feature-detect/dist/esm/index.js",
    } };
    copyFileSync(picture, join(project!.folder, "picture.png"));
    write(project!.folder, {
      "index.html": page(
        `import { Kosmos2, capabilities } from "kosmos2-wasm";
         const image = await (await fetch("picture.png")).blob();${ask("image")}
         globalThis.result = { said, isolated: crossOriginIsolated, used: (await capabilities()).used };`,
        `<script type="importmap">${JSON.stringify(map)}</script>`),
    });
    const { url, server } = await serve(project!.folder, isolated);
    after(() => server.close());
    const result = (await visit(url)) as { said: Said; isolated: boolean; used: { shared: boolean; threads: number } };
    same(result.said);
    assert.deepEqual([result.isolated, result.used.shared], [isolated, isolated]);
  });
}
