import assert from "node:assert/strict";
import { test } from "node:test";
import { Kosmos2Error } from "#src/errors.js";
import { bytesSource } from "#src/weights/files.js";
import { readHeader, type Dtype } from "#src/weights/safetensors.js";
import { random } from "../support.js";
import { writeSafetensors } from "./support.js";

/** A file with the given header text and number of data bytes. */
function file(header: string | object, data = 0): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const read = (bytes: Uint8Array) => readHeader(bytesSource(bytes), "m.safetensors");
const at = (dtype: string, shape: unknown, begin: number, end: number) => ({ dtype, shape, data_offsets: [begin, end] });

async function refuses(bytes: Uint8Array, words: RegExp, code = "weights-header-invalid"): Promise<void> {
  await assert.rejects(read(bytes), (error: unknown) => {
    assert.ok(error instanceof Kosmos2Error, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    return true;
  });
}

test("readHeader gives names, types, shapes and places in the file", async () => {
  const bytes = file({ __metadata__: { format: "pt" }, b: at("BF16", [], 5, 7), a: at("U8", [5, 1], 0, 5), empty: at("F32", [3, 0], 7, 7) }, 7);
  const { tensors, metadata } = await read(bytes);
  const data = bytes.length - 7;
  assert.deepEqual(metadata, { format: "pt" });
  assert.deepEqual(tensors.get("a"), { dtype: "U8", shape: [5, 1], start: data, end: data + 5 });
  assert.deepEqual(tensors.get("b"), { dtype: "BF16", shape: [], start: data + 5, end: data + 7 }, "an odd place is fine");
  assert.equal(tensors.size, 3);
});

test("readHeader refuses what can't be, naming the tensor", async () => {
  await refuses(new Uint8Array(7), /it is 7 bytes; wanted 8/, "weights-incomplete");
  await refuses(new Uint8Array(8), /its header is 0 bytes/);
  const long = file("{}"); new DataView(long.buffer).setBigUint64(0, 100_000_001n, true);
  await refuses(long, /header is 100000001 bytes/);
  new DataView(long.buffer).setBigUint64(0, 2n ** 64n - 1n, true);
  await refuses(long, /not a safetensors file/);
  new DataView(long.buffer).setBigUint64(0, 3n, true);
  await refuses(long, /it is 10 bytes; wanted 11: download it again/, "weights-incomplete");
  await refuses(file("{]"), /not JSON/);
  await refuses(file("[]"), /not a JSON object/);
  await refuses(file(Uint8Array.of(0x22, 0xff, 0x22).reduce((s, c) => s + String.fromCharCode(c), "")), /not a JSON object/);
  await refuses(file({ __metadata__: { a: 1 } }), /not an object of strings/);
  await refuses(file({ a: 3 }), /tensor "a": its entry is not an object/);
  await refuses(file({ a: at("F128", [1], 0, 16) }, 16), /its dtype is "F128"; wanted one of BOOL/);
  await refuses(file({ a: at("constructor", [1], 0, 16) }, 16), /its dtype is "constructor"/);
  await refuses(file({ a: at("F32", [-1], 0, 4) }, 4), /its shape is \[-1\]/);
  await refuses(file({ a: at("F32", [1.5], 0, 6) }, 6), /its shape is \[1.5\]/);
  await refuses(file({ a: at("F32", "1", 0, 4) }, 4), /its shape is "1"/);
  await refuses(file({ a: at("F32", [2 ** 30, 2 ** 30], 0, 4) }, 4), /lies in 4 bytes; wanted a size that can be counted/);
  await refuses(file({ a: at("F4", [3], 0, 2) }, 2), /wanted a size that can be counted/);
  await refuses(file({ a: at("F32", [2], 0, 4) }, 4), /F32 \[2\] lies in 4 bytes; wanted 8/);
  await refuses(file({ a: at("F32", [1], 4, 0) }, 4), /its data_offsets are \[4,0\]/);
  await refuses(file({ a: { dtype: "F32", shape: [1], data_offsets: [0] } }, 4), /its data_offsets are \[0\]/);
  await refuses(file({ a: at("F32", [1], 0, 4), b: at("F32", [1], 2, 6) }, 6), /tensor "b": it begins at byte 2 of the data; wanted 4/);
  await refuses(file({ a: at("F32", [1], 0, 4), b: at("F32", [1], 8, 12) }, 12), /tensor "b": it begins at byte 8 of the data; wanted 4/);
  await refuses(file({ a: at("F32", [1], 1, 5) }, 5), /begins at byte 1 of the data; wanted 0/);
  await refuses(file({ a: at("F32", [1], 0, 4) }, 5), /wanted \d+, where the last tensor ends/);
  await refuses(file({ a: at("F32", [2], 0, 8) }, 7), /download it again/, "weights-incomplete");
  await refuses(file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}', 8), /begins at byte 4/);
});

test("readHeader either refuses a damaged file or gives places inside it, each the size of its shape", async () => {
  const good = writeSafetensors([
    { name: "a", dtype: "F32", shape: [3, 2], data: new Uint8Array(24) },
    { name: "b.weight", dtype: "F16", shape: [5], data: new Uint8Array(10) },
    { name: "c", dtype: "BF16", shape: [1, 1, 7], data: new Uint8Array(14) },
  ], { format: "pt" });
  const size = { F32: 4, F16: 2, BF16: 2, F64: 8, I64: 8, U8: 1 } as Partial<Record<Dtype, number>>;
  const spice = [0, 255, ...'{}[]",:0123456789-.eE\\ \ntrue'].map((c) => (typeof c === "number" ? c : c.charCodeAt(0)));
  const numbers = random(60000, 7);
  let next = 0, accepted = 0;
  const below = (n: number) => Math.floor(((numbers[next++ % numbers.length] + 1) / 2) * n) % n;
  for (let round = 0; round < 4000; round++) {
    let bytes = good.slice();
    for (let change = below(3) + 1; change > 0; change--) {
      const place = below(Math.min(bytes.length, 330));
      const what = below(4);
      if (what === 0) bytes[place] = spice[below(spice.length)];
      else if (what === 1) bytes[place] ^= 1 << below(8);
      else if (what === 2) bytes = bytes.slice(0, below(bytes.length + 1));
      else bytes = Uint8Array.of(...bytes.subarray(0, place), spice[below(spice.length)], ...bytes.subarray(place));
      if (bytes.length === 0) break;
    }
    try {
      const { tensors } = await read(bytes);
      accepted++;
      for (const [, { dtype, shape, start, end }] of tensors) {
        assert.ok(start >= 8 && end <= bytes.length);
        if (size[dtype]) assert.equal(end - start, shape.reduce((a, b) => a * b, size[dtype]!));
      }
    } catch (error) {
      assert.ok(error instanceof Kosmos2Error, `round ${round}: ${String(error)}`);
    }
  }
  assert.ok(accepted > 20 && accepted < 3500, `${accepted} accepted`); // some changes only hit a name or the numbers
});

test("writeSafetensors writes what readHeader reads, the numbers at a multiple of 8", async () => {
  const bytes = writeSafetensors([
    { name: "one", dtype: "F32", shape: [2], data: new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]) },
    { name: "__proto__", dtype: "U8", shape: [1], data: new Uint8Array([9]) },
  ]);
  const { tensors } = await read(bytes);
  const { start, end } = tensors.get("one")!;
  assert.equal(start % 8, 0);
  assert.deepEqual([...bytes.subarray(start, end)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.equal(bytes[tensors.get("__proto__")!.start], 9);
});
