import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import sharp from "sharp";
import { verifyImages } from "#src/cli/verify/images.js";
import { Kosmos2Error } from "#src/errors.js";
import { drawnPicture } from "#src/platform/web/images.js";
import { decode, readHeader, type ImageInput } from "#src/processor/decode.js";
import { goldens, noGoldens, random, root } from "../support.js";
import { ascii, big, bmp, gif, joined, little, png } from "./pictures.js";

const bytesOf = (length: number, seed = 1): Uint8Array => new Uint8Array(Int16Array.from(random(length, seed), (v) => 128 + 128 * v));
/** Decoded pixels as R G B, whatever the decoder's channels. */
async function rgb(image: ImageInput, options = {}): Promise<number[]> {
  const { width, height, channels, data } = await decode(image, options);
  assert.equal(data.length, width * height * channels);
  return Array.from({ length: width * height * 3 }, (_, i) => data[Math.floor(i / 3) * channels + (channels === 1 ? 0 : i % 3)]);
}
const refusal = (code: string, pattern = /./) => (error: unknown): true => {
  assert.ok(error instanceof Kosmos2Error, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, pattern);
  return true;
};

test("decode of PNG drops alpha and keeps the colours that it hides", async () => {
  const rgba = bytesOf(5 * 4 * 4).map((v, i) => (i % 8 === 3 ? 0 : v)); // every second pixel is transparent
  assert.deepEqual(await rgb(png(5, 4, 8, 6, rgba)), [...rgba].filter((_, i) => i % 4 < 3));
  const grey = bytesOf(24, 2);
  assert.deepEqual(await rgb(png(4, 3, 8, 4, grey)), [...grey].filter((_, i) => i % 2 === 0).flatMap((v) => [v, v, v]));
});

test("decode of PNG follows Pillow for palettes, few bits and many", async () => {
  const palette = Uint8Array.of(9, 8, 7, 100, 110, 120, 200, 0, 50);
  assert.deepEqual(await rgb(png(4, 1, 8, 3, Uint8Array.of(0, 1, 2, 1), { palette, hidden: Uint8Array.of(255, 0, 128) })), [9, 8, 7, 100, 110, 120, 200, 0, 50, 100, 110, 120]);
  assert.deepEqual((await rgb(png(4, 1, 2, 0, Uint8Array.of(0b00011011)))).filter((_, i) => i % 3 === 0), [0, 85, 170, 255]);
  assert.deepEqual((await rgb(png(4, 1, 1, 0, Uint8Array.of(0b01100000)))).filter((_, i) => i % 3 === 1), [0, 255, 255, 0]);
  const sixteen = (values: number[]) => Uint8Array.from(values.flatMap((v) => [v >> 8, v & 255]));
  assert.deepEqual((await rgb(png(5, 1, 16, 0, sixteen([0, 17, 254, 255, 65535])))).filter((_, i) => i % 3 === 2), [0, 17, 254, 255, 255], "greys saturate");
  assert.deepEqual(await rgb(png(2, 1, 16, 2, sixteen([0x1234, 0xff00, 0x00ff, 0x8080, 0x7fff, 0xffff]))), [0x12, 0xff, 0, 0x80, 0x7f, 0xff], "colours lose their low byte");
});

test("decode turns encoded pictures as EXIF says, unless told not to", async () => {
  const data = bytesOf(3 * 2 * 3, 4), at = (x: number, y: number) => [...data.subarray((y * 3 + x) * 3, (y * 3 + x) * 3 + 3)];
  const turned = png(3, 2, 8, 2, data, { orientation: 6 }); // a quarter clockwise
  const upright = await decode(turned);
  assert.deepEqual([upright.width, upright.height], [2, 3]);
  assert.deepEqual(await rgb(turned), [at(0, 1), at(0, 0), at(1, 1), at(1, 0), at(2, 1), at(2, 0)].flat());
  assert.deepEqual(await rgb(turned, { exif: false }), [...data]);
});

test("decode ignores colour profiles", async () => {
  const data = bytesOf(8 * 8 * 3, 5), raw = { width: 8, height: 8, channels: 3 as const };
  const profiled = await sharp(data, { raw }).withIccProfile("p3", { attach: true }).png().toBuffer();
  assert.ok((await sharp(profiled).metadata()).icc, "the picture has a profile");
  const { data: stored } = await sharp(profiled, { ignoreIcc: true }).raw().toBuffer({ resolveWithObject: true });
  assert.deepEqual(await rgb(profiled), [...stored]);
  const { data: shown } = await sharp(profiled).raw().toBuffer({ resolveWithObject: true });
  assert.notDeepEqual([...shown], [...stored], "the profile would have changed something");
});

