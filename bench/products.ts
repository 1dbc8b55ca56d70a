/** Products alone, at the shapes that Kosmos-2 has, against those of other wasm engines. */
import { formats } from "#src/graph/record.js";
import type { Format } from "#src/weights/quant.js";
import type { Contender } from "./contender.js";
import type { Entry, Run } from "./run.js";
import { productWork } from "./work.js";

type Shape = readonly [M: number, K: number, N: number];

const rows = [1, 4, 64, 72, 257];
const weights: readonly (readonly [K: number, N: number])[] = [[1024, 1024], [1024, 4096], [4096, 1024], [2048, 2048], [2048, 8192], [8192, 2048], [2048, 65037]];
/** What bars are about. */
const essential: readonly Shape[] = [[257, 1024, 4096], [72, 2048, 8192]], essentialDtypes = ["f32", "i8", "i4"];

const dtypes = (Object.keys(formats) as (keyof typeof formats)[]).filter((format): format is Format => format !== "rows");

/** What a peer calls the format nearest to ours: it is shown beside ours, under its own name. */
const theirs: Record<string, string> = { f32: "f32", i8: "i8", i4: "i4" };

export async function products(run: Run): Promise<void> {
  const { quick, tiny } = run.options;
  const all: readonly Shape[] = tiny ? [[4, 1024, 1024]] : quick ? essential : weights.flatMap(([K, N]) => rows.map((M): Shape => [M, K, N]));
  const others = dtypes.includes("i4" as Format) ? [] : ["i4"]; // peers' 4-bit products are a bar even without ours
  for (const dtype of [...dtypes, ...others]) {
    if (quick && !essentialDtypes.includes(dtype)) continue;
    for (const shape of all) await one(run, dtype, shape);
  }
}

async function one(run: Run, dtype: string, [M, K, N]: Shape): Promise<void> {
  const what = `${M}×${K}×${N}`, ms = run.lookMs, { quick } = run.options;
  const subject = { part: "kernels" as const, what, dtype };
  const entries: Entry[] = [];
  const used: Contender[] = [];
  const add = (contender: Contender | undefined, engine: string, threads: number, note?: string): void => {
    if (!contender) return;
    used.push(contender);
    const work = engine.startsWith("kosmos2") ? productWork(dtype as Format, M, K, N) : undefined;
    entries.push({ ...subject, engine, threads, work, note, measure: () => contender.ask<number[]>({ do: "kernel", dtype, M, K, N, threads, ms }) });
  };
  const maybe = (engine: string, threads: number): boolean => run.wants({ ...subject, engine, threads });

  if (dtypes.includes(dtype as Format)) {
    for (const threads of quick ? [2] : [2, 1]) if (maybe("kosmos2", threads)) add(await run.ours("kosmos2"), "kosmos2", threads);
    if (process.execPath !== run.options.node && !quick && maybe(oldName, 2)) add(await run.ours(oldName, process.execPath), oldName, 2);
  }
  if (theirs[dtype] && N < 65037) {
    if (maybe("onnxruntime-web", 2)) add(await run.peer("onnxruntime-web", "ort.mjs"), "onnxruntime-web", 2);
    if (dtype === "f32" && !quick && maybe("tfjs-wasm", 2)) add(await run.peer("chromium", "chromium.mjs"), "tfjs-wasm", 2);
  }
  if (entries.length === 0) return;
  console.error(`${dtype} ${what}`);
  await run.group(entries);
  for (const contender of new Set(used)) await contender.ask({ do: "drop" }).catch(() => {});
}

/** Our engine on the Node that runs this script, where that is not the one that the bars are on. */
export const oldName = `kosmos2, node ${process.versions.node.split(".")[0]}`;
