/** What a caption is made of, and whole captions, at the real size; peers do the same work on weights of the same sizes. */
import { Kosmos2Config } from "#src/model/config.js";
import type { Format } from "#src/weights/quant.js";
import type { Contender } from "./contender.js";
import { eachRound, median } from "./measure.js";
import { oldName } from "./products.js";
import { replay, type Answers } from "./replay.js";
import { cache, type Entry, peers, type Row, type Run } from "./run.js";
import { resamplerWork, textWork, visionWork, type Work } from "./work.js";

const GB = 1e9;
const NEW_TOKENS = 64, PROMPT = 72;
const c = new Kosmos2Config();

const caption = `caption@${NEW_TOKENS}`, decode = "decode@100", guessed = `${decode} guessed`;
/** A token and as many guesses in one pass as the loop makes at most. */
const passes = [decode, ...[2, 3, 4].map((rows) => `${decode} by ${rows}`)];

function work(what: string, dtype: Format): Work[] {
  const [name, context, rows = "1"] = what.split(/@| by /);
  if (name === "vision") return [visionWork(c, dtype)];
  if (name === "resampler") return [resamplerWork(c, dtype)];
  if (name === "prefill") return [textWork(c, dtype, PROMPT)];
  if (name === "decode") return [textWork(c, dtype, Number(rows), Number(context), Number(rows))];
  const steps = Array.from({ length: NEW_TOKENS - 1 }, (_, i) => textWork(c, dtype, 1, PROMPT + i));
  return [visionWork(c, dtype), textWork(c, dtype, PROMPT), ...steps];
}

/** A model of ours in a process of its own. */
interface Variant {
  readonly name: string;
  readonly engine: string;
  readonly dtype: Format;
  readonly threads: number;
  readonly node?: string;
  contender?: Contender;
}

const variant = (dtype: Format, threads: number, engine = "kosmos2", node?: string): Variant =>
  ({ name: `${engine} ${dtype}, ${threads} thread${threads > 1 ? "s" : ""}`, engine, dtype, threads, node });

export async function phases(run: Run): Promise<void> {
  const { quick, node } = run.options;
  const i8 = variant("i8", 2), whats = ["vision", "prefill", decode, ...(quick ? [] : ["decode@300", "resampler"])];
  const variants = [i8, variant("i8", 1), variant("i4", 2)];
  if (!quick) variants.push(variant("i4", 1), variant("f16", 2), variant("f16", 1));
  if (!quick && process.execPath !== node) variants.push(variant("i8", 2, oldName, process.execPath));

  if (!quick) await run.part("loading from bfloat16", () => run.group(["i8", "i4", "f16"].map((dtype) => loadEntry(run, variant(dtype as Format, 2)))));
  await run.part("loading", async () => {
    const loads = [];
    for (const one of variants) if (wanted(run, one, [...whats, ...passes, guessed, caption])) loads.push(loadEntry(run, one, await packOf(run, one)));
    await run.group(loads, 1);
  });
  // everyone at once: a minute that is bad for one is bad for all
  await run.part("threads and dtypes", () => run.group(variants.flatMap((one) => entries(run, one, whats, "variants"))));
  if (!quick) {
    const two = variants.filter((one) => one !== i8 && one.threads === 2);
    await run.part("captions of dtypes", () => run.group(two.flatMap((one) => entries(run, one, [caption], "variants")), 2));
  }
  for (const one of variants) if (one !== i8) await close(run, one);

  const others = await peersOf(run, whats);
  await run.part("phases", () => run.group([...entries(run, i8, [...whats, ...passes.slice(1)], "peers"), ...others.phases]));
  await guess(run, i8);
  // PyTorch's take so long that a quick run has one of each, between two of ours: ours, f32, ours, bf16, ours
  const place: Record<string, number> = { f32: 0, bf16: 1 };
  const [ours, first = [], last = []] = [entries(run, i8, [caption], "peers"), ...["f32", "bf16"].map((dtype) =>
    others.captions.filter((entry) => entry.dtype === dtype).map((entry) => (quick ? { ...entry, takesPart: (round: number) => round === place[dtype] } : entry)))];
  await run.part("captions", () => run.group([...last, ...ours, ...first]));
  await run.part("other operations", () => run.group(otherEntries(i8)));
  for (const name of ["torch f32", "torch bf16", "node-llama-cpp"]) await run.close(name, (peak) => run.note(`${name}: ${(peak / GB).toFixed(2)} GB of memory at most`));
  await run.close("chromium");
  await close(run, i8);
}

const wanted = (run: Run, { engine, dtype, threads }: Variant, whats: readonly string[]): boolean =>
  whats.some((what) => run.wants({ part: what === caption ? "captions" : "phases", what, engine, dtype, threads }));

/** Quantised once and kept: a load then takes less than a second. Others are loaded from bfloat16. */
async function packOf(run: Run, { dtype }: Variant): Promise<string | undefined> {
  if (dtype === "f16") return undefined;
  const contender = await run.ours("packing");
  return contender?.ask<string>({ do: "pack", dtype, tiny: run.options.tiny, into: cache });
}

