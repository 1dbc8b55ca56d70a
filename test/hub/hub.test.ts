import assert from "node:assert/strict";
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Kosmos2, Kosmos2Error } from "kosmos2-wasm";
import { openHub, type HubOptions } from "#src/hub/hub.js";
import { readText } from "#src/weights/files.js";
import { openModel } from "#src/weights/source.js";
import { hubSettings, openHubStore } from "#src/platform/node/hub-store.js";
import { root } from "../support.js";
import { gitSha1, sha256, TestHub, type Repo } from "./server.js";
import { bytes, commit, differing, id, leftovers, model, neededBytes, neededFiles, newCache, poison, quick } from "./support.js";

const code = (wanted: string, cure: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Kosmos2Error, String(error));
  assert.equal(error.code, wanted, error.message);
  assert.match(error.message, cure);
  return true;
};

async function setUp(repo: Repo = model()) {
  const hub = await TestHub.start(repo);
  const cache = newCache();
  const open = (options: HubOptions = {}) => openHub(id, { endpoint: hub.url, cacheDir: cache.path, token: false, tuning: quick, ...options });
  return { repo, hub, cache, open, folder: join(cache.path, "models--test-org--kosmos-2"),
    async [Symbol.asyncDispose]() { await hub.close(); cache[Symbol.dispose](); } };
}

test("openHub fetches what a model needs into Hugging Face's layout, and nothing else", async () => {
  await using t = await setUp();
  const files = await t.open();
  assert.deepEqual(await differing(files, t.repo), []);
  assert.equal(t.hub.served, neededBytes(t.repo));
  assert.equal(await files.open("pytorch_model.bin"), undefined);
  assert.equal(readFileSync(join(t.folder, "refs/main"), "utf8"), commit);
  for (const name of neededFiles(t.repo)) {
    const { bytes, lfs = bytes.length > 10_000 } = t.repo.files[name];
    assert.equal(readlinkSync(join(t.folder, "snapshots", commit, name)), `../../blobs/${lfs ? sha256(bytes) : gitSha1(bytes)}`);
  }
  assert.ok(existsSync(join(t.folder, ".no_exist", commit, "generation_config.json")));
  assert.deepEqual(leftovers(t.cache.path, t.repo), []);
});

test("openHub makes no request when a branch, a commit or an offline load is cached whole", async () => {
  await using t = await setUp(model(600_001, 3));
  await t.open();
  t.hub.requests.length = 0;
  for (const options of [{}, { revision: commit }, { localFilesOnly: true }, { need: "processor" as const }])
    assert.deepEqual(await differing(await t.open(options), t.repo), []);
  assert.equal(t.hub.requests.length, 0);
});

test("openHub with refresh asks where a branch is, and fetches only what is new there", async () => {
  await using t = await setUp();
  await t.open();
  const moved = "f".repeat(40);
  t.repo.commit = moved;
  t.repo.files["config.json"] = { bytes: new TextEncoder().encode('{"new":1}') };
  t.hub.served = 0;
  await t.open();
  assert.equal(t.hub.served, 0);
  assert.deepEqual(await differing(await t.open({ refresh: true }), t.repo), []);
  assert.equal(t.hub.served, 9);
  assert.equal(readFileSync(join(t.folder, "refs/main"), "utf8"), moved);
});

test("openHub for a processor fetches no weights, and a model later only the weights", async () => {
  await using t = await setUp();
  await t.open({ need: "processor" });
  const weights = t.repo.files["model.safetensors"].bytes.length;
  assert.equal(t.hub.served, neededBytes(t.repo) - weights);
  t.hub.served = 0;
  assert.deepEqual(await differing(await t.open(), t.repo), []);
  assert.equal(t.hub.served, weights);
});

test("openHub for a config fetches config.json alone", async () => {
  await using t = await setUp();
  await t.open({ need: "config" });
  assert.equal(t.hub.served, t.repo.files["config.json"].bytes.length);
  t.hub.requests.length = 0;
  await t.open({ need: "config" });
  assert.equal(t.hub.requests.length, 0);
});

test("openHub reports a total that is known before the first byte and is reached exactly", async () => {
  await using t = await setUp(model(1_000_003, 4));
  const seen: number[] = [], totals = new Set<number>();
  let servedAtFirst = -1;
  await t.open({ onProgress: ({ loaded, total }) => {
    if (servedAtFirst < 0) servedAtFirst = t.hub.served;
    seen.push(loaded);
    totals.add(total);
  } });
  const index = t.repo.files["model.safetensors.index.json"].bytes.length; // names the shards, so it comes before
  assert.deepEqual([[...totals], seen.at(-1), servedAtFirst], [[neededBytes(t.repo)], neededBytes(t.repo), index]);
  assert.deepEqual(seen, [...seen].sort((a, b) => a - b));
});

test("openHub sends its token to the hub and to no other host", async () => {
  await using t = await setUp({ ...model(), token: "hf_secret" });
  await t.open({ token: "hf_secret" });
  const storage = t.hub.requests.filter(({ host }) => host === "storage");
  assert.ok(storage.length > 0);
  for (const { host, headers } of t.hub.requests) assert.equal(headers.authorization, host === "hub" ? "Bearer hf_secret" : undefined);
});

