import assert from "node:assert/strict";
import { test } from "node:test";
import { Kosmos2Error } from "kosmos2-wasm";

test("Kosmos2Error carries its code, kind, details and cause", () => {
  const cause = new Error("disk");
  const error = new Kosmos2Error("weights-incomplete", "load", "Cannot load", { tensor: "a" }, cause);
  assert.deepEqual([error.code, error.kind, error.details.tensor, error.cause, error.name], ["weights-incomplete", "load", "a", cause, "Kosmos2Error"]);
});
