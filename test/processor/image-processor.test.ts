import assert from "node:assert/strict";
import { test } from "node:test";
import { openFolder } from "#src/platform/node/files.js";
import { Kosmos2Error } from "#src/errors.js";
import { Kosmos2ImageProcessor, type ImageProcessorConfig } from "#src/processor/image-processor.js";
import type { RawImage } from "#src/processor/decode.js";
import { resize } from "#src/processor/resize.js";
import { random, root } from "../support.js";
import { png } from "./pictures.js";

const noisy = (width: number, height: number, seed = 1): RawImage & { channels: 3 } =>
  ({ width, height, channels: 3, data: new Uint8Array(Int16Array.from(random(width * height * 3, seed), (v) => 128 + 128 * v)) });
const flat = (level: number): RawImage => ({ width: 5, height: 4, channels: 1, data: new Uint8Array(20).fill(level) });

test("preprocess gives the values of SPEC 3.3 at both ends and in the middle", async () => {
  const processor = new Kosmos2ImageProcessor();
  for (const [level, ...wanted] of [[0, -1.7922626, -1.7520971, -1.4802198], [128, 0.07633615, 0.16889732, 0.33994877], [255, 1.9303361, 2.0748837, 2.145897]]) {
    const { pixelValues } = await processor.preprocess(flat(level));
    assert.deepEqual(pixelValues.dims, [1, 3, 224, 224]);
    for (let c = 0; c < 3; c++) {
      const [value, ...others] = new Set(pixelValues.data.subarray(c * 224 * 224, (c + 1) * 224 * 224));
      assert.deepEqual(others, [], "one value a plane");
      // The SPEC prints 8 decimals at most; that, or half the distance of two floats, tells them apart.
      assert.ok(Math.abs(value - wanted[c]) < Math.max(0.51e-8, 2 ** (Math.floor(Math.log2(Math.abs(wanted[c]))) - 24)), `level ${level}, channel ${c}: ${value}`);
    }
  }
});

test("preprocess lays planes of red, green and blue, picture after picture, and tells their sizes", async () => {
  const pictures = [noisy(300, 200), noisy(31, 57, 2)], processor = new Kosmos2ImageProcessor();
  const turned = png(6, 3, 8, 2, noisy(6, 3).data as Uint8Array, { orientation: 6 });
  const { pixelValues, imageSizes } = await processor.preprocess([...pictures, turned]);
  assert.deepEqual(pixelValues.dims, [3, 3, 224, 224]);
  assert.deepEqual(imageSizes, [{ width: 300, height: 200 }, { width: 31, height: 57 }, { width: 3, height: 6 }]);
  const { imageMean, imageStd } = processor.config;
  for (const [i, picture] of pictures.entries()) {
    const bytes = await resize(picture, 224, 224);
    for (const [x, y, c] of [[0, 0, 0], [223, 0, 1], [7, 101, 2], [223, 223, 2]]) {
      const value = pixelValues.data[((i * 3 + c) * 224 + y) * 224 + x];
      const wanted = (bytes[(y * 224 + x) * 3 + c] / 255 - imageMean[c]) / imageStd[c];
      assert.ok(Math.abs(value - wanted) < 2 ** -21, `${value} for ${wanted}`); // three roundings to f32 of values below 4
    }
  }
  assert.deepEqual((await processor.preprocess(turned, { exif: false })).imageSizes, [{ width: 6, height: 3 }]);
  assert.deepEqual((await processor.preprocess(pictures[1])).pixelValues.data, pixelValues.data.slice(3 * 224 * 224, 2 * 3 * 224 * 224), "one alone is the same");
});

test("a size by shortest edge keeps the picture's shape, and the crop takes its middle", async () => {
  const wide = noisy(97, 40), config: Partial<ImageProcessorConfig> = { useSquareSize: false, size: { shortestEdge: 50 }, cropSize: { height: 50, width: 60 } };
  const uncropped = await new Kosmos2ImageProcessor({ ...config, doCenterCrop: false }).shape(wide);
  assert.deepEqual([uncropped.width, uncropped.height], [121, 50]); // ⌊50 · 97 / 40⌋
  assert.deepEqual(uncropped.data, await resize(wide, 121, 50));
  const cropped = await new Kosmos2ImageProcessor(config).shape(wide);
  assert.deepEqual([cropped.width, cropped.height], [60, 50]);
  for (const [x, y] of [[0, 0], [59, 49], [13, 7]])
    assert.deepEqual(cropped.data.slice((y * 60 + x) * 3, (y * 60 + x) * 3 + 3), uncropped.data.slice((y * 121 + x + 30) * 3, (y * 121 + x + 30) * 3 + 3)); // ⌊61 / 2⌋
  const square = await new Kosmos2ImageProcessor({ ...config, useSquareSize: true, doCenterCrop: false }).shape(wide);
  assert.deepEqual([square.width, square.height], [50, 50]);
});

