/** Where a run took place: what has to stand beside every figure. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { arch, availableParallelism, cpus, freemem, loadavg, release, totalmem, type as system } from "node:os";

export interface Machine {
  cpu: string;
  threads: number;
  /** Instruction sets that decide what wasm's SIMD becomes. */
  features: string[];
  memoryBytes: number;
  system: string;
  /** Processes that wanted a CPU in the minute before the run: above 0.5 figures are worth little. */
  load: number;
  date: string;
  commit: string;
}

const telling = ["avx", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512_vnni", "avx512_bf16", "asimd", "asimddp", "i8mm"];

export function machine(): Machine {
  const flags = new Set((/^(?:flags|Features)\s*:(.*)$/m.exec(text("/proc/cpuinfo"))?.[1] ?? "").trim().split(/\s+/));
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    threads: availableParallelism(),
    features: telling.filter((feature) => flags.has(feature)),
    memoryBytes: totalmem(),
    system: `${system()} ${release()} ${arch()}`,
    load: loadavg()[0],
    date: new Date().toISOString(),
    commit: spawnSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" }).stdout?.trim() || "unknown",
  };
}

/** Bytes that can be had without swapping. */
export function availableMemory(): number {
  return 1024 * Number(/MemAvailable:\s+(\d+)/.exec(text("/proc/meminfo"))?.[1] ?? freemem() / 1024);
}

const text = (path: string): string => (existsSync(path) ? readFileSync(path, "utf8") : "");
