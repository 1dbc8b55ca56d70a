/** Samples and what is said of them. */

/** The value that a share of the samples is not above; 0 … 1. NaN for none. */
export function quantile(samples: readonly number[], share: number): number {
  if (samples.length === 0) return NaN;
  const sorted = [...samples].sort((a, b) => a - b), at = (sorted.length - 1) * share, below = Math.floor(at);
  return sorted[below] + (at - below) * (sorted[Math.ceil(at)] - sorted[below]);
}

export const median = (samples: readonly number[]): number => quantile(samples, 0.5);
/**
 * What a machine can do at most, by samples of it: all but a lucky tenth stay below. No median, since a disturbed sample shows less.
 */
export const most = (samples: readonly number[]): number => quantile(samples, 0.9);

/** A figure of each round; holes where it was not measured. */
export type Rounds<T = number> = (T | undefined)[];

/** Samples and when they were taken, from `start` to `end`. */
export interface Time {
  round: number;
  start: number;
  end: number;
  samples: readonly number[];
}

/** Something that is measured again and again. */
export interface Task {
  /** Measures for a short while. */
  measure(): Promise<readonly number[]>;
  /** Each time that it measured. */
  readonly times: Time[];
  /** Whether it takes part in a round. Default: in all. */
  takesPart?(round: number): boolean;
}

/**
 * Rounds of all tasks, forwards and backwards in turn (A B B A): a machine that slows down or speeds up does so for all alike.
 * A task that throws is out of the following rounds, and says so.
 */
export async function interleave(tasks: readonly Task[], rounds: number, failed: (task: Task, error: unknown) => void): Promise<void> {
  const out = new Set<Task>();
  for (let round = 0; round < rounds; round++) {
    for (const task of round % 2 ? [...tasks].reverse() : tasks) {
      if (out.has(task) || task.takesPart?.(round) === false) continue;
      try {
        const start = performance.now(), samples = await task.measure();
        task.times.push({ round, start, end: performance.now(), samples });
      } catch (error) {
        out.add(task);
        failed(task, error);
      }
    }
  }
}

/** The samples of each round. */
export function byRound(times: readonly Time[]): Rounds<number[]> {
  const rounds: Rounds<number[]> = [];
  for (const { round, samples } of times) (rounds[round] ??= []).push(...samples);
  return rounds;
}

/** What was seen right before something that was measured, and right after it: a machine may have changed since the last but one. */
export function beside({ start, end }: Time, looks: readonly Time[]): number[] {
  return [looks.filter((look) => look.end <= start).at(-1), looks.find((look) => look.start >= end)].flatMap((look) => look?.samples ?? []);
}

/**
 * A figure made of several, in each round of its own: those that were measured in one round stand beside each other, and what was
 * measured in one round alone stands beside all.
 */
export function eachRound<T>(figures: readonly Rounds[], of: (...figures: number[]) => T): T[] {
  const alone = figures.map((rounds) => (rounds.filter((figure) => figure !== undefined).length === 1 ? rounds.find((figure) => figure !== undefined) : undefined));
  const made: T[] = [];
  for (let round = 0; round < Math.max(0, ...figures.map(({ length }) => length)); round++) {
    const here = figures.map((rounds, i) => alone[i] ?? rounds[round]);
    if (here.every((figure) => figure !== undefined) && figures.some((rounds) => rounds[round] !== undefined)) made.push(of(...here as number[]));
  }
  return made;
}
