/** `kosmos2 doctor`: what this machine offers, what is used, and why not more. */
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { capabilities } from "../index.js";
import { engineOptions, loadOptions, parse, UsageError } from "./options.js";
import { paint, table, type Terminal } from "./terminal.js";

export const doctorUsage = `kosmos2 doctor [--threads N] [--engine plain|relaxed] [--no-shared] [--json]

Says what this machine and runtime offer, what is used of it, and why not more.
`;

export async function doctor(args: string[], terminal: Terminal): Promise<number> {
  const { values, positionals } = parse(args, engineOptions);
  if (positionals.length) throw new UsageError(`doctor takes no "${positionals[0]}"`);
  const { dtype: _, cache: __, ...options } = loadOptions(values);
  const found = await capabilities({ ...options, maxBytes: 2 ** 32 });
  const machine = {
    runtime: runtime(), platform: `${process.platform} ${process.arch}`, processor: cpus()[0]?.model.trim() ?? "unknown",
    processors: availableParallelism(), memoryBytes: totalmem(), hugePages: hugePages(), sharp: await sharpVersion(),
  };
  if (values.json) {
    terminal.out(`${JSON.stringify({ ...machine, ...found })}\n`);
    return 0;
  }
  const yes = (has: boolean) => (has ? paint(terminal, "green", "yes") : paint(terminal, "yellow", "no"));
  const { used } = found;
  terminal.out(table([
    ["runtime", machine.runtime],
    ["machine", `${machine.platform}, ${machine.processor}, ${machine.processors} logical processors, ${(machine.memoryBytes / 2 ** 30).toFixed(1)} GiB`],
    ["wasm SIMD", yes(found.simd)],
    ["relaxed SIMD", yes(found.relaxedSimd)],
    ["shared memory", yes(found.sharedMemory)],
    ["workers", yes(found.workers)],
    ...(machine.hugePages ? [["huge pages", machine.hugePages === "always" ? paint(terminal, "green", "always") : paint(terminal, "yellow", `${machine.hugePages}; "always" in ${hugePagesFile} spared 5 % of a token where it was measured`)]] : []),
    ["picture decoder", machine.sharp ? `sharp ${machine.sharp}` : paint(terminal, "yellow", "no sharp: BMP, GIF and raw pixels only (npm install sharp)")],
    ["used", `${used.engine} SIMD, ${used.threads} thread${used.threads > 1 ? "s" : ""}, memory ${used.shared ? "shared" : "not shared"}${used.worker ? "" : ", no worker"}`],
  ]));
  for (const reason of found.reasons) terminal.out(`  ${reason}\n`);
  return 0;
}

function runtime(): string {
  const { deno, bun, node } = process.versions as Record<string, string | undefined>;
  return deno ? `Deno ${deno}` : bun ? `Bun ${bun}` : `Node ${node}`;
}

const hugePagesFile = "/sys/kernel/mm/transparent_hugepage/enabled";

/** Whether Linux gives memory in pieces of 2 MiB without being asked, which no JavaScript can ask for: "always", "madvise" or "never". */
function hugePages(): string | undefined {
  try {
    return /\[(\w+)\]/.exec(readFileSync(hugePagesFile, "utf8"))?.[1];
  } catch {
    return undefined; // another system
  }
}

async function sharpVersion(): Promise<string | undefined> {
  const sharp = await import("sharp").catch(() => undefined);
  return sharp?.default.versions.sharp;
}