test("decode reads CMYK JPEG in Pillow's way", async () => {
  const data = bytesOf(16 * 16 * 3, 6), jpeg = await sharp(data, { raw: { width: 16, height: 16, channels: 3 } }).toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer();
  assert.equal(readHeader(jpeg).kind, "cmyk");
  const { data: inks } = await sharp(jpeg).pipelineColourspace("cmyk").toColourspace("cmyk").raw().toBuffer({ resolveWithObject: true });
  const wanted = Array.from({ length: 768 }, (_, i) => {
    const white = 255 - inks[Math.floor(i / 3) * 4 + 3];
    return white - Math.round((inks[Math.floor(i / 3) * 4 + (i % 3)] * white) / 255);
  });
  assert.deepEqual(await rgb(jpeg), wanted);
});

const colours = [10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 210, 220], colour = (i: number) => (i < 4 ? colours.slice(3 * i, 3 * i + 3) : [0, 0, 0]);

test("decode of GIF keeps what transparency hides and puts frames where they belong", async () => {
  assert.deepEqual(await rgb(gif({ width: 2, height: 2 }, [0, 1, 2, 3], colours, { transparent: 2 })), colours);
  assert.deepEqual(await rgb(gif({ width: 1, height: 1, x: 1 }, [2], colours, { screen: [3, 1] })), [0, 2, 0].flatMap(colour), "colour 0 lies around");
  assert.deepEqual(await rgb(gif({ width: 1, height: 1, x: 1 }, [2], colours, { screen: [3, 1], transparent: 3 })), [3, 2, 3].flatMap(colour), "or the transparent one");
  assert.deepEqual(await rgb(gif({ width: 3, height: 1 }, [1, 2, 3], colours, { screen: [1, 1] })), [1, 2, 3].flatMap(colour), "a frame enlarges the screen");
  assert.deepEqual(await rgb(gif({ width: 2, height: 1 }, [1, 7], colours, { bits: 3 })), [1, 7].flatMap(colour), "there is black past the palette");
  assert.deepEqual(await rgb(gif({ width: 2, height: 1 }, [1, 3], colours, { own: colours.map((v) => v + 1) })), [41, 51, 61, 201, 211, 221], "its own palette counts");
  assert.deepEqual(await rgb(gif({ width: 2, height: 1 }, [1, 3], [])), [1, 1, 1, 3, 3, 3], "no palette is a ramp of greys");
  const rows = [0, 1, 2, 3, 0, 1, 2, 3, 1, 1], stored = [0, 8, 4, 2, 6, 1, 3, 5, 7, 9].map((y) => rows[y]);
  assert.deepEqual(await rgb(gif({ width: 1, height: 10 }, stored, colours, { interlaced: true })), rows.flatMap(colour));
  const later = [0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0];
  assert.deepEqual(await rgb(gif({ width: 2, height: 1 }, [1, 2], colours, { more: later })), [1, 2].flatMap(colour), "later frames don't count");
});

test("decode of GIF reads what sharp writes, codes of all lengths among it", async () => {
  for (const [width, height] of [[1, 1], [37, 23], [300, 200]]) {
    const encoded = await sharp(bytesOf(width * height * 3, 7), { raw: { width, height, channels: 3 } }).gif().toBuffer();
    assert.deepEqual(await rgb(encoded), [...(await sharp(encoded).removeAlpha().raw().toBuffer())]);
  }
});

