import assert from "node:assert/strict";
import { test } from "node:test";
import { Pace } from "#src/generate/pace.js";

test("Pace takes rows for cheap until it has seen three passes of them", () => {
  const pace = new Pace();
  assert.ok(pace.cost(2) < 1.5 * pace.cost(1));
  for (let i = 0; i < 3; i++) pace.note(1, 10);
  pace.note(2, 30);
  pace.note(2, 30);
  assert.ok(pace.cost(2) < 15);
  pace.note(2, 30);
  assert.deepEqual([pace.cost(1), pace.cost(2)], [10, 30]);
  assert.ok(pace.cost(3) > 30);
});

test("Pace believes a fast pass sooner than a slow one, and forgets what was long ago", () => {
  const pace = new Pace();
  for (let i = 0; i < 3; i++) pace.note(2, 20);
  pace.note(2, 200);
  assert.ok(pace.cost(2) < 30);
  for (let i = 0; i < 3; i++) pace.note(2, 10);
  assert.ok(pace.cost(2) < 13);
  for (let i = 0; i < 300; i++) pace.note(1, 10);
  assert.ok(pace.cost(2) > 12.9 && pace.cost(2) < 13.1); // as if never measured
});
