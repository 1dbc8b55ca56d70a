/**
 * Models from the Hugging Face hub: which commit, which files, what is there already; the rest is fetched (download.ts).
 *
 * - Only what a model needs is asked for, weights as safetensors only, never pickled `.bin`.
 * - What is cached whole is used without a request, for a branch or tag as well: a model does not change under a running
 *   program. `refresh: true` asks where the branch is now (Python always does).
 * - One page lists every file's size and hash, `/api/models/{id}/revision/{rev}?blobs=true`, so the total is known first, also
 *   in pages, whose fetch hides the headers of redirects. That is one GET; @huggingface/hub would bring no more than it.
 *   A mirror without that page is asked for each file's headers.
 */
import { hubSettings, openHubStore } from "#platform";
import { Kosmos2Error } from "../errors.js";
import { isPlainName, notFound, readJson, type ModelFiles } from "../weights/files.js";
import { all, diskFull, download, Moved, Slots, stored, type Report, type Wanted } from "./download.js";
import { HubClient, plainEtag, type Fetch, type Tuning } from "./http.js";
import type { Content, HubStore } from "./store.js";

export interface HubProgress {
  /** Bytes that are there, over all files. */
  readonly loaded: number;
  /** Bytes of all files: known before the first one comes. */
  readonly total: number;
  readonly file: string;
  readonly phase: "download" | "verify";
}

export interface HubOptions {
  /** Branch, tag or commit. Default "main". */
  revision?: string;
  /** May read it; false: none. Default HF_TOKEN, or what `hf auth login` has written. Sent to the hub's own host only. */
  token?: string | false;
  /** Default HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub. */
  cacheDir?: string;
  /** No request at all. Default HF_HUB_OFFLINE. */
  localFilesOnly?: boolean;
  /** Ask whether a cached branch has moved. Default false. */
  refresh?: boolean;
  /** Default HF_ENDPOINT, or "https://huggingface.co". */
  endpoint?: string;
  /** Instead of the runtime's own. */
  fetch?: Fetch;
  /** Ends it; what has come stays for the next time. */
  signal?: AbortSignal;
  onProgress?: (progress: HubProgress) => void;
  /** Connections at once. Default 4. */
  concurrency?: number;
  /** `processor`: no weights; `config`: config.json alone. Default "model". */
  need?: Need;
  /** Hears when an old copy must do, since the hub does not answer. Default console. */
  logger?: { warn(message: string): void };
  /** For tests. */
  store?: HubStore;
  /** For tests. */
  tuning?: Partial<Tuning>;
}

/** What of a model is fetched. */
export type Need = "model" | "processor" | "config";

const config = "config.json";
const besides = ["generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"];
const single = "model.safetensors";
const index = "model.safetensors.index.json";

/** What the hub has at one commit. */
interface Listing {
  readonly commit: string;
  /** undefined: there is no such file. */
  find(file: string): Promise<Content | undefined>;
  /** All names, where they are known. */
  readonly names?: readonly string[];
}

/**
 * A model on the hub, once all of its files are in the cache.
 *
 * @param id "org/name"
 * @throws {Kosmos2Error} kind `download` or `integrity`, code
 *   `hub-not-found`, `hub-unauthorized`, `hub-forbidden`, `hub-gated`: the hub says no, and the message what to do;
 *   `hub-offline`: not cached, and requests are off; `hub-unreachable`, `hub-unavailable`: no answer, or "later", many times;
 *   `hub-integrity`: what comes is not what was announced; `hub-disk-full`, `hub-cache-unwritable`; `hub-no-safetensors`
 * @example
 *   const files = await openHub("microsoft/kosmos-2-patch14-224", { onProgress: ({ loaded, total }) => show(loaded / total) });
 */
export async function openHub(id: string, options: HubOptions = {}): Promise<ModelFiles> {
  const settings = hubSettings();
  const { revision = "main", need = "model", logger = console } = options;
  const signal = options.signal ?? new AbortController().signal;
  signal.throwIfAborted();
  if (!/^(?!.*(--|\.\.))[\w-][\w.-]{0,95}(\/[\w-][\w.-]{0,95})?$/.test(id) || !/^(?!.*(\.\.|\\|\/\/))[^\s/~^:?*[\]\0][^\s~^:?*[\]\0]*$/.test(revision))
    throw new Kosmos2Error("hub-id-invalid", "input", `Cannot open "${id}" at "${revision}": wanted "org/name", and a branch, tag or commit`, { found: id });
  const client = new HubClient(options.endpoint ?? settings.endpoint, id, options.token === false ? undefined : (options.token ?? settings.token), options.fetch, options.tuning);
  const store = options.store ?? (await openHubStore(id, options.cacheDir ?? settings.cacheDir));

  const exact = /^[0-9a-f]{40}$/.test(revision);
  const known = exact ? revision : await store.readCommit(revision);
  const cached = known === undefined ? undefined : await lookAt(id, store, known, need, signal);
  if (cached?.state === "whole" && (exact || !options.refresh)) return cached.files;
  if (options.localFilesOnly ?? settings.offline) {
    if (cached && cached.state !== "partly") return cached.files;
    throw new Kosmos2Error("hub-offline", "download",
      `Cannot load "${id}" without the network: ${cached ? `${cached.missing.join(", ")} of commit ${known} is` : `revision "${revision}" is`} not in the cache at ${store.place}; ` +
        "load it once with the network on (see option localFilesOnly and HF_HUB_OFFLINE)", { file: cached?.missing[0] });
  }

  for (let tries = 0; ; tries++) {
    try {
      const listing = await list(id, revision, client, signal);
      await fetchAll(id, listing, store, client, options, signal);
      await quietly(() => store.writeCommit(revision, listing.commit));
      const { files, state, missing } = await lookAt(id, store, listing.commit, need, signal);
      if (state === "partly") throw await notFound(files, missing[0]);
      return files;
    } catch (error) {
      // The hub's pages can disagree for a moment, while someone pushes.
      if (error instanceof Moved) {
        if (tries < 2) continue;
        throw new Kosmos2Error("hub-integrity", "integrity", `Cannot load "${id}": its files change while they are fetched (${error.message}); try again later`, {}, error);
      }
      const { code } = error as Kosmos2Error;
      if ((code !== "hub-unreachable" && code !== "hub-unavailable") || !cached || cached.state === "partly") throw error;
      logger.warn(`${(error as Error).message}. Going on with what is cached of "${id}"`);
      return cached.files;
    }
  }
}

