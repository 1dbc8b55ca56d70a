/** The commands about weights: `synthesize`, `pack`, `inspect`, `verify-pack`. The work is done in files of their own. */
import { Kosmos2Config } from "../model/config.js";
import { estimateMemory, partOf, type EstimateOptions, type MemoryEstimate } from "../memory.js";
import { Checkpoint } from "../weights/checkpoint.js";
import { packInfo, type PackInfo } from "../weights/packs.js";
import { openModel } from "../weights/source.js";
import { modelTensors } from "../weights/tensors.js";
import { caches, count, modelSource, oneOf, parse, UsageError } from "./options.js";
import { pack } from "./pack.js";
import { synthesize } from "./synthesize.js";
import { logger, paint, table, type Terminal } from "./terminal.js";
import { verifyPack } from "./verify-pack.js";

export const packUsage = `kosmos2 pack SRC --dtype i8|i4|w8a8|f16|f32 --out DIR [--revision COMMIT] [--processor MODEL] [--threads N] [--json]

Makes a pack of a checkpoint: a model's folder whose weights are already converted and in the kernels' order, so that loading is
reading. Little memory, any size of model. What was stopped goes on where it was when the same command is given again.

  --revision COMMIT  the source's commit on the hub, to be written down. Default: where the source is from the hub, its own
  --processor MODEL  where tokenizer, image processor and config come from when the source has none
`;

export const inspectUsage = `kosmos2 inspect MODEL [--dtype auto|f32|f16|i8|i4|w8a8] [--cache auto|f32|f16|i16] [--tokens N] [--json]

Says what is in a model's folder, its sizes and types, and the memory that loading it takes.

  --dtype T   how weights would be held. Default: auto, a pack's own, else i8
  --cache T   how keys and values would be held. Default: f32 beside f32 weights, f16 beside f16, else i16
  --tokens N  the longest text, prompt and answer. Default 256
`;

export const verifyPackUsage = `kosmos2 verify-pack DIR --against SRC [--json]

Compares a pack with the checkpoint that it was made of: every hash, and every number against what rounding may do to it.
The error of a tensor is ‖packed − source‖ / ‖source‖; "worst" is its worst number's, in units of what rounding may do.

Exit code: 0 all is right, 1 something is not.
`;

export const synthesizeUsage = `kosmos2 synthesize --out DIR [--config kosmos2|MODEL] [--dtype f32|bf16] [--seed N] [--shards N] [--processor MODEL]

Writes a checkpoint with weights that nobody trained, to try sizes out: 6.66 GB in f32 where nothing else is said.

  --config C         whose sizes: "kosmos2" are the released ones (default), else those of a model's config.json
  --processor MODEL  whose tokenizer and image processor are put beside it
`;

export async function packCommand(args: string[], terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { values, positionals } = parse(args, {
    dtype: { type: "string" }, out: { type: "string" }, revision: { type: "string" }, processor: { type: "string" }, threads: { type: "string" }, json: { type: "boolean" }, help: { type: "boolean" },
  });
  if (positionals.length !== 1) throw new UsageError(positionals.length ? "pack takes one model" : "pack needs a model");
  const dtype = oneOf("dtype", values.dtype, ["i8", "i4", "w8a8", "f16", "f32"]);
  if (!dtype || !values.out) throw new UsageError(`pack needs --${dtype ? "out" : "dtype"}`);
  const done = await pack({
    source: modelSource(positionals[0]), out: values.out, dtype, revision: values.revision, threads: count("threads", values.threads),
    processor: values.processor === undefined ? undefined : modelSource(values.processor), signal, logger: logger(terminal), onProgress: progress(terminal),
  });
  if (values.json) terminal.out(`${JSON.stringify({ out: values.out, dtype, ...done })}\n`);
  else terminal.out(`${values.out}: ${size(done.bytes)} of ${dtype} weights\n`);
  return 0;
}

export async function inspectCommand(args: string[], terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { values, positionals } = parse(args, { dtype: { type: "string" }, cache: { type: "string" }, tokens: { type: "string" }, json: { type: "boolean" }, help: { type: "boolean" } });
  if (positionals.length !== 1) throw new UsageError(positionals.length ? "inspect takes one model" : "inspect needs a model");
  const dtype = oneOf("dtype", values.dtype, ["auto", "f32", "f16", "i8", "i4", "w8a8"]), cache = oneOf("cache", values.cache, caches), tokens = count("tokens", values.tokens);
  const { memory, files, parts, pack } = await inspect(positionals[0], { dtype, cache, tokens, signal });
  if (values.json) {
    terminal.out(`${JSON.stringify({ pack: pack && { dtype: pack.dtype, sourceSha256: pack.sourceSha256, sourceRevision: pack.sourceRevision }, files, parts, memory })}\n`);
    return 0;
  }
  terminal.out(pack ? `a pack of ${pack.dtype}${pack.sourceRevision ? ` of commit ${pack.sourceRevision}` : ""}, source ${pack.sourceSha256.slice(0, 16)}…\n\n` : "a checkpoint\n\n");
  terminal.out(table([["file", "tensors", "size"], ...files.map(({ file, tensors, bytes }) => [file, String(tensors), size(bytes)])], [1, 2]));
  terminal.out(`\n${table([["part", "tensors", "numbers", "stored as", "on disk", `in memory (${memory.dtype})`],
    ...parts.map(({ part, tensors, numbers, types, bytes, memoryBytes }) => [part, String(tensors), numbers.toLocaleString("en"), types.join(", "), size(bytes), size(memoryBytes)])], [1, 2, 4, 5])}`);
  terminal.out(`\n${table([
    ["weights", size(memory.weightBytes)], [`keys and values (${memory.cache})`, size(memory.cacheBytes)], ["a pass", size(memory.arenaBytes)],
    ["all", `${size(memory.totalBytes)} of ${size(memory.availableBytes)}${memory.fits ? "" : paint(terminal, "red", ": too much")}`],
  ])}`);
  return 0;
}

