/** The stores by themselves: one behaviour on a disk and in a browser's places, and the lock between processes. */
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { existsSync, mkdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openHub } from "#src/hub/hub.js";
import { addSpan, covered, gaps, Superseded, type Content, type HubStore, type Span } from "#src/hub/store.js";
import { Lock, type LockTiming } from "#src/platform/node/lock.js";
import { openHubStore as openDisk } from "#src/platform/node/hub-store.js";
import { MemoryShelf, openHubStore as openWeb, type Shelf } from "#src/platform/web/hub-store.js";
import { random } from "../support.js";
import { gitSha1, sha256, TestHub } from "./server.js";
import { bytes, commit, differing, id, model, newCache, quick } from "./support.js";

const timing: LockTiming = { beatMs: 20, silentMs: 150, pollMs: 5 };
const signal = new AbortController().signal;

test("addSpan and gaps keep every byte once, whatever the order", () => {
  const numbers = random(400, 3);
  let spans: readonly Span[] = [];
  const there = new Set<number>();
  for (let i = 0; i + 1 < numbers.length; i += 2) {
    const from = Math.floor((numbers[i] + 1) * 500), to = from + Math.floor((numbers[i + 1] + 1) * 10);
    spans = addSpan(spans, from, to);
    for (let at = from; at < to; at++) there.add(at);
    assert.equal(covered(spans), there.size);
    for (let j = 1; j < spans.length; j++) assert.ok(spans[j - 1][1] < spans[j][0], "apart and in order");
    const missing = gaps(spans, 100, 900);
    assert.equal(covered(missing), Array.from({ length: 800 }, (_, k) => k + 100).filter((at) => !there.has(at)).length);
  }
});

/** The Cache API, as far as it is used. */
function fakeCaches(): { open(): Promise<unknown> } {
  const entries = new Map<string, Response>();
  return { open: async () => ({
    match: async (url: string) => entries.get(url)?.clone(),
    put: async (url: string, response: Response) => void entries.set(url, response),
    delete: async (url: string) => entries.delete(url),
  }) };
}

/** The origin's private files, as far as they are used. */
function fakeFolder(sync: boolean) {
  const notFound = () => new DOMException("no", "NotFoundError");
  const folder = (): any => {
    const entries = new Map<string, any>();
    const get = (name: string, create: boolean, make: () => unknown) => {
      if (!entries.has(name)) {
        if (!create) throw notFound();
        entries.set(name, make());
      }
      return entries.get(name);
    };
    const file = () => {
      let data = new Uint8Array(0);
      const put = (bytes: Uint8Array, at: number) => {
        const longer = new Uint8Array(Math.max(data.length, at + bytes.length));
        longer.set(data);
        longer.set(bytes, at);
        data = longer;
        return bytes.length;
      };
      return {
        getFile: async () => new Blob([data]),
        createWritable: async () => {
          let at = 0;
          data = new Uint8Array(0);
          return { write: async (bytes: Uint8Array) => void (at += put(bytes, at)), close: async () => {} };
        },
        ...(sync && { createSyncAccessHandle: async () => ({
          write: (bytes: Uint8Array, { at }: { at: number }) => put(bytes, at), truncate: (size: number) => void (data = data.slice(0, size)), flush() {}, close() {},
        }) }),
      };
    };
    return {
      getDirectoryHandle: async (name: string, { create = false } = {}) => get(name, create, folder),
      getFileHandle: async (name: string, { create = false } = {}) => get(name, create, file),
      removeEntry: async (name: string) => { if (!entries.delete(name)) throw notFound(); },
    };
  };
  return { storage: { getDirectory: async () => folder() } };
}

function give(name: "navigator" | "caches", value: unknown): { [Symbol.dispose](): void } {
  const before = Object.getOwnPropertyDescriptor(globalThis, name);
  Object.defineProperty(globalThis, name, { value, configurable: true });
  return { [Symbol.dispose]: () => (before ? Object.defineProperty(globalThis, name, before) : Reflect.deleteProperty(globalThis, name)) };
}

/** Lets no more than `room` bytes in. */
class SmallShelf extends MemoryShelf implements Shelf {
  constructor(public room: number) {
    super();
    const put = this.put;
    this.put = async (key, value) => {
      if ((this.room -= value.length) < 0) throw new DOMException("The quota has been exceeded", "QuotaExceededError");
      await put(key, value);
    };
  }
}

const stores: Record<string, (cacheDir: string) => Promise<() => Promise<HubStore>>> = {
  "a disk": async (cacheDir) => () => openDisk(id, cacheDir, { timing }),
  "a disk without symlinks": async (cacheDir) => () => openDisk(id, cacheDir, { timing, symlinks: false }),
  "memory": async () => {
    const shelf = new MemoryShelf();
    return () => openWeb(id, "x", { shelf, segmentBytes: 1000 });
  },
  "a worker's private files": async () => {
    const root = await fakeFolder(true).storage.getDirectory();
    return inPage({ storage: { getDirectory: async () => root } }, undefined);
  },
  "a page's private files": async () => {
    const root = await fakeFolder(false).storage.getDirectory();
    return inPage({ storage: { getDirectory: async () => root } }, undefined);
  },
  "the Cache API": async () => {
    const caches = fakeCaches(), cache = await caches.open();
    return inPage({}, { open: async () => cache });
  },
};

