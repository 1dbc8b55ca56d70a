import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { Kosmos2Error } from "#src/errors.js";
import type { Picture } from "#src/platform/platform.js";
import { axis, resize } from "#src/processor/resize.js";
import { random } from "../support.js";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** The picture that SPEC 3.2 gives hashes for. */
function drawn(width: number, height: number): Picture {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) data[at++] = 7 * x + 13 * y + 29 * c + 3 * ((x * y) % 31);
  return { width, height, channels: 3, data };
}

function noisy(width: number, height: number, channels: 1 | 3 | 4): Picture {
  const noise = random(65521, width + height), data = new Uint8Array(width * height * channels);
  for (let i = 0; i < data.length; i++) data[i] = 128 + 128 * noise[i % noise.length];
  return { width, height, channels, data };
}

/** The same picture in another number of channels. */
function woven({ width, height, data }: Picture, channels: 1 | 3 | 4): Picture {
  const to = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < channels; c++) to[i * channels + c] = c < 3 ? data[i * 3 + c] : 99 + i;
  return { width, height, channels, data: to };
}

test("axis gives the coefficients of Pillow (SPEC 3.2)", () => {
  const listed = (from: number, to: number) => {
    const { starts, counts, weights, stride } = axis(from, to);
    return Array.from(starts, (start, o) => [start, [...weights.subarray(o * stride, o * stride + counts[o])]]);
  };
  assert.deepEqual(listed(8, 4), [
    [0, [1947982, 1947982, 508932, -157945, -52648]], [0, [-145748, 469632, 1797559, 1797559, 469632, -145748, -48583]],
    [1, [-48583, -145748, 469632, 1797559, 1797559, 469632, -145748]], [3, [-52648, -157945, 508932, 1947982, 1947982]]]);
  assert.deepEqual(listed(3, 5), [
    [0, [4510855, -316551]], [0, [2723168, 1658941, -187805]], [0, [0, 4194304, 0]], [0, [-187805, 1658941, 2723168]], [1, [-316551, 4510855]]]);
});

const pillow: [number, number, string, string][] = [
  [37, 53, "a1f564147279ee03", "44723ad07c04e883d1aece7242e66426cbfee8e6ea7f54bab29c0d6c2d36f084"],
  [224, 500, "fea9ed75a0208a21", "d39c512fba4ae28fb1a1fce61bfcb109cb8c96f06061a8449ae00f286432e153"],
  [500, 224, "6a43e66240638b8e", "3f07e5bb1c15703d1bca3e4d7b548bb4cd6414a48ba141a66ebbb4f780caa9f1"],
  [640, 480, "477f6ece46122585", "105b9f5446316704c4f8be1fbb258d226ab145c45f6d6ec4d2f702113e42e158"],
  [1, 1, "38eea14b03c59c6e", "c87142bd69f6d6985334a4a67d2f473d93beea17f4c19db3fdcc233196d605d7"],
  [2, 3, "ef1e8e1961bee396", "9b5e32f6de547497fefc1f08befe405b23846849efefd0c5c88b49a044ad4f58"],
  [1000, 31, "3ada8e2060385345", "5c86be09f1da4a331d744d8e8d8d9c4b71dbb1baecefd5ef6ccd638d7766412f"],
  [224, 224, "0eecb3f1e3cd01bf", "0eecb3f1e3cd01bf"],
];
for (const [width, height, before, after] of pillow) {
  test(`resize of ${width} × ${height} gives Pillow's bytes, with SIMD, plainly, and from RGBA`, async () => {
    const picture = drawn(width, height);
    assert.ok(sha256(picture.data as Uint8Array).startsWith(before), "the source is the one of SPEC 3.2");
    for (const source of [picture, woven(picture, 4)])
      for (const plain of [false, true]) assert.ok(sha256(await resize(source, 224, 224, { plain })).startsWith(after), `plain: ${plain}`);
  });
}

