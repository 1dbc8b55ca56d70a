/** Where a model comes from. A source is judged by its form alone: what happens to lie on the disk never changes its meaning. */
import { embeddedModel, openFolder } from "#platform";
import { Kosmos2Error } from "../errors.js";
import type { HubOptions } from "../hub/hub.js";
import type { ByteSource } from "../platform/platform.js";
import { bytesSource, endsEarly, isPlainName, type ModelFiles } from "./files.js";

/** A `Blob`, said without the DOM's types. */
export interface BlobLike {
  readonly size: number;
  slice(start?: number, end?: number): BlobLike;
  arrayBuffer(): Promise<ArrayBuffer>;
}
/** A `File`, as an `<input type="file" multiple>` or a dropped folder gives it. */
export interface FileLike extends BlobLike {
  readonly name: string;
  readonly webkitRelativePath?: string;
}

/**
 * A model:
 * - `"kosmos2-emoji"`: the small one inside this package
 * - a folder's path, which begins with `./`, `../`, `/` or a drive (`C:\`), or its `file:` URL
 * - `"org/name"`: an id on the Hugging Face hub
 * - an `http:` or `https:` URL of a folder
 * - the files themselves: `File[]`, or their bytes by name
 */
export type ModelSource = string | URL | readonly FileLike[] | Readonly<Record<string, BlobLike | Uint8Array>>;

/** Of a folder and of given files only `signal` has a meaning; of a URL also `fetch` and `token`; of a hub id all. */
export type OpenOptions = Omit<HubOptions, "store" | "tuning">;
export const openKeys = ["signal", "onProgress", "logger", "revision", "token", "cacheDir", "localFilesOnly", "refresh", "endpoint", "fetch", "concurrency"];

const isUrl = (source: string): boolean => /^(https?|file):/i.test(source);
const isPath = (source: string): boolean => /^(\.{0,2}[\\/]|\.{1,2}$|[a-z]:[\\/])/i.test(source);
const isHubId = (source: string): boolean => /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(source);

/**
 * Opens a model's folder; its files are opened later, one by one. A hub id is fetched first, into the cache, unless it is there;
 * a URL is read in place.
 *
 * @throws {Kosmos2Error} code `model-not-found` when there is no such folder, `model-source-invalid` when `source` has no known form,
 *   `hub-*` when a download fails (hub/hub.ts lists them)
 */
export async function openModel(source: ModelSource, options: OpenOptions = {}): Promise<ModelFiles> {
  options.signal?.throwIfAborted();
  if (source instanceof URL) source = source.href;
  if (typeof source === "string") {
    if (source === "kosmos2-emoji") return embeddedModel;
    if (/^file:/i.test(source) || isPath(source)) return openFolder(source);
    if (isUrl(source)) return (await import("../hub/folder.js")).openWebFolder(source, options);
    if (isHubId(source)) return (await import("../hub/hub.js")).openHub(source, options);
    throw new Kosmos2Error("model-source-invalid", "input",
      `Cannot open "${source}": it is neither a hub id ("org/name") nor a path; a folder's path begins with "./", "../" or "/"`, { found: source });
  }
  if (Array.isArray(source)) return new GivenFiles(byName(source as readonly FileLike[]));
  if (typeof source === "object" && source !== null) return new GivenFiles(new Map(Object.entries(source as Record<string, BlobLike | Uint8Array>)));
  throw new Kosmos2Error("model-source-invalid", "input",
    `Cannot open a model from ${String(source)}: wanted an id, a path, a URL, or the files themselves`, { found: source });
}

/** Of several files with one name, as a picked folder may hold in subfolders, the one nearest to its root. */
function byName(files: readonly FileLike[]): Map<string, FileLike> {
  const depth = (file: FileLike): number => file.webkitRelativePath?.split("/").length ?? 0;
  return new Map([...files].sort((a, b) => depth(b) - depth(a)).map((file) => [file.name, file])); // the last of a name stays
}

class GivenFiles implements ModelFiles {
  readonly name = "given files";
  readonly #files: ReadonlyMap<string, BlobLike | Uint8Array>;

  constructor(files: ReadonlyMap<string, BlobLike | Uint8Array>) {
    for (const [name, file] of files)
      if (!isPlainName(name) || !(file instanceof Uint8Array || typeof file?.slice === "function"))
        throw new Kosmos2Error("model-source-invalid", "input",
          `Cannot open a model from given files: "${name}" is ${isPlainName(name) ? "not a Blob or Uint8Array" : "not a plain file name"}`, { file: name });
    this.#files = files;
  }

  async list(): Promise<readonly string[]> {
    return [...this.#files.keys()];
  }

  async open(name: string): Promise<ByteSource | undefined> {
    const file = this.#files.get(name);
    return file && (file instanceof Uint8Array ? bytesSource(file) : blobSource(file));
  }
}

function blobSource(blob: BlobLike): ByteSource {
  return {
    size: blob.size,
    async read(into, offset, signal) {
      signal?.throwIfAborted();
      const part = new Uint8Array(await blob.slice(offset, offset + into.length).arrayBuffer());
      signal?.throwIfAborted();
      if (part.length !== into.length) throw endsEarly(blob.size, offset, into.length);
      into.set(part);
    },
    async close() {},
  };
}
