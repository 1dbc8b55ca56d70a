/**
 * The hub's cache in a browser: in the origin's private file system, in the Cache API where that is missing, in memory when
 * there is neither or the quota ends. Contents lie in segments of 8 MiB, each written at one stroke, so every such place will
 * do, reads are bounded, and a closed tab costs no more than the segments under way. Python's layout has no meaning here.
 *
 *     models--org--name/blobs/<etag>/<n>           bytes n · 8 MiB …
 *     models--org--name/blobs/<etag>/whole         { size }, once its hash was right
 *     models--org--name/snapshots/<commit>/<file>  { etag, size }
 *     models--org--name/{refs,.no_exist}/…         as on a disk
 */
import { createHasher } from "../../hub/hash.js";
import { addSpan, type Content, type HubSettings, type HubStore, type Span, type Unfinished } from "../../hub/store.js";
import type { ByteSource } from "../platform.js";

export { createHasher };

/** Keys and bytes. `put` is all or nothing. */
export interface Shelf {
  readonly place: string;
  get(key: string): Promise<Blob | undefined>;
  put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  delete(key: string): Promise<void>;
}

export function hubSettings(): HubSettings {
  return { endpoint: "https://huggingface.co", token: undefined, cacheDir: "kosmos2-hub", offline: false };
}

export interface WebStoreOptions {
  shelf?: Shelf;
  segmentBytes?: number;
  warn?: (message: string) => void;
}

/** @param cacheDir name of the folder or cache */
export async function openHubStore(id: string, cacheDir: string, options: WebStoreOptions = {}): Promise<HubStore> {
  const warn = options.warn ?? ((message: string) => console.warn(message));
  const shelf = options.shelf ?? (await openShelf(cacheDir, warn));
  return new WebStore(`models--${id.replaceAll("/", "--")}`, new Overflowing(shelf, warn), options.segmentBytes ?? 2 ** 23);
}

/** The first that works here. */
async function openShelf(name: string, warn: (message: string) => void): Promise<Shelf> {
  for (const open of [openFolder, openCache])
    try {
      const shelf = await open(name);
      await shelf.put("probe", Uint8Array.of(1));
      await shelf.delete("probe");
      return shelf;
    } catch {
      continue; // not here, or not allowed in this window
    }
  warn("Models are not kept after this page: it has neither files nor a cache of its own (is it served over https?)");
  return new MemoryShelf();
}

/** What TypeScript's DOM does not list: only workers have it. */
interface SyncHandle {
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}
type FileHandle = FileSystemFileHandle & { createSyncAccessHandle?(): Promise<SyncHandle> };

async function openFolder(name: string): Promise<Shelf> {
  const root = await (await navigator.storage.getDirectory()).getDirectoryHandle(name, { create: true });
  const find = async (key: string, create: boolean) => {
    const names = key.split("/").map(encodeURIComponent);
    let folder = root;
    for (const part of names.slice(0, -1)) folder = await folder.getDirectoryHandle(part, { create });
    return { folder, name: names.at(-1)! };
  };
  const orUndefined = (error: DOMException) => {
    if (error.name === "NotFoundError") return undefined;
    throw error;
  };
  return {
    place: `this origin's private files, ${name}`,
    async get(key) {
      const found = await find(key, false).catch(orUndefined);
      const handle = found && (await found.folder.getFileHandle(found.name).catch(orUndefined));
      const file = await handle?.getFile();
      // Its last byte says that it is whole: a killed worker can leave the beginning of one.
      if (!file || file.size === 0 || (await file.slice(-1).bytes())[0] !== 1) return undefined;
      return file.slice(0, -1);
    },
    async put(key, bytes) {
      const { folder, name } = await find(key, true);
      const handle: FileHandle = await folder.getFileHandle(name, { create: true });
      try {
        if (handle.createSyncAccessHandle) {
          const file = await handle.createSyncAccessHandle();
          try {
            file.truncate(0);
            if (file.write(bytes, { at: 0 }) !== bytes.length) throw new DOMException("The disk took only a part", "QuotaExceededError");
            file.flush();
            if (file.write(Uint8Array.of(1), { at: bytes.length }) !== 1) throw new DOMException("The disk took only a part", "QuotaExceededError");
            file.flush();
          } finally {
            file.close();
          }
        } else {
          const file = await handle.createWritable();
          await file.write(bytes);
          await file.write(Uint8Array.of(1));
          await file.close();
        }
      } catch (error) {
        await folder.removeEntry(name).catch(() => {});
        throw error;
      }
    },
    async delete(key) {
      const found = await find(key, false).catch(orUndefined);
      await found?.folder.removeEntry(found.name).catch(orUndefined);
    },
  };
}