for (const [what, repo, options, wanted, cure] of [
  ["a private model without a token", { token: "a" }, {}, "hub-unauthorized", /pass a token/],
  ["a private model with a wrong token", { token: "a" }, { token: "b" }, "hub-unauthorized", /token is not valid/],
  ["a gated model without a token", { token: "a", gated: true }, {}, "hub-gated", /accept the terms/],
  ["a gated model without agreement", { token: "a", gated: true }, { token: "a" }, "hub-gated", /accept the terms on its page at http:\/\/127.0.0.1:\d+\/test-org\/kosmos-2/],
  ["another name", { id: "other/name" }, { token: "a" }, "hub-not-found", /check its name/],
  ["another name without a token", { id: "other/name" }, {}, "hub-unauthorized", /does not exist, or is private/],
  ["a revision that isn't there", {}, { revision: "v9" }, "hub-not-found", /no such branch, tag or commit/],
  ["a name that leads out", {}, { revision: "../x" }, "hub-id-invalid", /branch, tag or commit/],
  ["a model that isn't cached, offline", {}, { localFilesOnly: true }, "hub-offline", /load it once with the network on/],
] as const)
  test(`openHub of ${what} says ${wanted} and what to do`, async () => {
    await using t = await setUp({ ...model(), ...repo });
    await assert.rejects(t.open(options), code(wanted, cure));
    if (wanted === "hub-offline" || wanted === "hub-id-invalid") assert.equal(t.hub.requests.length, 0);
  });

test("openHub of a model with pickled weights alone says that they are never loaded", async () => {
  const repo = model();
  delete repo.files["model.safetensors"];
  await using t = await setUp(repo);
  await assert.rejects(t.open(), code("hub-no-safetensors", /pytorch_model.bin is pickled/));
  assert.equal(t.hub.served, 0);
});

test("openHub refuses an index that names a file elsewhere", async () => {
  const repo = model(1000, 2);
  repo.files["model.safetensors.index.json"] = { bytes: new TextEncoder().encode('{"weight_map":{"a":"../../x.safetensors"}}') };
  await using t = await setUp(repo);
  await assert.rejects(t.open(), code("path-refused", /plain name/));
});

test("openHub asks a mirror without pages for each file's headers", async () => {
  await using t = await setUp();
  t.hub.noPages = true;
  assert.deepEqual(await differing(await t.open(), t.repo), []);
  assert.equal(t.hub.served, neededBytes(t.repo));
});

test("openHub loads from a server that knows no ranges", async () => {
  await using t = await setUp();
  t.hub.noRanges = true;
  assert.deepEqual(await differing(await t.open(), t.repo), []);
  assert.equal(t.hub.served, neededBytes(t.repo));
});

test("openHub loads through a fetch that hides redirects, as a page's does", async () => {
  await using t = await setUp();
  const hiding: typeof fetch = async (input, init) => {
    if (init?.redirect === "manual") {
      const response = await fetch(input, init);
      if (response.status < 300 || response.status >= 400) return response;
      await response.body?.cancel();
      return Object.defineProperty(Response.error(), "type", { value: "opaqueredirect" });
    }
    return fetch(input, init);
  };
  assert.deepEqual(await differing(await t.open({ fetch: hiding }), t.repo), []);
});

test("openHub, aborted, rejects with the signal's reason, keeps what came and goes on from there", async () => {
  await using t = await setUp(model(2_000_003));
  const abort = new AbortController(), reason = new Error("enough");
  await assert.rejects(t.open({ signal: abort.signal, onProgress: ({ loaded, total }) => { if (loaded > total / 2) abort.abort(reason); } }), (error) => error === reason);
  assert.deepEqual(poison(t.cache.path, t.repo), []);
  const before = t.hub.served;
  t.hub.served = 0;
  assert.deepEqual(await differing(await t.open(), t.repo), []);
  assert.ok(t.hub.served < neededBytes(t.repo) * 0.6, `${t.hub.served} of ${neededBytes(t.repo)} bytes after ${before}`);
});

test("openHub uses what is cached, with a warning, when only the last optional file can't be asked for", async () => {
  await using t = await setUp();
  await t.open();
  unlinkSync(join(t.folder, ".no_exist", commit, "generation_config.json"));
  t.hub.fault = () => ({ kind: "status", status: 503 });
  const warnings: string[] = [];
  assert.deepEqual(await differing(await t.open({ logger: { warn: (message) => warnings.push(message) } }), t.repo), []);
  assert.match(warnings.join(), /503.*cached/);
  assert.deepEqual(await differing(await t.open({ localFilesOnly: true }), t.repo), []);
});

