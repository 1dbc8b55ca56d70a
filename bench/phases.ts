/** What a caption is made of, and whole captions, at the real size; peers do the same work on weights of the same sizes. */
import { Kosmos2Config } from "#src/model/config.js";
import type { Format } from "#src/weights/quant.js";
import type { Contender } from "./contender.js";
import { oldName } from "./products.js";
import { type Entry, peers, type Run } from "./run.js";
import { textWork, visionWork, type Work } from "./work.js";

const GB = 1e9;
const NEW_TOKENS = 64, PROMPT = 72;
const c = new Kosmos2Config();

const caption = `caption@${NEW_TOKENS}`;
const work = (what: string, dtype: Format): Work => {
  const [name, context] = what.split("@");
  if (name === "vision") return visionWork(c, dtype);
  if (name === "prefill") return textWork(c, dtype, PROMPT);
  return textWork(c, dtype, 1, Number(context));
};

export async function phases(run: Run): Promise<void> {
  const { quick, tiny } = run.options;
  const whats = quick ? ["vision", "prefill", "decode@100"] : ["vision", "prefill", "decode@100", "decode@300"];

  // everyone at once: a minute that is bad for one is bad for all
  const ours = await load(run, "kosmos2", "i8", 2);
  const others = await peerEntries(run, whats);
  await run.group([...entries(ours, "kosmos2", "i8", 2, whats, tiny), ...others.phases], quick ? 1 : run.rounds);
  await run.group([...captionEntry(ours, "kosmos2", "i8", 2), ...others.captions], quick ? 1 : 3);
  await run.group(otherEntries(ours), quick ? 1 : run.rounds);
  if (ours) peak(run, "kosmos2", "i8", ours);
  for (const name of ["torch f32", "torch bf16", "node-llama-cpp", "chromium"]) await run.close(name);

  // one thread against two
  const alone = await load(run, "kosmos2, 1 thread", "i8", 1);
  const both = quick ? ["vision", "prefill"] : whats;
  await run.group([...entries(ours, "kosmos2", "i8", 2, both, tiny), ...entries(alone, "kosmos2", "i8", 1, both, tiny)].map((entry) => ({ ...entry, note: "one thread against two" })), quick ? 1 : run.rounds);
  await run.close("kosmos2, 1 thread");
  await run.close("kosmos2");

  if (process.execPath !== run.options.node && !quick) {
    const old = await load(run, oldName, "i8", 2, process.execPath);
    await run.group([...entries(old, oldName, "i8", 2, whats, tiny), ...captionEntry(old, oldName, "i8", 2)], 1);
    await run.close(oldName);
  }
  for (const dtype of ["i4", ...(quick ? [] : ["f16"])]) {
    const other = await load(run, "kosmos2", dtype, 2);
    await run.group([...entries(other, "kosmos2", dtype, 2, whats, tiny), ...(quick ? [] : captionEntry(other, "kosmos2", dtype, 2))], quick ? 1 : 2);
    if (other) peak(run, "kosmos2", dtype, other);
    await run.close("kosmos2");
  }
}

/** Our engine with a model in it; undefined when nothing of it is wanted. Loading is measured as it happens. */
async function load(run: Run, name: string, dtype: string, threads: number, node?: string): Promise<Contender | undefined> {
  const parts = (["phases", "captions", "load"] as const).map((part) => ["vision", "prefill", "decode@100", "decode@300", caption, "load"].some((what) =>
    run.wants({ part, what, engine: name.replace(", 1 thread", ""), dtype, threads })));
  if (!parts.some(Boolean)) return undefined;
  const contender = await run.ours(name, node);
  if (!contender) return undefined;
  console.error(`loading ${name} ${dtype}`);
  try {
    const ms = await contender.ask<number>({ do: "load", dtype, threads, tiny: run.options.tiny });
    run.rows.push({
      part: "load", what: "load", engine: name.replace(", 1 thread", ""), dtype, threads, median: ms, p10: ms, p90: ms, samples: 1,
      note: "from bfloat16, quantised while loading; the file is made in memory",
    });
    return contender;
  } catch (error) {
    run.note(`${name} ${dtype} can't be loaded: ${(error as Error).message.split("\n")[0]}`);
    return undefined;
  }
}