test("decode of BMP reads every depth, both directions and odd rows", async () => {
  const palette = [30, 20, 10, 0, 60, 50, 40, 0, 90, 80, 70, 0]; // B G R and nothing
  assert.deepEqual(await rgb(bmp(3, 1, 1, [0b10100000, 0, 0, 0], palette.slice(0, 8))), [1, 0, 1].flatMap(colour));
  assert.deepEqual(await rgb(bmp(3, 2, 4, [0x01, 0x20, 0, 0, 0x22, 0x10, 0, 0], palette, { colours: 3 })), [2, 2, 1, 0, 1, 2].flatMap(colour), "rows go upwards");
  assert.deepEqual(await rgb(bmp(3, -2, 4, [0x01, 0x20, 0, 0, 0x22, 0x10, 0, 0], palette, { colours: 3 })), [0, 1, 2, 2, 2, 1].flatMap(colour), "or downwards");
  assert.deepEqual(await rgb(bmp(3, 1, 8, [2, 1, 200, 0], palette, { colours: 3 })), [2, 1, 200].flatMap(colour), "there is black past the palette");
  assert.deepEqual(await rgb(bmp(2, 1, 16, [0xff, 0x7f, 0x34, 0x12])), [255, 255, 255, 32, 139, 164]);
  assert.deepEqual(await rgb(bmp(2, 1, 16, [0xff, 0xff, 0x34, 0x12], [], { masks: [0xf800, 0x7e0, 0x1f] })), [255, 255, 255, 16, 68, 164]);
  assert.deepEqual(await rgb(bmp(1, 2, 24, [1, 2, 3, 0, 4, 5, 6, 0])), [6, 5, 4, 3, 2, 1]);
  assert.deepEqual(await rgb(bmp(1, 2, 24, [1, 2, 3, 0, 4, 5, 6])), [6, 5, 4, 3, 2, 1], "the last row may be short of its filling");
  assert.deepEqual(await rgb(bmp(1, 1, 32, [1, 2, 3, 0])), [3, 2, 1], "its fourth byte is no alpha");
});

test("decode takes a path, URLs, bytes, Blobs and pixels, and leaves them as they are", async () => {
  const data = bytesOf(6 * 5 * 3, 8), file = png(6, 5, 8, 2, data), folder = await mkdtemp(join(tmpdir(), "kosmos2-"));
  const server = createServer((request, response) => (request.url === "/a.png" ? response.end(file) : response.writeHead(404).end()));
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    const path = join(folder, "ä b.png");
    await writeFile(path, file);
    const shared = new Uint8Array(new SharedArrayBuffer(file.length));
    shared.set(file);
    const padded = joined(Uint8Array.of(1, 2, 3), file).subarray(3);
    const blob = URL.createObjectURL(new Blob([file]));
    const copy = file.slice();
    const inputs: ImageInput[] = [path, pathToFileURL(path), pathToFileURL(path).href, `${origin}/a.png`, new URL(`${origin}/a.png`), blob,
      `data:image/png;base64,${Buffer.from(file).toString("base64")}`, file, file.buffer, Buffer.from(file), padded, shared, new Blob([file]),
      { width: 6, height: 5, channels: 3, data }, { width: 6, height: 5, data: new Uint8ClampedArray(data) }];
    for (const input of inputs) assert.deepEqual(await rgb(input), [...data], String(input).slice(0, 60));
    assert.deepEqual(file, copy);
    assert.deepEqual(await rgb("http://example.invalid/x", { fetch: async () => new Response(file) }), [...data], "fetch can be given");
    await assert.rejects(decode(join(folder, "none.png")), refusal("image-not-found", /none\.png.*no such file/));
    await assert.rejects(decode(`${origin}/none.png`), refusal("image-not-found", /404/));
    await assert.rejects(decode("http://127.0.0.1:1/x.png"), refusal("image-not-found", /: bad port$/)); // not undici's "fetch failed"
    const gone = { size: 9, arrayBuffer: async () => { throw new DOMException("The file was changed", "NotReadableError"); } };
    await assert.rejects(decode(gone), refusal("image-unreadable", /Blob: The file was changed$/));
  } finally {
    server.closeAllConnections();
    server.close();
    await rm(folder, { recursive: true });
  }
});

