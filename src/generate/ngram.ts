/**
 * Tokens that would repeat an n-gram: those that followed the last n − 1 ids anywhere before. `ids` is all there is so far: bos, image
 * places, prompt and answer (MODEL.md, "Generation").
 *
 * @param n length of what may not repeat; 0 switches the rule off, 1 forbids every id seen
 * @example
 *   bannedByNgrams([4, 5, 6, 9, 4, 5], 3) // [6]
 */
export function bannedByNgrams(ids: readonly number[], n: number): number[] {
  if (n < 1 || ids.length < n) return [];
  const banned = new Set<number>();
  const tail = ids.length - (n - 1);
  for (let start = 0; start + n <= ids.length; start++) {
    let same = 0;
    while (same < n - 1 && ids[start + same] === ids[tail + same]) same++;
    if (same === n - 1) banned.add(ids[start + n - 1]);
  }
  return [...banned];
}
