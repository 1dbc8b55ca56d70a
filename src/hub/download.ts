/**
 * One file of a repository: fetched in parts, several at once, from where an earlier try ended; checked; made whole.
 * What is wanted is named by its hash, so parts of different tries and servers may be mixed: the hash decides in the end.
 */
import { createHasher } from "#platform";
import { Kosmos2Error } from "../errors.js";
import { join, Passing, unreachable, type Answer, type HubClient, type HubResponse } from "./http.js";
import { covered, gaps, Superseded, type Content, type HubStore, type Unfinished } from "./store.js";

export interface Wanted {
  readonly content: Content;
  readonly file: string;
  readonly commit: string;
  readonly url: string;
}

/** At most so many at once. */
export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}

/** The hub says that this commit now holds something else than its listing said: ask for the listing again. */
export class Moved extends Error {}

/** How a download says how far it is: bytes of this file that are there. */
export type Report = (bytes: number, phase: "download" | "verify") => void;

/**
 * Afterwards the store has `wanted.content` whole.
 *
 * @throws {Kosmos2Error} codes `hub-*`
 * @throws {Moved} the listing is out of date
 */
export async function download(wanted: Wanted, store: HubStore, client: HubClient, slots: Slots, report: Report, signal: AbortSignal): Promise<void> {
  const { content } = wanted;
  for (let secondTry = false; ; ) {
    const unfinished = await stored(store, () => store.begin(content, signal));
    if (!unfinished) return report(content.size, "verify");
    const fill = new Fill(wanted, unfinished, store, client, slots, report, signal);
    try {
      await fill.run();
      const found = await digest(content, unfinished, () => report(content.size, "verify"), signal);
      if (found === undefined || found === content.etag) return await stored(store, () => unfinished.finish());
      await unfinished.clear();
      report(0, "download");
      // Bytes of an earlier run or of another ETag are used on trust; without such there is nothing to try again.
      if (!fill.mixed || secondTry)
        throw new Kosmos2Error("hub-integrity", "integrity",
          `Cannot use ${wanted.file}: its ${found.length === 40 ? "git hash" : "sha256"} is ${found}; wanted ${content.etag}; what came was deleted, try again`,
          { file: wanted.file, found, wanted: content.etag });
      secondTry = true;
    } catch (error) {
      if (!(error instanceof Superseded)) throw error;
    } finally {
      await unfinished.close();
    }
  }
}

/** Everything between a content begun and all of its bytes there. */
class Fill {
  /** Some bytes come from an earlier run, or after the server's ETag had changed. */
  mixed: boolean;
  #ranges = true;
  #direct: { url: string; until: number } | undefined;

  constructor(
    readonly wanted: Wanted,
    readonly unfinished: Unfinished,
    readonly store: HubStore,
    readonly client: HubClient,
    readonly slots: Slots,
    readonly report: Report,
    readonly signal: AbortSignal,
  ) {
    this.mixed = covered(unfinished.have) > 0;
  }

  async run(): Promise<void> {
    const { size } = this.wanted.content, { partBytes } = this.client.tuning;
    this.report(covered(this.unfinished.have), "download");
    // The first request tells whether this server sends parts at all.
    const [first] = this.#parts(partBytes);
    if (!first) return;
    await this.#part(...first);
    await all(this.#parts(partBytes).map((part) => (signal) => this.#part(...part, signal)), this.signal);
    const [missing] = gaps(this.unfinished.have, 0, size);
    if (missing) throw new RangeError(`Cannot fill ${this.wanted.file}: ${missing[0]}…${missing[1]} is missing`);
  }

  #parts(partBytes: number): [number, number][] {
    return gaps(this.unfinished.have, 0, this.wanted.content.size).flatMap(([from, to]) => {
      const parts: [number, number][] = [];
      for (; from < to; from = parts.at(-1)![1]) parts.push([from, Math.min(to, (Math.floor(from / partBytes) + 1) * partBytes)]);
      return parts;
    });
  }

