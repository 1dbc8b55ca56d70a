/**
 * Two contenders in one browser: wllama (llama.cpp in wasm) and tfjs-wasm, on a cross-origin isolated page of headless Chromium.
 * wllama gets a quarter of the decoder (6 layers, a quarter of the vocabulary): its file and memory must fit 2 GiB comfortably.
 * The browser is the system's: CHROMIUM names it, else the usual places are looked at.
 */
import { chromium } from "playwright-core";
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { serve } from "../../build/bench/serve.js";
import { sizes, writeGguf } from "./gguf.mjs";

const here = new URL("./", import.meta.url).pathname;
const version = (name) => JSON.parse(readFileSync(`${here}node_modules/${name}/package.json`, "utf8")).version;
const types = { html: "text/html", js: "text/javascript", mjs: "text/javascript", wasm: "application/wasm" };
const executablePath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path && existsSync(path));

/** Serves this folder, and the model under /model.gguf. */
let gguf;
const server = createServer((request, response) => {
  const path = request.url === "/model.gguf" ? gguf : here + decodeURIComponent(request.url.slice(1).split("?")[0]);
  if (!path || path.includes("..") || !existsSync(path) || !statSync(path).isFile()) return response.writeHead(404).end();
  response.writeHead(200, {
    "content-type": types[path.split(".").at(-1)] ?? "application/octet-stream", "content-length": statSync(path).size,
    "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp",
  });
  createReadStream(path).pipe(response);
}).listen(0, "127.0.0.1");
await new Promise((resolve) => server.once("listening", resolve));

if (!executablePath) throw new Error("No Chromium: install one, or name it in CHROMIUM");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage();
page.setDefaultTimeout(600_000);
await page.goto(`http://127.0.0.1:${server.address().port}/page.html`);
process.on("exit", () => browser.close().catch(() => {}));
process.stdin.on("end", () => void browser.close());

/** Calls a function of page.html. */
const call = (name, order) => page.evaluate(([name, order]) => globalThis[name](order), [name, order]);

serve({
  about: () => ({
    version: `wllama ${version("@wllama/wllama")}, tfjs-wasm ${version("@tensorflow/tfjs-backend-wasm")}, Chromium ${browser.version()}`,
    settings: "cross-origin isolated, tfjs-wasm 2 threads",
  }),
  async load({ threads, tiny }) {
    const size = tiny ? "tiny" : "quarter";
    gguf = writeGguf(`.cache/bench/gpt2-${size}.gguf`, sizes[size]);
    const made = await call("loadModel", { threads });
    if (!made.multithread || made.threads !== threads) throw new Error(`wllama runs ${made.multithread ? made.threads : 1} threads, not ${threads}`);
    return `wllama ${made.threads} threads`;
  },
  phase: (order) => call("phase", order),
  kernel: (order) => call("kernel", order),
  drop: () => call("drop", {}),
});
