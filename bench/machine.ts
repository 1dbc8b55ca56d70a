/** Where a run took place: what has to stand beside every figure. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { arch, availableParallelism, cpus, freemem, release, totalmem, type as system } from "node:os";
import { setTimeout as wait } from "node:timers/promises";

export interface Machine {
  cpu: string;
  threads: number;
  /** Instruction sets that decide what wasm's SIMD becomes. */
  features: string[];
  memoryBytes: number;
  system: string;
  /** CPUs that others kept busy when the run began: from a quarter on figures are worth little. */
  busy: number;
  date: string;
  commit: string;
}

const telling = ["avx", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512_vnni", "avx512_bf16", "asimd", "asimddp", "i8mm"];

export async function machine(): Promise<Machine> {
  const before = cpuTimes();
  await wait(1000); // a load average would still show what built the benchmark
  const now = cpuTimes();
  const flags = new Set((/^(?:flags|Features)\s*:(.*)$/m.exec(text("/proc/cpuinfo"))?.[1] ?? "").trim().split(/\s+/));
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    threads: availableParallelism(),
    features: telling.filter((feature) => flags.has(feature)),
    memoryBytes: totalmem(),
    system: `${system()} ${release()} ${arch()}`,
    busy: cpus().length * (1 - (now.idle - before.idle) / (now.all - before.all)),
    date: new Date().toISOString(),
    commit: spawnSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).stdout?.trim() || "unknown",
  };
}

function cpuTimes(): { idle: number; all: number } {
  const times = cpus().map(({ times }) => times);
  return { idle: times.reduce((sum, { idle }) => sum + idle, 0), all: times.reduce((sum, { user, nice, sys, idle, irq }) => sum + user + nice + sys + idle + irq, 0) };
}

/** Bytes that can be had without swapping. */
export function availableMemory(): number {
  return 1024 * Number(/MemAvailable:\s+(\d+)/.exec(text("/proc/meminfo"))?.[1] ?? freemem() / 1024);
}

const text = (path: string): string => (existsSync(path) ? readFileSync(path, "utf8") : "");
