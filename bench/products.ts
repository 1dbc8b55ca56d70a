/** Products alone, at the shapes that Kosmos-2 has, against those of other wasm engines. */
import type { Format } from "#src/weights/quant.js";
import type { Contender } from "./contender.js";
import type { Entry, Run } from "./run.js";
import { productWork } from "./work.js";

type Shape = readonly [M: number, K: number, N: number];

const rows = [1, 4, 64, 72, 257];
const weights: readonly (readonly [K: number, N: number])[] = [[1024, 1024], [1024, 4096], [4096, 1024], [2048, 2048], [2048, 8192], [8192, 2048]];
/** Logits, of the last row and of guesses alone. */
const logits: readonly Shape[] = [[1, 2048, 65037], [4, 2048, 65037]];
/** What bars are about: looked at longer and more often. */
const essential: readonly Shape[] = [[257, 1024, 4096], [72, 2048, 8192]], essentialDtypes: readonly Format[] = ["f32", "i8"];

/** Formats that are measured in the same rounds: bars hold int8 against a peer's 4-bit products too. */
const sideBySide: readonly (readonly Format[])[] = [["f32"], ["f16"], ["i8", "i4"], ["w8a8"]];
/** Formats that peers have as well, each with their own meaning. */
const theirs: readonly Format[] = ["f32", "i8", "i4"];

export async function products(run: Run): Promise<void> {
  const { quick, tiny } = run.options;
  const all: readonly Shape[] = tiny ? [[4, 1024, 1024]] : quick ? essential : [...weights.flatMap(([K, N]) => rows.map((M): Shape => [M, K, N])), ...logits];
  for (const dtypes of sideBySide) {
    if (quick && !dtypes.some((dtype) => essentialDtypes.includes(dtype))) continue;
    for (const shape of all) await one(run, dtypes, shape);
  }
}

async function one(run: Run, dtypes: readonly Format[], [M, K, N]: Shape): Promise<void> {
  const what = `${M}×${K}×${N}`, { quick, tiny } = run.options;
  const matters = dtypes.some((dtype) => essentialDtypes.includes(dtype)) && essential.some((shape) => shape.join("×") === what), ms = tiny ? 10 : matters ? 150 : 60;
  const entries: Entry[] = [];
  const used: Contender[] = [];
  const add = async (dtype: Format, engine: string, threads: number, contender: () => Promise<Contender | undefined>): Promise<void> => {
    const subject = { part: "kernels" as const, what, dtype, engine, threads };
    const started = run.wants(subject) ? await contender() : undefined;
    if (!started) return;
    used.push(started);
    const work = engine.startsWith("kosmos2") ? [productWork(dtype, M, K, N)] : undefined;
    entries.push({ ...subject, work, measure: () => started.ask<number[]>({ do: "kernel", dtype, M, K, N, threads, ms }) });
  };

  for (const dtype of dtypes) {
    if (!quick || essentialDtypes.includes(dtype)) for (const threads of quick ? [2] : [2, 1]) await add(dtype, "kosmos2", threads, () => run.ours("kosmos2"));
    if (process.execPath !== run.options.node && !quick) await add(dtype, oldName, 2, () => run.ours(oldName, process.execPath));
    if (theirs.includes(dtype) && N < 65037) {
      await add(dtype, "onnxruntime-web", 2, () => run.peer("onnxruntime-web", "ort.mjs"));
      if (dtype === "f32" && !quick) await add(dtype, "tfjs-wasm", 2, () => run.peer("chromium", "chromium.mjs"));
    }
  }
  if (entries.length === 0) return;
  await run.part(`${dtypes.join(", ")} ${what}`, async () => {
    await run.group(entries, tiny || !matters ? 2 : quick ? 3 : 4);
    for (const contender of new Set(used)) await contender.ask({ do: "drop" }).catch(() => {});
  });
}

/** Our engine on the Node that runs this script, where that is not the one that the bars are on. */
export const oldName = `kosmos2, node ${process.versions.node.split(".")[0]}`;
