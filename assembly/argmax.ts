/**
 * dst = { id, best, second } of x[N] without the banned ids: the largest number, the lowest id that has it, and the largest of
 * all others. −∞ (and id 0) where nothing is left. Thread 0 alone: a pass over the vocabulary takes microseconds.
 *
 * Bans are written into x as −∞ and taken back in reverse order, so that an id may be banned twice.
 */
import { Argmax } from "./record";

export function argmax(op: Argmax, t: i32, n: i32): void {
  if (t != 0) return;
  for (let i = 0; i < op.bans; i++) {
    const ban = op.banned + (<usize>i << 3), x = op.x + (<usize>load<u32>(ban) << 2);
    store<f32>(ban, load<f32>(x), 4);
    store<f32>(x, -Infinity);
  }
  let id = 0, best: f32 = -Infinity, second: f32 = -Infinity;
  for (let i = 0; i < op.N; i++) {
    const value = load<f32>(op.x + (<usize>i << 2));
    if (value > second) {
      if (value > best) {
        second = best;
        best = value;
        id = i;
      } else second = value;
    }
  }
  for (let i = op.bans - 1; i >= 0; i--) {
    const ban = op.banned + (<usize>i << 3);
    store<f32>(op.x + (<usize>load<u32>(ban) << 2), load<f32>(ban, 4));
  }
  store<u32>(op.dst, id);
  store<f32>(op.dst, best, 4);
  store<f32>(op.dst, second, 8);
}
