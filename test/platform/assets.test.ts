import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { Kosmos2Error } from "#src/errors.js";
import * as node from "#src/platform/node/assets.js";
import * as web from "#src/platform/web/assets.js";
import { root } from "../support.js";

const folder = `${root}dist/wasm`;

/** Answers every path with a page, as servers of one-page applications do, but for what is named. */
async function served(): Promise<{ url: string; close(): unknown }> {
  const { readFile } = await import("node:fs/promises");
  const server = createServer(async (request, response) => {
    if (request.url === "/gone/pixels.wasm") return void response.writeHead(404).end("not here");
    response.end(request.url === "/wasm/pixels.wasm" ? await readFile(`${folder}/pixels.wasm`) : "<!doctype html>\n<title>home</title>");
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => (server.closeAllConnections(), server.close()) };
}

const notFound = (pattern: RegExp) => (error: unknown) =>
  error instanceof Kosmos2Error && error.code === "wasm-not-found" && pattern.test(error.message) || assert.fail(String(error));

test("loadModule compiles the package's own modules, a folder's, and takes one that is compiled", async () => {
  const pixels = await node.loadModule("pixels");
  assert.ok(pixels instanceof WebAssembly.Module);
  assert.equal(await node.loadModule("pixels"), pixels, "the same module, with what was optimised of it");
  for (const name of ["plain", "plain-shared"] as const) assert.ok(await node.loadModule(name) instanceof WebAssembly.Module);
  assert.ok(await node.loadModule("pixels", folder) instanceof WebAssembly.Module);
  assert.ok(await node.loadModule("pixels", new URL(`file://${folder}/`)) instanceof WebAssembly.Module);
  for (const { loadModule } of [node, web]) assert.equal(await loadModule("pixels", { pixels }), pixels);
  assert.ok(await node.loadModule("plain", { pixels }) instanceof WebAssembly.Module, "a record's missing name comes from the package");
});

test("loadModule says which address gave what, when it isn't wasm", async () => {
  await assert.rejects(node.loadModule("pixels", "/nowhere"), notFound(/\/nowhere\/pixels\.wasm gave ENOENT/));
  await assert.rejects(node.loadModule("pixels", { pixels: 3 as unknown as string }), notFound(/number/));
  const server = await served();
  try {
    for (const { loadModule } of [node, web]) {
      assert.ok(await loadModule("pixels", `${server.url}/wasm`) instanceof WebAssembly.Module);
      await assert.rejects(loadModule("pixels", server.url), notFound(/\/pixels\.wasm gave 35 bytes beginning with "<!doctype html> <title>/));
      await assert.rejects(loadModule("pixels", `${server.url}/gone/`), notFound(/gave HTTP 404/));
      await assert.rejects(loadModule("pixels", "http://127.0.0.1:1/"), notFound(/no answer/));
    }
  } finally {
    server.close();
  }
});

test("loadModule rejects with the signal's reason", async () => {
  for (const { loadModule } of [node, web])
    await assert.rejects(loadModule("pixels", undefined, AbortSignal.abort("enough")), (reason) => reason === "enough");
});
