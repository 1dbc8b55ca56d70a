import assert from "node:assert/strict";
import { test } from "node:test";
import { verifyProcessor } from "#src/cli/verify/processor.js";
import { goldens, noGoldens } from "../support.js";

test("the processor gives Hugging Face's ids, texts, prompts, entities and boxes in every golden case", { skip: noGoldens }, async (t) => {
  const reports = await verifyProcessor(goldens);
  for (const { name, cases, failed, skipped, messages } of reports) {
    t.diagnostic(`${name}: ${cases - failed - skipped} of ${cases} equal, ${skipped} skipped`);
    assert.ok(cases > 100, `${name} has only ${cases} cases`);
    assert.equal(failed, 0, messages.slice(0, 20).join("\n"));
  }
  assert.equal(reports.length, 6);
  assert.ok(reports.reduce((sum, { skipped }) => sum + skipped, 0) <= 4);
});
