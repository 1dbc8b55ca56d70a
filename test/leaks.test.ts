import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { root } from "./support.js";

/** Memory held after each round, in MB. */
async function curve(what: "captions" | "loads" | "kept", rounds: number, options = {}): Promise<number[]> {
  const { stdout } = await promisify(execFile)(process.execPath, ["--expose-gc", `${root}build/test/rounds.js`, what, String(rounds), JSON.stringify(options)]);
  return (JSON.parse(stdout) as number[]).map((bytes) => bytes / 1e6);
}

/**
 * How much more is held at the end than after round 5, as a share: the least of the last five rounds, since a thread that is just ending,
 * or an arena of the allocator, comes and goes.
 */
const growth = (held: readonly number[]) => Math.min(...held.slice(-5)) / held[4] - 1;
const shown = (held: readonly number[]) => `${held.filter((_, i) => (i + 1) % Math.ceil(held.length / 10) === 0).map((mb) => mb.toFixed(0)).join(" ")} MB`;

test("200 captions hold no more memory than 5 did, within 5 %", async (t) => {
  const held = await curve("captions", 200);
  t.diagnostic(shown(held));
  assert.ok(growth(held) < 0.05, shown(held));
});

for (const options of [{}, { dtype: "f32", threads: 1 }, { shared: false }]) {
  test(`20 rounds of loading and disposing hold no more memory than 5 did, within 5 % (${JSON.stringify(options)})`, async (t) => {
    const held = await curve("loads", 20, options);
    t.diagnostic(shown(held));
    assert.ok(growth(held) < 0.05, shown(held));
  });
}

test("a leak of 1 MiB a round would be seen", async () => {
  assert.ok(growth(await curve("kept", 20)) > 0.05);
});