/** Loads a model in a new process each time; the last one stays. */
function loadEntry(run: Run, one: Variant, from?: string): Entry {
  const { name, engine, dtype, threads, node } = one;
  return {
    part: "load", what: from ? "load a pack" : "load", engine, dtype, threads, note: from ? undefined : "from bfloat16 that is made in memory",
    async measure() {
      await run.close(name);
      one.contender = undefined;
      const contender = await run.ours(name, node);
      if (!contender) throw new Error("it did not start");
      const ms = await contender.ask<number>({ do: "load", dtype, threads, tiny: run.options.tiny, from });
      one.contender = contender;
      return [ms];
    },
  };
}

/** Notes down how much memory a model took. */
async function close(run: Run, { name, engine, dtype, threads }: Variant): Promise<void> {
  await run.close(name, (peak) => {
    for (const row of run.rows) if (row.part === "load" && row.engine === engine && row.dtype === dtype && row.threads === threads) row.peakRss = peak;
  });
}

function entries(run: Run, { contender, engine, dtype, threads }: Variant, whats: readonly string[], beside: Row["beside"]): Entry[] {
  if (!contender) return [];
  return whats.map((what) => ({
    part: what === caption ? "captions" : "phases", what, engine, dtype, threads, beside, work: run.options.tiny ? undefined : work(what, dtype),
    measure: () => contender.ask<number[]>({ do: "phase", what }), ...(what === "resampler" && { note: "timed in vision's pass" }),
  }));
}

/** Time of the operations that are neither products nor attention. */
function otherEntries({ contender, engine, dtype, threads }: Variant): Entry[] {
  if (!contender) return [];
  return ["vision", "prefill", decode].map((what) => ({
    part: "phases", what: `${what}, other ops`, engine, dtype, threads, beside: "peers", note: "neither products nor attention",
    measure: () => contender.ask<number[]>({ do: "others", what }),
  }));
}

/** Decoding with guesses, from what passes of each number of rows took in the same round. */
async function guess(run: Run, { contender, engine, dtype, threads }: Variant): Promise<void> {
  const costs = passes.map((what) => run.rows.find((row) => row.what === what && row.engine === engine && row.beside === "peers")?.rounds ?? []);
  const each = eachRound(costs, (...costs) => costs);
  if (!contender || each.length === 0) return;
  const writer = await run.ours("kosmos2-emoji");
  const answers = await writer?.ask<Answers>({ do: "answers" });
  if (!answers) return;
  const made = await Promise.all(each.map((costs) => replay(answers, costs)));
  const rounds = made.map(({ ms, tokens }) => ms / tokens), { passes: count, tokens } = made[0];
  run.rows.push({
    part: "phases", what: guessed, engine, dtype, threads, beside: "peers", median: median(rounds), p10: Math.min(...rounds), p90: Math.max(...rounds), samples: rounds.length, rounds,
    note: `a replay: the ${answers.answers.length} answers of kosmos2-emoji, ${(count / tokens).toFixed(2)} passes a token, at the times of this round's passes of 1 to 4 rows`,
  });
  await run.close("kosmos2-emoji");
}

async function peersOf(run: Run, whats: readonly string[]): Promise<{ phases: Entry[]; captions: Entry[] }> {
  const made = { phases: [] as Entry[], captions: [] as Entry[] }, { quick, tiny, python } = run.options;
  const shared = whats.filter((what) => what !== "resampler"), text = shared.filter((what) => what !== "vision");
  const wanted = (engine: string, dtype: string) => [...shared, caption].some((what) => run.wants({ part: what === caption ? "captions" : "phases", what, engine, dtype, threads: 2 }));
  const add = async (starting: Promise<Contender | undefined>, engine: string, dtype: string, does: readonly string[], more: Partial<Entry>): Promise<void> => {
    const contender = await starting;
    if (!contender) return;
    try {
      const detail = await contender.ask<string | null>({ do: "load", threads: 2, tiny });
      if (detail) run.abouts[contender.name].settings += `, ${detail}`;
    } catch (error) {
      run.note(`${contender.name} is left out: ${(error as Error).message}`);
      return;
    }
    for (const what of does) {
      const part = what === caption ? "captions" : "phases";
      made[part].push({ part, what, engine, dtype, threads: 2, beside: "peers", ...more, measure: () => contender.ask<number[]>({ do: "phase", what, tokens: quick ? 8 : 16 }) });
    }
  };
  const torch = (dtype: string, bytes: number) => add(run.contender(`torch ${dtype}`, () =>
    (!run.options.peers ? "--no-peers" : python ? [python, `${peers}/torch_peer.py`, dtype] : "no Python named: set KOSMOS2_PYTHON to one with torch and transformers"), bytes),
  "PyTorch", dtype, [...(quick ? shared.filter((what) => what !== decode) : shared), caption], { note: "Hugging Face's own model" });

  // all at once; a quick run leaves out what no bar is about
  await run.part("loading peers", async () => {
    await Promise.all([
      wanted("llama.cpp", "q8_0") && add(run.peer("node-llama-cpp", "llama.mjs", 3 * GB), "llama.cpp", "q8_0", quick ? [decode] : text, { note: "native, node-llama-cpp; a GPT-2 of the decoder's sizes" }),
      wanted("wllama", "q8_0") && add(run.peer("chromium", "chromium.mjs", 6 * GB), "wllama", "q8_0", text, { scale: 4, note: "a quarter of the decoder, × 4; Chromium" }),
      wanted("PyTorch", "f32") && torch("f32", 9 * GB),
      wanted("PyTorch", "bf16") && torch("bf16", 5 * GB),
    ]);
  });
  return made;
}
