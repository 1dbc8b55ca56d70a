import assert from "node:assert/strict";
import { test } from "node:test";
import { bannedByNgrams } from "#src/generate/ngram.js";
import { random } from "../support.js";

test("bannedByNgrams forbids what followed the last n − 1 ids before, image places included", () => {
  const prompt = [0, 64003, ...Array.from({ length: 64 }, (_, i) => 4 + i), 64004, 64012];
  assert.deepEqual(bannedByNgrams([...prompt, 4, 5], 3), [6]);
  assert.deepEqual(bannedByNgrams([...prompt, 65, 66], 3), [67]);
  assert.deepEqual(bannedByNgrams([...prompt, 66, 67], 3), [64004]);
  assert.deepEqual(bannedByNgrams([...prompt, 712, 1648], 3), []);
});

test("bannedByNgrams is off for 0, and for texts shorter than n", () => {
  assert.deepEqual(bannedByNgrams([1, 1, 1], 0), []);
  assert.deepEqual(bannedByNgrams([1, 1], 3), []);
  assert.deepEqual(bannedByNgrams([5, 7], 1).sort(), [5, 7]);
});

test("bannedByNgrams equals a search for every n-gram, on random texts", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const n = 1 + (seed % 4);
    const ids = [...random(3 + (seed % 40), seed)].map((r) => Math.floor((r + 1) * 3));
    const grams = new Set(ids.map((_, i) => ids.slice(i, i + n).join()).filter((gram) => gram.split(",").length === n));
    const wanted = Array.from({ length: 7 }, (_, id) => id).filter((id) => grams.has([...ids.slice(ids.length - n + 1, ids.length), id].join()) && ids.length >= n);
    assert.deepEqual(bannedByNgrams(ids, n).sort(), wanted, `${ids} with n = ${n}`);
  }
});
