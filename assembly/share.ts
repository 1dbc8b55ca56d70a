/** How threads divide work: thread t of n does the pieces from share(pieces, t, n) to share(pieces, t + 1, n) − 1. */
export function share(pieces: i32, t: i32, n: i32): i32 {
  return <i32>(<i64>pieces * t / n);
}
