import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { Kosmos2Error } from "kosmos2-wasm";
import { openWebFolder } from "#src/hub/folder.js";
import { bytes, quick } from "./support.js";

/** A plain web server with one folder, `/models/a b/`. */
async function serve(options: { ranges?: boolean; cuts?: number; change?: boolean } = {}) {
  const files: Record<string, Uint8Array> = { "config.json": new TextEncoder().encode("{}"), "empty.bin": new Uint8Array(0), "model.safetensors": bytes(3_500_000, 4) };
  const asked: string[] = [];
  let { cuts = 0 } = options;
  const server = createServer((request, response) => {
    const url = new URL(request.url!, "http://x");
    asked.push(`${url.pathname}${url.search} ${request.headers.range ?? ""}`);
    const file = files[decodeURIComponent(/^\/models\/a%20b\/(.*)$/.exec(url.pathname)?.[1] ?? "")];
    if (!file) return void response.writeHead(404).end("no");
    const range = options.ranges === false ? null : /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const from = range ? Number(range[1]) : 0, to = range ? Math.min(Number(range[2]) + 1, file.length) : file.length;
    if (range && from >= file.length) return void response.writeHead(416).end();
    response.writeHead(range ? 206 : 200, {
      etag: options.change ? `"${asked.length}"` : '"same"', "content-length": to - from, ...(range && { "content-range": `bytes ${from}-${to - 1}/${file.length}` }),
    });
    if (cuts-- > 0) response.write(file.subarray(from, from + (to - from) / 2), () => response.socket!.destroy());
    else response.end(file.subarray(from, to));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/models/a%20b`, files, asked,
    async [Symbol.asyncDispose]() { server.closeAllConnections(); await new Promise((resolve) => server.close(resolve)); },
  };
}

for (const [how, options, suffix] of [["", {}, ""], [", a slash and a query", {}, "/?key=1"], [", without ranges", { ranges: false }, ""], [", cut three times", { cuts: 3 }, ""]] as const)
  test(`openWebFolder reads a folder's files in place${how}`, async () => {
    await using t = await serve(options);
    const folder = await openWebFolder(t.url + suffix, { tuning: quick });
    for (const name of Object.keys(t.files)) {
      const source = (await folder.open(name))!, all = new Uint8Array(source.size);
      await source.read(all, 0);
      assert.equal(Buffer.compare(all, t.files[name]), 0, name);
      await source.close();
    }
    assert.equal(await folder.open("missing.json"), undefined);
    if (suffix) for (const line of t.asked) assert.match(line, /\?key=1 /);
  });

test("openWebFolder asks for no byte twice when a file is read in small steps, front to back", async () => {
  await using t = await serve();
  const source = (await (await openWebFolder(t.url, { tuning: quick })).open("model.safetensors"))!;
  for (let at = 0; at + 1000 < source.size; at += 1000) {
    const piece = new Uint8Array(1000);
    await source.read(piece, at);
    assert.equal(Buffer.compare(piece, t.files["model.safetensors"].subarray(at, at + 1000)), 0);
  }
  assert.equal(t.asked.length, 4); // 3.5 MB by 1 MiB
  await assert.rejects(source.read(new Uint8Array(10), source.size - 5), RangeError);
});

test("openWebFolder says so when a file changes between two reads", async () => {
  await using t = await serve({ change: true });
  const source = (await (await openWebFolder(t.url, { tuning: quick })).open("model.safetensors"))!;
  await assert.rejects(source.read(new Uint8Array(2_000_000), 1_000_000), (error) => error instanceof Kosmos2Error && error.code === "hub-integrity");
});

test("openWebFolder says that nobody answers, and refuses names that lead elsewhere", async () => {
  const folder = await openWebFolder("http://127.0.0.1:9/", { tuning: { ...quick, retries: 1 } });
  await assert.rejects(folder.open("config.json"), (error) => error instanceof Kosmos2Error && error.code === "hub-unreachable");
  await assert.rejects(folder.open("../config.json"), (error) => error instanceof Kosmos2Error && error.code === "path-refused");
});
