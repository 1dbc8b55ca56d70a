/** Names and places of the package's wasm modules: types alone, which compile without the DOM's (how they are found: wasm-source.ts). */

/** The wasm modules of dist/wasm: the picture resize, and the kernels for four kinds of runtime. */
export type ModuleName = "pixels" | "plain" | "plain-shared" | "relaxed" | "relaxed-shared";

/**
 * Where to load wasm from instead of the package's own folder: a folder (URL; in Node, Deno and Bun also a path), or a record from
 * name to URL or compiled `WebAssembly.Module`. Names that a record lacks come from the package.
 *
 * @example
 *   { wasmUrl: "https://cdn.example/kosmos2/wasm/" }
 *   { wasmUrl: { plain: plainModule, pixels: "/assets/pixels.wasm" } }
 */
export type WasmUrl = string | URL | { readonly [name in ModuleName]?: string | URL | object };
