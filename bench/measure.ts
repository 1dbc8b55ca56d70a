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

/** Something that is measured again and again. */
export interface Task {
  /** Measures for a short while; what comes back joins the samples of earlier rounds. */
  measure(): Promise<readonly number[]>;
  readonly samples: number[];
}

/**
 * Rounds of all tasks, forwards and backwards in turn (A B B A): a machine that slows down or speeds up does so for all alike.
 * A task that throws is out of the following rounds, and says so.
 */
export async function interleave(tasks: readonly Task[], rounds: number, failed: (task: Task, error: unknown) => void): Promise<void> {
  const out = new Set<Task>();
  for (let round = 0; round < rounds; round++) {
    for (const task of round % 2 ? [...tasks].reverse() : tasks) {
      if (out.has(task)) continue;
      try {
        task.samples.push(...(await task.measure()));
      } catch (error) {
        out.add(task);
        failed(task, error);
      }
    }
  }
}
