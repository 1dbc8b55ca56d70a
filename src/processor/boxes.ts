/**
 * Boxes as fractions of an image, and as pairs of cells of the 32 × 32 grid that location tokens name (arXiv:2306.14824).
 * The two directions are not each other's inverse for every box: a pair of cells keeps a box to half a cell.
 */

/** Cells a side. */
export const gridSide = 32;

/** x1, y1, x2, y2 as fractions of the image's width and height. */
export type NormalizedBox = readonly [x1: number, y1: number, x2: number, y2: number];
/** Indices of two cells, row by row, 0 … 1023: upper left and lower right. */
export type PatchPair = readonly [from: number, to: number];

export interface ImageSize {
  readonly width: number;
  readonly height: number;
}

/** Where something is. A model may give corners in the wrong order: `normalized` then has them so, `pixels` has not. */
export interface Box {
  /** Hugging Face's exact values: multiples of 1/64. */
  readonly normalized: NormalizedBox;
  /** The two cells that the model named. */
  readonly patches: PatchPair;
  /** x1 ≤ x2, y1 ≤ y2 in the upright source picture, inside it, not rounded; only where its size is known. */
  readonly pixels?: NormalizedBox;
}

/**
 * Cells of a box's corners (SPEC 7.4). No range is checked: corners outside 0 … 1 give numbers that are no cell.
 *
 * @returns undefined unless x2 > x1 and y2 > y1
 */
export function patchesOfBox([x1, y1, x2, y2]: NormalizedBox): PatchPair | undefined {
  if (!(x2 > x1 && y2 > y1)) return undefined;
  const from = Math.floor(y1 * gridSide) * gridSide + Math.floor(x1 * gridSide);
  const to = Math.ceil(y2 * gridSide - 1) * gridSide + Math.ceil(x2 * gridSide - 1);
  return [from + 0, to + 0]; // + 0: ⌈−0.5⌉ is −0
}

/**
 * Box of two cells (SPEC 8.3): their centres, or their outer corners where they share a row or a column. Nothing is ordered.
 *
 * @example boxOfPatches([44, 863]) // [0.390625, 0.046875, 0.984375, 0.828125]
 */
export function boxOfPatches([from, to]: PatchPair): NormalizedBox {
  const x1 = from % gridSide, y1 = Math.floor(from / gridSide);
  const x2 = to % gridSide, y2 = Math.floor(to / gridSide);
  const thin = x1 === x2 || y1 === y2;
  const near = thin ? 0 : 0.5, far = thin ? 1 : 0.5;
  return [(x1 + near) / gridSide, (y1 + near) / gridSide, (x2 + far) / gridSide, (y2 + far) / gridSide];
}

/** All that is known of the box of two cells. */
export function toBox(patches: PatchPair, imageSize?: ImageSize | null): Box {
  const normalized = boxOfPatches(patches);
  return imageSize ? { normalized, patches, pixels: pixelsOf(normalized, imageSize) } : { normalized, patches };
}

function pixelsOf([x1, y1, x2, y2]: NormalizedBox, { width, height }: ImageSize): NormalizedBox {
  const x = (fraction: number): number => Math.min(Math.max(fraction, 0), 1) * width;
  const y = (fraction: number): number => Math.min(Math.max(fraction, 0), 1) * height;
  return [x(Math.min(x1, x2)), y(Math.min(y1, y2)), x(Math.max(x1, x2)), y(Math.max(y1, y2))];
}
