/** One run of the benchmark: who takes part, what was measured, and the limits that were measured beside it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type About, Contender } from "./contender.js";
import type { Limit, Look } from "./limits.js";
import { availableMemory } from "./machine.js";
import { beside, byRound, interleave, median, most, quantile, type Rounds, type Task, type Time } from "./measure.js";
import { leastMs, type Work } from "./work.js";

/** What is measured with one bar of the charts. */
export interface Subject {
  part: "kernels" | "phases" | "captions" | "load";
  /** "257×1024×4096", "prefill", "decode@100" */
  what: string;
  engine: string;
  dtype: string;
  threads: number;
  /** What has to be done, one after the other. */
  work?: readonly Work[];
  /** Whose presence is meant, where a subject is measured in two groups. */
  beside?: "PyTorch";
  /** Measured when the others were done: not side by side with what it stands beside. */
  later?: boolean;
  /** What samples are multiplied with, where only a part of the work was done. */
  scale?: number;
  note?: string;
}

export interface Row extends Subject {
  /** Milliseconds. */
  median: number;
  p10: number;
  p90: number;
  samples: number;
  /** The median of each round. */
  rounds: Rounds;
  /** How much of a round's time is the least that the limits allow as they were seen right before and after, and the median of that. */
  fractions?: Rounds;
  fraction?: number;
  /** The same against the fastest 8-bit product of any kind; differs where relaxed dots are one instruction. */
  fractionsOfFastest?: Rounds;
  /** The same against a plain sum, where weights are used once. */
  fractionsOfPlainSum?: Rounds;
  /** Nanoseconds of a word from one thread to another, as seen right before and after: whether the cores were on one chip. */
  handovers?: Rounds;
  /** The most memory that the process ever had, in bytes. */
  peakRss?: number;
}

export interface Entry extends Subject, Pick<Task, "takesPart"> {
  measure(): Promise<readonly number[]>;
}

export interface Options {
  quick: boolean;
  only: string[];
  peers: boolean;
  /** Node that our engine and the JavaScript peers run on. */
  node: string;
  python: string;
  /** Sizes so small that a run only shows that everything works. */
  tiny: boolean;
}

/** Where the peers' packages are. */
export const peers = "bench/peers";
/** Files that peers need and that can be made again. */
export const cache = ".cache/bench";

export class Run {
  readonly rows: Row[] = [];
  readonly notes: string[] = [];
  readonly abouts: Record<string, About> = {};
  /** All samples of each limit, by "dot_i16 2" and the like. */
  readonly limits = new Map<string, number[]>();
  private readonly contenders = new Map<string, Promise<Contender | undefined>>();

  constructor(readonly options: Options) {}

  get rounds(): number {
    return this.options.tiny ? 2 : 3;
  }

