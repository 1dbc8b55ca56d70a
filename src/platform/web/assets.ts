/** The package's wasm modules, fetched (browsers, workers, edge). node/assets.ts gives the same names. */
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
 * @param from where to look instead of the package's own folder
 * @throws {Kosmos2Error} code `wasm-not-found` when there is nothing, or something else
 */
export async function loadModule(name: ModuleName, from?: WasmUrl, signal?: AbortSignal): Promise<WebAssembly.Module> {
  signal?.throwIfAborted();
  const source = moduleSource(name, from);
  if (typeof source !== "string") return source;
  const url = source || own[name].href;
  try {
    const response = await fetch(url, { signal });
    return await compileModule(name, source, response.url || url, new Uint8Array(await response.arrayBuffer()), response.ok ? "" : `HTTP ${response.status}`);
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof TypeError ? notFound(name, url, "no answer", error) : error;
  }
}
