import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { root } from "./support.js";

/**
 * Memory held after each round, in MB. Two allocators that take more when they see fit, and once it is taken may keep it, are held to what
 * they need: V8's young generation, which doubles mostly once between rounds 1 and 20 (10 to 20 MB more are resident while what is used
 * stays at 8 to 9 MB), and glibc, which gives each new thread one of many arenas (15 MB that come, and often go, at any round).
 */
async function curve(what: "captions" | "loads" | "kept", rounds: number, options = {}): Promise<number[]> {
  const args = ["--expose-gc", "--max-semi-space-size=1", `${root}build/test/rounds.js`, what, String(rounds), JSON.stringify(options)];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: { ...process.env, MALLOC_ARENA_MAX: "1" } });
  return (JSON.parse(stdout) as number[]).map((bytes) => bytes / 1e6);
}

/** How much more is held at the end than after round 5, as a share: the least of the last five rounds, since a thread may just be ending. */
const growth = (held: readonly number[]) => Math.min(...held.slice(-5)) / held[4] - 1;
const shown = (held: readonly number[]) => `${held.filter((_, i) => (i + 1) % Math.ceil(held.length / 10) === 0).map((mb) => mb.toFixed(0)).join(" ")} MB`;

/** A leak shows every time; that compiled code takes its pages after round 5 instead of before does not: a curve that grows is measured again, twice at most. */
async function staysFlat(t: TestContext, what: "captions" | "loads", rounds: number, options = {}): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const held = await curve(what, rounds, options);
    t.diagnostic(shown(held));
    if (growth(held) < 0.05) return;
    assert.ok(attempt < 3, `it grew three times: ${shown(held)}`);
  }
}

test("200 captions hold no more memory than 5 did, within 5 %", (t) => staysFlat(t, "captions", 200));

for (const options of [{}, { dtype: "f32", threads: 1 }, { shared: false }]) {
  test(`20 rounds of loading and disposing hold no more memory than 5 did, within 5 % (${JSON.stringify(options)})`, (t) =>
    staysFlat(t, "loads", 20, options));
}

test("a leak of 1 MiB a round would be seen", async () => {
  assert.ok(growth(await curve("kept", 20)) > 0.05);
});
