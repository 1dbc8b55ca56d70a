/**
 * What an engine needs of its runtime. node.ts (Node, Deno, Bun) and web.ts (browsers, workers, edge) each give all of it;
 * `#platform` is one of them, chosen by package.json's conditions. Nothing else in src/ knows where it runs.
 */

/** Bytes that can be read in pieces: a file, a Blob, an array, a ranged download. */
export interface ByteSource {
  /** Size in bytes. */
  readonly size: number;
  /** Fills all of `into` (which may be shared memory) from `offset`. Rejects when the bytes end early. */
  read(into: Uint8Array, offset: number, signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** A worker of any runtime. */
export interface WorkerHandle {
  post(message: unknown, transfer?: ArrayBuffer[]): void;
  /** While busy, a worker keeps the process alive; an idle one never does. */
  busy(yes: boolean): void;
  terminate(): Promise<void>;
}

/** What a worker's owner wants to hear. */
export interface WorkerEvents {
  message(data: unknown): void;
  /** The worker threw, could not be started, or is gone. */
  lost(reason: string): void;
}

/** Makes a worker that runs `kosmos2-wasm/worker`: a Web Worker, or a `node:worker_threads` one. */
export type WorkerFactory = () => unknown;
