/** The built command as a process: what reaches the shell. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fixtures, root } from "../support.js";

const folder = mkdtempSync(join(tmpdir(), "kosmos2-process-"));
after(() => rmSync(folder, { recursive: true }));

const keys = join(fixtures, "emoji/keys.png"), rocket = join(fixtures, "emoji/rocket.png");
const cases: { image: string; prompt: string; new_ids: number[]; processed_text: string; caption: string; entities: [string, number[], number[][]][] }[] =
  JSON.parse(readFileSync(join(fixtures, "emoji/cases.json"), "utf8")).cases;

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

const start = (args: string[], env: Record<string, string> = {}, stdio: StdioOptions = ["ignore", "pipe", "pipe"]): ChildProcess =>
  spawn(process.execPath, [join(root, "dist/cli/main.js"), ...args], { env: { ...process.env, ...env }, stdio });

/** @param watch sees stdout as it grows, and may interrupt */
function ended(child: ChildProcess, watch?: (stdout: string, interrupt: () => void) => void): Promise<Ended> {
  const ended: Ended = { code: null, stdout: "", stderr: "" };
  child.stdout?.on("data", (data) => {
    ended.stdout += data;
    watch?.(ended.stdout, () => child.kill("SIGINT"));
  });
  child.stderr?.on("data", (data) => (ended.stderr += data));
  return new Promise((resolve) => child.on("close", (code) => resolve({ ...ended, code })));
}

/** Runs the command to its end. */
const kosmos2 = (args: string[], watch?: (stdout: string, interrupt: () => void) => void, env?: Record<string, string>): Promise<Ended> => ended(start(args, env), watch);

test("kosmos2 caption says in f32 what Hugging Face's own code says, ids, text and boxes", async () => {
  for (const prompt of new Set(cases.map((one) => one.prompt))) {
    const asked = cases.filter((one) => one.prompt === prompt);
    const { code, stdout, stderr } = await kosmos2(["caption", ...asked.map((one) => join(fixtures, "emoji", one.image)), "--prompt", prompt, "--dtype", "f32", "--max-new-tokens", "96", "--json"]);
    assert.deepEqual([code, stderr], [0, ""]);
    const lines = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(
      lines.map(({ newIds, generatedText, caption, stop, entities }) => ({ newIds, generatedText, caption, stop, entities: entities.map((one: { phrase: string; span: number[]; boxes: { normalized: number[] }[] }) => [one.phrase, one.span, one.boxes.map(({ normalized }) => normalized)]) })),
      asked.map((one) => ({ newIds: one.new_ids, generatedText: one.processed_text, caption: one.caption, stop: "eos", entities: one.entities })),
    );
  }
});

test("kosmos2 caption prints no colour when its output is a pipe, reports a bad picture on stderr and exits 1", async () => {
  const { code, stdout, stderr } = await kosmos2(["caption", keys, join(fixtures, "README.md"), rocket]);
  assert.equal(code, 1);
  assert.match(stdout, /two keys[\s\S]*a rocket/);
  assert.doesNotMatch(stdout, /\x1b/);
  assert.match(stderr, /^kosmos2: .*README\.md: Cannot [^\n]*\n$/);
});

test("kosmos2 caption - reads a picture from standard input, once, and stops waiting for it when interrupted", async () => {
  const out = join(folder, "stdin.png"), child = start(["caption", "-", rocket, "-", "--json", "--annotate", folder], {}, ["pipe", "pipe", "pipe"]);
  child.stdin!.end(readFileSync(keys));
  const { code, stdout, stderr } = await ended(child);
  assert.deepEqual([code, stderr], [0, ""]);
  const lines = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map(({ image, caption }) => [image, /two keys|a rocket/.exec(caption)![0]]), [["-", "two keys"], [rocket, "a rocket"], ["-", "two keys"]]);
  assert.deepEqual([...readFileSync(out).subarray(1, 4)].map((byte) => String.fromCharCode(byte)).join(""), "PNG");
  const waiting = start(["caption", rocket, "-"], {}, ["pipe", "pipe", "pipe"]);
  assert.equal((await ended(waiting, (_, interrupt) => interrupt())).code, 130);
});