interface Inspected {
  pack: PackInfo | undefined;
  files: { file: string; tensors: number; bytes: number }[];
  parts: { part: string; tensors: number; numbers: number; types: string[]; bytes: number; memoryBytes: number }[];
  memory: MemoryEstimate;
}

async function inspect(source: string, options: EstimateOptions): Promise<Inspected> {
  const { signal } = options;
  const files = await openModel(modelSource(source), { signal });
  const config = await Kosmos2Config.fromFiles(files, signal);
  const checkpoint = await Checkpoint.open(files, { signal });
  try {
    const pack = packInfo(checkpoint), shapes = new Map(modelTensors(config).map(({ name, shape }) => [name, shape]));
    const memory = await estimateMemory(modelSource(source), options);
    const parts = (Object.keys(memory.parts) as (keyof typeof memory.parts)[]).map((part) => {
      const stored = [...checkpoint.tensors].filter(([name]) => shapes.has(wholeName(name)) && partOf(name) === part);
      const names = new Set(stored.map(([name]) => wholeName(name)));
      return {
        part, tensors: names.size, numbers: [...names].reduce((sum, name) => sum + shapes.get(name)!.reduce((product, dim) => product * dim, 1), 0),
        types: [...new Set(stored.map(([name, { dtype }]) => { const format = pack?.entries.get(name)?.format; return !format || format === "rows" ? dtype : format; }))].sort(),
        bytes: stored.reduce((sum, [, { start, end }]) => sum + end - start, 0), memoryBytes: memory.parts[part],
      };
    });
    return { pack, memory, parts, files: [...checkpoint.headers].map(([file, { tensors, end }]) => ({ file, tensors: [...tensors.keys()].filter((name) => !name.startsWith("__")).length, bytes: end })) };
  } finally {
    await checkpoint.close();
  }
}

/** Without the number of a part. */
const wholeName = (name: string): string => name.replace(/\/\d+$/, "");

export async function verifyPackCommand(args: string[], terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { values, positionals } = parse(args, { against: { type: "string" }, json: { type: "boolean" }, help: { type: "boolean" } });
  if (positionals.length !== 1) throw new UsageError(positionals.length ? "verify-pack takes one folder" : "verify-pack needs a pack's folder");
  if (!values.against) throw new UsageError("verify-pack needs --against");
  const { ok, tensors, problems, relativeError } = await verifyPack({ pack: modelSource(positionals[0]), against: modelSource(values.against), signal, onProgress: progress(terminal) });
  if (values.json) terminal.out(`${JSON.stringify({ ok, relativeError, problems, tensors: tensors.map((tensor) => ({ ...tensor, worst: Number.isFinite(tensor.worst) ? tensor.worst : null })) })}\n`);
  else {
    terminal.out(table([["tensor", "as", "error", "worst", ""], ...tensors.map(({ name, format, relativeError, worst, problem }) =>
      [name, format, relativeError === 0 ? "0" : relativeError.toExponential(2), worst.toFixed(2), problem ?? "right"])], [2, 3]));
    for (const problem of problems) terminal.out(`${paint(terminal, "red", problem)}\n`);
    const wrong = tensors.filter(({ problem }) => problem !== undefined).length;
    terminal.out(`\n${paint(terminal, ok ? "green" : "red", ok ? "right" : "WRONG")}: ${tensors.length} tensors, ${wrong} wrong, error of all matrices ${relativeError.toExponential(2)}\n`);
  }
  return ok ? 0 : 1;
}

export async function synthesizeCommand(args: string[], terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { values, positionals } = parse(args, {
    out: { type: "string" }, config: { type: "string" }, dtype: { type: "string" }, seed: { type: "string" }, shards: { type: "string" }, processor: { type: "string" }, help: { type: "boolean" },
  });
  if (positionals.length) throw new UsageError(`synthesize takes no "${positionals[0]}"`);
  if (!values.out) throw new UsageError("synthesize needs --out");
  if (values.seed !== undefined && !(/^\d{1,10}$/.test(values.seed) && Number(values.seed) < 2 ** 32)) throw new UsageError(`--seed takes a whole number below 2³², not "${values.seed}"`);
  const bytes = await synthesize({
    out: values.out, dtype: oneOf("dtype", values.dtype, ["f32", "bf16"]), seed: Number(values.seed ?? 0), shards: count("shards", values.shards),
    config: values.config === undefined || values.config === "kosmos2" ? undefined : await Kosmos2Config.fromPretrained(modelSource(values.config), { signal }),
    processor: values.processor === undefined ? undefined : modelSource(values.processor), signal, onProgress: progress(terminal),
  });
  terminal.out(`${values.out}: ${size(bytes)} of weights\n`);
  return 0;
}

/** 10⁹ bytes are a GB. */
function size(bytes: number): string {
  const [unit, name] = bytes >= 1e9 ? [1e9, "GB"] : bytes >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${(bytes / unit).toFixed(bytes >= 1e9 ? 3 : 1)} ${name}`;
}

/** Drawn only for people, at most ten times a second. */
function progress(terminal: Terminal): ((progress: { loaded: number; total: number; file: string }) => void) | undefined {
  if (!terminal.live) return undefined;
  let last = 0;
  return ({ loaded, total, file }) => {
    const now = performance.now();
    if (loaded < total && now - last < 100) return;
    last = now;
    terminal.err(loaded < total ? `\r\x1b[K${Math.floor((100 * loaded) / total)} %  ${size(loaded)} of ${size(total)}  ${file}` : "\r\x1b[K");
  };
}
