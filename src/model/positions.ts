/** Position rows of the vision tower for pictures of another size than the checkpoint was trained on. */

/**
 * Resizes the table of a square grid to height × width cells with PyTorch's bicubic (a = −0.75, align_corners false, no antialias,
 * borders repeated). Row 0, the class token's, stays.
 *
 * @param table [1 + grid², width of a row], row-major
 * @returns [1 + height · width, columns]
 */
export function interpolatePositions(table: Float32Array, columns: number, grid: number, height: number, width: number): Float32Array {
  const down = taps(grid, height), across = taps(grid, width);
  const resized = new Float32Array((1 + height * width) * columns);
  resized.set(table.subarray(0, columns));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = (1 + y * width + x) * columns;
      for (const [row, wy] of down[y]) {
        for (const [column, wx] of across[x]) {
          const from = (1 + row * grid + column) * columns, weight = wy * wx;
          for (let d = 0; d < columns; d++) resized[to + d] += weight * table[from + d];
        }
      }
    }
  }
  return resized;
}

/** The four cells that each output looks at, and their weights. */
function taps(from: number, to: number): [cell: number, weight: number][][] {
  const a = -0.75;
  const near = (t: number) => ((a + 2) * t - (a + 3)) * t * t + 1; // |t| ≤ 1
  const far = (t: number) => ((a * t - 5 * a) * t + 8 * a) * t - 4 * a; // 1 < |t| < 2
  return Array.from({ length: to }, (_, o) => {
    const at = ((o + 0.5) * from) / to - 0.5;
    const cell = Math.floor(at), t = at - cell;
    return [far(t + 1), near(t), near(1 - t), far(2 - t)].map((weight, i) => [
      Math.min(from - 1, Math.max(0, cell - 1 + i)), weight,
    ] as [number, number]);
  });
}
