/** Node, Deno and Bun: all that uses `node:` modules lies in node/. */
export * from "./node/assets.js";
export * from "./node/files.js";
export * from "./node/hub-store.js";
export * from "./node/workers.js";
export * from "./node/images.js";
