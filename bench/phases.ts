/** What a caption is made of, and whole captions, at the real size; peers do the same work on weights of the same sizes. */
import { Kosmos2Config } from "#src/model/config.js";
import type { Format } from "#src/weights/quant.js";
import type { Contender } from "./contender.js";
import { eachRound, median, quantile } from "./measure.js";
import { oldName } from "./products.js";
import { replay, type Answers } from "./replay.js";
import { cache, type Entry, peers, type Run } from "./run.js";
import { resamplerWork, textWork, visionWork, type Work } from "./work.js";

const GB = 1e9;
const NEW_TOKENS = 64, PROMPT = 72;
const c = new Kosmos2Config();

const caption = `caption@${NEW_TOKENS}`, decode = "decode@100", guessed = `${decode} guessed`;
/** What is loaded in less than a second, unlike bfloat16 that has to be quantised. */
const pack = "load a pack";
/** A token and as many guesses in one pass as the loop makes at most: passes that wait for the host to say what is next. */
const passes = [1, 2, 3, 4].map((rows) => `${decode} by ${rows}`);

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
  const i8 = variant("i8", 2), alone = variant("i8", 1), i4 = variant("i4", 2);
  const all = ["vision", "resampler", "prefill", decode, "decode@300"];
  // a quick run has what bars are about
  const whats = new Map<Variant, string[]>([
    [i8, [...(quick ? ["vision", "prefill", decode] : all), ...passes]], [alone, quick ? ["vision", "prefill"] : all], [i4, quick ? ["prefill", decode] : all],
  ]);
  /** What is compared one after the other. */
  const sorted = (entries: readonly Entry[]): Entry[] => {
    const order = [...new Set([...all, ...passes])];
    return [...entries].sort((a, b) => order.indexOf(a.what) - order.indexOf(b.what));
  };

  if (!quick) {
    const fresh = (["i8", "i4", "f16"] as const).map((dtype) => variant(dtype, 2));
    await run.part("loading from bfloat16", () => run.group(fresh.map((one) => loadEntry(run, one)), 2));
    for (const one of fresh) await close(run, one);
  }
  await load(run, whats);
  const [small, answers] = await Promise.all([peersOf(run, smallPeers(run)), answersOf(run, i8)]);
  const [first, ...rest] = [...whats].map(([one, whats]) => entries(run, one, whats));
  await run.part("phases", () => run.group(sorted([...first, ...small, ...rest.flat()])));
  if (answers) await guess(run, i8, answers);
  await run.part("other operations", () => run.group(otherEntries(run, i8)));
  if (!quick) await run.part("captions", () => run.group([i4, alone].flatMap((one) => entries(run, one, [caption])), 2));
  for (const one of [alone, i4]) await close(run, one);
  await run.close("chromium");
  await run.close("node-llama-cpp", (peak) => run.note(`llama.cpp: ${(peak / GB).toFixed(2)} GB of memory at most`));

  // PyTorch takes 12 GB, and what else runs is slower for it: apart from the rest
  const torch = await peersOf(run, torches(run)), ours = (whats: readonly string[]) => entries(run, i8, whats).map((entry): Entry =>
    ({ ...entry, beside: "PyTorch", work: quick ? undefined : entry.work })); // shares of limits are those of the rows above
  const shared = ["vision", "prefill", ...(quick ? [] : [decode])];
  await run.part("phases beside PyTorch", () => run.group(sorted([...ours(shared), ...torch.filter(({ what }) => what !== caption)])));
  const [f32 = [], bf16 = []] = ["f32", "bf16"].map((dtype) => torch.filter((entry) => entry.what === caption && entry.dtype === dtype));
  await run.part("captions beside PyTorch", () => run.group([...bf16, ...ours([caption]), ...f32]));
  for (const dtype of ["f32", "bf16"]) await run.close(`torch ${dtype}`, (peak) => run.note(`PyTorch ${dtype}: ${(peak / GB).toFixed(2)} GB of memory at most`));
  await close(run, i8);
  if (quick) return;

  const more = [variant("i4", 1), variant("f16", 2), variant("f16", 1), ...(process.execPath === node ? [] : [variant("i8", 2, oldName, process.execPath)])];
  await load(run, new Map(more.map((one) => [one, [...all, caption]])));
  const later = (whats: readonly string[]) => more.flatMap((one) => entries(run, one, whats)).map((entry): Entry => ({ ...entry, later: true }));
  await run.part("phases, more of ours", () => run.group(sorted(later(all)), 2));
  await run.part("captions, more of ours", () => run.group(later([caption]), 2));
  for (const one of more) await close(run, one);
}

