/**
 * What must hold of checkpoints of the released size: memory, bytes written, time and fidelity, each measured in a process of its own.
 * A checkpoint of a small model goes through the same code in `npm test`; there only what does not depend on size is judged.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { synthesize } from "#src/cli/synthesize.js";
import { formats } from "#src/graph/record.js";
import type { Kosmos2Config } from "#src/model/config.js";
import type { Format } from "#src/weights/quant.js";
import { fixtures, random, root } from "../support.js";
import { transferred, type Tasks } from "./child.js";

export interface Setup {
  /** Where checkpoints and packs are made; those that are there are taken. */
  cache: string;
  /** Whose sizes; default the released ones. */
  config?: Kosmos2Config;
  shards: number;
  /** Whose tokenizer and image processor. */
  processor: string;
  /** Reference values, of make_reference.py. */
  reference: string;
  kills: number;
  /** Where chance begins. */
  seed: number;
  threads?: number;
  /** Which of the bars' numbers; 5 is what has no number. Default all. */
  only?: readonly number[];
  /** Leaves checkpoints where they are when nothing more needs them. */
  keep: boolean;
  /** Whether the released size is what is measured: limits of bytes and time are then judged. */
  released: boolean;
  /** Of packing; smaller ones for small models. */
  blockBytes?: number;
  fileBytes?: number;
  log(line: string): void;
}

export interface Row {
  bar: string;
  want: string;
  got: string;
  /** undefined: told, not judged. */
  ok?: boolean;
}

type Found<K extends keyof Tasks> = Awaited<ReturnType<Tasks[K]>>;