async function openCache(name: string): Promise<Shelf> {
  const cache = await caches.open(name);
  const url = (key: string) => `https://kosmos2.invalid/${key.split("/").map(encodeURIComponent).join("/")}`;
  return {
    place: `this origin's cache ${name}`,
    get: async (key) => (await cache.match(url(key)))?.blob(),
    put: async (key, bytes) => cache.put(url(key), new Response(bytes)),
    delete: async (key) => void (await cache.delete(url(key))),
  };
}

export class MemoryShelf implements Shelf {
  readonly place = "memory";
  readonly #blobs = new Map<string, Blob>();
  get = async (key: string) => this.#blobs.get(key);
  put = async (key: string, bytes: Uint8Array<ArrayBuffer>) => void this.#blobs.set(key, new Blob([bytes]));
  delete = async (key: string) => void this.#blobs.delete(key);
}

/** A shelf that goes on in memory when it is full. */
class Overflowing implements Shelf {
  readonly #memory = new MemoryShelf();
  #full = false;

  constructor(readonly shelf: Shelf, readonly warn: (message: string) => void) {}

  get place(): string {
    return this.shelf.place;
  }

  async get(key: string): Promise<Blob | undefined> {
    return (await this.#memory.get(key)) ?? (await this.shelf.get(key));
  }

  async put(key: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    // Once full, all later keys stay here: a name kept there of a content that is half here would promise too much.
    if (this.#full) return this.#memory.put(key, bytes);
    try {
      await this.shelf.put(key, bytes);
    } catch (error) {
      if ((error as DOMException).name !== "QuotaExceededError") throw error;
      this.#full = true;
      this.warn(`${this.shelf.place}: the browser gives no more room; the rest of the model stays in memory and is fetched again next time`);
      await this.#memory.put(key, bytes);
    }
  }

  async delete(key: string): Promise<void> {
    await this.#memory.delete(key);
    await this.shelf.delete(key);
  }
}

class WebStore implements HubStore {
  readonly place: string;

  constructor(readonly root: string, readonly shelf: Shelf, readonly segmentBytes: number) {
    this.place = shelf.place;
  }

  async #note<T>(key: string): Promise<T | undefined> {
    const blob = await this.shelf.get(`${this.root}/${key}`);
    try {
      return blob && JSON.parse(await blob.text());
    } catch {
      return undefined;
    }
  }

  #setNote(key: string, value: unknown): Promise<void> {
    return this.shelf.put(`${this.root}/${key}`, new TextEncoder().encode(JSON.stringify(value)));
  }

  readCommit(revision: string): Promise<string | undefined> {
    return this.#note(`refs/${revision}`);
  }

  async writeCommit(revision: string, commit: string): Promise<void> {
    if (revision !== commit) await this.#setNote(`refs/${revision}`, commit);
  }