test("decode refuses a folder and a pipe at once, and says what to do", { timeout: 10_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), "kosmos2-"));
  try {
    await assert.rejects(decode(folder), refusal("path-refused", /it is a folder, wanted a file; name the files in it$/));
    if (process.platform === "win32") return;
    const pipe = join(folder, "pipe");
    await promisify(execFile)("mkfifo", [pipe]);
    await assert.rejects(decode(pipe), refusal("path-refused", /it is a pipe or device, wanted a file; .* caption - reads standard input$/));
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("decode refuses pixels whose numbers disagree, and what is no picture", async () => {
  const data = new Uint8Array(12);
  for (const [input, pattern] of [
    [{ width: 2, height: 3, channels: 3, data }, /2 × 3 × 3 are 18 bytes, data has 12/],
    [{ width: 2, height: 2, channels: 2, data: new Uint8Array(8) }, /2 channels/],
    [{ width: 2.5, height: 2, data }, /2.5 × 2/], [{ width: 0, height: 2, data }, /0 × 2/],
    [{ width: 2, height: 2, channels: 3, data: new Float32Array(12) }, /Float32Array, not bytes/],
    [{ width: 2, height: 2 }, /without bytes/], [[], /without bytes/], [null, /null/], [undefined, /undefined/], [3, /number/],
  ] as [unknown, RegExp][]) await assert.rejects(decode(input as ImageInput), refusal("image-invalid", pattern));
});

test("decode refuses formats that are not on its list by their names", async () => {
  for (const [start, name] of [["II*\0", /TIFF/], ["\0\0\0\x20ftypavif", /AVIF/], ["\0\0\0\x20ftypheic", /HEIC/], ["<svg xmlns='http://www.w3.org/2000/svg'/>", /SVG/],
    ["<?xml version='1.0'?><svg/>", /SVG/], ["\n <svg/>", /0a 20 3c/], ["%PDF-1.7", /PDF/], ["", /no bytes/], ["hello", /68 65 6c/]] as const)
    await assert.rejects(decode(ascii(start.padEnd(start ? 200 : 0))), refusal("image-format", name));
  await assert.rejects(decode(bmp(4, 1, 8, [4, 1, 0, 1], [], { compression: 1 })), refusal("image-format", /compression 1/));
});

test("decode checks the pixel limit before it decodes, also against an option", async () => {
  const hundred = png(10, 10, 8, 0, new Uint8Array(100));
  await decode(hundred, { maxPixels: 100 });
  await assert.rejects(decode(hundred, { maxPixels: 99 }), refusal("image-too-large", /10 × 10.*99 at most; make it smaller, or raise maxPixels/));
  await assert.rejects(decode(hundred, { maxPixels: NaN }), refusal("image-too-large"));
  await assert.rejects(decode(png(100_000, 100_000, 8, 2, new Uint8Array(0))), refusal("image-too-large", /100000 × 100000/));
});

test("decode says what is wrong with a damaged header", async () => {
  const damaged = png(4, 4, 8, 2, new Uint8Array(48));
  damaged[25] = 5; // no colour type
  await assert.rejects(decode(damaged), refusal("image-unreadable", /PNG picture: .*[^:]$/));
});

test("an image element that did not load is refused like any damaged picture", async () => {
  const globals = globalThis as { HTMLImageElement?: unknown };
  globals.HTMLImageElement = class { currentSrc = "http://page/x.png"; decode = async () => { throw new DOMException("The source image cannot be decoded.", "EncodingError"); }; };
  try {
    await assert.rejects(drawnPicture(new (globals.HTMLImageElement as new () => object)()), refusal("image-unreadable", /"http:\/\/page\/x\.png": The source image cannot be decoded; give one that has loaded$/));
  } finally {
    delete globals.HTMLImageElement;
  }
});

test("decode rejects with the signal's reason", async () => {
  const file = png(10, 10, 8, 0, new Uint8Array(100)), stop = new AbortController();
  await assert.rejects(decode(file, { signal: AbortSignal.abort("before") }), (reason) => reason === "before");
  const work = decode(file, { signal: stop.signal });
  stop.abort("meanwhile");
  await assert.rejects(work, (reason) => reason === "meanwhile");
});

/** What must be refused, by name; each claims more than it has. */
const hostile: Record<string, Uint8Array> = {
  "bomb.png": png(100_000, 100_000, 8, 2, new Uint8Array(0)),
  "empty-but-large.png": png(9_999, 9_999, 8, 2, new Uint8Array(0)),
  "short.png": png(8, 8, 8, 2, bytesOf(192)).subarray(0, 150),
  "large.gif": gif({ width: 9_999, height: 9_999 }, [1, 2, 3], colours),
  "huge.gif": gif({ width: 65_535, height: 65_535, x: 60_000, y: 60_000 }, [1], colours),
  "large.bmp": bmp(9_999, 9_999, 24, [1, 2, 3]),
  "odd.bmp": bmp(-5, 9, 24, [1, 2, 3]),
  "cut.gif": gif({ width: 20, height: 20 }, [1, 2, 3, 0, 1, 2], colours).subarray(0, 30),
  "bad-code.gif": joined(gif({ width: 9, height: 9 }, [], colours).subarray(0, 36), Uint8Array.of(2, 0x74, 0xff, 0)),
  "start.jpg": Uint8Array.of(0xff, 0xd8, 0xff, 0xd9),
  "lengths.jpg": joined(Uint8Array.of(0xff, 0xd8, 0xff, 0xe0), new Uint8Array(100_000)),
  "large.webp": joined(ascii("RIFF"), little(4, 22), ascii("WEBPVP8X"), little(4, 10, 0), Uint8Array.of(0xff, 0x0f, 0, 0xff, 0x0f, 0)),
  "sixteen.jpg": joined(Uint8Array.of(0xff, 0xd8, 0xff, 0xc0, 0, 17, 8), big(0x27002700), Uint8Array.of(3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1)),
};

/** Decodes files in a process of its own: milliseconds and error code of each, and by how much its memory grew at most. */
async function inProcess(files: string[]): Promise<{ results: { file: string; ms: number; code?: string; message?: string }[]; grownBytes: number }> {
  const script = `
    import { decode } from ${JSON.stringify(pathToFileURL(`${root}dist/processor/decode.js`).href)};
    await decode(${JSON.stringify(join(root, "models/kosmos2-emoji/none"))}).catch(() => {});
    const sharp = await import("sharp"), before = process.memoryUsage().rss, results = [];
    for (const file of JSON.parse(process.argv[1])) {
      const start = performance.now();
      const end = (error) => results.push({ file, ms: performance.now() - start, code: error && (error.name === "Kosmos2Error" ? error.code : "not ours"), message: error?.message });
      await decode(file).then(() => end(), end);
    }
    console.log(JSON.stringify({ results, grownBytes: process.resourceUsage().maxRSS * 1024 - before }));`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script, JSON.stringify(files)], { cwd: root });
  return JSON.parse(stdout);
}