/**
 * Those of which anything is wanted, the last one first: who loads first gets the fragments of memory that the system has left, where pages do not follow
 * each other, and reads its weights 3 to 12 % more slowly. What others are compared with comes after that, as peers and limits do.
 */
async function load(run: Run, whats: ReadonlyMap<Variant, readonly string[]>): Promise<void> {
  const needed = [...whats].filter(([one, whats]) => wanted(run, one, [...whats, guessed, caption])).map(([one]) => one).reverse(), loads: Entry[] = [];
  await run.part("loading", async () => {
    for (const one of needed) loads.push(loadEntry(run, one, await packOf(run, one)));
    await run.close("packing");
    const shown = loads.filter((entry) => run.wants(entry) && entry.what === pack);
    await run.group(shown, 1);
    for (const [i, one] of needed.entries()) if (!shown.includes(loads[i])) await loads[i].measure().catch((error: Error) => run.note(`${one.name}: ${error.message}`));
  });
}

const wanted = (run: Run, { engine, dtype, threads }: Variant, whats: readonly string[]): boolean =>
  whats.some((what) => run.wants({ part: partOf(what), what, engine, dtype, threads }));

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
    part: "load", what: from ? pack : "load", engine, dtype, threads, note: from ? undefined : "from bfloat16 that is made in memory",
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
async function close(run: Run, one: Variant): Promise<void> {
  const { name, engine, dtype, threads } = one;
  one.contender = undefined;
  await run.close(name, (peak) => {
    for (const row of run.rows) if (row.part === "load" && row.engine === engine && row.dtype === dtype && row.threads === threads) row.peakRss ??= peak;
  });
}

function entries(run: Run, { contender, engine, dtype, threads }: Variant, whats: readonly string[]): Entry[] {
  if (!contender) return [];
  const { quick, tiny } = run.options, limited = !tiny && !(quick && threads === 1); // looks at one thread's limits would be for no bar
  return whats.map((what) => ({
    part: partOf(what), what, engine, dtype, threads, work: limited ? work(what, dtype) : undefined, note: what === "resampler" ? "timed in vision's pass" : undefined,
    measure: () => contender.ask<number[]>({ do: "phase", what, tokens: tokens(run, what) }),
  }));
}

/** Time of the operations that are neither products nor attention. */
function otherEntries(run: Run, { contender, engine, dtype, threads }: Variant): Entry[] {
  if (!contender) return [];
  return ["vision", "prefill", decode].map((what) => ({
    part: "phases", what: `${what}, other ops`, engine, dtype, threads, note: "neither products nor attention",
    measure: () => contender.ask<number[]>({ do: "others", what, tokens: tokens(run, what) }), ...(run.options.quick && what !== decode && { takesPart: only(0) }),
  }));
}

/** Of kosmos2-emoji, where decoding with guesses is wanted. */
async function answersOf(run: Run, { contender, engine, dtype, threads }: Variant): Promise<Answers | undefined> {
  if (!contender || !run.wants({ part: "phases", what: guessed, engine, dtype, threads })) return undefined;
  const writer = await run.ours("kosmos2-emoji");
  try {
    return await writer?.ask<Answers>({ do: "answers" });
  } catch (error) {
    run.note(`${guessed} is left out: ${(error as Error).message.split("\n")[0]}`);
    return undefined;
  } finally {
    await run.close("kosmos2-emoji");
  }
}

/** Decoding with guesses, from what passes of each number of rows took in the same round. */
async function guess(run: Run, { engine, dtype, threads }: Variant, answers: Answers): Promise<void> {
  const costs = passes.map((what) => run.rows.find((row) => row.what === what && row.engine === engine && row.dtype === dtype && row.threads === threads)?.rounds ?? []);
  const each = eachRound(costs, (...costs) => costs);
  if (each.length === 0) return;
  const made = await Promise.all(each.map((costs) => replay(answers, costs)));
  const rounds = made.map(({ ms, tokens }) => ms / tokens), { passes: count, tokens } = made[0];
  run.rows.push({
    part: "phases", what: guessed, engine, dtype, threads, rounds, samples: rounds.length, median: median(rounds), p10: quantile(rounds, 0.1), p90: quantile(rounds, 0.9),
    note: `a replay: the ${answers.answers.length} answers of kosmos2-emoji, ${(count / tokens).toFixed(2)} passes a token, at the times of this round's passes of 1 to 4 rows`,
  });
}