function peak(run: Run, engine: string, dtype: string, contender: Contender): void {
  if (contender.peakRss) run.note(`${engine} ${dtype}: ${(contender.peakRss / GB).toFixed(2)} GB of memory at most`);
}

function entries(contender: Contender | undefined, engine: string, dtype: string, threads: number, whats: readonly string[], tiny = false): Entry[] {
  if (!contender) return [];
  return whats.map((what) => ({
    part: "phases", what, engine, dtype, threads, work: tiny ? undefined : work(what, dtype as Format), measure: () => contender.ask<number[]>({ do: "phase", what }),
  }));
}

function captionEntry(contender: Contender | undefined, engine: string, dtype: string, threads: number): Entry[] {
  if (!contender) return [];
  return [{ part: "captions", what: caption, engine, dtype, threads, measure: () => contender.ask<number[]>({ do: "phase", what: caption }) }];
}

/** Time of the operations that are neither products nor attention. */
function otherEntries(contender: Contender | undefined): Entry[] {
  if (!contender) return [];
  return ["vision", "prefill", "decode@100"].map((what) => ({
    part: "phases", what: `${what}, other ops`, engine: "kosmos2", dtype: "i8", threads: 2, note: "neither products nor attention",
    measure: () => contender.ask<number[]>({ do: "others", what }),
  }));
}

async function peerEntries(run: Run, whats: readonly string[]): Promise<{ phases: Entry[]; captions: Entry[] }> {
  const made = { phases: [] as Entry[], captions: [] as Entry[] };
  const wanted = (engine: string, dtype: string) => [...whats, caption].some((what) => run.wants({ part: what === caption ? "captions" : "phases", what, engine, dtype, threads: 2 }));
  const text = whats.filter((what) => what !== "vision");
  const add = (contender: Contender, engine: string, dtype: string, does: readonly string[], more: Partial<Entry> = {}): void => {
    for (const what of does) {
      const entry: Entry = { part: what === caption ? "captions" : "phases", what, engine, dtype, threads: 2, ...more, measure: () => contender.ask<number[]>({ do: "phase", what, tokens: run.options.quick ? 8 : 16 }) };
      made[what === caption ? "captions" : "phases"].push(entry);
    }
  };
  const loaded = async (contender: Contender | undefined): Promise<Contender | undefined> => {
    if (!contender) return undefined;
    console.error(`loading ${contender.name}`);
    try {
      const detail = await contender.ask<string | null>({ do: "load", threads: 2, tiny: run.options.tiny });
      if (detail) run.abouts[contender.name].settings += `, ${detail}`;
      return contender;
    } catch (error) {
      run.note(`${contender.name} is left out: ${(error as Error).message}`);
      return undefined;
    }
  };

  // both are small, and load on one thread: side by side
  const [llama, wllama] = await Promise.all([
    wanted("llama.cpp", "q8_0") ? run.peer("node-llama-cpp", "llama.mjs", 3 * GB).then(loaded) : undefined,
    wanted("wllama", "q8_0") ? run.peer("chromium", "chromium.mjs", 6 * GB).then(loaded) : undefined,
  ]);
  if (llama) add(llama, "llama.cpp", "q8_0", text, { note: "native, node-llama-cpp; a GPT-2 of the decoder's sizes" });
  if (wllama) add(wllama, "wllama", "q8_0", text, { scale: 4, note: "a quarter of the decoder, × 4; Chromium" });
  for (const [dtype, bytes] of [["f32", 9 * GB], ["bf16", 5 * GB]] as const) {
    if (!wanted("PyTorch", dtype)) continue;
    const { python } = run.options;
    const torch = await loaded(await run.contender(`torch ${dtype}`, () => (!run.options.peers ? "--no-peers" : python ? [python, `${peers}/torch_peer.py`, dtype] : "no Python named: set KOSMOS2_PYTHON to one with torch and transformers"), bytes));
    if (torch) add(torch, "PyTorch", dtype, [...whats, caption], { note: "Hugging Face's own model" });
  }
  return made;
}
