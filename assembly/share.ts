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
 * Where the next pieces of a record for thread t begin, or −1 when none are left. There are `pieces` of each of 1 or 2 `parts`, those of the second
 * counted on from those of the first; a thread takes of one as long as there are any, and then helps with the other. Each take is a share of what is
 * left, down to one piece, so that threads end together, whoever of them was held up or reads memory more slowly. Which thread makes an output
 * changes no bit of it.
 */
export function take(op: Record, pieces: i32, parts: i32, t: i32, n: i32): i32 {
  for (let i = 0, part = share(parts, t, n); i < parts; i++, part ^= 1) {
    const from = takeOf(changetype<usize>(op) + TAKEN + (<usize>part << 2), pieces, parts, n);
    if (from < pieces) return part * pieces + from;
  }
  return -1;
}

function takeOf(taken: usize, pieces: i32, parts: i32, n: i32): i32 {
  if (ASC_FEATURE_THREADS) {
    let from = atomic.load<i32>(taken);
    while (from < pieces) {
      const found = atomic.cmpxchg<i32>(taken, from, takenTo(from, pieces, parts, n));
      if (found == from) break;
      from = found;
    }
    return from;
  }
  const from = load<i32>(taken);
  if (from < pieces) store<i32>(taken, takenTo(from, pieces, parts, n));
  return from;
}

/** Where pieces of a part that begin at `from` of it end. */
export function takenTo(from: i32, pieces: i32, parts: i32, n: i32): i32 {
  return from + max((pieces - from) * parts / (2 * n), 1);
}

/**
 * Few rows, whose product waits for memory: half of the threads keep to each half of the panels, and for one row read it in two `streams`, from its
 * beginning and from its middle. A processor fetches ahead in each, and what it has fetched is not left behind by a jump. This is how many panels
 * there are to a stream. The last streams have less: three panels at most are missing.
 */
export function apartOf(panels: i32, streams: i32, n: i32): i32 {
  const all = streams * min(n, 2);
  return (panels + all - 1) / all;
}

/** The next panels of a thread's first stream, with which go those `apart` further if there are two, or −1. */
export function takeStreams(op: Record, apart: i32, streams: i32, t: i32, n: i32): i32 {
  const p = take(op, apart, min(n, 2), t, n);
  return p < 0 ? p : streams * (p - p % apart) + p % apart;
}

/** Where those end. */
export function streamsTo(from: i32, apart: i32, streams: i32, n: i32): i32 {
  const begin = from % (streams * apart);
  return from - begin + takenTo(begin, apart, min(n, 2), n);
}
