/**
 * The benchmark: npm run bench [-- options]. BENCHMARKS.md says how it measures and what came out.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { bars } from "./bars.js";
import { products } from "./products.js";
import { machine } from "./machine.js";
import { phases } from "./phases.js";
import { barLines, chart, limitLines, rowLines } from "./report.js";
import { cache, peers, Run } from "./run.js";

const usage = `npm run bench -- [options]

  --quick          what the bars are about, in less than 3 minutes (the first time a minute more: kernels are compiled, models packed)
  --only WORDS     rows whose name holds one of the words (comma between): kernels, phases, captions, i8, 257x1024, vision, PyTorch, 2t …
  --json FILE      machine, limits, rows and bars
  --svg FILE       where the chart goes (default .cache/bench/results.svg, with --write bench/results.svg; none with --only or --tiny unless given)
  --write          puts the tables into BENCHMARKS.md as the latest run
  --node FILE      the Node to measure on (default: the one of bench:peers, else this one)
  --python FILE    a Python with torch and transformers (default: KOSMOS2_PYTHON, else python3)
  --no-peers       this project alone
  --tiny           toy sizes: shows that everything works, figures mean nothing`;

const newNode = `${peers}/node_modules/node-${process.platform}-${process.arch}/bin/node`;

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false }, only: { type: "string" }, json: { type: "string" }, svg: { type: "string" }, node: { type: "string" },
    python: { type: "string" }, "no-peers": { type: "boolean", default: false }, write: { type: "boolean", default: false }, tiny: { type: "boolean", default: false }, help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(usage);
  process.exit(0);
}

const run = new Run({
  quick: values.quick,
  only: values.only?.split(",") ?? [],
  peers: !values["no-peers"],
  node: values.node ?? (existsSync(newNode) ? newNode : process.execPath),
  python: values.python ?? process.env.KOSMOS2_PYTHON ?? "python3",
  tiny: values.tiny,
});
const start = performance.now();
const where = await machine();
console.error(`${where.cpu}, ${where.threads} CPUs (${where.features.join(" ")}), ${(where.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${where.system}`);
if (run.options.node === process.execPath && Number(process.versions.node.split(".")[0]) < 24) {
  run.note(`measured on Node ${process.versions.node}: bars are for 24 or newer, which npm run bench:peers installs`);
}
if (where.busy > 0.25) run.note(`the machine was busy when this began (${where.busy.toFixed(1)} CPUs): figures are worth little`);

let ended = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    if (ended) return; // some send it to a process and to its group: the report is not to be cut short as well
    ended = true;
    run.note("cut short: what is missing was not reached");
    report();
    process.exit(1);
  });
}
await run.part("products", () => products(run));
for (const name of Object.keys(run.abouts)) await run.close(name);
await phases(run);
await run.close();
report();

/** Prints all that was measured, and writes the files that were asked for. */
function report(): void {
  const checked = run.options.tiny ? [] : bars(run.rows);
  const shown: string[] = [];
  const show = (title: string, text: string): void => {
    shown.push(`${title}\n${text}`);
    console.log(`\n${title}\n${text}`);
  };
  const who = new Map<string, string[]>();
  for (const [name, { version, settings }] of Object.entries(run.abouts)) who.set(`${version}; ${settings}`, [...(who.get(`${version}; ${settings}`) ?? []), name]);
  show("Who took part", [...who].map(([about, names]) => `  ${names.join("; ")}: ${about}`).join("\n"));
  show("Limits", limitLines(run));
  for (const part of ["kernels", "phases", "captions", "load"] as const) {
    const rows = run.rows.filter((row) => row.part === part);
    if (rows.length) show(`${part[0].toUpperCase()}${part.slice(1)} (median of n samples)`, rowLines(rows));
  }
  if (checked.length) show("Bars", barLines(checked));
  if (run.notes.length) show("Notes", run.notes.map((note) => `  ${note}`).join("\n"));
  console.error(`\n${((performance.now() - start) / 1000).toFixed(0)} s without building`);

  const limits = Object.fromEntries(run.limits);
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ machine: where, options: run.options, versions: run.abouts, limits, rows: run.rows, bars: checked, notes: run.notes }, null, 1)}\n`);
  const svg = values.svg ?? (values.only || values.tiny ? undefined : `${values.write ? "bench" : cache}/results.svg`); // the page's chart is of the page's run
  if (svg) {
    mkdirSync(dirname(svg), { recursive: true });
    writeFileSync(svg, chart(run.rows, where));
    console.error(`chart: ${svg}`);
  }
  if (values.write) {
    const file = "BENCHMARKS.md", head = "## Latest run\n";
    const took = `${where.date.slice(0, 10)}, ${where.cpu} (${where.features.join(" ")}), ${where.threads} CPUs, ${where.system}, commit ${where.commit}, \`npm run bench -- ${process.argv.slice(2).join(" ").replace(/ *--(json|svg)[ =]\S+/g, "")}\``;
    const before = readFileSync(file, "utf8").split(head)[0];
    writeFileSync(file, `${before}${head}\n${took}\n\n${svg === "bench/results.svg" ? "![times](bench/results.svg)\n\n" : ""}\`\`\`text\n${shown.join("\n\n")}\n\`\`\`\n`);
  }
}
