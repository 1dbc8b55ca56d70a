import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Kosmos2Config } from "kosmos2-wasm";
import { root } from "../support.js";
import { bars, type Row } from "./bars.js";

test("what npm run test:real measures holds of a small model too, as far as it does not depend on size", { timeout: 240_000, skip: process.platform !== "linux" && "needs /proc" }, async (t) => {
  const cache = mkdtempSync(join(tmpdir(), "kosmos2-real-")), rows: Row[] = [];
  try {
    for await (const row of bars({
      cache, config: await Kosmos2Config.fromPretrained("kosmos2-emoji"), shards: 3, processor: "kosmos2-emoji", reference: `${root}test/real/small.safetensors`,
      kills: 4, seed: Date.now() % 2 ** 31, keep: false, released: false, blockBytes: 20_000, fileBytes: 1_000_000, log: () => {},
    })) {
      t.diagnostic(`${row.bar}: ${row.got} (${row.want})`);
      rows.push(row);
    }
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
  assert.deepEqual(rows.filter(({ ok }) => ok === false), []);
  assert.ok(rows.filter(({ ok }) => ok).length >= 10);
});
