/** `kosmos2 verify`: every case of a goldens folder against this engine, as a table or as JSON. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { dtypeOf } from "../dtype.js";
import { Kosmos2ForConditionalGeneration, type LoadOptions } from "../index.js";
import { engineOptions, loadOptions, parse, UsageError } from "./options.js";
import { paint, table, type Terminal } from "./terminal.js";
import { captionModel, verifyCaptions } from "./verify/captions.js";
import { openCaptioner } from "./verify/engine.js";
import { globs, skip, type Check, type Wanted } from "./verify/check.js";
import { verifyImages } from "./verify/images.js";
import { verifyModel } from "./verify/models.js";
import { verifyProcessor } from "./verify/processor.js";

export const verifyUsage = `kosmos2 verify DIR [--only GLOB]… [--dtype f32|f16|i8|i4|w8a8] [--cache f32|f16|i16] [--threads N] [--engine plain|relaxed] [--no-shared] [--json]

Runs every case of a folder of reference values and prints the worst error of each stage beside its limit.
Checkpoints (config.json and cases.json), processor (encode.json), images (images.json) and captions (cases.json alone)
are found by looking, so folders of any name and model of any size will do.

  --only GLOB   only these: a part's path or any piece of it ("models/tiny", "greedy", "vision.*"); may be repeated
  --dtype T     how weights are held. Default: f32, whose limits the cases state; captions in f32 and in i8
  --cache T     how keys and values are held. Default: f32 beside f32 weights, f16 beside f16, else i16
  --json        one object: { folder, ok, checks: [{ name, cases, failed, skipped, messages, worst?, limit? }] }

Exit code: 0 all within their limits, 1 one is out.
`;

const MESSAGES = 5;

export async function verify(args: string[], terminal: Terminal, signal: AbortSignal): Promise<number> {
  const { values, positionals } = parse(args, { ...engineOptions, only: { type: "string", multiple: true } });
  if (positionals.length !== 1) throw new UsageError(positionals.length ? "verify takes one folder" : "verify needs a folder of reference values");
  const folder = resolve(positionals[0]);
  if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new UsageError(`there is no folder ${positionals[0]}`);
  const parts = find(folder);
  if (!parts.length) throw new UsageError(`${positionals[0]} has no reference values (cases.json, encode.json or images.json) in it or up to two folders below`);
  const { dtype: named, ...engine } = loadOptions(values), dtype = named && dtypeOf(named);
  const wanted = globs(values.only ?? []);

  const checks: Check[] = [];
  for (const part of parts) {
    for await (const found of run(part, folder, dtype, engine, wanted, signal)) {
      checks.push(found);
      if (terminal.live) terminal.err(`\r\x1b[K${found.name}`);
    }
  }
  if (terminal.live) terminal.err("\r\x1b[K");
  const total = (key: "cases" | "failed" | "skipped") => checks.reduce((sum, check) => sum + check[key], 0);
  if (!total("cases")) throw new UsageError(`nothing in ${positionals[0]} is called ${values.only?.join(" or ")}`);
  const ok = total("failed") === 0;
  if (values.json) terminal.out(`${JSON.stringify({ folder, ok, checks: checks.map(finite) })}\n`);
  else {
    terminal.out(table([["", "cases", "failed", "skipped", "worst", "limit"], ...checks.map(row)], [1, 2, 3, 4, 5]));
    for (const check of checks.filter(({ failed, messages }) => failed && messages.length)) {
      terminal.out(`\n${paint(terminal, "red", check.name)}\n`);
      for (const message of check.messages.slice(0, MESSAGES)) terminal.out(`  ${message}\n`);
      if (check.messages.length > MESSAGES) terminal.out(`  … and ${check.messages.length - MESSAGES} more\n`);
    }
    terminal.out(skips(checks));
    terminal.out(`\n${paint(terminal, ok ? "green" : "red", ok ? "within limits" : "OUT OF LIMITS")}: ${total("cases")} cases, ${total("failed")} failed, ${total("skipped")} skipped\n`);
  }
  return ok ? 0 : 1;
}

interface Part {
  kind: keyof typeof together | "model" | "captions";
  path: string;
}

/** Parts that are checked as a whole, from the folder that they are in, and the names of their checks. */
const together = {
  processor: {
    // cases without their processor's folder beside them are of the model in the package
    verify: (root: string) => verifyProcessor(root, existsSync(join(root, "processor/hub")) ? undefined : "kosmos2-emoji"),
    file: "encode.json", checks: ["encode", "decode", "prompts", "postprocess", "boxes/encode", "boxes/decode"],
  },
  images: { verify: verifyImages, file: "images.json", checks: ["decoded", "resized", "turned and resized", "pixel values", "refused"] },
  demo: { verify: verifyImages, file: "demo.json", checks: ["resized", "pixel values"] },
} as const;