  #part(from: number, to: number, signal = this.signal): Promise<void> {
    return this.client.retrying(async () => {
      for (let missing; (missing = gaps(this.unfinished.have, from, to)[0]); ) {
        const [start, end] = missing;
        await this.slots.run(() => this.#request(start, end, signal));
      }
    }, () => covered(this.unfinished.have), signal);
  }

  async #request(from: number, to: number, signal: AbortSignal): Promise<void> {
    const { url, file, content: { size } } = this.wanted;
    const whole = !this.#ranges || (from === 0 && to === size);
    const headers: Record<string, string> = whole ? {} : { range: `bytes=${from}-${to - 1}` };
    const tag = this.unfinished.sentBy;
    if (!whole && tag && this.client.seesHeaders && covered(this.unfinished.have) > 0) headers["if-range"] = tag;

    const shortcut = this.#direct && this.#direct.until > Date.now() ? this.#direct.url : undefined;
    this.#direct = undefined;
    const answer = await this.client.send("GET", shortcut ?? url, headers, signal);
    const { response } = answer;
    const drop = () => response.body?.cancel().catch(() => {});
    if (response.status === 416) {
      await drop();
      throw this.#wrongLength("the server has no byte " + from);
    }
    if (response.status === 404) {
      await drop();
      throw new Moved(`${file} was listed and is not there`);
    }
    await this.client.refuse(response, answer.url, `${file} of ${this.store.place}`);
    try {
      this.#check(answer);
    } catch (error) {
      await drop();
      throw error;
    }
    if (answer.url !== url) this.#direct = { url: answer.url, until: Date.now() + 300_000 };

    const sender = response.headers.get("etag");
    if (response.status !== 206 && from > 0 && !whole) {
      await drop();
      if (headers["if-range"]) {
        // It says that its content is another one than ours came from. Whether that is so, the hash will tell.
        this.mixed = true;
        await this.unfinished.setSentBy(undefined);
      } else this.#ranges = false;
      return; // asked again at once
    }
    if (sender && !sender.startsWith("W/") && sender !== this.unfinished.sentBy) {
      if (this.unfinished.sentBy) this.mixed = true;
      await this.unfinished.setSentBy(sender);
    }
    const start = response.status === 206 ? from : 0;
    await this.#take(response, answer.url, start, response.status === 206 ? to : size, signal);
  }

  /** What the hub says of this file, and what the answer says of itself, must be what the listing said. */
  #check({ response, linked }: Answer): void {
    const { commit, content, file } = this.wanted;
    if ((linked.etag && linked.etag !== content.etag) || (linked.size !== undefined && linked.size !== content.size) || (linked.commit && linked.commit !== commit))
      throw new Moved(`${file}: listed as ${content.etag}, ${content.size} bytes at ${commit}; found ${linked.etag}, ${linked.size} at ${linked.commit}`);
    if (response.status === 206) {
      const total = /\/(\d+)\s*$/.exec(response.headers.get("content-range") ?? "")?.[1];
      if (total !== undefined && Number(total) !== content.size) throw this.#wrongLength(`the server has ${total} bytes`);
    } else if (!response.headers.get("content-encoding")) {
      const length = response.headers.get("content-length");
      if (length !== null && Number(length) !== content.size) throw this.#wrongLength(`the server has ${length} bytes`);
    }
  }

  async #take(response: HubResponse, url: string, from: number, to: number, signal: AbortSignal): Promise<void> {
    const begin = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1];
    if (response.status === 206 && begin !== undefined && Number(begin) !== from) {
      await response.body?.cancel().catch(() => {});
      throw this.#wrongLength(`asked for byte ${from}, the server begins at ${begin}`);
    }
    let at = from, written = from, chunks: Uint8Array[] = [];
    let writing = Promise.resolve();
    const write = () => {
      if (chunks.length === 0) return;
      const bytes = join(chunks, at - written), where = written;
      [chunks, written] = [[], at];
      writing = stored(this.store, async () => {
        await this.unfinished.write(bytes, where);
        this.report(covered(this.unfinished.have), "download");
      });
      writing.catch(() => {}); // awaited below; meanwhile it is nobody's
    };
    try {
      await this.client.readBody(response, url, signal, async (chunk) => {
        const surplus = chunk.length > to - at;
        if (surplus) chunk = chunk.subarray(0, to - at);
        chunks.push(chunk);
        at += chunk.length;
        if (at - written >= this.client.tuning.writeBytes) {
          // Reading goes on during a write, so that a cut finds nothing unread.
          await writing;
          write();
        }
        return !surplus;
      });
    } finally {
      await writing;
      write();
      await writing;
    }
    if (at < to) {
      this.#direct = undefined;
      throw unreachable(url, `the connection ended at byte ${at} of ${to}`);
    }
  }

  #wrongLength(found: string): Passing {
    const { file, content: { size } } = this.wanted;
    return new Passing(new Kosmos2Error("hub-integrity", "integrity", `Cannot use ${file}: ${found}; wanted ${size} bytes; try again later, or another endpoint`,
      { file, wanted: size }), undefined, 3); // no fault of the network: unlikely to pass
  }
}

