import { Record, TAKEN } from "./record";

/** How threads divide work: thread t of n does the pieces from share(pieces, t, n) to share(pieces, t + 1, n) − 1. */
export function share(pieces: i32, t: i32, n: i32): i32 {
  return <i32>(<i64>pieces * t / n);
}

/** Rows of a pass over w, a multiple of 12: 1 MiB of x, which stays in a second-level cache; few rows would mean reading w from memory too often. */
export function rowsOfPass(rowBytes: i32): i32 {
  return max((1 << 20) / max(rowBytes, 1) / 12, 2) * 12;
}

/**
 * Where a thread's next pieces of a record begin; `pieces` when none are left. Each take is a part of what is left, down to one piece, so that threads
 * end together, whoever of them was held up or reads memory more slowly. Which thread makes an output changes no bit of it.
 */
export function take(op: Record, pieces: i32, n: i32): i32 {
  const taken = changetype<usize>(op) + TAKEN;
  if (ASC_FEATURE_THREADS) {
    let from = atomic.load<i32>(taken);
    while (from < pieces) {
      const found = atomic.cmpxchg<i32>(taken, from, takenTo(from, pieces, n));
      if (found == from) break;
      from = found;
    }
    return from;
  }
  const from = load<i32>(taken);
  if (from < pieces) store<i32>(taken, takenTo(from, pieces, n));
  return from;
}

/** Where they end. */
export function takenTo(from: i32, pieces: i32, n: i32): i32 {
  return from + max((pieces - from) / (2 * n), 1);
}
