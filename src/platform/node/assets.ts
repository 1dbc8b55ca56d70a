/** The package's wasm modules, read from disk (Node, Deno, Bun). web/assets.ts gives the same names. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { ModuleName, WasmUrl } from "../modules.js";
import { compileModule, moduleSource, notFound } from "../wasm-source.js";

const own: Record<ModuleName, URL> = {
  pixels: new URL("../../wasm/pixels.wasm", import.meta.url),
  plain: new URL("../../wasm/plain.wasm", import.meta.url),
  "plain-shared": new URL("../../wasm/plain-shared.wasm", import.meta.url),
  relaxed: new URL("../../wasm/relaxed.wasm", import.meta.url),
  "relaxed-shared": new URL("../../wasm/relaxed-shared.wasm", import.meta.url),
};

/**
 * A wasm module of the package, compiled.
 *
 * @param from where to look instead of dist/wasm
 * @throws {Kosmos2Error} code `wasm-not-found` when there is nothing, or something else
 */
export async function loadModule(name: ModuleName, from?: WasmUrl, signal?: AbortSignal): Promise<WebAssembly.Module> {
  signal?.throwIfAborted();
  const source = moduleSource(name, from);
  if (typeof source !== "string") return source;
  const url = source || own[name].href;
  // One letter before the colon is a Windows drive, not a scheme.
  if (/^(?!file:)[a-z][a-z0-9+.-]+:/i.test(url)) {
    const response = await fetch(url, { signal }).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw notFound(name, url, "no answer", error);
    });
    return compileModule(name, source, url, new Uint8Array(await response.arrayBuffer()), response.ok ? "" : `HTTP ${response.status}`);
  }
  const bytes = await readFile(url.startsWith("file:") ? fileURLToPath(url) : url, { signal }).catch((error: NodeJS.ErrnoException) => {
    signal?.throwIfAborted();
    throw notFound(name, url, error.code ?? "no file", error);
  });
  return compileModule(name, source, url, bytes as Uint8Array<ArrayBuffer>);
}
