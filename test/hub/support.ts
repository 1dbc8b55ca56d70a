/** A small model to put on the test hub, a cache folder of its own for each test, and a look at what a cache holds. */
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ModelFiles } from "#src/weights/files.js";
import type { Tuning } from "#src/hub/http.js";
import { random } from "../support.js";
import { gitSha1, sha256, type HubFile, type Repo } from "./server.js";

export const id = "test-org/kosmos-2";
export const commit = "0123456789abcdef0123456789abcdef01234567";

/** Faster than life: waits of milliseconds, parts of kilobytes. */
export const quick: Partial<Tuning> = { waitMs: 4, longestWaitMs: 60, stallMs: 400, partBytes: 2 ** 20, writeBytes: 2 ** 15 };

/** Contents of files: each begins elsewhere in the same random megabytes. */
const pool = new Uint8Array(random(2 ** 18).buffer);

export function bytes(length: number, seed: number): Uint8Array {
  const all = new Uint8Array(length);
  for (let at = 0, from = (seed * 7919) % pool.length; at < length; from = 0) {
    const piece = pool.subarray(from, from + length - at);
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

const text = (value: unknown): HubFile => ({ bytes: new TextEncoder().encode(JSON.stringify(value)) });

/** @param weights bytes of all shards; one shard is model.safetensors itself */
export function model(weights = 1_000_003, shards = 1, seed = 1): Repo {
  const files: Record<string, HubFile> = {
    "config.json": text({ model_type: "kosmos-2", seed }),
    "preprocessor_config.json": text({ seed }),
    "tokenizer.json": { bytes: bytes(20_011, seed + 1) },
    "tokenizer_config.json": text({}),
    "README.md": text("not needed"),
    "pytorch_model.bin": { bytes: bytes(50_000, 2) },
  };
  const names = shards === 1 ? ["model.safetensors"] : Array.from({ length: shards }, (_, i) => `model-${String(i + 1).padStart(5, "0")}-of-${String(shards).padStart(5, "0")}.safetensors`);
  names.forEach((name, i) => (files[name] = { bytes: bytes(Math.ceil(weights / shards), seed + 10 + i), lfs: true }));
  if (shards > 1) files["model.safetensors.index.json"] = text({ weight_map: Object.fromEntries(names.map((name, i) => [`t${i}`, name])) });
  return { id, commit, files };
}

export const neededFiles = (repo: Repo): string[] => Object.keys(repo.files).filter((name) => name !== "README.md" && name !== "pytorch_model.bin");
export const neededBytes = (repo: Repo): number => neededFiles(repo).reduce((sum, name) => sum + repo.files[name].bytes.length, 0);

/** A cache folder that is gone after the test. */
export function newCache(): { path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), "kosmos2-hub-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

export async function readAll(files: ModelFiles, name: string): Promise<Uint8Array | undefined> {
  const source = await files.open(name);
  if (!source) return undefined;
  const all = new Uint8Array(source.size);
  await source.read(all, 0);
  await source.close();
  return all;
}

/** Names of needed files that are not as the hub has them. */
export async function differing(files: ModelFiles, repo: Repo): Promise<string[]> {
  const wrong: string[] = [];
  for (const name of neededFiles(repo)) {
    const found = await readAll(files, name);
    if (!found || Buffer.compare(found, repo.files[name].bytes) !== 0) wrong.push(name);
  }
  return wrong;
}

/** All that is wrong in a cache: contents that are not what their names say, links that lead nowhere. */
export function poison(cacheDir: string, repo: Repo): string[] {
  const folder = join(cacheDir, `models--${repo.id.replace("/", "--")}`), wrong: string[] = [];
  for (const name of list(join(folder, "blobs"))) {
    if (name.includes(".kosmos2.")) continue;
    const found = readFileSync(join(folder, "blobs", name));
    if ((name.length === 64 ? sha256(found) : gitSha1(found)) !== name) wrong.push(`blobs/${name}`);
  }
  for (const at of list(join(folder, "snapshots")))
    for (const name of list(join(folder, "snapshots", at))) {
      const path = join(folder, "snapshots", at, name);
      // who is killed between making a link and giving it its name leaves one beside it, which leads to the same
      const file = repo.files[name.replace(/\.[0-9a-f]{8}\.tmp$/, "")];
      if (!statSync(path, { throwIfNoEntry: false })) wrong.push(`snapshots/${at}/${name} leads nowhere`);
      else if (at === repo.commit && (!file || Buffer.compare(readFileSync(path), file.bytes) !== 0)) wrong.push(`snapshots/${at}/${name}`);
    }
  return wrong;
}

/** What should be gone when nobody works on a cache and all is whole. */
export function leftovers(cacheDir: string, repo: Repo): string[] {
  const folder = `models--${repo.id.replace("/", "--")}`;
  return [
    ...list(join(cacheDir, folder, "blobs")).filter((name) => name.includes(".kosmos2.")),
    ...list(join(cacheDir, ".locks", folder)),
  ];
}

function list(path: string): string[] {
  return lstatSync(path, { throwIfNoEntry: false }) ? readdirSync(path) : [];
}
