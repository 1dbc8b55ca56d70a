import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { activationCode, BLOCK, EIGHT, formats, GROUP, kinds, layouts, limits, RECORD_BYTES, SCRATCH, SHARED, types, writeRecord, type Kind } from "#src/graph/record.js";
import { root } from "../support.js";

const source = readFileSync(`${root}assembly/record.ts`, "utf8").replace(/\/\*[^]*?\*\//g, "");

function namespace(name: string): Record<string, number> {
  const body = new RegExp(`namespace ${name} \\{([^}]*)\\}`).exec(source)![1]!;
  return Object.fromEntries([...body.matchAll(/const (\w+): u32 = (\d+);/g)].map(([, key, value]) => [key, Number(value)]));
}

/** Fields of a class: name → AssemblyScript type, in order. */
function fields(name: string): [string, string][] {
  const body = new RegExp(`class ${name} extends Record \\{([^}]*)\\}`).exec(source)![1]!;
  return [...body.matchAll(/(\w+): (\w+);/g)].map(([, field, type]) => [field!, type!]);
}

const constant = (name: string) => Number(new RegExp(`const ${name}: \\w+ = (\\d+);`).exec(source)![1]);

test("kinds, formats, types and sizes of record.ts are those of assembly/record.ts", () => {
  assert.deepEqual({ ...kinds }, namespace("Kind"));
  assert.deepEqual({ ...formats }, namespace("Format"));
  assert.deepEqual({ ...limits }, namespace("Limits"));
  assert.deepEqual({ ...types }, namespace("Type"));
  assert.deepEqual([RECORD_BYTES, GROUP, SHARED, BLOCK, SCRATCH, EIGHT], ["RECORD_BYTES", "GROUP", "SHARED", "BLOCK", "SCRATCH", "EIGHT"].map(constant));
});

const classOf = (kind: Kind) => {
  if (kind.startsWith("matmul_")) return "Matmul";
  if (kind.startsWith("store_")) return "Store";
  if (kind.startsWith("quantize")) return "Quantize";
  return kind.replace(/(?:^|_)(\w)/g, (_, first: string) => first.toUpperCase());
};

for (const kind of Object.keys(kinds) as Kind[]) {
  test(`the record of ${kind} has the words of its class in assembly/record.ts, in their order`, () => {
    const here = Object.entries(layouts[kind]).map(([name, word]) => [name, word.startsWith("address") ? "usize" : word.replace("?", "")]);
    assert.deepEqual(here, fields(classOf(kind)));
    assert.ok((here.length + 1) * 4 <= RECORD_BYTES - 12, "the last three words are what threads take, and whether they go on");
  });
}

test("writeRecord writes words of their type in place, and 0 for what is left out", () => {
  const view = new DataView(new ArrayBuffer(2 * RECORD_BYTES));
  writeRecord(view, 1, "layernorm", { x: 0x90000000, ldd: 0, ldx: -1, gamma: 3, beta: 4, M: 5, D: 6, eps: 0.5, ldq: 7 });
  const at = RECORD_BYTES;
  assert.equal(view.getUint32(at, true), kinds.layernorm);
  assert.deepEqual([view.getUint32(at + 4, true), view.getUint32(at + 12, true), view.getInt32(at + 16, true)], [0, 0x90000000, -1]);
  assert.equal(view.getFloat32(at + 36, true), 0.5);
  assert.equal(view.getInt32(at + 44, true), 7);
});

test("activationCode gives synonyms the same code and linear 0", () => {
  assert.deepEqual((["linear", "gelu", "gelu_python", "swish"] as const).map(activationCode), [0, 1, 1, 4]);
});