test("decode refuses hostile files within a second and with less than 200 MB", async () => {
  const folder = await mkdtemp(join(tmpdir(), "kosmos2-"));
  try {
    const files = await Promise.all(Object.entries(hostile).map(async ([name, bytes]) => {
      await writeFile(join(folder, name), bytes);
      return join(folder, name);
    }));
    const { results, grownBytes } = await inProcess(files);
    for (const { file, ms, code, message } of results) {
      assert.match(code ?? "accepted", /^image-(unreadable|too-large|format)$/, `${file}: ${message}`);
      assert.ok(ms < 1000, `${file} took ${ms} ms`);
    }
    assert.ok(grownBytes < 200e6, `${grownBytes} bytes more`);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("verifyImages finds every picture of the goldens equal", { skip: noGoldens }, async () => {
  const groups = await verifyImages(goldens);
  assert.ok(groups.length >= 6 && groups.every(({ cases }) => cases > 0), JSON.stringify(groups));
  assert.deepEqual(groups.flatMap(({ messages }) => messages), []);
  assert.equal(groups.reduce((sum, { failed, skipped }) => sum + failed + skipped, 0), 0);
});

test("the goldens' hostile files take less than 200 MB and a second each", { skip: noGoldens }, async () => {
  const { readdir } = await import("node:fs/promises");
  const files = (await readdir(join(goldens, "images"))).filter((file) => file.startsWith("broken_")).map((file) => join(goldens, "images", file));
  assert.ok(files.length > 10);
  const { results, grownBytes } = await inProcess(files);
  for (const { file, ms, code, message } of results) {
    assert.match(code ?? "accepted", /^image-/, `${file}: ${message}`);
    assert.ok(ms < 1000, `${file} took ${ms} ms`);
  }
  assert.ok(grownBytes < 200e6, `${grownBytes} bytes more`);
});

test("verifyImages says what differs", async () => {
  const folder = await mkdtemp(join(tmpdir(), "kosmos2-"));
  try {
    const { mkdir } = await import("node:fs/promises");
    await mkdir(join(folder, "images"));
    await writeFile(join(folder, "images/a.png"), png(2, 2, 8, 0, new Uint8Array(4)));
    const row = { file: "a.png", width: 2, height: 2, rgb_sha256: "0".repeat(64), rgb224_sha256: "0".repeat(64) };
    await writeFile(join(folder, "images/images.json"), JSON.stringify({ images: [row, { ...row, expect: "error" }, { ...row, file: "none.png" }] }));
    const groups = await verifyImages(folder);
    assert.deepEqual(groups.map(({ name, cases, failed }) => [name, cases, failed]),
      [["images: decoded", 2, 2], ["images: resized", 2, 2], ["images: turned and resized", 2, 2], ["images: refused", 1, 1]]);
    assert.match(groups[0].messages.join(), /a\.png: sha256 .*none\.png.*no such file/);
    assert.match(groups[3].messages[0], /was accepted/);
    assert.deepEqual(await verifyImages(join(folder, "elsewhere")), []);
  } finally {
    await rm(folder, { recursive: true });
  }
});