  /** Says how long a part of the run took. */
  async part(name: string, work: () => Promise<void>): Promise<void> {
    const start = performance.now();
    await work();
    console.error(`${name}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
  }

  note(text: string): void {
    this.notes.push(text);
    console.error(`· ${text}`);
  }

  wants(subject: Subject): boolean {
    const { part, what, engine, dtype, threads } = subject;
    const id = `${part} ${engine} ${dtype} ${what} ${threads}t`;
    return this.options.only.length === 0 || this.options.only.some((word) => id.includes(word.replaceAll("x", "×")) || id.includes(word));
  }

  /** A process under a name; started at the first call. undefined, with a note, where it can't be had. */
  contender(name: string, command: () => readonly string[] | string): Promise<Contender | undefined> {
    if (!this.contenders.has(name)) this.contenders.set(name, this.start(name, command()));
    return this.contenders.get(name)!;
  }

  /** @param command or why there is none */
  private async start(name: string, command: readonly string[] | string): Promise<Contender | undefined> {
    if (typeof command === "string") {
      this.note(`${name} is left out: ${command}`);
      return undefined;
    }
    const contender = Contender.start(name, command);
    try {
      this.abouts[name] = await contender.ask<About>({ do: "about" });
      return contender;
    } catch (error) {
      this.note(`${name} is left out: ${(error as Error).message}`);
      await contender.close();
      return undefined;
    }
  }

  /** Our engine in a process of its own. */
  ours(name: string, node = this.options.node): Promise<Contender | undefined> {
    return this.contender(name, () => [node, "build/bench/ours.js"]);
  }

  /** A peer among npm's packages. */
  peer(name: string, script: string): Promise<Contender | undefined> {
    return this.contender(name, () => {
      if (!this.options.peers) return "--no-peers";
      if (!existsSync(join(peers, "node_modules"))) return "npm run bench:peers installs it";
      return [this.options.node, join(peers, script)];
    });
  }

  /** @throws {Error} when less memory is free */
  demand(bytes: number): void {
    const free = availableMemory();
    if (!this.options.tiny && free < bytes) throw new Error(`it needs ${gib(bytes)} of memory, ${gib(free)} are free`);
  }

  /** @param last hears the most memory that it ever had, in bytes */
  async close(name?: string, last?: (peakRss: number) => void): Promise<void> {
    for (const key of name ? [name] : [...this.contenders.keys()]) {
      const contender = await this.contenders.get(key);
      if (contender?.peakRss) last?.(contender.peakRss);
      await contender?.close();
      this.contenders.delete(key);
    }
  }

  /** Measures entries side by side, and with them the limits that they are held against. */
  async group(entries: readonly Entry[], rounds = this.rounds): Promise<void> {
    const subjects = entries.filter((entry) => this.wants(entry));
    if (subjects.length === 0) return;
    const limits = (await this.contender("limits", () => [this.options.node, "build/bench/limits.js"]))!;
    const looks = new Map<string, Task & { name: string }>();
    const limitsOf = ({ dtype, threads, work }: Entry): string[] => {
      const wanted: Limit[] = ["bandwidth", ...(work && usesOf(work) <= 1 ? ["plain_sum" as const] : []), ...productLimits(dtype), ...(work?.some(({ attention }) => attention > 0) ? f32Limits : [])];
      return work ? [...wanted.map((limit) => `${limit} ${threads}`), ...(threads > 1 ? ["handover 2"] : [])] : [];
    };
    for (const key of subjects.flatMap(limitsOf)) {
      const [limit, threads] = key.split(" ");
      looks.set(key, { name: key, times: [], measure: () => limits.ask<number[]>({ do: "limit", limit, count: Number(threads), ms: this.options.tiny ? 5 : 30 }) });
    }
    const tasks = subjects.map((entry) => ({
      entry, name: `${entry.engine} ${entry.dtype} ${entry.what} ${entry.threads}t`, times: [], measure: () => entry.measure(), takesPart: entry.takesPart,
    }));
    // looks at the limits at both ends of a round, and at its own before and after each of our phases, which take seconds
    const all = [...looks.values()], around = (entry: Entry) => (entry.part === "kernels" ? [] : limitsOf(entry).filter(matters(entry)).map((key) => looks.get(key)!));
    const order: Task[] = [...all];
    let last: readonly Task[] = all;
    for (const task of tasks) {
      const own = around(task.entry);
      order.push(...own.filter((look) => !last.includes(look)), task, ...own);
      last = own;
    }
    order.push(...all);
    await interleave(order, rounds, (task, error) => this.note(`${(task as { name?: string }).name}: ${(error as Error).message.split("\n")[0]}`));
    for (const [key, { times }] of looks) this.limits.set(key, [...(this.limits.get(key) ?? []), ...flat(times)]);
    for (const { entry, times } of tasks) if (flat(times).length) this.rows.push(row(entry, times, looks));
  }
}

const flat = (times: readonly Time[]): number[] => times.flatMap(({ samples }) => samples);

/** How often a byte of weights is multiplied. */
const usesOf = (work: readonly Work[]): number => work.reduce((sum, { products }) => sum + products, 0) / work.reduce((sum, { bytes }) => sum + bytes, 0);

/** Whether a look at a limit is worth its time right behind a phase: not at the bandwidth where weights are used often, nor at products where they are used once. */
const matters = ({ work = [] }: Subject) => (limit: string): boolean => {
  const uses = usesOf(work);
  return limit.startsWith("handover") || limit.startsWith("plain_sum") || (limit.startsWith("bandwidth") ? uses < 30 : uses > 1);
};

const f32Limits: readonly Limit[] = ["mul_add", "relaxed_madd"];
const int8Limits: readonly Limit[] = ["dot_i16", "relaxed_dot"];

/** The instructions that products with weights of a format can be made of. The fastest of them is the limit. */
export function productLimits(dtype: string): readonly Limit[] {
  return dtype === "f32" || dtype === "f16" ? f32Limits : int8Limits;
}

/** Of these, the ones that the format's own arithmetic can use: int16 activations are not int8 ones. */
function ownLimits(dtype: string): readonly Limit[] {
  return dtype === "i8" || dtype === "i4" ? ["dot_i16"] : productLimits(dtype);
}

function row({ measure: _, takesPart: __, ...subject }: Entry, times: readonly Time[], looks: ReadonlyMap<string, Task>): Row {
  const { work, dtype, threads, scale = 1 } = subject, all = flat(times);
  const rounds = byRound(times).map((samples) => samples && scale * median(samples));
  const made: Row = { ...subject, median: scale * median(all), p10: scale * quantile(all, 0.1), p90: scale * quantile(all, 0.9), samples: all.length, rounds };
  if (!work) return made;
  const seen = (name: Look, round: number) => times.filter((time) => time.round === round).flatMap((time) => beside(time, looks.get(`${name} ${threads}`)?.times ?? []));
  const best = (names: readonly Limit[], round: number) => Math.max(...names.map((name) => most(seen(name, round))).filter((rate) => rate > 0), -Infinity);
  const against = (names: readonly Limit[], reading: Limit = "bandwidth"): Rounds => rounds.map((ms, round) =>
    ms && leastMs(work, { f32: best(f32Limits, round), bandwidth: best([reading], round), products: best(names, round) }) / ms);
  const fractions = against(ownLimits(dtype));
  const handovers = rounds.map((ms, round) => ms && median(seen("handover", round)));
  return { ...made, fractions, fraction: median(fractions.filter((fraction) => fraction !== undefined)), fractionsOfFastest: against(productLimits(dtype)),
    ...(usesOf(work) <= 1 && { fractionsOfPlainSum: against(ownLimits(dtype), "plain_sum") }), handovers };
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
