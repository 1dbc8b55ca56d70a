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

/** Rows of pixels, top to bottom, without gaps: grey, RGB or RGBA (whose alpha nothing looks at). */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3 | 4;
  /** width · height · channels bytes. */
  readonly data: Uint8Array | Uint8ClampedArray;
}

/** What the first bytes of an encoded picture say. */
export interface ImageHeader {
  readonly format: "jpeg" | "png" | "webp" | "gif" | "bmp";
  /** As stored: before EXIF turns it. */
  readonly width: number;
  readonly height: number;
  /** Kinds whose way to RGB is not the decoder's (MODEL.md, "Pixels"). */
  readonly kind?: "cmyk" | "grey16";
}

export interface DecodeSettings {
  /** Turn the picture as its EXIF orientation says. */
  readonly exif: boolean;
  readonly maxPixels: number;
  readonly signal?: AbortSignal;
}
