/**
 * Makes V8 compile the kernels for good before the first answer needs them: it compiles a function quickly and badly when it is first
 * called, and well, beside the work, once it has run for a while. So a small model of the same kind sees, reads and answers for as
 * long as that makes it faster.
 */
import type { Backend } from "./backend/backend.js";
import { Kosmos2Error } from "./errors.js";
import { Cache, type CacheFormat } from "./graph/cache.js";
import type { Memory } from "./graph/memory.js";
import { inIntegers, RECORD_BYTES } from "./graph/record.js";
import { Batch, type Pass, Recorder } from "./graph/recorder.js";
import { SinusoidTable } from "./graph/sinusoids.js";
import { cacheShape } from "./memory.js";
import { Kosmos2Config } from "./model/config.js";
import { predict, read, see } from "./model/kosmos2.js";
import { unloaded } from "./weights/load.js";
import { handles } from "./weights/handles.js";
import type { Format } from "./weights/quant.js";
import { modelTensors, storedBytes } from "./weights/tensors.js";

/** It is over when no round was faster than all before for so long, in milliseconds. */
const SETTLED_MS = 60;
/** A round is faster when it takes less than this part of the fastest. */
const FASTER = 0.9;
/** Rows of the prompt, and of the passes that read on: as many as guesses can make. */
const PROMPT = 72, READ_ON = [1, 2, 3, 4];

/** One layer of each kind, two heads wide; what kernels see of a model beside sizes is the same. */
function smaller({ textConfig: text, visionConfig: vision }: Kosmos2Config): Kosmos2Config {
  const visionWidth = (2 * vision.hiddenSize) / vision.numAttentionHeads, textWidth = (2 * text.embedDim) / text.attentionHeads;
  return new Kosmos2Config({
    latentQueryNum: 16,
    textConfig: {
      layers: 1, attentionHeads: 2, embedDim: textWidth, ffnDim: 4 * textWidth, vocabSize: 4096, maxPositionEmbeddings: 256,
      activationFunction: text.activationFunction, scaleEmbedding: text.scaleEmbedding, layerNormEps: text.layerNormEps,
    },
    visionConfig: {
      numHiddenLayers: 1, numAttentionHeads: 2, hiddenSize: visionWidth, intermediateSize: 4 * visionWidth,
      imageSize: Math.min(16 * vision.patchSize, vision.imageSize), patchSize: vision.patchSize, numChannels: vision.numChannels, hiddenAct: vision.hiddenAct, layerNormEps: vision.layerNormEps,
    },
  });
}

/**
 * Starts at once, and all memory that it needs is there when this returns. The backend must have nothing else to do until it is done.
 *
 * @param dtype in which the model that will follow holds its weights; its caches are of `cacheFormat`
 * @param options.enough asked after each round: whether nobody would wait any longer for it
 */
export async function warmUp(
  backend: Backend, config: Kosmos2Config, dtype: Format, cacheFormat: CacheFormat, { signal, enough }: { signal?: AbortSignal; enough: () => boolean },
): Promise<void> {
  const allocated: number[] = [];
  const memory: Memory = {
    alloc(bytes) {
      const address = backend.alloc(bytes);
      allocated.push(address);
      backend.write(address, new Uint8Array(bytes));
      return address;
    },
    free: () => {},
    write: (address, bytes) => backend.write(address, bytes),
  };
  try {
    const { list, count } = everything(smaller(config), dtype, cacheFormat, backend.threads, memory);
    let before = performance.now(), best = Infinity, improved = before;
    do {
      await backend.run(list, count, signal);
      const now = performance.now();
      if (now - before < FASTER * best) {
        best = now - before;
        improved = now;
      }
      before = now;
    } while (before - improved < SETTLED_MS && !enough());
  } catch (error) {
    // a model that just fits is loaded without
    if (!(error instanceof Kosmos2Error && error.code === "memory-exhausted")) throw error;
  } finally {
    for (const address of allocated) backend.free(address);
  }
}

/** All passes of a model without weights in one list: a picture, a prompt, and the steps of an answer. */
function everything(c: Kosmos2Config, dtype: Format, cacheFormat: CacheFormat, threads: number, memory: Memory): { list: Uint8Array; count: number } {
  const { textConfig: text, visionConfig: vision } = c;
  const w = handles(unloaded(c, dtype, memory.alloc(Math.max(...modelTensors(c).map((spec) => storedBytes(spec, dtype))))));
  const sinusoids = new SinusoidTable(memory, text.embedDim, text.padTokenId);
  sinusoids.reserve(2 * PROMPT);
  const cache = new Cache(memory, cacheShape(text, cacheFormat), 2 * PROMPT);
  cache.reserve(2 * PROMPT);

  const passes: Pass[] = [];
  const lines = vision.numChannels * vision.imageSize, seeing = new Recorder(threads, sinusoids, inIntegers(dtype));
  see(seeing, seeing.input(new Float32Array(lines * vision.imageSize), lines, vision.imageSize), w, c);
  passes.push(seeing.finish());
  for (const rows of [PROMPT, ...READ_ON]) {
    const g = new Recorder(threads, sinusoids), numbers = Array.from({ length: rows }, (_, i) => i + 3);
    const x = read(g, { ids: numbers, positions: numbers }, undefined, new Batch([{ cache, rows }]), w, text);
    const asked = rows === PROMPT ? g.rows(x, rows - 1, rows) : x;
    g.argmax("choice", predict(g, asked, w, text), Array.from({ length: asked.rows }, () => []));
    passes.push(g.finish());
  }
  const count = passes.reduce((sum, pass) => sum + pass.count, 0), list = new Uint8Array(count * RECORD_BYTES);
  let at = 0;
  for (const pass of passes) {
    const records = pass.at(memory.alloc(pass.arenaBytes), memory);
    list.set(records, at);
    at += records.length;
  }
  return { list, count };
}
