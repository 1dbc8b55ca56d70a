import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend } from "#src/backend/backend.js";
import type { Pass } from "#src/graph/recorder.js";
import { Passes } from "#src/passes.js";

/** Passes over a backend whose runs end when a test says so, what it holds, and whether it has room for more. */
function setUp() {
  const held = new Set<number>(), ends: (() => void)[] = [], state = { full: false };
  let last = 0;
  const memory = {
    alloc: () => {
      if (state.full) throw new RangeError("full");
      held.add((last += 4096));
      return last;
    },
    free: (address: number) => void assert.ok(held.delete(address)),
    write: () => {},
  };
  const backend = { ...memory, queues: true, run: () => new Promise<void>((resolve) => ends.push(resolve)) } as unknown as Backend;
  return { passes: new Passes(backend, memory), held, state, end: () => ends.shift()!() };
}

const pass = (arenaBytes: number): Pass => ({ arenaBytes, count: 1, kept: new Map(), at: () => new Uint8Array() });

test("an arena that must grow is given back when nothing goes on from what lies there", async () => {
  const { passes, held, end } = setUp();
  const first = passes.start("decode", pass(64), undefined), second = passes.start("decode", pass(64), undefined, first);
  end();
  await first.kept;
  const third = passes.start("decode", pass(1000), undefined, second); // where the first one's results are, which the second may not have read yet
  assert.equal(third.arena, first.arena);
  assert.ok(third.address !== first.address && held.has(first.address));
  end();
  end();
  await third.kept;
  await passes.quiet();
  assert.deepEqual([...held], [second.address, third.address]);
});

test("an arena that got no room holds nothing any more", async () => {
  const { passes, state, end } = setUp(), run = passes.start("decode", pass(64), undefined);
  end();
  await run.kept;
  assert.ok(passes.holds(run));
  state.full = true;
  assert.throws(() => passes.start("prefill", pass(1000), undefined), RangeError);
  assert.ok(!passes.holds(run));
  assert.ok(run.ended! <= performance.now());
  await passes.quiet(); // a pass that did not begin is not waited for
});
