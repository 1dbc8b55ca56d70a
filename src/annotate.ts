/**
 * Pictures with what was found in them: each thing in a colour of its own, its boxes outlined, its phrase written on a label.
 * Text is drawn as strokes, since a machine may have no fonts (processor/strokes.ts).
 */
import { drawOver } from "#platform";
import { Kosmos2Error } from "./errors.js";
import { check, checkOptions, flag, type Kind, text as string } from "./options.js";
import { abortable } from "./pause.js";
import { decode, type ImageOptions, type ImageInput } from "./processor/decode.js";
import { LINE_HEIGHT, write } from "./processor/strokes.js";

/** As much of a `Caption` as is drawn. Boxes may be inverted, empty, outside of the picture or no numbers at all. */
export interface Annotation {
  /** Becomes the SVG's title. */
  readonly caption?: string;
  readonly entities: readonly {
    readonly phrase: string;
    readonly boxes: readonly { readonly normalized: readonly number[] }[];
  }[];
}

export interface AnnotateSvgOptions {
  /** Address of the picture, to be shown under the boxes. Default: none, for laying the drawing over it. */
  href?: string;
  /** Write phrases beside their boxes. Default true. */
  labels?: boolean;
}

interface Rectangle {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;
const drawable: Kind = [
  (value) => isObject(value) && Array.isArray((value as Annotation).entities) && (value as Annotation).entities.every((entity) =>
    isObject(entity) && typeof entity.phrase === "string" && Array.isArray(entity.boxes) && entity.boxes.every(isObject)),
  "what `caption` gives, { entities: [{ phrase, boxes }] }",
];

/**
 * The boxes as an SVG of the picture's size.
 *
 * @param size of the upright picture, in pixels (`imageSizes` of the processor)
 * @example
 *   const svg = annotateSvg({ width: 640, height: 480 }, await kosmos.caption("dog.jpg"), { href: "dog.jpg" });
 */
export function annotateSvg(size: { width: number; height: number }, annotation: Annotation, options: AnnotateSvgOptions = {}): string {
  check("draw boxes", "annotation", annotation, drawable);
  checkOptions(options, ["href", "labels"], "draw boxes", { href: string, labels: flag });
  const { width, height } = size ?? {};
  if (!(Number.isFinite(width) && Number.isFinite(height) && width > 0 && height > 0)) {
    throw new Kosmos2Error("image-invalid", "input", `Cannot draw boxes: the picture is said to be ${width} × ${height} pixels`, { found: [width, height] });
  }
  const unit = Math.max(0.9, Math.min(width, height) / 360), parts: string[] = [], labels: string[] = [], taken: Rectangle[] = [];
  if (annotation.caption) parts.push(`<title>${escaped(annotation.caption)}</title>`);
  if (options.href !== undefined) parts.push(`<image href="${escaped(options.href)}" width="${n(width)}" height="${n(height)}" preserveAspectRatio="none"/>`);
  annotation.entities.forEach(({ phrase, boxes }, i) => {
    const colour = colourOf(i);
    for (const { normalized } of boxes) {
      const box = inside(normalized, width, height);
      if (!box) continue;
      const outline = `<rect x="${n(box.x)}" y="${n(box.y)}" width="${n(box.width)}" height="${n(box.height)}"`;
      parts.push(`${outline} stroke="#fff" stroke-opacity=".6" stroke-width="${n(4 * unit)}"/>${outline} stroke="${colour}" stroke-width="${n(2 * unit)}"/>`);
      if (options.labels === false || !phrase) continue;
      const margin = 2 * unit;
      const text = write(phrase, 0, 0, unit, width - 2 * margin), label = { width: text.width + 2 * margin, height: LINE_HEIGHT * unit };
      const place = placed(box, label, width, height, taken);
      taken.push(place);
      labels.push(`<rect x="${n(place.x)}" y="${n(place.y)}" width="${n(place.width)}" height="${n(place.height)}" fill="${colour}"/>` +
        `<path d="${text.path}" transform="translate(${n(place.x + margin)} ${n(place.y + 1.5 * unit)})" stroke="#fff" stroke-width="${n(1.1 * unit)}" stroke-linecap="round" stroke-linejoin="round"/>`);
    }
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${n(width)}" height="${n(height)}" viewBox="0 0 ${n(width)} ${n(height)}" fill="none">${parts.join("")}${labels.join("")}</svg>`;
}

/**
 * The picture with its boxes as PNG, in its own size. Node, Deno and Bun, with sharp; elsewhere lay `annotateSvg` over the picture.
 *
 * @throws {Kosmos2Error} as when the picture is captioned; codes `option-unknown`, `option-invalid`; `annotate-unsupported` in browsers
 * @example
 *   const result = await kosmos.caption("dog.jpg");
 *   await writeFile("out.png", await annotate("dog.jpg", result));
 */
export async function annotate(image: ImageInput, annotation: Annotation, options: ImageOptions & Omit<AnnotateSvgOptions, "href"> = {}): Promise<Uint8Array> {
  checkOptions(options, ["exif", "maxPixels", "fetch", "signal", "labels"], "annotate", { labels: flag });
  const picture = await decode(image, options);
  return abortable(drawOver(picture, annotateSvg(picture, annotation, { labels: options.labels })), options.signal);
}

/** A box in pixels, its corners ordered, cut to the picture, and at least a pixel wide and high; undefined when it is no box. */
function inside(normalized: readonly number[] | undefined, width: number, height: number): Rectangle | undefined {
  if (!normalized || normalized.length < 4 || !normalized.slice(0, 4).every(Number.isFinite)) return undefined;
  const span = (a: number, b: number, size: number): [number, number] => {
    const from = Math.min(Math.max(Math.min(a, b), 0), 1) * size, to = Math.min(Math.max(Math.max(a, b), 0), 1) * size;
    const least = Math.min(1, size), start = Math.min(from, size - least);
    return [start, Math.max(to - start, least)];
  };
  const [x, w] = span(normalized[0], normalized[2], width), [y, h] = span(normalized[1], normalized[3], height);
  return { x, y, width: w, height: h };
}

/** Above the box, inside at its top or bottom, or below it: the first place that is free; inside of the picture in any case. */
function placed(box: Rectangle, label: { width: number; height: number }, width: number, height: number, taken: readonly Rectangle[]): Rectangle {
  const x = Math.max(0, Math.min(box.x, width - label.width)), below = box.y + box.height;
  const places = [box.y - label.height, box.y, below - label.height, below].map((y) => ({ ...label, x, y }));
  const within = places.filter(({ y }) => y >= 0 && y + label.height <= height);
  const free = within.find((a) => !taken.some((b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height));
  return free ?? within[0] ?? { ...label, x, y: 0 };
}

/** Colours far from each other however many there are: the hue turns by the golden angle. Dark enough for white letters. */
function colourOf(i: number): string {
  const hue = (i * 137.508 + 350) % 360;
  const channel = (shift: number): string => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (0.38 - 0.34 * Math.max(-1, Math.min(k - 3, 9 - k, 1)))).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}

const n = (value: number): string => String(Math.round(value * 100) / 100);

/** Text for XML: what has a meaning there is spelt out, what XML has no way to say is left out. */
function escaped(text: string): string {
  const lone = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
  return text.replace(lone, "\ufffd").replace(/[\0-\x08\v\f\x0e-\x1f\ufffe\uffff]/g, "")
    .replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