interface Peer {
  name: string;
  start(): Promise<Contender | undefined>;
  /** Memory that it needs. */
  bytes: number;
  engine: string;
  dtype: string;
  does: readonly string[];
  more: Partial<Entry>;
}

/** A quick run leaves out what no bar is about. */
const smallPeers = (run: Run): Peer[] => {
  const { quick } = run.options;
  return [
    {
      name: "node-llama-cpp", start: () => run.peer("node-llama-cpp", "llama.mjs"), bytes: 2 * GB,
      engine: "llama.cpp", dtype: "q8_0", does: quick ? [decode] : ["prefill", decode, "decode@300"], more: { note: "native, node-llama-cpp; a GPT-2 of the decoder's sizes" },
    },
    {
      name: "chromium", start: () => run.peer("chromium", "chromium.mjs"), bytes: 3 * GB,
      engine: "wllama", dtype: "q8_0", does: ["prefill", decode], more: { scale: 4, note: "a quarter of the decoder, × 4; Chromium" },
    },
  ];
};

const torches = (run: Run): Peer[] => ([["f32", 8], ["bf16", 4.5]] as const).map(([dtype, gigabytes]) => {
  const { python, quick } = run.options, name = `torch ${dtype}`;
  const command = () => (run.options.peers ? [python, `${peers}/torch_peer.py`, dtype] : "--no-peers");
  return {
    name, start: () => run.contender(name, command), bytes: gigabytes * GB,
    engine: "PyTorch", dtype, does: ["vision", "prefill", ...(quick ? [] : [decode]), caption], more: { note: "Hugging Face's own model" },
  };
});

async function peersOf(run: Run, all: readonly Peer[]): Promise<Entry[]> {
  const made: Entry[] = [];
  const asked = all.filter(({ engine, dtype, does }) => does.some((what) => run.wants({ part: partOf(what), what, engine, dtype, threads: 2 })));
  await run.part("starting peers", async () => void (await Promise.all(asked.map(({ start }) => start()))));
  for (const { name, start, bytes, engine, dtype, does, more } of asked) {
    const contender = await start();
    if (!contender) continue;
    try {
      run.demand(bytes); // one after the other: what is free is known
      await run.part(`loading ${name}`, async () => {
        const detail = await contender.ask<string | null>({ do: "load", threads: 2, tiny: run.options.tiny });
        if (detail) run.abouts[name].settings += `, ${detail}`;
      });
    } catch (error) {
      run.note(`${name} is left out: ${(error as Error).message}`);
      await run.close(name);
      continue;
    }
    for (const what of does) {
      const takesPart = run.options.quick ? sparing[`${engine} ${dtype} ${what}`] : undefined;
      const measure = () => contender.ask<number[]>({ do: "phase", what, tokens: tokens(run, what) });
      made.push({ part: partOf(what), what, engine, dtype, threads: 2, ...more, measure, ...(takesPart && { takesPart }) });
    }
  }
  return made;
}

const only = (...rounds: number[]) => (round: number): boolean => rounds.includes(round);
/**
 * What takes long in a quick run and is far from its bar, or has none. PyTorch's captions take so long that there is one of each,
 * between two of ours: ours, f32, ours, bf16, ours.
 */
const sparing: Record<string, Entry["takesPart"]> = {
  "wllama q8_0 prefill": only(0, 2), "PyTorch bf16 vision": only(1), "PyTorch bf16 prefill": only(1), "PyTorch f32 caption@64": only(0), "PyTorch bf16 caption@64": only(1),
};

const partOf = (what: string) => (what === caption ? "captions" : "phases");
/** How many a decode makes each time. */
const tokens = ({ options: { quick } }: Run, what: string): number => (!quick ? 16 : passes.includes(what) ? 4 : 8);
