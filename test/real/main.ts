/** `npm run test:real`: the bars of the released size. */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { root } from "../support.js";
import { bars, type Row } from "./bars.js";

const usage = `npm run test:real -- [options]

What must hold at the released size, measured with untrained weights: ten minutes, 10 GB of disk, 5 GB of memory, Linux.

  --only N,N         these bars alone: 1 packing, 2 loading a pack, 3 loading without one, 4 fidelity, 5 what else is asked for
  --cache DIR        where checkpoints are made, and taken from when they are there (f32, bf16, i4: a pack of bf16).
                     Default KOSMOS2_REAL_CACHE, else .cache/real
  --keep             leaves them there for the next time (14 GB)
  --processor MODEL  whose tokenizer is taken for synthetic checkpoints. Default kosmos2-emoji: sizes don't depend on it
  --kills N          how often packing is killed. Default 20
  --seed N           of the moments when it is killed. Default: the clock
  --threads N        Default: what this machine has

Exit code: 0 all hold, 1 one does not.`;

const { values } = parseArgs({ options: {
  only: { type: "string" }, cache: { type: "string" }, keep: { type: "boolean" }, kills: { type: "string" }, seed: { type: "string" }, threads: { type: "string" }, processor: { type: "string" },
  help: { type: "boolean" },
} });
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const rows: Row[] = [], line = (text: string): void => console.error(`  ${text}`);
const show = ({ bar, want, got, ok }: Row): string => `| ${bar} | ${want} | ${got} | ${ok === undefined ? "–" : ok ? "yes" : "**NO**"} |`;
for await (const row of bars({
  cache: values.cache ?? process.env.KOSMOS2_REAL_CACHE ?? join(root, ".cache/real"), shards: 8, processor: values.processor ?? "kosmos2-emoji",
  reference: join(root, "test/real/released.safetensors"), kills: Number(values.kills ?? 20), seed: Number(values.seed ?? Date.now() % 2 ** 31),
  only: values.only?.split(",").map(Number), threads: values.threads === undefined ? undefined : Number(values.threads), keep: values.keep ?? false, released: true, log: line,
})) {
  line(show(row));
  rows.push(row);
}
console.log(`Node ${process.versions.node}, V8 ${process.versions.v8}\n\n| bar | want | got | ok |\n|---|---|---|---|\n${rows.map(show).join("\n")}`);
process.exitCode = rows.length === 0 || rows.some(({ ok }) => ok === false) ? 1 : 0;
