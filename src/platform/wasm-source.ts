/**
 * Where the package's wasm modules come from, as far as all runtimes agree. The addresses themselves are in node/assets.ts and
 * web/assets.ts, spelt out, since bundlers look for `new URL("…", import.meta.url)`.
 */
import { Kosmos2Error } from "../errors.js";
import type { ModuleName, WasmUrl } from "./modules.js";

/** The package's own, once compiled: an engine keeps with a module what it has optimised of it, so that the next model is fast from the start. */
const kept = new Map<ModuleName, WebAssembly.Module>();

/** What `from` says about a module: the module itself, or its address ("" stands for the package's own, not compiled before). */
export function moduleSource(name: ModuleName, from: WasmUrl | undefined): WebAssembly.Module | string {
  if (from === undefined) return kept.get(name) ?? "";
  if (typeof from === "string" || from instanceof URL) {
    const folder = String(from);
    return `${folder}${folder.endsWith("/") ? "" : "/"}${name}.wasm`;
  }
  const source = from[name];
  if (source instanceof WebAssembly.Module) return source;
  if (source === undefined) return kept.get(name) ?? "";
  if (typeof source === "string" || source instanceof URL) return String(source);
  throw new Kosmos2Error("wasm-not-found", "load",
    `Cannot load ${name}.wasm: wasmUrl["${name}"] is ${typeof source}, not a URL or a WebAssembly.Module`, { file: name, found: typeof source });
}

/** Compiles what was found at `url` for a `source` of moduleSource. @throws {Kosmos2Error} code `wasm-not-found` when it is something else, as a page that says 404 */
export async function compileModule(name: ModuleName, source: string, url: string, bytes: Uint8Array<ArrayBuffer>, note = ""): Promise<WebAssembly.Module> {
  if (bytes[0] === 0 && bytes[1] === 0x61 && bytes[2] === 0x73 && bytes[3] === 0x6d) {
    const module = await WebAssembly.compile(bytes);
    if (source === "") kept.set(name, module);
    return module;
  }
  const start = new TextDecoder().decode(bytes.subarray(0, 40)).replace(/[^\x20-\x7e]+/g, " ").trim();
  throw notFound(name, url, `${note || `${bytes.length} bytes`} beginning with "${start}", which is not wasm`);
}

/** The error of a module that isn't there. */
export function notFound(name: ModuleName, url: string, found: string, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("wasm-not-found", "load",
    `Cannot load ${name}.wasm: ${url} gave ${found}; copy the package's dist/wasm folder there, or pass wasmUrl`, { file: url, found }, cause);
}