test("kosmos2 goes on when nobody reads its stderr", async () => {
  const child = start(["caption", "none.png", keys]);
  child.stderr!.destroy();
  let stdout = "";
  child.stdout!.on("data", (data) => (stdout += data));
  assert.equal(await new Promise((resolve) => child.on("close", resolve)), 1); // none.png
  assert.match(stdout, /two keys/);
});

test("kosmos2 says that it could not write its results, but nothing when their reader went away", async () => {
  const child = start(["caption", keys, rocket, "--json"]);
  child.stdout!.destroy();
  let stderr = "";
  child.stderr!.on("data", (data) => (stderr += data));
  assert.deepEqual([await new Promise((resolve) => child.on("close", resolve)), stderr], [0, ""]);
  if (!existsSync("/dev/full")) return;
  const full = openSync("/dev/full", "w");
  const { code, stderr: said } = await ended(start(["caption", keys], {}, ["ignore", full, "pipe"]));
  closeSync(full);
  assert.equal(code, 1);
  assert.match(said, /^kosmos2: Cannot write the results: ENOSPC[^\n]*\n$/);
});

test("kosmos2 caption --annotate writes a PNG", async () => {
  const out = join(folder, "out.png");
  assert.equal((await kosmos2(["caption", keys, "--annotate", out])).code, 0);
  assert.deepEqual([...readFileSync(out).subarray(0, 8)], [137, 80, 78, 71, 13, 10, 26, 10]);
});

test("kosmos2 caption gives its first answer within a second, load included, and the next in less than 150 ms", async () => {
  let first = Infinity, second = Infinity; // the best of some tries: tests run side by side
  for (let tries = 0; tries < 10 && (first > 1000 || second > 150); tries++) {
    const begun = performance.now(), lines: number[] = [];
    const { code } = await kosmos2(["caption", keys, rocket, "--json"], (stdout) => {
      while (lines.length < stdout.split("\n").length - 1) lines.push(performance.now() - begun);
    });
    assert.equal(code, 0);
    first = Math.min(first, lines[0]);
    second = Math.min(second, lines[1] - lines[0]);
  }
  assert.ok(first < 1000 && second < 150, `${first.toFixed(0)} and ${second.toFixed(0)} ms`);
});

test("kosmos2 exits 130 when it is interrupted, without doing the rest", async () => {
  const many = new Array<string>(300).fill(keys);
  const { code, stdout, stderr } = await kosmos2(["caption", ...many, "--json"], (stdout, interrupt) => { if (stdout.includes("\n")) interrupt(); });
  assert.deepEqual([code, stderr], [130, ""]);
  assert.ok(stdout.split("\n").length < 100, "it went on");
});

test("kosmos2 exits 2 for wrong usage and says how it is used", async () => {
  const { code, stdout, stderr } = await kosmos2(["caption", keys, "--threads", "none"]);
  assert.deepEqual([code, stdout], [2, ""]);
  assert.match(stderr, /--threads takes a whole number from 1 up, not "none"\n\nkosmos2 caption IMAGE/);
});

test("kosmos2 doctor says what is used, for people and as JSON", async () => {
  assert.match((await kosmos2(["doctor"])).stdout, /^used +(plain|relaxed) SIMD, \d+ threads?, memory (not )?shared$/m);
  const { used, hugePages } = JSON.parse((await kosmos2(["doctor", "--json", "--threads", "1", "--no-shared"])).stdout);
  assert.deepEqual([used.threads, used.shared], [1, false]);
  const setting = "/sys/kernel/mm/transparent_hugepage/enabled";
  if (existsSync(setting)) assert.ok(readFileSync(setting, "utf8").includes(`[${hugePages}]`));
  else assert.equal(hugePages, undefined);
});

