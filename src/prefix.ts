/**
 * The beginning that texts have in common, kept in the engine's memory from one to the next: questions about one picture all begin
 * with it. Whole blocks of a cache are kept, which nobody writes again, so they are shared and never copied; a row's keys and values
 * don't depend on what follows it, so an answer is the same with and without.
 */
import type { Cache } from "./graph/cache.js";
import { BLOCK } from "./graph/record.js";

/** What is read, with image rows in some tokens' places (engine.ts). */
export interface Text {
  readonly ids: readonly number[];
  readonly places?: readonly number[];
  readonly images?: Float32Array;
}

interface Kept extends Text {
  readonly owner: object;
  readonly cache: Cache;
}

/**
 * Give the same one to several `generate` calls whose texts begin alike, picture included; what they share is read once. The engine
 * keeps the beginnings that were used last, and drops them when memory is short: then a text is read from its start, as without.
 *
 * @example
 *   const prefix = new Prefix();
 *   for (const inputs of questions) await model.generate({ ...inputs, prefix });
 *   prefix.dispose();
 */
export class Prefix {
  private kept: Kept | undefined;
  /** Whether nothing will be kept any more. */
  private ended = false;

  /**
   * What is kept of this text.
   *
   * @param width numbers in an image row
   * @returns how many of its first rows, and a cache that holds them; undefined when there are none
   */
  find(owner: object, text: Text, width: number): { rows: number; cache: Cache } | undefined {
    const { kept } = this;
    if (kept?.owner !== owner) return undefined;
    let same = 0, images = 0;
    const equalImage = (row: number) => {
      for (let i = row * width; i < (row + 1) * width; i++) if (kept.images![i] !== text.images![i]) return false;
      return true;
    };
    // the last token is read in any case: its row says what comes next
    for (; same < Math.min(kept.ids.length, text.ids.length - 1); same++) {
      const place = text.places?.[same] ?? 0;
      if (kept.ids[same] !== text.ids[same] || place !== (kept.places?.[same] ?? 0) || (place && !equalImage(images++))) break;
    }
    const rows = same - (same % BLOCK);
    return rows > 0 ? { rows, cache: kept.cache.share(rows) } : undefined;
  }

  /** Keeps the beginning of a text that `cache` holds, instead of what was kept before. @returns whether there was anything to keep */
  keep(owner: object, { ids, places, images }: Text, cache: Cache, width: number): boolean {
    const rows = ids.length - (ids.length % BLOCK);
    if (this.ended || rows === 0) return false;
    this.drop();
    const some = places?.slice(0, rows);
    this.kept = { owner, ids: ids.slice(0, rows), places: some, images: images?.slice(0, countOf(some) * width), cache: cache.share(rows) };
    return true;
  }

  get disposed(): boolean {
    return this.ended;
  }

  /** Lets go of what is kept. */
  drop(): void {
    this.kept?.cache.free();
    this.kept = undefined;
  }

  /** Gives its memory back; answers under way go on, and nothing is kept any more. Twice is fine. */
  dispose(): void {
    this.ended = true;
    this.drop();
  }
}

/** How many image rows stand in these places. */
export const countOf = (places: readonly number[] = []): number => places.filter((place) => place !== 0).length;