function inPage(navigator: unknown, caches: unknown): () => Promise<HubStore> {
  return async () => {
    using _navigator = give("navigator", navigator), _caches = give("caches", caches);
    return await openWeb(id, "x", { segmentBytes: 1000, warn: (message) => assert.fail(message) });
  };
}

for (const [where, prepare] of Object.entries(stores))
  test(`A store on ${where} keeps contents, names, absences and commits, and shows no content before it is finished`, async () => {
    using cache = newCache();
    const open = await prepare(cache.path);
    const data = bytes(4567, 1), content: Content = { etag: sha256(data), size: data.length };
    const store = await open();
    assert.equal(await store.readCommit("main"), undefined);
    await store.writeCommit("refs/pr/1", commit);
    await store.markAbsent(commit, "b.json");
    assert.deepEqual([await store.readCommit("refs/pr/1"), await store.has(commit, "a"), await store.has(commit, "b.json"), await store.link(commit, "a", content)], [commit, undefined, "absent", false]);

    const unfinished = (await store.begin(content, signal))!;
    for (const [from, to] of [[3000, 4567], [0, 1200], [1100, 3000]]) await unfinished.write(data.subarray(from, to), from);
    assert.deepEqual(unfinished.have, [[0, 4567]]);
    const back = new Uint8Array(2000);
    await unfinished.read(back, 500);
    assert.deepEqual(back, data.slice(500, 2500));
    assert.equal(await store.link(commit, "a", content), false);
    await unfinished.finish();
    await unfinished.close();

    assert.equal(await store.link(commit, "a", content), true);
    const again = await open();
    assert.equal(await again.has(commit, "a"), "here");
    const source = (await again.open(commit, "a"))!, shared = new Uint8Array(new SharedArrayBuffer(3000));
    await source.read(shared, 1500);
    assert.deepEqual([source.size, Buffer.compare(shared, data.slice(1500, 4500))], [4567, 0]);
    await assert.rejects(source.read(new Uint8Array(100), 4500), RangeError);
    await source.close();
    assert.equal(await again.open(commit, "c"), undefined);
  });

for (const [where, prepare] of Object.entries(stores))
  test(`A store on ${where} goes on with what was written, and forgets it when told`, async () => {
    using cache = newCache();
    const open = await prepare(cache.path);
    const data = bytes(10_000, 1), content: Content = { etag: sha256(data), size: data.length };
    const first = (await (await open()).begin(content, signal))!;
    await first.write(data.subarray(0, 3000), 0);
    await first.write(data.subarray(7000, 10_000), 7000);
    await first.close();
    const second = (await (await open()).begin(content, signal))!;
    assert.deepEqual(second.have, [[0, 3000], [7000, 10_000]]);
    await second.clear();
    await second.write(data.subarray(5000, 6000), 5000);
    await second.close();
    const third = (await (await open()).begin(content, signal))!;
    assert.deepEqual(third.have, [[5000, 6000]]);
    await third.close();
  });

test("A store in a page goes on in memory, with one warning, when the quota ends", async () => {
  const repo = model(20_000, 2);
  await using hub = await TestHub.start(repo);
  const warnings: string[] = [], shelf = new SmallShelf(15_000);
  const open = () => openWeb(id, "x", { shelf, segmentBytes: 1000, warn: (message) => warnings.push(message) });
  const files = await openHub(id, { endpoint: hub.url, store: await open(), token: false, tuning: quick });
  assert.deepEqual(await differing(files, repo), []);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /no more room/);
  // Next time what did not fit comes again, and only that.
  hub.served = 0;
  shelf.room = Infinity;
  assert.deepEqual(await differing(await openHub(id, { endpoint: hub.url, store: await open(), token: false, tuning: quick }), repo), []);
  assert.ok(hub.served > 0 && hub.served < 40_000 - 10_000, `${hub.served} bytes`);
});

test("A store in a page that has no place of its own says so, once", async () => {
  using _navigator = give("navigator", {}), _caches = give("caches", undefined);
  const warnings: string[] = [];
  const store = await openWeb(id, "x", { warn: (message) => warnings.push(message) });
  assert.deepEqual([store.place, warnings.length], ["memory", 1]);
  assert.match(warnings[0], /not kept/);
});

