/** A contender: onnxruntime-web's wasm backend, two threads, products alone. Of two ways to store int8 weights the faster counts. */
import * as ort from "onnxruntime-web";
import { readFileSync } from "node:fs";
import { flags, serve } from "../../build/bench/serve.js";
import { product } from "./onnx.mjs";

const COLD = 128 * 2 ** 20;
const bits = { f32: 32, i8: 8, i4: 4 };
const kinds = { f32: ["f32"], i8: ["i8 signed", "i8 unsigned"], i4: ["i4"] };
const { version } = JSON.parse(readFileSync(new URL("node_modules/onnxruntime-web/package.json", import.meta.url), "utf8"));

ort.env.wasm.numThreads = 2;
ort.env.logLevel = "error";

/** Prepared products by shape: all kinds at first, then the fastest. */
const sessions = new Map();
const warm = new Set();

async function timed({ session, feeds, count }, ms) {
  const samples = [], end = performance.now() + ms;
  do {
    const start = performance.now();
    const results = await session.run(feeds);
    samples.push((performance.now() - start) / count);
    for (const result of Object.values(results)) result.dispose();
  } while (performance.now() < end || samples.length < 2);
  return samples;
}

const middle = (samples) => [...samples].sort((a, b) => a - b)[samples.length >> 1];

serve({
  async about() {
    await (await ort.InferenceSession.create(product("f32", 1, 32, 32, 1), { executionProviders: ["wasm"] })).release(); // then it knows how many threads it has
    const { numThreads } = ort.env.wasm;
    if (numThreads !== 2) throw new Error(`onnxruntime-web runs ${numThreads} threads, not 2`);
    return {
      version: `onnxruntime-web ${version}, node ${process.versions.node}`,
      settings: `wasm backend, ${numThreads} threads, dynamic int8 or 4-bit blocks of 32 at accuracy level 4; ${flags()}`,
    };
  },

  async kernel({ dtype, M, K, N, ms }) {
    const key = `${dtype} ${M} ${K} ${N}`;
    if (!sessions.has(key)) {
      const count = M <= 4 ? Math.ceil(COLD / ((K * N * bits[dtype]) / 8)) : 1;
      let best;
      for (const kind of kinds[dtype]) {
        const session = await ort.InferenceSession.create(product(kind, M, K, N, count), { executionProviders: ["wasm"] });
        const feeds = { x: new ort.Tensor("float32", Float32Array.from({ length: M * K }, (_, i) => Math.sin(i)), [M, K]) };
        const one = { session, feeds, count };
        await timed(one, warm.has(kind) ? 60 : 500);
        warm.add(kind);
        one.middle = middle(await timed(one, 60));
        const [faster, slower] = best && best.middle < one.middle ? [best, one] : [one, best];
        await slower?.session.release();
        best = faster;
      }
      sessions.set(key, best);
    }
    return timed(sessions.get(key), ms);
  },

  async drop() {
    for (const { session } of sessions.values()) await session.release();
    sessions.clear();
  },
});
