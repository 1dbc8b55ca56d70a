/**
 * Downloads from a hub that fails, again and again: each round must end in a cache that is right, or in an error that says what
 * happened, and the next call must go on from what is there. KOSMOS2_REAL=1 runs 208 rounds, else one of each kind.
 */
import assert from "node:assert/strict";
import { fork, type ChildProcess } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Kosmos2Error } from "kosmos2-wasm";
import { openHub, type HubOptions } from "#src/hub/hub.js";
import type { HubStore } from "#src/hub/store.js";
import { openHubStore } from "#src/platform/node/hub-store.js";
import { sha256, TestHub, type Fault, type Repo, type Request } from "./server.js";
import { differing, id, leftovers, model, neededBytes, newCache, poison, quick } from "./support.js";

/** Whole numbers below `below`, the same for the same seed (mulberry32). */
function dice(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

interface Round {
  repo: Repo;
  hub: TestHub;
  cacheDir: string;
  roll: (below: number) => number;
  open: (options?: HubOptions) => Promise<unknown>;
  /** A process of its own; kill it after so many bytes. */
  child: (killAfter?: number, report?: (loaded: number) => void) => Promise<string>;
  /** Bytes that came and were of no use: they were wrong, or are not wanted any more. */
  useless: number;
  /** Of another content, or of a process killed in the act, something may stay; it harms nobody. */
  leaves: boolean;
}

interface Kind {
  /** A single call is expected to get over it. */
  recovers: boolean;
  /** Fails with one of these codes at first, where it does not recover. */
  codes?: string[];
  /** Bytes of the model. What a kill, a full disk or an answer given up loses does not grow with it: some hundred kilobytes here. */
  size?: number;
  run: (round: Round) => Promise<unknown>;
}

/** Faults for the first `count` answers with a file's bytes. */
function first(count: number, make: () => Fault | undefined, host?: Request["host"]): TestHub["fault"] {
  return (request, what) => (what === "file" && (!host || request.host === host) && count-- > 0 ? make() : undefined);
}

const statuses = [429, 500, 502, 503, 504];
const largest = (repo: Repo) => Math.max(...Object.values(repo.files).map(({ bytes }) => bytes.length));

const kinds: Record<string, Kind> = {
  "cut connections": {
    recovers: true,
    run: (t) => ((t.hub.fault = first(1 + t.roll(6), () => ({ kind: "cut", after: t.roll(200_000) }))), t.open()),
  },
  "429, 500, 503": {
    recovers: true,
    run: (t) => {
      let count = 1 + t.roll(8);
      t.hub.fault = () => (count-- > 0 && t.roll(3) > 0 ? { kind: "status", status: statuses[t.roll(5)], ...(t.roll(2) && { retryAfter: "0" }) } : undefined);
      return t.open();
    },
  },
  "slow reads": {
    recovers: true,
    run: (t) => ((t.hub.fault = first(3, () => ({ kind: "slow", bytesPerTick: 3_000 + t.roll(5_000), tickMs: 1 }))), t.open()),
  },
  "silence": {
    recovers: true,
    run: (t) => ((t.hub.fault = first(1 + t.roll(2), () => ({ kind: "stall", after: t.roll(100_000) }), "storage")), t.open({ tuning: { ...quick, stallMs: 80 } })),
  },
  "wrong length for a while": {
    recovers: true,
    run: (t) => ((t.hub.fault = first(1 + t.roll(2), () => ({ kind: "length", more: [-1, 1, 7, -100][t.roll(4)] }))), t.open()),
  },
  "wrong length for ever": {
    recovers: false,
    codes: ["hub-integrity"],
    size: 6e6,
    run: (t) => ((t.hub.fault = first(Infinity, () => ({ kind: "length", more: [1, 7][t.roll(2)] }), "storage")), t.open()),
  },
  "wrong hash": {
    recovers: false,
    codes: ["hub-integrity"],
    run: (t) => {
      let answers = t.roll(4);
      t.hub.fault = ({ host, path }, what) => {
        if (what !== "file" || host !== "storage" || answers-- !== 0) return undefined;
        // The hash is of a whole file: all of it comes again.
        t.useless = Object.values(t.repo.files).find(({ bytes }) => path.includes(sha256(bytes)))!.bytes.length;
        return { kind: "corrupt", at: t.roll(1e6) };
      };
      return t.open();
    },
  },
  "changed ETag between resumes": {
    recovers: true,
    size: 6e6,
    run: async (t) => {
      let tag = 0;
      t.hub.fault = (request, what) => {
        if (what !== "file" || request.host !== "storage") return undefined;
        // Every answer is cut, and the next one has another ETag.
        return ++tag % 2 && tag < 6 ? { kind: "cut", after: t.roll(150_000) } : { kind: "etag", tag: `"${Math.ceil(tag / 2)}"` };
      };
      await t.open();
    },
  },
  "two processes at once": {
    recovers: true,
    run: async (t) => {
      t.hub.fault = first(t.roll(3), () => ({ kind: "cut", after: t.roll(200_000) }));
      assert.deepEqual(await Promise.all([t.child(), t.child()]), ["whole", "whole"]);
    },
  },
  "a killed process": {
    recovers: true,
    size: 10e6,
    run: async (t) => {
      // What lies in this machine's buffers, megabytes of them, when a process is killed was served but never came.
      let came = 0;
      t.leaves = true;
      t.hub.underWay = () => t.hub.served - came;
      await t.child(t.roll(neededBytes(t.repo)), (loaded) => (came = loaded));
      t.hub.underWay = () => 0;
      assert.deepEqual(poison(t.cacheDir, t.repo), []);
      assert.equal(await t.child(), "whole");
    },
  },
  "a full disk": {
    recovers: false,
    codes: ["hub-disk-full"],
    size: 10e6,
    run: async (t) => {
      let left = t.roll(neededBytes(t.repo) - 100_000);
      const store = await openHubStore(id, t.cacheDir);
      const begin: HubStore["begin"] = async (content, signal) => {
        const unfinished = await store.begin(content, signal);
        const write = unfinished?.write.bind(unfinished);
        if (unfinished && write) unfinished.write = (bytes, at) => {
          if ((left -= bytes.length) < 0) throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
          return write(bytes, at);
        };
        return unfinished;
      };
      await t.open({ store: new Proxy(store, { get: (target, name) => (name === "begin" ? begin : bound(target, name)) }) });
    },
  },
  "no answer for ever": {
    recovers: false,
    codes: ["hub-unavailable", "hub-unreachable"],
    run: (t) => ((t.hub.fault = (_, what) => (what === "file" && t.roll(4) > 0 ? { kind: "status", status: 503 } : { kind: "cut", after: t.roll(3) && 9 })), t.open({ tuning: { ...quick, retries: 2, waitMs: 1 } })),
  },
  "another content pushed meanwhile": {
    recovers: true,
    run: (t) => {
      let answers = t.roll(4);
      t.hub.fault = (_, what) => {
        if (what === "file" && answers-- === 0) {
          t.useless = t.hub.served;
          t.leaves = true;
          Object.assign(t.repo, { ...model(largest(t.repo), 1, 77), commit: "e".repeat(40), branches: ["main", t.repo.commit] });
        }
        return undefined;
      };
      return t.open();
    },
  },
};

function bound(target: object, name: string | symbol): unknown {
  const value = Reflect.get(target, name);
  return typeof value === "function" ? value.bind(target) : value;
}

async function round(kind: Kind, seed: number): Promise<{ code?: string; ratio: number }> {
  const roll = dice(seed);
  const repo = model((kind.size ?? 2e6) + roll(2e6), [1, 1, 3][roll(3)], seed);
  await using hub = await TestHub.start(repo);
  using cache = newCache();
  const children: ChildProcess[] = [];
  const t: Round = {
    repo, hub, cacheDir: cache.path, roll, useless: 0, leaves: false,
    open: (options = {}) => openHub(id, { endpoint: hub.url, cacheDir: cache.path, token: false, tuning: quick, ...options }),
    child: (killAfter, report) => new Promise((resolve) => {
      const child = fork(fileURLToPath(new URL("fetch.js", import.meta.url)), [hub.url, cache.path, id], { silent: true });
      children.push(child);
      let said = "";
      child.stdout!.on("data", (data) => (said += data));
      child.stderr!.on("data", (data) => (said += data));
      child.on("message", ({ loaded }: { loaded: number }) => {
        report?.(loaded);
        if (killAfter !== undefined && loaded >= killAfter) child.kill("SIGKILL");
      });
      child.on("close", () => resolve(said.trim()));
    }),
  };
  let code: string | undefined;
  try {
    await kind.run(t);
  } catch (error) {
    if (!(error instanceof Kosmos2Error)) throw error;
    code = error.code;
  } finally {
    for (const child of children) child.kill("SIGKILL");
  }
  assert.deepEqual(poison(cache.path, repo), []);
  // Whatever happened, the next call without faults goes on from there, and then the cache is complete.
  hub.fault = () => undefined;
  await t.open();
  const { served } = hub;
  hub.requests.length = 0;
  const files = await openHub(id, { endpoint: hub.url, cacheDir: cache.path, tuning: quick });
  assert.equal(hub.requests.length, 0, "a cached load makes no request");
  assert.deepEqual(await differing(files, repo), []);
  assert.deepEqual(poison(cache.path, repo), []);
  if (!t.leaves) assert.deepEqual(leftovers(cache.path, repo), []);
  return { code, ratio: (served - t.useless) / neededBytes(repo) };
}

const perKind = process.env.KOSMOS2_REAL ? 16 : 1; // × 13 kinds
const seeds = Number(process.env.KOSMOS2_SEED ?? 1);
let recovered = 0, recoverable = 0, worst = 0, rounds = 0, sum = 0;

for (const [name, kind] of Object.entries(kinds))
  test(`openHub ends in a whole cache or a typed error, with ≤ 1.1 × the bytes: ${name}, ${perKind} rounds`, async (t) => {
    let most = 0;
    const codes: Record<string, number> = {};
    for (let i = 0; i < perKind; i++) {
      const seed = seeds * 1000 + i;
      const { code, ratio } = await round(kind, seed).catch((error) => {
        throw new Error(`seed ${seed}: ${error.message}`, { cause: error });
      });
      codes[code ?? "whole"] = (codes[code ?? "whole"] ?? 0) + 1;
      rounds++;
      sum += ratio;
      most = Math.max(most, ratio);
      if (kind.recovers) {
        recoverable++;
        if (code === undefined) recovered++;
      } else assert.ok(code && kind.codes!.includes(code), `seed ${seed}: ${code}`);
      assert.ok(ratio <= 1.1, `seed ${seed}: ${ratio.toFixed(3)} × the bytes were served`);
    }
    worst = Math.max(worst, most);
    t.diagnostic(`${name}: ${JSON.stringify(codes)}, bytes served at most ${most.toFixed(3)} × the model`);
  });

test("openHub recovers from at least 95 % of the faults that pass", (t) => {
  t.diagnostic(`${rounds} rounds: ${recovered} of ${recoverable} recoverable ones recovered; bytes served: ${(sum / rounds).toFixed(3)} × on average, ${worst.toFixed(3)} × at most`);
  assert.ok(recovered >= 0.95 * recoverable, `${recovered} of ${recoverable}`);
});