test("openHub finds what another program put into the cache, and fetches again what was cut short there", async () => {
  await using t = await setUp();
  const { bytes } = t.repo.files["model.safetensors"];
  mkdirSync(join(t.folder, "blobs"), { recursive: true });
  const blob = join(t.folder, "blobs", sha256(bytes));
  writeFileSync(blob, bytes);
  await t.open();
  assert.equal(t.hub.served, neededBytes(t.repo) - bytes.length);
  t.hub.served = 0;
  unlinkSync(blob);
  assert.deepEqual(await differing(await t.open(), t.repo), []);
  assert.equal(t.hub.served, bytes.length);
});

test("openHub keeps the files themselves in snapshots where symlinks can't be made", async () => {
  await using t = await setUp();
  const store = await openHubStore(id, t.cache.path, { symlinks: false });
  assert.deepEqual(await differing(await t.open({ store }), t.repo), []);
  for (const name of neededFiles(t.repo)) assert.ok(lstatSync(join(t.folder, "snapshots", commit, name)).isFile());
  t.hub.requests.length = 0;
  await t.open({ store: await openHubStore(id, t.cache.path, { symlinks: false }) });
  assert.equal(t.hub.requests.length, 0);
});

test("hubSettings reads the environment as huggingface_hub does", () => {
  using cache = newCache();
  const home = process.env.HOME ?? process.env.USERPROFILE;
  mkdirSync(join(cache.path, "hf"));
  writeFileSync(join(cache.path, "hf/token"), "hf_file\n");
  assert.equal(hubSettings({}).cacheDir, join(home!, ".cache/huggingface/hub"));
  assert.equal(hubSettings({ XDG_CACHE_HOME: "/x" }).cacheDir, "/x/huggingface/hub");
  assert.equal(hubSettings({ XDG_CACHE_HOME: "/x", HF_HOME: "~/h" }).cacheDir, join(home!, "h/hub"));
  assert.equal(hubSettings({ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/old" }).cacheDir, "/old");
  assert.equal(hubSettings({ HF_HUB_CACHE: "$A/b", HUGGINGFACE_HUB_CACHE: "/old", A: "/a" }).cacheDir, "/a/b");
  assert.equal(hubSettings({ HF_ENDPOINT: "http://mirror/" }).endpoint, "http://mirror");
  assert.equal(hubSettings({ HF_HOME: join(cache.path, "hf") }).token, "hf_file");
  assert.equal(hubSettings({ HF_HOME: join(cache.path, "hf"), HF_TOKEN: " hf_env " }).token, "hf_env");
  assert.equal(hubSettings({ HF_TOKEN: "a", HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).token, undefined);
  assert.deepEqual(["1", "ON", "yes", "True", "0", ""].map((HF_HUB_OFFLINE) => hubSettings({ HF_HUB_OFFLINE }).offline), [true, true, true, true, false, false]);
});

test("openModel fetches a hub id with the options given, and reads a folder of a web server in place", async () => {
  await using t = await setUp();
  const files = await openModel(id, { endpoint: t.hub.url, cacheDir: t.cache.path, revision: commit, token: false });
  assert.deepEqual(await differing(files, t.repo), []);
  t.hub.requests.length = 0;
  assert.equal(await readText(await openModel(id, { cacheDir: t.cache.path, revision: commit, localFilesOnly: true }), "config.json"), readFileSync(join(t.folder, "snapshots", commit, "config.json"), "utf8"));
  assert.equal(t.hub.requests.length, 0);
  const folder = await openModel(`${t.hub.url}/${id}/resolve/main`);
  assert.deepEqual(await differing(folder, t.repo), []);
  assert.equal(await folder.open("generation_config.json"), undefined);
});

test("Kosmos2.load of a hub id fetches the model once, all of one commit, and answers as from a folder", async () => {
  const folder = join(root, "models/kosmos2-emoji");
  const names = readdirSync(folder).filter((name) => /\.(json|safetensors)$/.test(name));
  await using t = await setUp({ id, commit, files: Object.fromEntries(names.map((name) => [name, { bytes: new Uint8Array(readFileSync(join(folder, name))) }])) });
  const picture = { width: 32, height: 32, channels: 3 as const, data: bytes(32 * 32 * 3, 5) };
  const options = { endpoint: t.hub.url, cacheDir: t.cache.path, token: false as const, threads: 1 };
  const answers: string[] = [];
  const phases = new Set<string>();
  for (const [source, more] of [[folder, { threads: 1 }], [id, { ...options, onProgress: ({ phase }: { phase: string }) => phases.add(phase) }], [id, { ...options, localFilesOnly: true }]] as const) {
    await using kosmos = await Kosmos2.load(source, more);
    answers.push((await kosmos.caption(picture, { maxNewTokens: 12 })).generatedText);
  }
  assert.deepEqual(answers, [answers[0], answers[0], answers[0]]);
  assert.deepEqual([...phases].sort(), ["download", "read", "verify"]);
  assert.equal(t.hub.served, neededBytes(t.repo));
  assert.equal(t.hub.requests.filter(({ path }) => path.includes("/api/models/")).length, 1);
  await assert.rejects(Kosmos2.load(id, { ...options, dtpye: "i8" } as object), /option dtpye/);
});
