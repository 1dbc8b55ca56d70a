/** Browsers, workers and edge functions: web standards only. */
export * from "./web/assets.js";
export * from "./web/files.js";
export * from "./web/hub-store.js";
export * from "./web/workers.js";
export * from "./web/images.js";