interface Cached {
  readonly files: ModelFiles;
  /** `usable`: nothing that a model must have is missing, but whether the hub has more is not known. */
  readonly state: "whole" | "usable" | "partly";
  readonly missing: readonly string[];
}

/** What is here of a commit. */
async function lookAt(id: string, store: HubStore, commit: string, need: Need, signal: AbortSignal): Promise<Cached> {
  const files: ModelFiles = {
    name: id,
    revision: commit,
    async open(file, signal) {
      signal?.throwIfAborted();
      return isPlainName(file) ? store.open(commit, file) : undefined;
    },
  };
  const missing: string[] = [];
  if ((await store.has(commit, config)) !== "here") missing.push(config);
  if (need === "model" && (await store.has(commit, single)) !== "here") {
    if ((await store.has(commit, index)) !== "here") missing.push(single);
    else for (const shard of await shardsOf(files, signal)) if ((await store.has(commit, shard)) !== "here") missing.push(shard);
  }
  const unknown = (await Promise.all((need === "config" ? [] : besides).map(async (file) => ((await store.has(commit, file)) ? [] : [file])))).flat();
  return { files, state: missing.length > 0 ? "partly" : unknown.length > 0 ? "usable" : "whole", missing };
}

/** Names in the index. They become paths here and URLs there, so only plain ones are taken. */
async function shardsOf(files: ModelFiles, signal: AbortSignal): Promise<string[]> {
  const found = (await readJson(files, index, signal, "weights-index-invalid")) as { weight_map?: Record<string, unknown> } | undefined;
  const names = [...new Set(Object.values(found?.weight_map ?? {}))];
  for (const name of names)
    if (typeof name !== "string" || !isPlainName(name) || !name.endsWith(".safetensors"))
      throw new Kosmos2Error("path-refused", "integrity", `Cannot use "${files.name}": its ${index} names ${JSON.stringify(name)}; wanted a plain name of a .safetensors file`, { file: index, found: name });
  return names as string[];
}

async function fetchAll(id: string, listing: Listing, store: HubStore, client: HubClient, options: HubOptions, signal: AbortSignal): Promise<void> {
  const { need = "model", concurrency = 4, onProgress } = options;
  const { commit } = listing;
  const slots = new Slots(Math.max(1, Math.floor(concurrency)));
  const wanted = new Map<string, Wanted>();
  const want = async (file: string): Promise<Wanted | undefined> => {
    const content = await listing.find(file);
    if (!content) {
      await quietly(() => store.markAbsent(commit, file));
      return undefined;
    }
    const url = `${client.endpoint}/${id}/resolve/${commit}/${encodeURIComponent(file)}`;
    const entry: Wanted = { content, file, commit, url };
    wanted.set(file, entry);
    return entry;
  };
  const link = ({ file, content }: Wanted) => stored(store, () => store.link(commit, file, content));
  const get = async (entry: Wanted, report: Report, signal: AbortSignal) => {
    if (await link(entry)) return report(entry.content.size, "verify");
    await download(entry, store, client, slots, report, signal);
    if (!(await link(entry)))
      throw new Kosmos2Error("hub-integrity", "integrity", `Cannot use ${entry.file} of "${id}": it vanished from the cache at ${store.place}; try again`, { file: entry.file });
  };

  for (const file of need === "config" ? [config] : [config, ...besides]) await want(file);
  if (!wanted.has(config)) throw new Kosmos2Error("hub-not-found", "download", `Cannot load "${id}": it has no ${config} at commit ${commit}; is it a model?`, { file: config });
  if (need === "model" && !(await want(single))) {
    const shards = await want(index);
    if (!shards) {
      const pickled = listing.names?.find((name) => /\.(bin|pt|pth|ckpt)$/.test(name));
      throw new Kosmos2Error("hub-no-safetensors", "download",
        `Cannot load "${id}": it has no ${single}${pickled ? `; ${pickled} is pickled, which can run code, and is never loaded` : ""}; convert it to safetensors`, { file: single });
    }
    // The index is small, and names what the total is made of.
    await get(shards, () => {}, signal);
    for (const shard of await shardsOf({ name: id, open: (file) => store.open(commit, file) }, signal))
      if (!(await want(shard))) throw new Kosmos2Error("hub-not-found", "download", `Cannot load "${id}": its ${index} names ${shard}, which it does not have`, { file: shard });
  }

  const entries = [...wanted.values()];
  const total = entries.reduce((sum, { content }) => sum + content.size, 0);
  const have = new Map<Wanted, number>();
  let loaded = 0;
  const reporter = (entry: Wanted): Report => (bytes, phase) => {
    loaded += bytes - (have.get(entry) ?? 0);
    have.set(entry, bytes);
    onProgress?.({ loaded, total, file: entry.file, phase });
  };
  const missing: Wanted[] = [];
  for (const entry of entries)
    if (await link(entry)) reporter(entry)(entry.content.size, "verify");
    else missing.push(entry);

  const room = await store.room?.(missing.map(({ content }) => content)).catch(() => undefined);
  if (room && room.free < room.needed) throw diskFull(store, room.needed, room.free);
  const files = new Slots(Math.max(1, Math.floor(concurrency)));
  await all(missing.map((entry) => (signal) => files.run(async () => {
    signal.throwIfAborted();
    await get(entry, reporter(entry), signal);
  })), signal);
}

