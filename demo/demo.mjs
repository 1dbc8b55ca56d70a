/**
 * The main job, once: kosmos2-emoji says what is in a picture and where, and the boxes are drawn into a copy of it.
 *
 *     npm run demo                        one of demo/pictures
 *     npm run demo -- path/to/one.png     another one
 */
import { writeFile } from "node:fs/promises";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { annotate, Kosmos2 } from "kosmos2-wasm";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const image = process.argv[2] ?? here("pictures/rocket.png");
const out = here("annotated.png");

const kosmos = await Kosmos2.load("kosmos2-emoji");
try {
  const result = await kosmos.caption(image);
  console.log(result.caption);
  for (const { phrase, boxes } of result.entities) {
    for (const { pixels } of boxes) {
      const [x1, y1, x2, y2] = pixels.map(Math.round);
      console.log(`  ${phrase}: from (${x1}, ${y1}) to (${x2}, ${y2})`);
    }
  }
  await writeFile(out, await annotate(image, result));
  console.log(`The picture with its boxes: ${relative(process.cwd(), out)}`);
} finally {
  await kosmos.dispose();
}
