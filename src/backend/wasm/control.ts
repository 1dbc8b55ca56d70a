/** The words that host and threads share, at address CONTROL of the memory (assembly/run.ts), and what they post to each other. */

/** Bytes 0 … 63 stay unused, so that address 0 can mean "none". */
export const CONTROL = 64;
/** Where the heap begins. */
export const HEAP = 1024;

/** Places in a Uint32Array over the whole memory. The first eight are the kernels', the rest is between host and workers. */
export const word = {
  generation: CONTROL / 4 + 1,
  poison: CONTROL / 4 + 3,
  abort: CONTROL / 4 + 4,
  decision: CONTROL / 4 + 5,
  job: CONTROL / 4 + 6,
  /** What a job is, and of the next one, which may be there before it has ended: each of these is a word for even and one for odd numbers. */
  list: CONTROL / 4 + 16,
  count: CONTROL / 4 + 18,
  /** Where thread 0 writes how long each record took, in f64; 0: nowhere. */
  laps: CONTROL / 4 + 20,
  /** How many records come before one that threads share as they come to it. */
  alone: CONTROL / 4 + 22,
  /** How many threads have left the current job. */
  left: CONTROL / 4 + 24,
  /** One word a thread: 1 while it waits for a message and not for `job`. */
  parked: CONTROL / 4 + 32,
} as const;

/** Threads that the words above have room for. */
export const MAX_THREADS = 128;

/** Results of the wasm function `run`. */
export const enum Code {
  done = 0,
  aborted = 1,
  poisoned = 2,
}

/** What the wasm module exports. */
export interface Kernels {
  run(list: number, count: number, thread: number, threads: number, control: number): Code;
  spinForJob(control: number, last: number, spins: number): number;
}

/** Host → worker. A worker with shared memory gets only `start` and `go`. */
export type Order =
  | { type: "start"; module: WebAssembly.Module; thread: number; threads: number; memory?: WebAssembly.Memory; pages: number; maximum: number }
  | { type: "go" }
  | { type: "grow"; bytes: number }
  | { type: "write"; address: number; bytes: Uint8Array }
  | { type: "read"; address: number; bytes: number }
  | { type: "run"; list: number; count: number; laps: boolean }
  | { type: "abort" };

/** Worker → host. */
export type Report =
  | { type: "ready" }
  | { type: "done"; code: Code; laps?: Float64Array }
  | { type: "bytes"; bytes: Uint8Array }
  | { type: "failed"; message: string };
