import assert from "node:assert/strict";
import { test } from "node:test";
import sharp from "sharp";
import { annotate, annotateSvg, type Annotation } from "#src/annotate.js";
import { write } from "#src/processor/strokes.js";
import { png } from "./processor/pictures.js";

const found = (phrase: string, ...boxes: number[][]): Annotation["entities"][number] => ({ phrase, boxes: boxes.map((normalized) => ({ normalized })) });
const grey = (width: number, height: number) => ({ width, height, channels: 1 as const, data: new Uint8Array(width * height).fill(128) });

test("annotateSvg draws a box for each box, in the picture's pixels and a colour for each entity", () => {
  const svg = annotateSvg({ width: 200, height: 100 }, { caption: "two dogs & a <cat>", entities: [found("two dogs", [0.1, 0.2, 0.5, 0.9], [0.5, 0.5, 1, 1]), found("a cat", [0, 0, 0.25, 0.5])] });
  const outlines = [...svg.matchAll(/<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" stroke="(#[0-9a-f]{6})"/g)].map((match) => match.slice(1));
  assert.deepEqual(outlines.map((match) => match.slice(0, 4).map(Number)), [[20, 20, 80, 70], [100, 50, 100, 50], [0, 0, 50, 50]]);
  assert.equal(outlines[0][4], outlines[1][4]);
  assert.notEqual(outlines[0][4], outlines[2][4]);
  assert.match(svg, /<title>two dogs &#38; a &#60;cat&#62;<\/title>/);
  assert.doesNotMatch(svg, /<text|<image/);
  assert.match(annotateSvg({ width: 2, height: 2 }, { entities: [] }, { href: `a"b<c>&'.png` }), /href="a&#34;b&#60;c&#62;&#38;&#39;\.png"/);
  assert.doesNotMatch(annotateSvg({ width: 99, height: 99 }, { entities: [found("dog", [0, 0, 1, 1])] }, { labels: false }), /<path/);
});

test("annotateSvg survives boxes that are inverted, empty, outside or no boxes, and text that XML cannot hold", () => {
  const nasty = ["\0\x1b]]>", "\ud800", "&amp;<script>", "雪だるま", "é".repeat(500), "", "\u202e"];
  const boxes = [[0.9, 0.8, 0.1, 0.2], [0.5, 0.5, 0.5, 0.5], [-3, -1, 2, 9], [1, 1, 1, 1], [2, 2, 3, 3], [NaN, 0, 1, 1], [0, Infinity, 1, 1], [], [0.1], null as unknown as number[]];
  for (const size of [{ width: 1, height: 1 }, { width: 3, height: 900 }, { width: 640, height: 480 }]) {
    const svg = annotateSvg(size, { caption: nasty.join(" "), entities: nasty.map((phrase) => found(phrase, ...boxes)) });
    assert.doesNotMatch(svg, /NaN|Infinity|undefined|[\0-\x08\x0b\x0e-\x1f]|<script|[\ud800-\udbff](?![\udc00-\udfff])/);
    for (const [, x, y, width, height] of svg.matchAll(/<rect x="([^"]*)" y="([^"]*)" width="([^"]*)" height="([^"]*)" stroke="#f/g)) {
      assert.ok(Number(x) >= 0 && Number(y) >= 0 && Number(width) > 0 && Number(height) > 0, `${x} ${y} ${width} ${height}`);
      assert.ok(Number(x) + Number(width) <= size.width + 0.011 && Number(y) + Number(height) <= size.height + 0.011, "within the picture, but for rounding to 0.01");
    }
  }
  assert.throws(() => annotateSvg({ width: 0, height: 3 }, { entities: [] }), { code: "image-invalid" });
});

test("annotate gives a PNG of the upright picture's size with its boxes on it", async () => {
  const bytes = await annotate(grey(120, 80), { caption: "a", entities: [found("a dog", [0.25, 0.5, 0.75, 0.75])] });
  const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
  assert.deepEqual([info.width, info.height, info.channels], [120, 80, 3]);
  const at = (x: number, y: number) => [...data.subarray((y * 120 + x) * 3, (y * 120 + x) * 3 + 3)];
  assert.deepEqual(at(100, 70), [128, 128, 128], "nothing outside");
  assert.deepEqual(at(60, 50), [128, 128, 128], "nothing inside");
  const [red, green] = at(90, 50);
  assert.ok(red > 150 && green < 60, `the right edge has the first colour: ${at(90, 50)}`);
  const label = data.subarray(0, 40 * 120 * 3);
  assert.ok(label.some((value, i) => i % 3 === 1 && value > 240), "white letters stand above the box");
  const turned = await annotate(png(6, 3, 8, 0, new Uint8Array(18), { orientation: 6 }), { entities: [] });
  const { width, height } = await sharp(turned).metadata();
  assert.deepEqual([width, height], [3, 6]);
});

test("annotate and annotateSvg refuse what is no annotation, and options that they don't know", async () => {
  const entity = (fields: object) => ({ entities: [fields] });
  for (const annotation of [undefined, null, {}, { entities: 5 }, entity({ phrase: "a" }), entity({ phrase: 5, boxes: [] }), entity({ phrase: "a", boxes: [null] })] as never[]) {
    await assert.rejects(annotate(grey(9, 9), annotation), { code: "option-invalid", message: /wanted what `caption` gives/ });
    assert.throws(() => annotateSvg({ width: 9, height: 9 }, annotation), { code: "option-invalid" });
  }
  for (const [options, code] of [[null, "option-invalid"], [{ labels: "no" }, "option-invalid"], [{ signal: {} }, "option-invalid"], [{ label: false }, "option-unknown"]] as const) {
    await assert.rejects(annotate(grey(9, 9), { entities: [] }, options as never), { code });
  }
  assert.throws(() => annotateSvg({ width: 9, height: 9 }, { entities: [] }, { label: false } as never), { code: "option-unknown" });
  assert.throws(() => annotateSvg(undefined as never, { entities: [] }), { code: "image-invalid" });
});

test("annotate takes pictures of any shape and kind", async () => {
  const nasty: Annotation = { caption: "\0<", entities: [found("a very long phrase that does not fit", [0.9, 0.9, 0.1, 0.1], [NaN, 0, 0, 0]), found("雪 \ud800", [0, 0, 1, 1])] };
  for (const [width, height, channels] of [[1, 1, 4], [1, 900, 3], [700, 3, 1], [64, 64, 4]] as const) {
    const { width: w, height: h } = await sharp(await annotate({ width, height, channels, data: new Uint8Array(width * height * channels) }, nasty)).metadata();
    assert.deepEqual([w, h], [width, height]);
  }
  await assert.rejects(annotate("/nowhere.png", nasty), { code: "image-not-found" });
  await assert.rejects(annotate(grey(9, 9), nasty, { signal: AbortSignal.abort("enough") }), (reason) => reason === "enough");
});

test("write has a letter for all of ASCII, within its line, and drops accents", () => {
  const shapes = new Set<string>();
  for (let code = 33; code < 127; code++) {
    const { path, width } = write(String.fromCharCode(code), 0, 0, 1);
    shapes.add(path);
    assert.match(path, /^(M\d \d+(L\d \d+)+)+$/, String.fromCharCode(code));
    for (const [, x, y] of path.matchAll(/[ML](\d) (\d+)/g)) assert.ok(Number(x) <= width && Number(y) <= 11, `${String.fromCharCode(code)}: ${path}`);
  }
  assert.equal(shapes.size, 94, "no two look the same");
  assert.deepEqual(write("é", 0, 0, 1), write("e", 0, 0, 1));
  assert.deepEqual(write("雪", 0, 0, 1), write("\u{1f600}", 0, 0, 1));
  assert.ok(write("a long line of words", 0, 0, 1, 40).width <= 40);
  assert.ok(write("a long line of words", 0, 0, 2).width === 2 * write("a long line of words", 5, 5, 1).width);
});
