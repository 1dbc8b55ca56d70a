/** The packed package in other people's projects: JavaScript, TypeScript, bundlers, size, and what checkers of packages say. */
import assert from "node:assert/strict";
import { cpSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { fixtures, root } from "../support.js";
import { page, run, serve, tool, toolPackage, visit, withChromium, withProject, withTools, write } from "./consumer.js";

const { project, skip: noProject } = withProject();
const skip = noProject || withTools();
const picture = join(fixtures, "emoji/keys.png");
const said = "An image of two keys and a panda on a white background.";

/** JavaScript and one wasm module, without model, types and tokenizer library. */
const CORE_BYTES = 150_000;

test("an empty project imports the installed package and its subpaths", { skip: noProject }, async () => {
  write(project!.folder, { "use.mjs": `
    import { Kosmos2, Kosmos2Config, Kosmos2Error, Kosmos2ForConditionalGeneration, Kosmos2ImageProcessor, Kosmos2Model, Kosmos2Processor } from "kosmos2-wasm";
    import * as processor from "kosmos2-wasm/processor";
    import { readFileSync } from "node:fs";
    for (const one of [Kosmos2Config, Kosmos2Error, Kosmos2ForConditionalGeneration, Kosmos2ImageProcessor, Kosmos2Model, Kosmos2Processor, processor.Kosmos2Processor]) if (typeof one !== "function") throw new Error("missing");
    for (const path of ["kosmos2-wasm/wasm/plain.wasm", "kosmos2-wasm/models/kosmos2-emoji/config.json", "kosmos2-wasm/package.json"]) readFileSync(new URL(import.meta.resolve(path)));
    const kosmos = await Kosmos2.load("kosmos2-emoji");
    const { caption } = await kosmos.caption(process.argv[2]);
    await kosmos.dispose();
    console.log(caption);
  ` });
  assert.equal(await run(process.execPath, ["use.mjs", picture], { cwd: project!.folder }), `${said}\n`);
});

test("the installed package's command captions a picture", { skip: noProject }, async () => {
  const line = JSON.parse(await run(join(project!.folder, "node_modules/.bin/kosmos2"), ["caption", picture, "--json"], { cwd: project!.folder }));
  assert.equal(line.caption, said);
});

const consumer = `
import { Kosmos2, Kosmos2Error, Kosmos2ForConditionalGeneration, Kosmos2Processor, type Box, type Caption, type Entity, type LoadOptions, type Tensor } from "kosmos2-wasm";
import { Kosmos2Processor as Alone } from "kosmos2-wasm/processor";

export async function captions(image: Uint8Array, options: LoadOptions): Promise<string> {
  const kosmos = await Kosmos2.load("kosmos2-emoji", { ...options, dtype: "i8", threads: 2 });
  const { caption, entities, stop }: Caption = await kosmos.caption(image, { maxNewTokens: 64 });
  const all: readonly Entity[] = entities;
  const boxes: Box[] = all.flatMap((entity) => entity.boxes);
  const [x1]: readonly number[] = boxes[0].normalized;
  // @ts-expect-error there is no such reason
  if (stop === "bored") throw new Error();
  const answer = kosmos.stream(image);
  for await (const { text } of answer) caption.concat(text);
  await kosmos.dispose();
  return caption + x1;
}

export async function classes(image: Uint8Array): Promise<number[][]> {
  const processor: Kosmos2Processor = await Alone.fromPretrained("kosmos2-emoji");
  const model = await Kosmos2ForConditionalGeneration.fromPretrained("kosmos2-emoji");
  const inputs = await processor.process({ text: "<grounding> An image of", images: image });
  const ids: Tensor<"int32"> = inputs.inputIds;
  const output = await model.generate({ ...inputs, maxNewTokens: 8 });
  try { await model.dispose(); } catch (error) { if (error instanceof Kosmos2Error) error.code.length + ids.data.length; }
  return output.newIds;
}
`;

for (const [name, options] of [
  ["without the DOM library", { lib: ["ES2022"] }],
  ["with the DOM library", { lib: ["ES2022", "DOM", "DOM.Iterable"] }],
  ["for a bundler", { lib: ["ES2022", "DOM"], module: "ESNext", moduleResolution: "Bundler" }],
] as const) {
  test(`the types compile in a strict project ${name}, the declarations too`, { skip }, async () => {
    const folder = write(join(project!.folder, name.replaceAll(" ", "-")), {
      "use.ts": consumer,
      "package.json": '{ "type": "module" }',
      "tsconfig.json": JSON.stringify({ compilerOptions: {
        target: "ES2022", module: "NodeNext", strict: true, exactOptionalPropertyTypes: true, noEmit: true, skipLibCheck: false, types: [], ...options,
      }, files: ["use.ts"] }),
    });
    await run(tool("tsc"), ["-p", "tsconfig.json"], { cwd: folder });
  });
}

const oneLine = `import { Kosmos2 } from "kosmos2-wasm"; globalThis.result = (await (await Kosmos2.load("kosmos2-emoji")).caption("picture.png")).caption;`;

test("Vite bundles a one-line program, which captions in Chromium", { skip: skip || withChromium() }, async () => {
  const folder = write(join(project!.folder, "vite"), { "index.html": page('import "./main.js";'), "main.js": oneLine, "package.json": '{ "type": "module" }' });
  await run(process.execPath, [join(toolPackage("vite"), "bin/vite.js"), "build", "--logLevel", "warn"], { cwd: folder });
  cpSync(picture, join(folder, "dist/picture.png"));
  const { url, server } = await serve(join(folder, "dist"), true);
  after(() => server.close());
  assert.equal(await visit(url), said);
});

test("esbuild bundles as the README says, and the result captions in Chromium", { skip: skip || withChromium() }, async () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const [, command] = /```sh\n(esbuild [\s\S]*?)```/.exec(readme) ?? [];
  const [, program] = /```js\n\/\/ main\.js[^\n]*\n([\s\S]*?)```/.exec(readme) ?? [];
  assert.ok(command && program, "README.md has the esbuild recipe");
  const folder = write(join(project!.folder, "esbuild"), { "main.js": program, "package.json": '{ "type": "module" }', "recipe.sh": `set -e\n${command}` });
  cpSync(join(project!.folder, "node_modules"), join(folder, "node_modules"), { recursive: true, verbatimSymlinks: true, filter: (path) => !path.includes("@img") });
  await run("sh", ["recipe.sh"], { cwd: folder, env: { PATH: `${join(toolPackage(".bin"))}:${process.env["PATH"]}` } });
  cpSync(picture, join(folder, "out/picture.png"));
  write(join(folder, "out"), { "index.html": page('import "./main.js";') });
  const { url, server } = await serve(join(folder, "out"), true);
  after(() => server.close());
  assert.equal(await visit(url), said);
});

