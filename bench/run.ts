/** One run of the benchmark: who takes part, what was measured, and the limits that were measured beside it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type About, Contender } from "./contender.js";
import type { Limit } from "./limits.js";
import { availableMemory } from "./machine.js";
import { interleave, median, most, quantile, type Task } from "./measure.js";
import { leastMs, type Work } from "./work.js";

/** What is measured with one bar of the charts. */
export interface Subject {
  part: "kernels" | "phases" | "captions" | "load";
  /** "257×1024×4096", "prefill", "decode@100" */
  what: string;
  engine: string;
  dtype: string;
  threads: number;
  work?: Work;
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
  /** The least that the limits of the same minutes allow, in milliseconds, and how much of the time that is. */
  least?: number;
  fraction?: number;
  /** Of the time, against the fastest 8-bit product of any kind; differs from `fraction` where relaxed dots are one instruction. */
  fractionOfFastest?: number;
}

export interface Entry extends Subject {
  measure(): Promise<readonly number[]>;
}

export interface Options {
  quick: boolean;
  only: string[];
  peers: boolean;
  /** Node that our engine and the JavaScript peers run on. */
  node: string;
  python?: string;
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
    return this.options.quick ? 2 : 4;
  }

  /** How long one look at a product takes, in milliseconds. */
  get lookMs(): number {
    return this.options.tiny ? 10 : 150;
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
  contender(name: string, command: () => readonly string[] | string, neededBytes = 0): Promise<Contender | undefined> {
    if (!this.contenders.has(name)) this.contenders.set(name, this.start(name, command(), neededBytes));
    return this.contenders.get(name)!;
  }

  /** @param command or why there is none */
  private async start(name: string, command: readonly string[] | string, neededBytes: number): Promise<Contender | undefined> {
    if (typeof command === "string") {
      this.note(`${name} is left out: ${command}`);
      return undefined;
    }
    if (availableMemory() < neededBytes) {
      this.note(`${name} is left out: it needs ${gib(neededBytes)} of memory, ${gib(availableMemory())} are free`);
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
  peer(name: string, script: string, neededBytes = 0): Promise<Contender | undefined> {
    return this.contender(name, () => {
      if (!this.options.peers) return "--no-peers";
      if (!existsSync(join(peers, "node_modules"))) return "npm run bench:peers installs it";
      return [this.options.node, join(peers, script)];
    }, neededBytes);
  }

  async close(name?: string): Promise<void> {
    for (const key of name ? [name] : [...this.contenders.keys()]) {
      await (await this.contenders.get(key))?.close();
      this.contenders.delete(key);
    }
  }

  /** Measures entries side by side, and with them the limits that they are held against. */
  async group(entries: readonly Entry[], rounds = this.rounds): Promise<void> {
    const subjects = entries.filter((entry) => this.wants(entry));
    if (subjects.length === 0) return;
    const limits = (await this.contender("limits", () => [this.options.node, "build/bench/limits.js"]))!;
    const here = new Map<string, number[]>();
    const looks: (Task & { name: string })[] = [];
    for (const { dtype, threads, work } of subjects) {
      if (!work) continue;
      const wanted: Limit[] = ["bandwidth", ...productLimits(dtype), ...(work.attention ? f32Limits : [])];
      for (const limit of wanted) {
        const key = `${limit} ${threads}`;
        if (here.has(key)) continue;
        here.set(key, []);
        looks.push({ name: key, samples: here.get(key)!, measure: () => limits.ask<number[]>({ do: "limit", limit, count: threads, ms: this.options.tiny ? 5 : 40 }) });
      }
    }
    const tasks = subjects.map((entry) => ({ entry, name: `${entry.engine} ${entry.dtype} ${entry.what} ${entry.threads}t`, samples: [] as number[], measure: () => entry.measure() }));
    // looks at the limits at both ends of a round, and after each of our phases, which take seconds
    const order = [...looks, ...tasks.flatMap((task) => (task.entry.work && task.entry.part !== "kernels" ? [task, ...looks] : [task])), ...looks];
    await interleave(order, rounds, (task, error) => this.note(`${(task as { name?: string }).name}: ${(error as Error).message.split("\n")[0]}`));
    for (const [key, samples] of here) this.limits.set(key, [...(this.limits.get(key) ?? []), ...samples]);
    for (const { entry, samples } of tasks) if (samples.length) this.rows.push(row(entry, samples, here));
  }

  /** The best of several limits over the whole run; NaN when none was measured. */
  limit(names: readonly Limit[], threads: number): number {
    return best(names, threads, this.limits);
  }
}

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

function best(names: readonly Limit[], threads: number, limits: ReadonlyMap<string, readonly number[]>): number {
  return Math.max(...names.map((name) => most(limits.get(`${name} ${threads}`) ?? [])).filter((rate) => rate > 0), -Infinity);
}

function row({ measure: _, ...subject }: Entry, samples: readonly number[], limits: ReadonlyMap<string, readonly number[]>): Row {
  const { work, dtype, threads, scale = 1 } = subject;
  const made: Row = { ...subject, median: scale * median(samples), p10: scale * quantile(samples, 0.1), p90: scale * quantile(samples, 0.9), samples: samples.length };
  if (!work) return made;
  const common = { f32: best(f32Limits, threads, limits), bandwidth: best(["bandwidth"], threads, limits) };
  const least = leastMs(work, { ...common, products: best(ownLimits(dtype), threads, limits) });
  const leastOfAll = leastMs(work, { ...common, products: best(productLimits(dtype), threads, limits) });
  return { ...made, least, fraction: least / made.median, fractionOfFastest: leastOfAll / made.median };
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