test("KOSMOS2_THREADS sets the number of threads", async () => {
  const { used } = JSON.parse((await kosmos2(["doctor", "--json"], undefined, { KOSMOS2_THREADS: "1" })).stdout);
  assert.equal(used.threads, 1);
  for (const wrong of ["abc", "0", "1.5"]) {
    const { reasons } = JSON.parse((await kosmos2(["doctor", "--json"], undefined, { KOSMOS2_THREADS: wrong })).stdout);
    assert.ok(reasons.some((reason: string) => reason.endsWith(`; KOSMOS2_THREADS is "${wrong}", not a whole number from 1`)), reasons.join());
  }
});

test("kosmos2 inspect says what is in a model and what memory it takes, for people and as JSON", async () => {
  const { code, stdout } = await kosmos2(["inspect", "kosmos2-emoji"]);
  assert.equal(code, 0);
  for (const line of [/^a checkpoint$/m, /^model\.safetensors +165 +8\.4 MB$/m, /^embeddings +1 +285,120 +F16 +570\.2 kB +291\.6 kB$/m, /^keys and values \(i16\) /m, /^all +\d+\.\d MB of /m]) assert.match(stdout, line);
  const one = await kosmos2(["inspect", "kosmos2-emoji", "--dtype", "f32", "--tokens", "64", "--json"]), two = await kosmos2(["inspect", "kosmos2-emoji", "--dtype", "f32", "--cache", "f16", "--tokens", "64", "--json"]);
  const [wide, half] = [one, two].map(({ stdout }) => JSON.parse(stdout).memory);
  assert.deepEqual([wide.dtype, wide.cache, half.cache, wide.fits], ["f32", "f32", "f16", true]);
  assert.equal(wide.cacheBytes - half.cacheBytes, 64 * 4 * 2 * 192 * 2); // a block of 64 tokens, 4 layers of keys and values, 192 wide, 2 bytes less each
});

test("kosmos2 verify finds the fixtures' model and captions and passes them in f32", async () => {
  const { code, stdout } = await kosmos2(["verify", fixtures, "--dtype", "fp32", "--json"]); // another name of f32, judged as it is
  const { ok, checks } = JSON.parse(stdout);
  assert.deepEqual(checks.filter((check: { failed: number }) => check.failed), []);
  assert.deepEqual([code, ok], [0, true]);
  const names = checks.map(({ name }: { name: string }) => name);
  for (const name of ["tiny/logits", "tiny/cached_decode", "tiny/greedy/ngram3_eos", "tiny/batch/left", "emoji/f32/ids"]) assert.ok(names.includes(name), name);
});

test("kosmos2 verify exits 1 and says where when something is out of its limit", async () => {
  const { code, stdout } = await kosmos2(["verify", fixtures, "--dtype", "i8", "--only", "tiny/text.layer.*"]);
  assert.equal(code, 1); // int8 is near, but not within an fp32 engine's limits
  assert.match(stdout, /tiny\/text\.layer\.1 +1 +1 .*[\s\S]*worst at \[0, \d+, \d+\]: found .*[\s\S]*OUT OF LIMITS: 2 cases/);
});

test("the demo captions a picture, prints its boxes and draws them", async () => {
  const child = spawn(process.execPath, [join(root, "demo/demo.mjs")], { stdio: ["ignore", "pipe", "inherit"], cwd: root });
  let out = "";
  child.stdout.on("data", (data) => (out += data));
  assert.equal(await new Promise((resolve) => child.on("close", resolve)), 0);
  assert.match(out, /^An image of a rocket, an apple and an umbrella on a gray background\.\n  a rocket: from \(\d+, \d+\) to \(\d+, \d+\)\n/);
  assert.deepEqual([...readFileSync(join(root, "demo/annotated.png")).subarray(0, 4)], [137, 80, 78, 71]);
});
