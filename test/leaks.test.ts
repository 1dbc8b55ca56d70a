import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { root } from "./support.js";

/**
 * Memory held after each round, in MB. V8's young generation stays as small as it can be: left alone it doubles when it sees fit, mostly once
 * between rounds 1 and 20, and 10 to 20 MB more are resident while what is used stays the same (heapTotal 18 → 28 → 45 MB, heapUsed 8 → 9).
 */
async function curve(what: "captions" | "loads" | "kept", rounds: number, options = {}): Promise<number[]> {
  const { stdout } = await promisify(execFile)(process.execPath, ["--expose-gc", "--max-semi-space-size=1", `${root}build/test/rounds.js`, what, String(rounds), JSON.stringify(options)]);
  return (JSON.parse(stdout) as number[]).map((bytes) => bytes / 1e6);
}

/** How much more is held at the end than after round 5, as a share: the least of the last five rounds, since a thread may just be ending. */
const growth = (held: readonly number[]) => Math.min(...held.slice(-5)) / held[4] - 1;
const shown = (held: readonly number[]) => `${held.filter((_, i) => (i + 1) % Math.ceil(held.length / 10) === 0).map((mb) => mb.toFixed(0)).join(" ")} MB`;

async function staysFlat(t: TestContext, what: "captions" | "loads", rounds: number, options = {}): Promise<void> {
  const held = await curve(what, rounds, options);
  t.diagnostic(shown(held));
  assert.ok(growth(held) < 0.05, `it grew: ${shown(held)}`);
}

test("200 captions hold no more memory than 5 did, within 5 %", (t) => staysFlat(t, "captions", 200));

for (const options of [{}, { dtype: "f32", threads: 1 }, { shared: false }]) {
  test(`20 rounds of loading and disposing hold no more memory than 5 did, within 5 % (${JSON.stringify(options)})`, (t) =>
    staysFlat(t, "loads", 20, options));
}

test("a leak of 1 MiB a round would be seen", async () => {
  assert.ok(growth(await curve("kept", 20)) > 0.05);
});