/** Hash of what is there, in the way the hub names it; undefined for other servers' tags. */
async function digest(content: Content, unfinished: Unfinished, report: () => void, signal: AbortSignal): Promise<string | undefined> {
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(content.etag)) return undefined;
  const hasher = createHasher(content.etag.length === 64 ? "sha256" : "sha1");
  if (content.etag.length === 40) hasher.update(new TextEncoder().encode(`blob ${content.size}\0`)); // as git hashes a file
  const block = new Uint8Array(Math.min(content.size, 2 ** 22));
  report();
  for (let at = 0; at < content.size; at += block.length) {
    signal.throwIfAborted();
    const bytes = block.subarray(0, Math.min(block.length, content.size - at));
    await unfinished.read(bytes, at);
    hasher.update(bytes);
  }
  return hasher.hex();
}

/** Puts a store's troubles into words. */
export async function stored<T>(store: HubStore, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { code, name } = error as { code?: string; name?: string };
    if (code === "ENOSPC" || code === "EDQUOT" || name === "QuotaExceededError") throw diskFull(store, undefined, undefined, error);
    if (code === "EACCES" || code === "EPERM" || code === "EROFS")
      throw new Kosmos2Error("hub-cache-unwritable", "download",
        `Cannot write to the cache at ${store.place}: ${code}; give another folder (option cacheDir, HF_HUB_CACHE)`, { file: store.place }, error);
    throw error;
  }
}

export function diskFull(store: HubStore, neededBytes?: number, availableBytes?: number, cause?: unknown): Kosmos2Error {
  const numbers = neededBytes === undefined ? "" : `, ${availableBytes} bytes are left, ${neededBytes} more are needed`;
  return new Kosmos2Error("hub-disk-full", "download",
    `Cannot write to the cache at ${store.place}: the disk is full${numbers}; make room, or give another folder (option cacheDir, HF_HUB_CACHE); what has come is kept`,
    { file: store.place, neededBytes, availableBytes }, cause);
}

/** Runs all; when one fails the others are stopped and waited for, and its error is thrown. */
export async function all(works: readonly ((signal: AbortSignal) => Promise<void>)[], outer: AbortSignal): Promise<void> {
  const stop = new AbortController();
  const forward = () => stop.abort(outer.reason);
  if (outer.aborted) forward();
  outer.addEventListener("abort", forward, { once: true });
  const failures: unknown[] = [];
  await Promise.all(works.map((work) => work(stop.signal).catch((error) => {
    failures.push(error);
    stop.abort(error);
  })));
  outer.removeEventListener("abort", forward);
  if (failures.length > 0) throw failures[0];
}
