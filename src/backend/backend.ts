/**
 * What a backend is: memory with addresses, and someone who carries out records in order. Wasm on shared memory, wasm behind a
 * worker's messages and WebGPU all fit it, so nothing above knows which one it has.
 */
export interface Backend {
  /** What runs, for people: "wasm, relaxed SIMD, 2 threads". */
  readonly description: string;
  readonly threads: number;
  /**
   * Whether one more run may be given while one goes on, which begins without the host as soon as that has ended. Memory is within reach meanwhile; where
   * this is false nothing may be asked for during a run.
   */
  readonly queues: boolean;

  /**
   * Room for `bytes`, 64-byte aligned, followed by at least 64 readable bytes. Addresses never move.
   * @throws {Kosmos2Error} code `memory-exhausted`, kind `memory`
   */
  alloc(bytes: number): number;
  free(address: number): void;

  /** The memory itself, to fill in place between runs; undefined where it is out of reach, and `write` copies. Valid until the next alloc. */
  view(address: number, bytes: number): Uint8Array | undefined;
  write(address: number, bytes: Uint8Array): void;
  /** A copy. */
  read(address: number, bytes: number): Promise<Uint8Array>;

  /**
   * Carries out `count` records (graph/record.ts) in order; one run at a time, or two (`queues`). An abort takes effect between two records, and for
   * all runs there are.
   * @param laps gets the milliseconds that each record took, until the last thread was done with it
   * @throws {Kosmos2Error} code `worker-lost` when a thread died, `disposed` after dispose. What keeps a run from beginning is thrown at once, and does not
   *   reject: nothing may go on from a run that is not there
   */
  run(records: Uint8Array, count: number, signal?: AbortSignal, laps?: Float64Array): Promise<void>;

  /** Ends all runs, if there are any, after the record that is being carried out: they resolve. */
  abort(): void;

  /** Gives everything back, also in the middle of a run, which then rejects. Twice is fine. */
  dispose(): Promise<void>;
}
