/**
 * A folder on a web server, read in place: ranges are fetched as they are asked for and nothing is kept but what the browser's
 * own cache keeps. For models served beside a page; a hub id is cached and checked (hub.ts).
 */
import { Kosmos2Error } from "../errors.js";
import type { ByteSource } from "../platform/platform.js";
import { bytesSource, endsEarly, isPlainName, type ModelFiles } from "../weights/files.js";
import { HubClient, join, Passing, unreachable, type Fetch, type Tuning } from "./http.js";

export interface FolderOptions {
  /** Instead of the runtime's own. */
  fetch?: Fetch;
  /** Sent to the folder's own host only. */
  token?: string | false;
  signal?: AbortSignal;
  tuning?: Partial<Tuning>;
}

/** The first request asks for so much: most files of a model are smaller, and a safetensors header fits in. */
const first = 2 ** 20;

/** @param url of the folder, with or without a last slash; a query goes along to each file */
export async function openWebFolder(url: string, options: FolderOptions = {}): Promise<ModelFiles> {
  options.signal?.throwIfAborted();
  let base: URL;
  try {
    base = new URL(url);
  } catch (cause) {
    throw new Kosmos2Error("model-source-invalid", "input", `Cannot open "${url}": it is no URL; wanted "https://host/folder"`, { found: url }, cause);
  }
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const client = new HubClient(base.origin, "", options.token || undefined, options.fetch, options.tuning);
  return {
    name: url,
    async open(file, signal = options.signal ?? new AbortController().signal) {
      if (!isPlainName(file)) throw new Kosmos2Error("path-refused", "input", `Cannot open "${file}" of "${url}": it is not a plain file name`, { file });
      const address = new URL(encodeURIComponent(file), base);
      address.search = base.search;
      return openRanged(address.href, client, signal);
    },
  };
}

/** A file of a server; undefined when it has none. */
async function openRanged(url: string, client: HubClient, signal: AbortSignal): Promise<ByteSource | undefined> {
  const start = await fetchRange(url, 0, first, client, signal);
  if (!start) return undefined;
  if (start.bytes.length === start.size) return bytesSource(start.bytes);
  const { size, tag } = start;
  /** The last piece: readers of headers and of small tensors ask for neighbours. */
  let piece = { from: 0, bytes: start.bytes };
  return {
    size,
    async read(into, offset, signal = new AbortController().signal) {
      if (offset + into.length > size) throw endsEarly(size, offset, into.length);
      for (let done = 0; done < into.length; ) {
        const at = offset + done - piece.from;
        if (at >= 0 && at < piece.bytes.length) {
          const bytes = piece.bytes.subarray(at, at + into.length - done);
          into.set(bytes, done);
          done += bytes.length;
          continue;
        }
        const from = offset + done;
        const got = await fetchRange(url, from, Math.min(Math.max(into.length - done, first), 2 ** 26), client, signal);
        if (!got || got.size !== size || got.tag !== tag || got.bytes.length === 0)
          throw new Kosmos2Error("hub-integrity", "integrity", `Cannot read ${url}: it has changed since it was opened; load again`, { file: url, found: got?.size, wanted: size });
        piece = { from, bytes: got.bytes };
      }
    },
    async close() {
      piece = { from: 0, bytes: new Uint8Array(0) };
    },
  };
}

/** Bytes from `from`, at most `length`; or all of them where a server knows no ranges. undefined: no such file. */
function fetchRange(url: string, from: number, length: number, client: HubClient, signal: AbortSignal):
  Promise<{ bytes: Uint8Array<ArrayBuffer>; size: number; tag: string | null } | undefined> {
  return client.retrying(async () => {
    const { response, url: at } = await client.send("GET", url, { range: `bytes=${from}-${from + length - 1}` }, signal);
    if ((response.status === 404 || response.status === 410) && from === 0) {
      await response.body?.cancel().catch(() => {});
      return undefined;
    }
    if (response.status === 416 && from === 0) { // an empty file has no first byte
      await response.body?.cancel().catch(() => {});
      return { bytes: new Uint8Array(0), size: 0, tag: response.headers.get("etag") };
    }
    await client.refuse(response, at, url);
    const chunks: Uint8Array[] = [];
    let got = 0;
    await client.readBody(response, at, signal, (chunk) => {
      chunks.push(chunk);
      got += chunk.length;
    });
    const bytes = join(chunks, got), tag = response.headers.get("etag");
    if (response.status !== 206) {
      const announced = response.headers.get("content-length");
      if (announced !== null && !response.headers.get("content-encoding") && Number(announced) !== got) throw unreachable(url, `the connection ended at byte ${got} of ${announced}`);
      return { bytes: bytes.subarray(from, from + Math.max(length, from === 0 ? got : 0)), size: got, tag };
    }
    const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
    if (!range || Number(range[1]) !== from || Number(range[3]) <= from)
      throw new Passing(new Kosmos2Error("hub-refused", "download", `Cannot read ${url}: asked for bytes from ${from}, the server sends ${response.headers.get("content-range")}`, { file: url }));
    if (got < Number(range[2]) - from + 1) throw unreachable(url, `the connection ended at byte ${from + got} of ${Number(range[2]) + 1}`);
    return { bytes, size: Number(range[3]), tag };
  }, () => 0, signal);
}