/** What is in a folder and up to two folders below it. */
function find(folder: string, depth = 0): Part[] {
  const files = new Set(readdirSync(folder)), own = basename(folder);
  if (files.has("cases.json")) return [{ kind: files.has("config.json") ? "model" : "captions", path: folder }];
  if (Object.hasOwn(together, own) && files.has(together[own as keyof typeof together].file)) return [{ kind: own as keyof typeof together, path: folder }];
  if (depth === 2) return [];
  return [...files].sort().filter((file) => statSync(join(folder, file)).isDirectory()).flatMap((file) => find(join(folder, file), depth + 1));
}

async function* run(part: Part, root: string, dtype: LoadOptions["dtype"], engine: LoadOptions, wanted: Wanted, signal: AbortSignal): AsyncGenerator<Check> {
  const name = (relative(root, part.path) || basename(part.path)).replaceAll("\\", "/");
  signal.throwIfAborted();
  if (part.kind === "model" || part.kind === "captions") {
    for (const type of dtype ? [dtype] : part.kind === "model" ? (["f32"] as const) : (["f32", "i8"] as const)) {
      const options = { ...engine, dtype: type, signal };
      if (part.kind === "model") {
        yield* withOne(() => Kosmos2ForConditionalGeneration.fromPretrained(part.path, options), (load) => verifyModel(part.path, name, wanted, load, signal));
        continue;
      }
      const model = captionModel(part.path);
      const beside = [join(part.path, "..", model), join(part.path, "../models", model), join(part.path, "../../models", model)].find((path) => existsSync(join(path, "config.json")));
      const source = model === "kosmos2-emoji" ? model : beside;
      if (!source) yield skip(`${name}/${type}`, 1, `the model ${model} is not beside its cases`);
      else yield* withOne(() => openCaptioner(source, options), (load) => verifyCaptions(part.path, name, type, wanted, load, signal));
    }
    return;
  }
  const { verify, checks } = together[part.kind];
  if (!checks.some((check) => wanted(`${name}/${check}`))) return;
  for (const { name: found, ...check } of await verify(dirname(part.path), { signal })) {
    const inside = found.replaceAll(": ", "/"), own = inside.startsWith(`${part.kind}/`) ? inside.slice(part.kind.length + 1) : inside;
    if (part.kind !== "processor" && own === inside) continue; // images and demo come together
    if (wanted(`${name}/${own}`)) yield { name: `${name}/${own}`, ...check };
  }
}

/** Opens something when it is first wanted, and disposes it at the end. */
async function* withOne<T extends { dispose(): Promise<void> }>(open: () => Promise<T>, use: (load: () => Promise<T>) => Promise<Check[]>): AsyncGenerator<Check> {
  let opened: Promise<T> | undefined;
  try {
    yield* await use(() => (opened ??= open()));
  } finally {
    await (await opened?.catch(() => undefined))?.dispose();
  }
}

/** What was not checked, by reason. */
function skips(checks: readonly Check[]): string {
  const reasons = new Map<string, { cases: number; names: Set<string> }>();
  for (const check of checks.filter(({ skipped, failed }) => skipped && !failed)) {
    const reason = check.messages.length === 1 ? check.messages[0] : "each for a reason of its own (--json lists them)";
    const entry = reasons.get(reason) ?? { cases: 0, names: new Set() };
    reasons.set(reason, { cases: entry.cases + check.skipped, names: entry.names.add(check.name.replace(/^models\/[^/]+\//, "")) });
  }
  return [...reasons].map(([reason, { cases, names }]) => `\nskipped ${cases}, ${[...names].join(", ")}: ${reason}\n`).join("");
}

const number = (x: number | undefined) => (x === undefined ? "" : Number.isFinite(x) ? (x === 0 ? "0" : x.toExponential(1)) : "not a number");

function row({ name, cases, failed, skipped, worst, limit }: Check): string[] {
  return [name, String(cases), failed ? String(failed) : "", skipped ? String(skipped) : "", number(worst), number(limit)];
}

/** JSON has no Infinity: a difference that is none is null. */
function finite(check: Check): object {
  return check.worst === Infinity ? { ...check, worst: null } : check;
}
