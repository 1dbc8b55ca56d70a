/**
 * The hub's cache on a disk, in Hugging Face's own layout, so that Python and this package use one copy:
 *
 *     models--org--name/blobs/<etag>                    contents, by hash
 *     models--org--name/snapshots/<commit>/<file>       symlinks to them; the files themselves where symlinks can't be made
 *     models--org--name/refs/<branch or tag>            a commit
 *     models--org--name/.no_exist/<commit>/<file>       known not to exist
 *     models--org--name/trees/<commit>.json             what exists: only Python writes it
 *
 * Ours alone: blobs/<etag>.kosmos2.incomplete with its journal .kosmos2.parts, and .locks/…/<etag>.kosmos2.lock. Python's own
 * unfinished files are not touched: parts come side by side here, so their lengths mean something else.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, readFile, rename, rm, stat, statfs, symlink, unlink, writeFile, type FileHandle } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, relative, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Superseded, addSpan, type Content, type Hasher, type HubSettings, type HubStore, type Span, type Unfinished } from "../../hub/store.js";
import type { ByteSource } from "../platform.js";
import { openPath } from "./files.js";
import { Lock, lockTiming, type LockTiming, type Seen } from "./lock.js";

/** As huggingface_hub 1.x reads the environment (its constants.py). */
export function hubSettings(env: Record<string, string | undefined> = process.env): HubSettings {
  const path = (value: string) => value.replace(/^~(?=$|[\\/])/, homedir()).replace(/\$(\w+)|\$\{(\w+)\}/g, (whole, a, b) => env[a ?? b] ?? whole);
  const yes = (value: string | undefined) => /^(1|on|yes|true)$/i.test(value ?? "");
  const home = path(env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface"));
  const readToken = () => {
    try {
      return readFileSync(path(env.HF_TOKEN_PATH || join(home, "token")), "utf8");
    } catch {
      return "";
    }
  };
  const token = yes(env.HF_HUB_DISABLE_IMPLICIT_TOKEN) ? "" : env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN || readToken();
  return {
    endpoint: (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, ""),
    token: token.replace(/[\r\n]/g, "").trim() || undefined,
    cacheDir: path(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub")),
    offline: yes(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
  };
}

export function createHasher(name: "sha1" | "sha256"): Hasher {
  const hash = createHash(name);
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest("hex") };
}

export interface DiskStoreOptions {
  /** Default: tried out. */
  symlinks?: boolean;
  timing?: LockTiming;
}

/** @param id "org/name" */
export async function openHubStore(id: string, cacheDir: string, options: DiskStoreOptions = {}): Promise<HubStore> {
  return new DiskStore(id, cacheDir, options);
}

class DiskStore implements HubStore {
  readonly place: string;
  readonly #root: string;
  readonly #locks: string;
  readonly #timing: LockTiming;
  #symlinks: boolean | undefined;

  constructor(id: string, readonly cacheDir: string, options: DiskStoreOptions) {
    const folder = `models--${id.replaceAll("/", "--")}`;
    this.place = this.#root = join(cacheDir, folder);
    this.#locks = join(cacheDir, ".locks", folder);
    this.#timing = options.timing ?? lockTiming;
    this.#symlinks = /^(1|on|yes|true)$/i.test(process.env.HF_HUB_DISABLE_SYMLINKS ?? "") ? false : options.symlinks;
  }

  #inside(...parts: string[]): string {
    const path = join(this.#root, ...parts);
    if (!path.startsWith(join(this.#root, ...parts.slice(0, -1)) + sep)) throw new RangeError(`Cannot use "${parts.slice(1).join("/")}" as a name in the cache: it leads out of it`);
    return path;
  }

  async readCommit(revision: string): Promise<string | undefined> {
    const text = await readFile(this.#inside("refs", revision), "utf8").catch(missing);
    return text && /^[0-9a-f]{40}$/.test(text.trim()) ? text.trim() : undefined;
  }

  async writeCommit(revision: string, commit: string): Promise<void> {
    if (revision === commit || (await this.readCommit(revision)) === commit) return;
    const path = this.#inside("refs", revision);
    await mkdir(dirname(path), { recursive: true });
    await replace(path, commit);
  }

  async has(commit: string, file: string): Promise<"here" | "absent" | undefined> {
    if (await isFile(this.#inside("snapshots", commit, file))) return "here";
    if (await isFile(this.#inside(".no_exist", commit, file))) return "absent";
    const names = await this.#listed(commit);
    return names && !Object.hasOwn(names, file) ? "absent" : undefined;
  }

  /** All files of a commit by name, where Python (huggingface_hub 1.33 does) has left its list. */
  async #listed(commit: string): Promise<object | undefined> {
    try {
      const { format_version, files } = JSON.parse(await readFile(this.#inside("trees", `${commit}.json`), "utf8"));
      return format_version === 1 && typeof files === "object" ? files : undefined;
    } catch {
      return undefined;
    }
  }

  async markAbsent(commit: string, file: string): Promise<void> {
    const path = this.#inside(".no_exist", commit, file);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, "");
  }

  async open(commit: string, file: string): Promise<ByteSource | undefined> {
    return openPath(this.#inside("snapshots", commit, file));
  }

  async link(commit: string, file: string, content: Content): Promise<boolean> {
    const blob = this.#blob(content), name = this.#inside("snapshots", commit, file);
    if ((await sizeOf(name)) === content.size) return true;
    if ((await sizeOf(blob)) !== content.size) return false;
    await mkdir(dirname(name), { recursive: true });
    // Made beside and renamed: whoever looks meanwhile sees the old or the new, never nothing.
    const beside = `${name}.${randomUUID().slice(0, 8)}.tmp`;
    this.#symlinks ??= await this.#trySymlink();
    if (this.#symlinks) {
      await symlink(relative(dirname(name), blob), beside, "file");
      await rename(beside, name);
    } else await rename(blob, name).catch(async (error) => {
      if ((await sizeOf(name)) !== content.size) throw error; // another process has just done it
    });
    return true;
  }

  async #trySymlink(): Promise<boolean> {
    const probe = join(this.#root, `.${randomUUID()}`);
    try {
      await symlink("blobs", probe, "file");
      return true;
    } catch {
      return false;
    } finally {
      await rm(probe, { force: true });
    }
  }

  async begin(content: Content, signal: AbortSignal): Promise<Unfinished | undefined> {
    const blob = this.#blob(content);
    if ((await sizeOf(blob)) === content.size) return undefined;
    await mkdir(dirname(blob), { recursive: true });
    await tag(this.cacheDir);
    const path = join(this.#locks, `${content.etag}.kosmos2.lock`);
    for (let seen: Seen | undefined; ; ) {
      signal.throwIfAborted();
      const lock = await Lock.take(path, this.#timing);
      if (lock) {
        try {
          const size = await sizeOf(blob);
          if (size !== content.size) {
            if (size !== undefined) await unlink(blob); // not what its name says
            return await DiskUnfinished.open(blob, content.size, lock);
          }
        } catch (error) {
          await lock.release();
          throw error;
        }
        await lock.release();
        return undefined;
      }
      seen = await Lock.watch(path, seen, this.#timing);
      if (seen) await sleep(this.#timing.pollMs, undefined, { signal }).catch(() => signal.throwIfAborted());
      if ((await sizeOf(blob)) === content.size) return undefined;
    }
  }

  async room(contents: readonly Content[]): Promise<{ needed: number; free: number } | undefined> {
    let needed = 0;
    for (const content of contents) {
      const stats = await stat(`${this.#blob(content)}.kosmos2.incomplete`).catch(missing);
      needed += Math.max(0, content.size - (stats?.blocks ?? 0) * 512);
    }
    for (let path = this.#root; ; path = dirname(path)) {
      const found = await statfs(path).catch(missing);
      if (found) return { needed, free: found.bavail * found.bsize };
      if (path === dirname(path)) return undefined;
    }
  }

  #blob(content: Content): string {
    return this.#inside("blobs", content.etag);
  }
}

/**
 * Bytes in place in one file, and a journal of which are there: a line "from to" follows each write, so a killed process has
 * lost only what it had not written.
 */
class DiskUnfinished implements Unfinished {
  have: readonly Span[];
  sentBy: string | undefined;

  private constructor(
    readonly path: string, readonly blob: string, readonly lock: Lock,
    readonly data: FileHandle, readonly journal: FileHandle, known: Journal,
  ) {
    this.have = known.have;
    this.sentBy = known.sentBy;
  }

  static async open(blob: string, size: number, lock: Lock): Promise<DiskUnfinished> {
    const path = `${blob}.kosmos2.incomplete`, list = `${blob}.kosmos2.parts`;
    const data = await open(path, "r+").catch((error) => (missing(error), open(path, "w+")));
    try {
      const known = parseJournal((await readFile(list, "utf8").catch(missing)) ?? "", Math.min(size, (await data.stat()).size));
      // Written anew: short, without the last process's torn line.
      await replace(list, [...(known.sentBy ? [`etag ${known.sentBy}`] : []), ...known.have.map(([from, to]) => `${from} ${to}`), ""].join("\n"));
      return new DiskUnfinished(path, blob, lock, data, await open(list, "a"), known);
    } catch (error) {
      await data.close();
      throw error;
    }
  }

  async setSentBy(value: string | undefined): Promise<void> {
    this.sentBy = value;
    await this.journal.appendFile(`etag ${value ?? ""}\n`);
  }

  async write(bytes: Uint8Array, at: number): Promise<void> {
    if (this.lock.lost) throw new Superseded();
    for (let done = 0; done < bytes.length; ) done += (await this.data.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
    await this.journal.appendFile(`${at} ${at + bytes.length}\n`);
    this.have = addSpan(this.have, at, at + bytes.length);
  }

  async read(into: Uint8Array, at: number): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const { bytesRead } = await this.data.read(into, done, into.length - done, at + done);
      if (bytesRead === 0) throw new RangeError(`Cannot read ${into.length} bytes at ${at} of "${this.path}": it ends at ${at + done}`);
      done += bytesRead;
    }
  }

  async clear(): Promise<void> {
    if (!(await this.lock.check())) throw new Superseded();
    this.have = [];
    this.sentBy = undefined;
    await this.journal.truncate(0);
    await this.data.truncate(0);
  }

  async finish(): Promise<void> {
    await this.data.sync();
    if (!(await this.lock.check())) throw new Superseded();
    await this.#closeFiles(); // Windows renames no open file
    await rename(this.path, this.blob);
    await rm(`${this.blob}.kosmos2.parts`, { force: true });
    // The name must outlive a power cut as the bytes do; not every system lets a folder be opened.
    const folder = await open(dirname(this.blob)).catch(() => undefined);
    await folder?.sync().catch(() => {});
    await folder?.close();
  }

  async close(): Promise<void> {
    await this.#closeFiles();
    await this.lock.release();
  }

  #closed = false;
  async #closeFiles(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.data.close();
    await this.journal.close();
  }
}

interface Journal {
  have: Span[];
  sentBy: string | undefined;
}

function parseJournal(text: string, most: number): Journal {
  let have: Span[] = [], sentBy: string | undefined;
  for (const line of text.split("\n").slice(0, -1)) {
    const span = /^(\d+) (\d+)$/.exec(line);
    if (span && Number(span[1]) < Number(span[2]) && Number(span[2]) <= most) have = addSpan(have, Number(span[1]), Number(span[2]));
    else if (line.startsWith("etag ")) sentBy = line.slice(5) || undefined;
  }
  return { have, sentBy };
}

async function replace(path: string, text: string): Promise<void> {
  const beside = `${path}.${randomUUID().slice(0, 8)}.tmp`;
  await writeFile(beside, text);
  await rename(beside, path);
}

/** Backup programs leave out a folder with this file (bford.info/cachedir), which Python makes as well. */
async function tag(cacheDir: string): Promise<void> {
  const text = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of models from the Hugging Face hub. See https://bford.info/cachedir/\n";
  await writeFile(join(cacheDir, "CACHEDIR.TAG"), text, { flag: "wx" }).catch(() => {});
}

/** Size of the file that is there in the end, through links. */
async function sizeOf(path: string): Promise<number | undefined> {
  const stats = await stat(path).catch(missing);
  return stats?.isFile() ? stats.size : undefined;
}

async function isFile(path: string): Promise<boolean> {
  return (await sizeOf(path)) !== undefined;
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
  throw error;
}