// Not in the SPEC: Pillow 12.3.0 itself, on the same drawn picture.
for (const [width, height, outWidth, outHeight, after] of [
  [5, 640, 224, 224, "6ba633f8f5307b95"], [2, 1100, 224, 224, "06c8cd59b7a4a8da"], [6, 600, 224, 224, "b71c41b5799a1914"], [6, 601, 224, 224, "b46c2b6fae1dfa49"],
  [1, 224, 224, 224, "4a78f00171881723"], [2, 223, 224, 224, "8b9d980a81a02ac2"], [3, 301, 7, 300, "f6a7f3dd45f06a27"], [1, 101, 3, 101, "3d187866a20602ad"],
] as const) {
  test(`resize of ${width} × ${height} to ${outWidth} × ${outHeight} takes Pillow's order of passes`, async () => {
    for (const plain of [false, true]) assert.ok(sha256(await resize(drawn(width, height), outWidth, outHeight, { plain })).startsWith(after), `plain: ${plain}`);
  });
}

for (const [width, height, outWidth, outHeight] of [[1, 900, 224, 224], [700, 3, 224, 224], [4001, 7, 16, 5], [13, 3001, 7, 3], [5, 5, 3, 64], [2999, 401, 30, 1], [97, 61, 225, 37]]) {
  test(`resize of ${width} × ${height} to ${outWidth} × ${outHeight} with SIMD equals the plain version in grey, RGB and RGBA`, async () => {
    for (const channels of [1, 3, 4] as const) {
      const picture = noisy(width, height, channels);
      const plain = await resize(picture, outWidth, outHeight, { plain: true });
      assert.equal(plain.length, outWidth * outHeight * 3);
      assert.deepEqual(await resize(picture, outWidth, outHeight, { plain: false }), plain);
    }
  });
}

test("resize clamps what overshoots, and keeps extremes and flat colours", async () => {
  const edge: Picture = { width: 300, height: 40, channels: 1, data: new Uint8Array(12000).map((_, i) => (i % 300 < 150 ? 0 : 255)) };
  assert.deepEqual(new Set(await resize(edge, 300, 40)), new Set([0, 255]));
  const wider = await resize(edge, 900, 10);
  assert.ok(wider.includes(0) && wider.includes(255));
  assert.deepEqual(wider, await resize(edge, 900, 10, { plain: true }));
  for (const level of [0, 1, 127, 254, 255]) {
    const flat = await resize({ width: 641, height: 77, channels: 3, data: new Uint8Array(641 * 77 * 3).fill(level) }, 224, 224);
    assert.ok(flat.every((v) => v === level), `level ${level}`);
  }
});

test("resize gives the same when calls overlap", async () => {
  const pictures = [noisy(900, 700, 3), noisy(301, 1200, 4), noisy(64, 64, 1)];
  const alone = [];
  for (const picture of pictures) alone.push(await resize(picture, 224, 224));
  assert.deepEqual(await Promise.all(pictures.map((picture) => resize(picture, 224, 224))), alone);
});

test("resize lets the event loop have its turns and stops at a signal", async () => {
  const picture = noisy(3000, 2000, 3); // far more work than one turn
  const cpu = () => { // of a busy machine the time of others doesn't count
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  let last = cpu(), longest = 0, turns = 0;
  const clock = setInterval(() => {
    longest = Math.max(longest, cpu() - last);
    last = cpu();
    turns++;
  }, 1);
  await resize(picture, 224, 224, { plain: true });
  clearInterval(clock);
  assert.ok(turns > 5, `${turns} turns`);
  assert.ok(longest < 100, `no turn for ${longest} ms`); // 50 ms are promised; the collector and compiler have threads of their own
  const stop = new AbortController();
  const work = resize(picture, 224, 224, { plain: true, signal: stop.signal });
  setTimeout(() => stop.abort("enough"), 30);
  await assert.rejects(work, (reason) => reason === "enough");
});

test("resize does without wasm where it can't be loaded, unless told otherwise", async () => {
  const picture = drawn(37, 53), wasmUrl = "file:///nowhere/";
  assert.ok(sha256(await resize(picture, 224, 224, { wasmUrl })).startsWith("44723ad07c04e883"));
  await resize(picture, 9, 9);
  await assert.rejects(resize(picture, 224, 224, { wasmUrl: "file:///nowhere/else/", plain: false }),
    (error) => error instanceof Kosmos2Error && error.code === "wasm-not-found");
});

test("resize refuses a side of over a million pixels", async () => {
  await assert.rejects(resize({ width: 1, height: 1_000_001, channels: 1, data: new Uint8Array(1_000_001) }, 8, 8),
    (error) => error instanceof Kosmos2Error && error.code === "image-size");
});
