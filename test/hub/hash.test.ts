import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { createHasher } from "#src/hub/hash.js";
import { bytes } from "./support.js";

for (const name of ["sha1", "sha256"] as const)
  test(`createHasher("${name}") equals Node's at every length around its blocks, however it is fed`, () => {
    for (const length of [0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 127, 128, 129, 1000, 100_003])
      for (const step of [length || 1, 1 + (length >> 2), 63, 64, 65]) {
        const data = bytes(length, length + 1), hasher = createHasher(name);
        for (let at = 0; at < length; at += step) hasher.update(data.subarray(at, Math.min(at + step, length)));
        assert.equal(hasher.hex(), createHash(name).update(data).digest("hex"), `${length} bytes by ${step}`);
      }
  });
