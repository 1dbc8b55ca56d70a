/** Threads of Node, Deno and Bun. web/workers.ts gives the same names. */
import { readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { Worker } from "node:worker_threads";
import { allowed } from "./allowed.js";
import type { WorkerEvents, WorkerFactory, WorkerHandle } from "../platform.js";

/** Flags like --input-type or --import are meant for the main script; V8's hold for the whole process anyway. */
const own = { execArgv: [], name: "kosmos2" };

export const hasWorkers = (): boolean => true;

/** Starts a thread of the pool. */
export function startWorker(events: WorkerEvents, factory?: WorkerFactory): WorkerHandle {
  const worker = (factory?.() as Worker | undefined) ?? new Worker(new URL("../../backend/wasm/worker.node.js", import.meta.url), own);
  worker.on("message", events.message);
  worker.on("error", (error) => events.lost(String((error as Error)?.message ?? error)));
  worker.on("exit", (code) => events.lost(`it ended with code ${code}`));
  return {
    post: (message, transfer) => worker.postMessage(message, transfer ?? []),
    busy: (yes) => (yes ? worker.ref() : worker.unref()),
    terminate: async () => {
      await worker.terminate();
    },
  };
}

/** CPUs this process may really use: containers often grant fewer than there are, and Node 20 does not know (libuv before 1.49). */
export function availableThreads(): { threads: number; why: string } {
  const text = allowed(() => process.env.KOSMOS2_THREADS), wanted = Number(text);
  if (Number.isInteger(wanted) && wanted > 0) return { threads: wanted, why: "KOSMOS2_THREADS" };
  const cores = availableParallelism?.() ?? cpus().length, quota = cgroupCpus();
  const [threads, why] = quota < cores ? [Math.max(1, Math.floor(quota)), `a cgroup quota of ${quota} CPUs`] : [cores, `${cores} CPUs`];
  return { threads, why: text ? `${why}; KOSMOS2_THREADS is "${text}", not a whole number from 1` : why };
}

/** What a file says; nothing where it can't be read. */
const textOf = (path: string): string => allowed(() => readFileSync(path, "utf8").trim()) ?? "";

/** CPUs that the cgroups of this process grant; Infinity where they set no limit. */
export function cgroupCpus(text = textOf): number {
  let least = Infinity;
  const limit = (quota: string, period: string) => {
    const cpus = Number(quota) / Number(period);
    if (cpus > 0) least = Math.min(least, cpus);
  };
  // v2: the group and all its parents may set one. v1: a controller of its own.
  let group = /^0::(.*)$/m.exec(text("/proc/self/cgroup"))?.[1] ?? "/";
  for (;;) {
    const [quota, period] = text(`/sys/fs/cgroup${group === "/" ? "" : group}/cpu.max`).split(" ");
    if (quota && quota !== "max") limit(quota, period);
    if (group === "/" || group === "") break;
    group = group.slice(0, group.lastIndexOf("/")) || "/";
  }
  limit(text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), text("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  return least;
}