async function list(id: string, revision: string, client: HubClient, signal: AbortSignal): Promise<Listing> {
  const url = `${client.endpoint}/api/models/${id}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const page = await client.text(url, `"${id}" at "${revision}"`, signal);
  let found: { sha?: unknown; siblings?: unknown };
  try {
    found = page ? JSON.parse(page.text) : {};
  } catch (error) {
    throw new Kosmos2Error("hub-refused", "download", `Cannot read ${url}: it is not JSON; is ${client.endpoint} a hub?`, { file: url }, error);
  }
  const siblings = Array.isArray(found.siblings) ? (found.siblings as Sibling[]) : undefined;
  let commit = isCommit(found.sha) ? found.sha : undefined;
  const byName = siblings && new Map(siblings.map((sibling) => [sibling.rfilename, sibling]));
  if (!commit) commit = (await head(id, revision, config, client, signal))?.commit;
  if (!commit) throw new Kosmos2Error("hub-not-found", "download", `Cannot load "${id}": it has no ${config} at "${revision}"; is it a model?`, { file: config });
  const at = commit;
  return {
    commit,
    names: siblings?.map(({ rfilename }) => rfilename),
    async find(file) {
      if (byName && !byName.has(file)) return undefined;
      const { lfs, blobId, size } = byName?.get(file) ?? ({} as Partial<Sibling>);
      if (isHash(lfs?.sha256) && isSize(lfs.size)) return { etag: lfs.sha256, size: lfs.size };
      if (!lfs && isHash(blobId) && isSize(size)) return { etag: blobId, size };
      return (await head(id, at, file, client, signal))?.content;
    },
  };
}

/** One file, as the page lists it: `blobId` is git's hash of it, or of the LFS pointer to it. */
interface Sibling {
  rfilename: string;
  size?: number;
  blobId?: string;
  lfs?: { sha256?: string; size?: number };
}

const isCommit = (value: unknown): value is string => typeof value === "string" && /^[0-9a-f]{40}$/.test(value);
const isHash = (value: unknown): value is string => typeof value === "string" && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(value);
const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** One file by its headers, as Python asks. undefined: there is none. */
async function head(id: string, revision: string, file: string, client: HubClient, signal: AbortSignal): Promise<{ commit: string; content: Content } | undefined> {
  const url = `${client.endpoint}/${id}/resolve/${encodeURIComponent(revision)}/${encodeURIComponent(file)}`;
  return client.retrying(async () => {
    const { response, linked } = await client.send("HEAD", url, {}, signal);
    const kind = response.headers.get("x-error-code");
    if (response.status === 404 && (kind === "EntryNotFound" || (kind === null && file !== config))) return undefined;
    if (response.status >= 400) await client.refuse(response, url, `${file} of "${id}" at "${revision}"`);
    const etag = linked.etag ?? plainEtag(response.headers.get("etag"));
    const length = response.headers.get("content-length");
    const size = linked.size ?? (length === null ? undefined : Number(length));
    if (!etag || !/^[\w.-]+$/.test(etag) || !isSize(size) || !isCommit(linked.commit))
      throw new Kosmos2Error("hub-refused", "download", `Cannot fetch ${file} of "${id}": ${url} names no commit, hash or size; is ${client.endpoint} a hub?`, { file });
    return { commit: linked.commit, content: { etag, size } };
  }, () => 0, signal);
}

/** For what only saves a later request: a cache that can be read but not written is good enough. */
async function quietly(work: () => Promise<void>): Promise<void> {
  await work().catch(() => {});
}
