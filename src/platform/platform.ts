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
