import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { verifyProcessor, type CaseReport } from "#src/cli/verify/processor.js";
import { fixtures, goldens, noGoldens } from "../support.js";

function allEqual(t: TestContext, reports: CaseReport[], least: number, skips: number): void {
  assert.deepEqual(reports.map(({ name }) => name), ["encode", "decode", "prompts", "postprocess", "boxes: encode", "boxes: decode"]);
  for (const { name, cases, failed, skipped, messages } of reports) {
    t.diagnostic(`${name}: ${cases - failed - skipped} of ${cases} equal, ${skipped} skipped`);
    assert.equal(failed, 0, messages.slice(0, 20).join("\n"));
    assert.ok(cases >= least, `${name} has only ${cases} cases`);
    assert.ok(skipped <= (name === "prompts" ? skips : 0), messages.join("\n"));
  }
}

test("the processor gives Hugging Face's ids, texts, prompts, entities and boxes in every golden case", { skip: noGoldens }, async (t) =>
  allEqual(t, await verifyProcessor(goldens), 200, 4));

test("the processor gives Hugging Face's results in every fixture, with the tokenizer of kosmos2-emoji", async (t) =>
  allEqual(t, await verifyProcessor(fixtures, "kosmos2-emoji"), 10, 0));
