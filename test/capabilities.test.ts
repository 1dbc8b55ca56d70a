import assert from "node:assert/strict";
import { test } from "node:test";
import { capabilities } from "kosmos2-wasm";
import { engines } from "./kernels/machine.js";

test("capabilities tries out how much w8a8 would gain here, and says it in a sentence", async () => {
  for (const engine of engines) {
    const { w8a8Speedup, reasons, used } = await capabilities({ engine, shared: false });
    assert.equal(used.engine, engine);
    // two multiplications of a vector for one at the most, or an eighth of the instructions: more would be a clock that went wrong
    assert.ok(w8a8Speedup > 1 / 3 && w8a8Speedup < 8, `${engine}: ${w8a8Speedup}`);
    assert.match(reasons.at(-1)!, new RegExp(`^dtype w8a8 would (not pay, it would )?be about ${w8a8Speedup.toFixed(1).replace(".", "\\.")}× as fast here`));
    assert.equal(reasons.at(-1)!.includes("not pay"), w8a8Speedup < 1.5);
    if (engine === "plain") assert.match(reasons.at(-1)!, /without relaxed SIMD/);
  }
});

test("capabilities refuses options that it does not know", async () => {
  await assert.rejects(capabilities({ thread: 2 } as never), { code: "option-unknown", message: /option thread: known are threads, / });
  for (const options of [null, { workerFactory: 5 }] as never[]) await assert.rejects(capabilities(options), { code: "option-invalid" });
});

test("capabilities is aborted with the signal's reason", async () => {
  const reason = new Error("enough");
  await assert.rejects(capabilities({ signal: AbortSignal.abort(reason) }), reason);
});
