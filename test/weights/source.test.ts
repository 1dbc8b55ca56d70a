import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { readText } from "#src/weights/files.js";
import { openModel, type ModelSource } from "#src/weights/source.js";

const folder = mkdtempSync(join(tmpdir(), "kosmos2-source-"));
writeFileSync(join(folder, "config.json"), "{}");
writeFileSync(join(folder, "numbers"), Uint8Array.from({ length: 1000 }, (_, i) => i));
after(() => rmSync(folder, { recursive: true }));

// Nothing here may reach for the network.
const offline = { localFilesOnly: true, cacheDir: join(folder, "none") };
const codeOf = (source: unknown): Promise<string> =>
  openModel(source as ModelSource, offline).then((files) => `opened ${files.name}`, (error: { code: string }) => error.code);

test("openModel judges a source by its form, never by what exists", async () => {
  assert.equal(await codeOf("kosmos2-emoji"), "opened kosmos2-emoji");
  for (const path of ["./none", "../none", "/none/at/all", "C:\\none", "c:/none", ".\\none", "file:///none"])
    assert.equal(await codeOf(path), "model-not-found", path);
  for (const id of ["microsoft/kosmos-2-patch14-224", "src/weights"]) assert.equal(await codeOf(id), "hub-offline", id);
  for (const url of ["https://example.org/model/", new URL("http://example.org/")]) assert.equal(await codeOf(url), `opened ${url}`);
  for (const neither of ["", "model", "a/b/c", "kosmos2-emoji/", "org/../name", "ftp://example.org", 3, null, undefined])
    assert.equal(await codeOf(neither), "model-source-invalid", String(neither));
  assert.equal(await codeOf("HTTP://[bad"), "model-source-invalid");
  await assert.rejects(openModel("model"), /a folder's path begins with "\.\/"/);
});

test("openModel opens a folder by its path and by its file: URL", async () => {
  for (const source of [folder, pathToFileURL(folder), pathToFileURL(folder).href]) {
    const files = await openModel(source);
    assert.equal(await readText(files, "config.json"), "{}");
    assert.equal(await readText(files, "generation_config.json"), undefined);
    assert.deepEqual([...(await files.list!())].sort(), ["config.json", "numbers"]);
  }
  await assert.rejects(openModel(join(folder, "config.json")), /it is a file; pass the folder that it lies in/);
});

test("a model's files are those of its folder: paths that lead elsewhere are refused", async () => {
  const files = await openModel(folder);
  for (const file of ["../config.json", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "C:x", "a\0"])
    await assert.rejects(files.open(file), { code: "path-refused" }, file);
  await assert.rejects(openModel({ "a/config.json": new Uint8Array() }), { code: "model-source-invalid" });
});

test("a file is read in place, also into shared memory, and says when it ends early", async () => {
  for (const files of [await openModel(folder), await openModel({ numbers: Uint8Array.from({ length: 1000 }, (_, i) => i) }),
    await openModel([new File([Uint8Array.from({ length: 1000 }, (_, i) => i)], "numbers")])]) {
    const source = (await files.open("numbers"))!;
    assert.equal(source.size, 1000);
    for (const buffer of [new ArrayBuffer(64), new SharedArrayBuffer(64)]) {
      const into = new Uint8Array(buffer, 8, 16);
      await source.read(into, 300);
      assert.deepEqual([...new Uint8Array(buffer, 7, 18)], [0, ...Array.from({ length: 16 }, (_, i) => (300 + i) % 256), 0]);
    }
    await assert.rejects(source.read(new Uint8Array(16), 990), RangeError);
    await assert.rejects(source.read(new Uint8Array(16), 0, AbortSignal.abort("stopped")), (reason) => reason === "stopped");
    await source.close();
  }
});

test("of given files with one name the one nearest to the root is taken", async () => {
  const file = (text: string, value: string): File => Object.defineProperty(new File([text], "config.json"), "webkitRelativePath", { value });
  const files = await openModel([file("deep", "m/old/config.json"), file("root", "m/config.json"), file("deeper", "m/a/b/config.json")]);
  assert.equal(await readText(files, "config.json"), "root");
});
