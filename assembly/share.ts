/** How threads divide work: thread t of n does the pieces from share(pieces, t, n) to share(pieces, t + 1, n) − 1. */
export function share(pieces: i32, t: i32, n: i32): i32 {
  return <i32>(<i64>pieces * t / n);
}

/** Rows of a pass over w, a multiple of 12: 1 MiB of x, which stays in a second-level cache; few rows would mean reading w from memory too often. */
export function rowsOfPass(rowBytes: i32): i32 {
  return max((1 << 20) / max(rowBytes, 1) / 12, 2) * 12;
}
