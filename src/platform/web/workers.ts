/** Threads of a page. node/workers.ts gives the same names. */
import type { WorkerEvents, WorkerFactory, WorkerHandle } from "../platform.js";

export const hasWorkers = (): boolean => typeof Worker !== "undefined";

/** Starts a thread of the pool. */
export function startWorker(events: WorkerEvents, factory?: WorkerFactory): WorkerHandle {
  const worker =
    (factory?.() as Worker | undefined) ?? new Worker(new URL("../../backend/wasm/worker.web.js", import.meta.url), { type: "module" });
  worker.onmessage = (event) => events.message(event.data);
  worker.onerror = (event) => events.lost(event.message || "its script could not be loaded");
  worker.onmessageerror = () => events.lost("a message could not be read");
  return {
    post: (message, transfer) => worker.postMessage(message, transfer ?? []),
    busy: () => {},
    terminate: async () => worker.terminate(),
  };
}

/** Logical processors of the device; a page has no environment variables. */
export function availableThreads(): { threads: number; why: string } {
  const threads = (globalThis.navigator as Navigator | undefined)?.hardwareConcurrency ?? 1;
  return { threads, why: `navigator.hardwareConcurrency is ${threads}` };
}
