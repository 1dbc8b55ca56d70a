/**
 * The resize against sharp's own cubic one, on one thread, from the same raw pixels: `node build/bench/resize.js [width height]`.
 * sharp (libvips) first shrinks by whole factors and interpolates the rest; ours is the true antialiased bicubic.
 */
import sharp from "sharp";
import { resize } from "#src/processor/resize.js";
import { random } from "../test/support.js";

const [width = 4000, height = 3000] = process.argv.slice(2).map(Number);
sharp.concurrency(1);
sharp.cache(false);

async function median(task: () => Promise<unknown>, runs = 15): Promise<number> {
  const times = [];
  for (let run = 0; run < runs + 3; run++) {
    const start = performance.now();
    await task();
    if (run >= 3) times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[runs >> 1];
}

for (const channels of [3, 4, 1] as const) {
  const noise = random(1 << 20, channels), data = new Uint8Array(width * height * channels).map((_, i) => 128 + 127 * noise[i % noise.length]);
  const picture = { width, height, channels, data };
  const theirs = await median(() => sharp(data, { raw: { width, height, channels } }).resize(224, 224, { fit: "fill", kernel: "cubic" }).raw().toBuffer());
  const ours = await median(() => resize(picture, 224, 224));
  const plain = await median(() => resize(picture, 224, 224, { plain: true }), 3);
  console.log(`${width} × ${height} × ${channels} → 224 × 224   sharp ${theirs.toFixed(1)} ms   ours ${ours.toFixed(1)} ms (× ${(ours / theirs).toFixed(2)})   plain TypeScript ${plain.toFixed(0)} ms`);
}