test("a crop larger than the picture pads with zeros, the larger half above and to the left", async () => {
  const processor = new Kosmos2ImageProcessor({ doResize: false, cropSize: { height: 4, width: 8 } });
  const { data } = await processor.shape({ width: 5, height: 1, channels: 1, data: Uint8Array.of(1, 2, 3, 4, 5) });
  const red = Array.from({ length: 4 }, (_, y) => Array.from({ length: 8 }, (_, x) => data[(y * 8 + x) * 3]));
  const none = [0, 0, 0, 0, 0, 0, 0, 0];
  assert.deepEqual(red, [none, none, [0, 0, 1, 2, 3, 4, 5, 0], none]);
});

test("steps can be left out", async () => {
  const picture = noisy(9, 7), at = (values: ArrayLike<number>, c: number) => values[c * 63 + 3 * 9 + 4], byte = picture.data[(3 * 9 + 4) * 3 + 1];
  const as = async (config: Partial<ImageProcessorConfig>) => (await new Kosmos2ImageProcessor({ doResize: false, doCenterCrop: false, ...config }).preprocess(picture)).pixelValues;
  assert.deepEqual((await as({})).dims, [1, 3, 7, 9]);
  assert.equal(at((await as({ doNormalize: false, doRescale: false })).data, 1), byte);
  assert.equal(at((await as({ doNormalize: false })).data, 1), Math.fround(byte * 0.00392156862745098));
  assert.equal(at((await as({ doRescale: false, imageMean: [1, 2, 3], imageStd: [1, 2, 4] })).data, 1), (byte - 2) / 2);
});

test("preprocess refuses an empty list and pictures that come out in different sizes", async () => {
  const refused = (code: string) => (error: unknown) => error instanceof Kosmos2Error && error.code === code || assert.fail(String(error));
  await assert.rejects(new Kosmos2ImageProcessor().preprocess([]), refused("image-invalid"));
  const loose = new Kosmos2ImageProcessor({ doResize: false, doCenterCrop: false });
  await assert.rejects(loose.preprocess([noisy(4, 4), noisy(4, 5)]), refused("image-sizes-differ"));
  const long = new Kosmos2ImageProcessor({ useSquareSize: false, doCenterCrop: false });
  await assert.rejects(long.preprocess({ width: 1, height: 9000, channels: 1, data: new Uint8Array(9000) }), refused("image-too-large"));
});

test("a config is read from its file, and nonsense in it is named", async () => {
  const processor = await Kosmos2ImageProcessor.fromFiles(await openFolder(`${root}models/kosmos2-emoji`));
  assert.deepEqual(processor.config, new Kosmos2ImageProcessor().config);
  assert.deepEqual(processor.config.size, { height: 224, width: 224 });
  assert.deepEqual(Kosmos2ImageProcessor.fromJSON(processor.toJSON()).config.size, { height: 224, width: 224 }, "as a re-saved file says it");
  assert.deepEqual((await Kosmos2ImageProcessor.fromFiles({ name: "nothing", open: async () => undefined })).config, processor.config);
  const odd = Kosmos2ImageProcessor.fromJSON({ size: { shortest_edge: 30 }, crop_size: 32, image_std: [1, 1, 1], do_normalize: null, other: 1 });
  assert.deepEqual([odd.config.size, odd.config.cropSize, odd.config.imageStd, odd.config.doNormalize], [{ shortestEdge: 30 }, { height: 32, width: 32 }, [1, 1, 1], true]);
  for (const [fields, pattern] of [
    [{ size: { longest_edge: 3 } }, /size/], [{ size: { height: 0, width: 3 } }, /size/], [{ crop_size: { height: 3 } }, /cropSize/], [{ do_resize: "yes" }, /doResize/],
    [{ image_mean: [1, 2] }, /imageMean/], [{ image_std: [1, 0, 1] }, /imageStd/], [{ rescale_factor: "1/255" }, /rescaleFactor/], [[], /preprocessor_config/],
  ] as [unknown, RegExp][]) assert.throws(() => Kosmos2ImageProcessor.fromJSON(fields), (error) => error instanceof Kosmos2Error && error.code === "config-invalid" && pattern.test(error.message) || assert.fail(String(error)));
  for (const resample of [0, 1, 2, 4, 5, "bicubic"]) assert.throws(() => Kosmos2ImageProcessor.fromJSON({ resample }), { code: "resample-unsupported" });
  const text = new TextEncoder().encode("{");
  await assert.rejects(Kosmos2ImageProcessor.fromFiles({ name: "bad", open: async () => ({ size: 1, read: async (into) => into.set(text), close: async () => {} }) }), { code: "config-invalid", message: /"bad: preprocessor_config\.json": it is not JSON/ });
  const given = (json: object) => ({ "preprocessor_config.json": new TextEncoder().encode(JSON.stringify(json)) });
  await assert.rejects(Kosmos2ImageProcessor.fromPretrained(given({ do_resize: "yes" })), { code: "config-invalid", message: 'Cannot use "given files: preprocessor_config.json" with doResize = "yes": wanted true or false' });
  await assert.rejects(Kosmos2ImageProcessor.fromPretrained(given({ resample: 2 })), { code: "resample-unsupported", message: /"given files: preprocessor_config\.json"/ });
  assert.deepEqual((await Kosmos2ImageProcessor.fromPretrained("kosmos2-emoji")).config, processor.config);
  await assert.rejects(Kosmos2ImageProcessor.fromPretrained("kosmos2-emoji", { dtype: "i8" } as never), { code: "option-unknown" });
});