  async has(commit: string, file: string): Promise<"here" | "absent" | undefined> {
    const content = await this.#note<Content>(`snapshots/${commit}/${file}`);
    if (content && (await this.#isWhole(content))) return "here";
    return (await this.#note(`.no_exist/${commit}/${file}`)) ? "absent" : undefined;
  }

  markAbsent(commit: string, file: string): Promise<void> {
    return this.#setNote(`.no_exist/${commit}/${file}`, true);
  }

  async open(commit: string, file: string): Promise<ByteSource | undefined> {
    const content = await this.#note<Content>(`snapshots/${commit}/${file}`);
    if (!content || !(await this.#isWhole(content))) return undefined;
    return { size: content.size, read: (into, at, signal) => this.#read(content, into, at, signal), close: async () => {} };
  }

  async link(commit: string, file: string, content: Content): Promise<boolean> {
    if (!(await this.#isWhole(content))) return false;
    const known = await this.#note<Content>(`snapshots/${commit}/${file}`);
    if (known?.etag !== content.etag) await this.#setNote(`snapshots/${commit}/${file}`, content);
    return true;
  }

  async #isWhole(content: Content): Promise<boolean> {
    return (await this.#note<Content>(`blobs/${content.etag}/whole`))?.size === content.size;
  }

  #segment(content: Content, index: number): string {
    return `${this.root}/blobs/${content.etag}/${index}`;
  }

  async #read(content: Content, into: Uint8Array, at: number, signal?: AbortSignal): Promise<void> {
    if (at + into.length > content.size) throw new RangeError(`Cannot read ${into.length} bytes at ${at}: the file ends at ${content.size}`);
    for (let done = 0; done < into.length; ) {
      signal?.throwIfAborted();
      const index = Math.floor((at + done) / this.segmentBytes), start = at + done - index * this.segmentBytes;
      const blob = await this.shelf.get(this.#segment(content, index));
      const bytes = new Uint8Array((await blob?.slice(start, start + into.length - done).arrayBuffer()) ?? []);
      if (bytes.length === 0) throw new RangeError(`Cannot read ${into.length} bytes at ${at}: the browser has removed a part of the file; load again to fetch it`);
      into.set(bytes, done);
      done += bytes.length;
    }
  }

  async begin(content: Content, signal: AbortSignal): Promise<Unfinished | undefined> {
    if (await this.#isWhole(content)) return undefined;
    const release = await lock(`kosmos2 ${this.#segment(content, 0)}`, signal);
    try {
      if (await this.#isWhole(content)) {
        release();
        return undefined;
      }
      return await this.#unfinished(content, release);
    } catch (error) {
      release();
      throw error;
    }
  }

  async #unfinished(content: Content, release: () => void): Promise<Unfinished> {
    const { segmentBytes, shelf } = this;
    const key = (index: number) => this.#segment(content, index);
    const lengthOf = (index: number) => Math.min(segmentBytes, content.size - index * segmentBytes);
    const count = Math.ceil(content.size / segmentBytes);
    /** Segments that are not all there yet. */
    const open = new Map<number, { bytes: Uint8Array<ArrayBuffer>; have: readonly Span[] }>();
    let have: readonly Span[] = [];
    for (let i = 0; i < count; i++)
      if ((await shelf.get(key(i)))?.size === lengthOf(i)) have = addSpan(have, i * segmentBytes, i * segmentBytes + lengthOf(i));
    const unfinished: Unfinished & { have: readonly Span[]; sentBy: string | undefined } = {
      have,
      // Not kept: a page can't see it (hub/http.ts).
      sentBy: undefined,
      async setSentBy(tag) {
        unfinished.sentBy = tag;
      },
      write: async (bytes, at) => {
        for (let done = 0; done < bytes.length; ) {
          const index = Math.floor((at + done) / segmentBytes), start = at + done - index * segmentBytes;
          const part = bytes.subarray(done, done + lengthOf(index) - start);
          const segment = open.get(index) ?? { bytes: new Uint8Array(lengthOf(index)), have: [] };
          open.set(index, segment);
          segment.bytes.set(part, start);
          segment.have = addSpan(segment.have, start, start + part.length);
          const [only] = segment.have;
          if (only[0] === 0 && only[1] === segment.bytes.length) {
            await shelf.put(key(index), segment.bytes);
            open.delete(index);
          }
          done += part.length;
        }
        unfinished.have = addSpan(unfinished.have, at, at + bytes.length);
      },
      read: (into, at) => this.#read(content, into, at),
      clear: async () => {
        open.clear();
        unfinished.have = [];
        for (let i = 0; i < count; i++) await shelf.delete(key(i));
      },
      finish: () => this.#setNote(`blobs/${content.etag}/whole`, { size: content.size }),
      close: async () => release(),
    };
    return unfinished;
  }
}

/** One at a time over all tabs, where the browser has locks; within this page at least. */
async function lock(name: string, signal: AbortSignal): Promise<() => void> {
  if (globalThis.navigator?.locks)
    return new Promise((taken, failed) => {
      navigator.locks.request(name, { signal }, () => new Promise<void>((release) => taken(release))).catch(failed);
    });
  while (held.has(name)) await Promise.race([held.get(name), aborted(signal)]);
  let release = () => {};
  held.set(name, new Promise<void>((resolve) => (release = resolve)));
  return () => {
    held.delete(name);
    release();
  };
}
const held = new Map<string, Promise<void>>();

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
