/** A contender: llama.cpp, native, through node-llama-cpp's ready-made binaries; two threads, no GPU. */
import { getLlama } from "node-llama-cpp";
import { readFileSync } from "node:fs";
import { serve } from "../../build/bench/serve.js";
import { sizes, writeGguf } from "./gguf.mjs";

const { version } = JSON.parse(readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url), "utf8"));
const PROMPT = 72;
let model, context, sequence, vocab;

const prompt = (length) => Array.from({ length }, (_, i) => 200 + ((i * 7919) % (vocab - 300)));

serve({
  async about() {
    const metadata = JSON.parse(readFileSync(new URL("node_modules/node-llama-cpp/llama/binariesGithubRelease.json", import.meta.url), "utf8"));
    return { version: `node-llama-cpp ${version}, llama.cpp ${metadata.release}`, settings: "Q8_0, CPU, its own choice of instruction set" };
  },

  async load({ threads, tiny }) {
    const size = tiny ? "tiny" : "whole";
    const modelPath = writeGguf(`.cache/bench/gpt2-${size}.gguf`, sizes[size]);
    vocab = sizes[size].vocab;
    const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, maxThreads: threads, logLevel: "error" });
    model = await llama.loadModel({ modelPath, gpuLayers: 0, useMmap: false });
    context = await model.createContext({ contextSize: 512, threads: { ideal: threads, min: threads } });
    sequence = context.getSequence();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt(PROMPT)); // touch everything once
    if (context.currentThreads !== threads) throw new Error(`llama.cpp runs ${context.currentThreads} threads, not ${threads}`);
    return `${context.currentThreads} threads`;
  },

  /** @param tokens how many are decoded */
  async phase({ what, tokens = 16 }) {
    const [name, at] = what.split("@");
    if (name === "prefill") {
      await sequence.clearHistory();
      const start = performance.now();
      await sequence.evaluateWithoutGeneratingNewTokens(prompt(PROMPT));
      return [performance.now() - start];
    }
    const samples = [], before = prompt(Number(at) - tokens / 2);
    await sequence.adaptStateToTokens(before.slice(0, -1), false); // what it has read of this stays
    let last;
    for await (const _ of sequence.evaluate(before.slice(sequence.nextTokenIndex), { temperature: 0, topK: 1, yieldEogToken: true })) {
      const now = performance.now();
      if (last !== undefined) samples.push(now - last); // the first one ends the prefill
      last = now;
      if (samples.length === tokens) break;
    }
    return samples;
  },
});
