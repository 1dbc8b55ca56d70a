/**
 * How long passes take by their number of rows, as measured while they run: on one machine four rows cost what one costs, since weights
 * must be read anyway; on another, three times as much. What is not known is taken for cheap, and so is tried.
 */

/** What a row more is thought to cost until it is measured, as a part of a pass of one row. */
const UNKNOWN = 0.3;
/** Passes that make a measurement. */
const ENOUGH = 3;
/** Passes after which a measurement counts no more: it may have been made in a bad moment. */
const STALE = 256;
/** How far a new pass moves the measurement: a pass is disturbed more easily than sped up. */
const FASTER = 1 / 2, SLOWER = 1 / 32;

export class Pace {
  private readonly measured = new Map<number, { ms: number; passes: number; at: number }>();
  private passes = 0;

  /** Takes in a pass. */
  note(rows: number, ms: number): void {
    this.passes++;
    const old = this.measured.get(rows) ?? { ms, passes: 0, at: 0 };
    this.measured.set(rows, { ms: old.ms + (ms < old.ms ? FASTER : SLOWER) * (ms - old.ms), passes: old.passes + 1, at: this.passes });
    for (const [other, { at }] of this.measured) if (this.passes - at > STALE) this.measured.delete(other);
  }

  /** Milliseconds of a pass of so many rows, as far as is known; any unit while nothing is. */
  cost(rows: number): number {
    for (let fewer = rows; fewer > 0; fewer--) {
      const { ms, passes } = this.measured.get(fewer) ?? { ms: 0, passes: 0 };
      if (passes >= ENOUGH) return (ms * (1 + UNKNOWN * (rows - 1))) / (1 + UNKNOWN * (fewer - 1));
    }
    return 1 + UNKNOWN * (rows - 1);
  }
}