test("the core, all JavaScript and one wasm module, is small", { skip: noProject }, () => {
  const dist = join(project!.installed, "dist");
  const sizes = readdirSync(dist, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".js") && !file.startsWith("cli") || file === join("wasm", "relaxed-shared.wasm"))
    .map((file) => gzipSync(readFileSync(join(dist, file))).length);
  const core = sizes.reduce((sum, size) => sum + size, 0);
  console.log(`core: ${core} bytes gzipped in ${sizes.length} files`);
  assert.ok(core <= CORE_BYTES, `${core} bytes gzipped, wanted at most ${CORE_BYTES}`);
});

test("the package holds what it needs and nothing of the workshop", { skip: noProject }, () => {
  const paths = project!.files.map(({ path }) => path);
  for (const path of ["LICENSE", "README.md", "dist/index.js", "dist/index.d.ts", "dist/wasm/plain.wasm", "models/kosmos2-emoji/model.safetensors"]) assert.ok(paths.includes(path), path);
  assert.deepEqual(paths.filter((path) => path.includes("/reference.")), [], "the specification is for tests");
  assert.deepEqual(paths.filter((path) => !/^(dist\/|models\/kosmos2-emoji\/|package\.json$|README\.md$|LICENSE$|THIRD-PARTY\.md$)/.test(path)), []);
});

test("publint has nothing to say about the package", { skip }, async () => {
  const out = await run(tool("publint"), ["run", project!.tarball, "--strict", "--pack", "false"], { cwd: root });
  assert.match(out, /All good/);
});

test("are-the-types-wrong finds the types right", { skip }, async () => {
  await run(tool("attw"), [project!.tarball, "--profile", "esm-only", "--no-emoji", "--no-color", "--exclude-entrypoints", "./wasm/*", "./models/kosmos2-emoji/*"], { cwd: root });
});