test("Stores of one place take turns with a content", async () => {
  using cache = newCache();
  for (const prepare of [stores["a disk"], stores["memory"]]) {
    const open = await prepare(cache.path);
    const data = bytes(2000, 1), content: Content = { etag: gitSha1(data), size: data.length };
    const first = (await (await open()).begin(content, signal))!;
    let came = false;
    const second = open().then((store) => store.begin(content, signal)).then((found) => ((came = true), found));
    const abort = new AbortController(), reason = new Error("tired of waiting");
    const third = open().then((store) => store.begin(content, abort.signal));
    await sleep(30);
    assert.equal(came, false);
    abort.abort(reason);
    await assert.rejects(third, (error) => error === reason);
    await first.write(data, 0);
    await first.finish();
    await first.close();
    assert.equal(await second, undefined);
  }
});

test("Lock.take gives a lock to one, and after its release to the next", async () => {
  using cache = newCache();
  const path = join(cache.path, "locks/a.lock");
  const locks = await Promise.all(Array.from({ length: 20 }, () => Lock.take(path, timing)));
  const [owner, ...others] = locks.filter((lock) => lock !== undefined);
  assert.equal(others.length, 0);
  await sleep(60);
  assert.ok(await owner.check());
  await owner.release();
  assert.ok(!existsSync(path));
  await (await Lock.take(path, timing))!.release();
});

test("Lock.watch leaves a living owner's lock, takes a dead one's at once, and another machine's after a silence", async () => {
  using cache = newCache();
  const path = join(cache.path, "a.lock");
  const wait = async (most: number) => {
    const start = performance.now();
    let lock: Lock | undefined;
    for (let seen; !(lock = await Lock.take(path, timing)) && performance.now() - start < most; await sleep(5)) seen = await Lock.watch(path, seen, timing);
    return { lock, ms: performance.now() - start };
  };
  const owner = (await Lock.take(path, timing))!;
  assert.equal((await wait(400)).lock, undefined);
  await owner.release();

  writeFileSync(path, JSON.stringify({ key: "k", pid: 4242, machine: "elsewhere" }));
  const silent = await wait(5000);
  assert.ok(silent.lock && silent.ms >= timing.silentMs, `${silent.ms} ms`);
  await silent.lock.release();

  const child = fork(new URL("locked.js", import.meta.url), [path], { silent: true });
  await new Promise((resolve) => child.once("message", resolve));
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("close", resolve));
  const dead = await wait(5000);
  assert.ok(dead.lock && dead.ms < 5000);
  await dead.lock.release();
});

test("Who has lost its lock writes no more and finishes nothing", async () => {
  using cache = newCache();
  const store = await openDisk(id, cache.path, { timing });
  const data = bytes(2000, 1), content: Content = { etag: sha256(data), size: data.length };
  const slept = (await store.begin(content, signal))!;
  await slept.write(data, 0);
  const lock = join(cache.path, ".locks/models--test-org--kosmos-2", `${content.etag}.kosmos2.lock`);
  writeFileSync(lock, JSON.stringify({ key: "another's", pid: process.pid, machine: "elsewhere" }));
  await assert.rejects(slept.finish(), Superseded);
  await assert.rejects(slept.write(data, 0), Superseded);
  await slept.close();
  assert.ok(existsSync(lock), "the other's lock stays");
  assert.equal(await store.link(commit, "a", content), false);
});

test("A store on a disk knows from Python's list of a commit what does not exist there", async () => {
  using cache = newCache();
  const store = await openDisk(id, cache.path);
  const folder = join(cache.path, "models--test-org--kosmos-2/trees");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${commit}.json`), JSON.stringify({ format_version: 1, files: { "config.json": { size: 1, blob_id: "" } } }));
  assert.deepEqual([await store.has(commit, "config.json"), await store.has(commit, "generation_config.json")], [undefined, "absent"]);
});

test("A store on a disk refuses names that lead out of it", async () => {
  using cache = newCache();
  const store = await openDisk(id, cache.path);
  for (const name of ["../x", "../../x", ""]) await assert.rejects(store.open(commit, name), RangeError);
  await assert.rejects(store.writeCommit("../../x", commit), RangeError);
});

test("A store on a disk throws away a journal's claims that its file does not bear out", async () => {
  using cache = newCache();
  const store = await openDisk(id, cache.path, { timing });
  const data = bytes(3000, 1), content: Content = { etag: sha256(data), size: data.length };
  const blob = join(cache.path, "models--test-org--kosmos-2/blobs", content.etag);
  mkdirSync(join(blob, ".."), { recursive: true });
  writeFileSync(`${blob}.kosmos2.incomplete`, data.subarray(0, 1500));
  writeFileSync(`${blob}.kosmos2.parts`, `etag "a"\n0 1000\n2000 3000\n900 1500\n12 x\n1500 16`);
  utimesSync(`${blob}.kosmos2.parts`, 0, 0);
  const unfinished = (await store.begin(content, signal))!;
  assert.deepEqual([unfinished.have, unfinished.sentBy], [[[0, 1500]], '"a"']);
  await unfinished.close();
});