const MiB = 2 ** 20;
const MB = (bytes: number | undefined): string => (bytes === undefined ? "unknown" : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`);
const percent = (share: number): string => `${(100 * share).toFixed(share < 0.001 ? 5 : 2)} %`;

/** @param limitBytes of virtual memory, as `ulimit -v` has it */
function start(what: keyof Tasks, options: object, limitBytes?: number) {
  const args = ["--expose-gc", `${root}build/test/real/child.js`, what, JSON.stringify(options)];
  const child = limitBytes === undefined
    ? spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] })
    : spawn("sh", ["-c", `ulimit -v ${Math.floor(limitBytes / 1024)}; exec "$0" "$@"`, process.execPath, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let out = "", err = "";
  child.stdout.on("data", (text: Buffer) => (out += text.toString()));
  child.stderr.on("data", (text: Buffer) => (err += text.toString()));
  const ended = new Promise<object | undefined>((resolve, reject) => child.on("close", (code, signal) => {
    if (signal === "SIGKILL") resolve(undefined);
    else if (code !== 0) reject(new Error(`${what} ${JSON.stringify(options)}: exit ${code}\n${err.slice(-2000)}`));
    else resolve(JSON.parse(out.trimEnd().split("\n").at(-1)!) as object);
  }));
  return { child, ended };
}

async function run<K extends keyof Tasks>(what: K, options: Parameters<Tasks[K]>[0] | object): Promise<Found<K>> {
  return (await start(what, options).ended) as Found<K>;
}

/** sha256 of each of a folder's files, and their bytes together. */
async function contents(folder: string): Promise<{ hashes: Record<string, string>; bytes: number }> {
  const hashes: Record<string, string> = {};
  for (const file of readdirSync(folder).sort()) {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(join(folder, file), { highWaterMark: MiB })) hash.update(chunk as Buffer);
    hashes[file] = hash.digest("hex");
  }
  return { hashes, bytes: readdirSync(folder).reduce((sum, file) => sum + statSync(join(folder, file)).size, 0) };
}

const remove = (folder: string): void => rmSync(folder, { recursive: true, force: true });

/**
 * Packs, killed again and again: when a random share of the work is done, every fourth time at a random moment of the first second
 * instead, when the process starts, or reads what it wrote before.
 *
 * @returns bytes written by all of them: stopped first, so that nothing is written between counting and killing
 */
async function packKilled(setup: Setup, options: { out: string }): Promise<{ kills: number; written: number }> {
  const chance = random(3 * setup.kills, setup.seed).map((x) => (x + 1) / 2);
  const shares = [...chance.subarray(0, setup.kills)].map((share) => 0.98 * share).sort((a, b) => a - b); // later it might end first
  let kills = 0, written = 0;
  for (;;) {
    const { child, ended } = start("pack", options), kill = kills < setup.kills;
    const over = ended.then(() => true, () => true);
    if (kill) {
      const share = shares[kills], [delay, moment] = [chance[setup.kills + kills], chance[2 * setup.kills + kills]];
      if (kills % 4 === 3) await Promise.race([over, sleep((setup.released ? 1000 : 150) * moment)]);
      else {
        await new Promise<void>((resolve) => {
          child.stdout.on("data", (text: Buffer) => {
            const [loaded, total] = text.toString().trimEnd().split("\n").at(-1)!.split(" ").map(Number);
            if (loaded >= share * total) resolve();
          });
          void over.then(() => resolve());
        });
        if (setup.released) await sleep(30 * delay);
      }
      child.kill("SIGSTOP");
      try {
        while (/^State:\s+[^TZ]/m.test(readFileSync(`/proc/${child.pid}/status`, "utf8"))) await sleep(1);
        written += transferred(child.pid).written;
      } catch { /* it had ended, and says itself what it wrote */ }
      child.kill("SIGKILL");
    }
    const found = (await ended) as Found<"pack"> | undefined;
    if (found) return { kills, written: written + found.written };
    setup.log(`killed ${++kills} of ${setup.kills} times`);
  }
}

/** All bars, one after the other. */
export async function* bars(setup: Setup): AsyncGenerator<Row> {
  const { cache, released, threads, keep } = setup, picture = `${fixtures}emoji/keys.png`, made = new Set<string>();
  const judge = (ok: boolean): { ok?: boolean } => (released ? { ok } : {});
  mkdirSync(cache, { recursive: true });

  /** A folder of the cache; config.json is the last thing that is written into it, or it gets its name when it is whole. */
  const there = async (name: string, make: (out: string) => Promise<unknown>): Promise<string> => {
    const folder = join(cache, name);
    if (existsSync(join(folder, "config.json"))) return folder;
    setup.log(`making ${folder}`);
    made.add(folder);
    await make(folder);
    return folder;
  };
  const done = (folder: string): void => {
    if (!keep && made.has(folder)) remove(folder);
  };
  const checkpoint = (dtype: "f32" | "bf16") => there(dtype, (out) => (remove(out), synthesize({ out, dtype, seed: 1, config: setup.config, shards: setup.shards, processor: setup.processor })));
  const packing = (source: string, dtype: Format, out: string) => ({ source, dtype, out, threads, blockBytes: setup.blockBytes, fileBytes: setup.fileBytes });

  const wanted = (...numbers: number[]): boolean => !setup.only || numbers.some((number) => setup.only!.includes(number));

  const f32 = wanted(1, 2, 3) ? await checkpoint("f32") : "", i8 = join(cache, "i8-of-f32");
  if (wanted(1)) yield* packs();
  else if (f32) await there("i8-of-f32", (out) => run("pack", packing(f32, "i8", out)));
  if (wanted(2)) yield* loading();
  if (wanted(3)) yield* unpacked();
  for (const folder of [i8, f32]) done(folder);

  const bf16 = wanted(4, 5) ? await checkpoint("bf16") : "";
  if (wanted(4)) yield* faithful();
  if (wanted(5)) yield* others();
  done(bf16);

  async function* packs(): AsyncGenerator<Row> {
    const fresh = (): void => [i8, `${i8}.incomplete`, `${i8}.incomplete.journal`].forEach(remove);
    let whole: Awaited<ReturnType<typeof contents>> | undefined;
    for (const dtype of (["i4", "f16", "i8"] as Format[]).filter((dtype) => dtype in formats)) {
      fresh();
      setup.log(`packing as ${dtype}`);
      const { peakBytes, bytes } = await run("pack", packing(f32, dtype, i8));
      yield { bar: `1 f32 → ${dtype} pack of ${MB(bytes)}: peak RSS`, want: "≤ 1000 MB", got: MB(peakBytes), ok: peakBytes <= 1e9 };
      if (dtype === "i8") whole = await contents(i8);
    }
    fresh();
    made.add(i8);
    const { kills, written } = await packKilled(setup, packing(f32, "i8", i8)), again = await contents(i8), times = written / again.bytes, equal = same(whole!.hashes, again.hashes);
    yield { bar: `1 i8 pack, killed ${kills} times (seed ${setup.seed}): the pack of a run in one piece`, want: "identical", got: equal ? "identical" : "DIFFERENT", ok: equal && (released ? kills === setup.kills : kills > 0) };
    yield { bar: "1 i8 pack, killed: bytes written in all", want: "≤ 1.2 × its own", got: `${times.toFixed(3)} ×`, ...judge(times <= 1.2) };
  }

  async function* loading(): AsyncGenerator<Row> {
    setup.log("loading the pack");
    const { bytes, loadMs, readMs, ways } = await run("reading", { source: i8, threads, rounds: 5 }), ratio = loadMs / readMs;
    yield {
      bar: "2 loading the i8 pack", want: "≤ 1.3 × reading it",
      got: `${ratio.toFixed(2)} × (${[["loads", ways.load], ["reads", ways.one], ["four reads at once", ways.four]].map(([name, ms]) => `${name as string} ${(ms as number[]).map(Math.round).join(" ")}`).join(", ")} ms)`, ...judge(ratio <= 1.3),
    };
    const caption = await run("caption", { source: i8, threads, picture }), most = bytes + 256 * MiB;
    yield { bar: "2 from the first byte to the first token of a caption", want: "< 6 s", got: `${(caption.firstMs / 1000).toFixed(2)} s (${caption.description})`, ...judge(caption.firstMs < 6000) };
    yield { bar: "2 peak RSS of a caption", want: `≤ pack + 256 MiB = ${MB(most)}`, got: MB(caption.peakBytes), ok: caption.peakBytes <= most };
    yield estimated("i8", caption);
  }

  async function* unpacked(): AsyncGenerator<Row> {
    setup.log("loading the f32 checkpoint as i8");
    const direct = await run("weights", { source: f32, dtype: "i8", threads }), packed = await run("weights", { source: i8, threads }), most = packed.weightBytes + 512 * MiB;
    yield { bar: "3 f32 checkpoint as i8: peak RSS of loading", want: `≤ i8 + 512 MiB = ${MB(most)}`, got: MB(direct.peakBytes), ok: direct.peakBytes <= most };
    const equal = direct.weights === packed.weights && direct.logits === packed.logits;
    yield { bar: "3 its weights in memory, and logits", want: "the pack's, bit for bit", got: equal ? `identical (${direct.weights.slice(0, 8)}, ${direct.logits.slice(0, 8)})` : "DIFFERENT", ok: equal };
  }

  async function* faithful(): AsyncGenerator<Row> {
    const i4 = join(cache, "i4");
    for (const [dtype, source, limit] of [["i8", bf16, 0.02], ["f16", bf16, 0.002], ["i4", existsSync(i4) ? i4 : bf16, undefined]] as const) {
      if (!(dtype in formats)) {
        yield { bar: `4 ${dtype}: relative error of the logits`, want: "reported", got: "NOT MEASURED: no such format in this build" };
        continue;
      }
      setup.log(`reading the reference's text as ${dtype}`);
      const { positions, differing, relativeError, rms, clear, wrong, same, stages } = await run("fidelity", { source, dtype, threads, reference: setup.reference });
      setup.log(`stages: ${stages.map(([name, error]) => `${name} ${percent(error)}`).join(", ")}`);
      // a small vocabulary has no token that is so much better than the one that went in
      if (dtype === "i8") yield { bar: "4 argmaxes that are not the token that went in", want: "≥ 90 %", got: percent(differing), ...judge(differing >= 0.9) };
      yield { bar: `4 ${dtype}: relative error of the logits, ${positions} positions`, want: limit ? `≤ ${percent(limit)}` : "reported", got: percent(relativeError), ...(limit && { ok: relativeError <= limit }) };
      yield {
        bar: `4 ${dtype}: argmaxes of ${clear} positions whose margin exceeds 5 × their error's rms (of all: ${rms.toPrecision(2)})`, want: "none differs",
        got: `${wrong.length} ${wrong.length ? `(${wrong.join()}) ` : ""}differ (of all ${positions}: ${positions - same})`, ok: wrong.length === 0,
      };
    }
  }

  async function* others(): AsyncGenerator<Row> {
    setup.log("f16 and f32");
    const half = await run("caption", { source: bf16, dtype: "f16", threads, picture });
    yield { bar: "f16 in one memory: a caption", want: "8 tokens", got: `${half.newIds.length} (${half.description}); peak RSS ${MB(half.peakBytes)}, first token after ${(half.firstMs / 1000).toFixed(2)} s`, ok: half.newIds.length > 0 };
    yield estimated("f16", half);
    if (!released) return; // it would fit
    const { typed, code, details, read, peakBytes } = await run("refusal", { source: bf16, dtype: "f32" }), { neededBytes, availableBytes } = details ?? {};
    yield {
      bar: "f32 is refused before weights are read", want: "typed, with needed and available", got: `${code}: ${MB(neededBytes)} of ${MB(availableBytes)}; ${MB(read)} read, peak RSS ${MB(peakBytes)}`,
      ok: typed === true && code === "memory-exhausted" && neededBytes! > availableBytes! && read! < 1e7,
    };
  }
}

/** Memory grows by what is asked for, so it is what is in use, but for a page. */
function estimated(dtype: string, { memoryBytes, estimateBytes }: Found<"caption">): Row {
  const off = memoryBytes === undefined ? NaN : estimateBytes / memoryBytes - 1;
  return { bar: `estimateMemory of ${dtype} beside what was taken`, want: "0 to 5 % more", got: `${MB(estimateBytes)}, taken ${MB(memoryBytes)}: ${percent(off)}`, ...(estimateBytes > 1e9 && { ok: off >= 0 && off <= 0.05 }) };
}

const same = (a: Record<string, string>, b: Record<string, string>): boolean => JSON.stringify(a) === JSON.stringify(b);
