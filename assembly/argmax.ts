/**
 * dst[n] = { id, best, second } of each thread's part of x[N] without the banned ids: the largest number, the lowest id that has it, and
 * the largest of all others. −∞ (and id 0) where nothing is left. Threads share panels of 8; who needs the best of all puts their finds
 * together: the host (Recorder.argmax), or the embed of a pass that goes on with it.
 *
 * Bans are written into x as −∞ and taken back in reverse order, so that an id may be banned twice; each thread does so in its own part.
 */
import { Argmax } from "./record";
import { share } from "./share";
import { largest } from "./simd";

/** Bytes of a find. */
export const FIND: usize = 12;

export function argmax(op: Argmax, t: i32, n: i32): void {
  const panels = (op.N + 7) >> 3, from = min(share(panels, t, n) << 3, op.N), to = min(share(panels, t + 1, n) << 3, op.N);
  for (let i = 0; i < op.bans; i++) {
    const ban = op.banned + (<usize>i << 3), id = load<i32>(ban);
    if (id < from || id >= to) continue;
    const x = op.x + (<usize>id << 2);
    store<f32>(ban, load<f32>(x), 4);
    store<f32>(x, -Infinity);
  }
  find(op.x, from, to, op.dst + <usize>t * FIND);
  for (let i = op.bans - 1; i >= 0; i--) {
    const ban = op.banned + (<usize>i << 3), id = load<i32>(ban);
    if (id >= from && id < to) store<f32>(op.x + (<usize>id << 2), load<f32>(ban, 4));
  }
}

/** The best id of what n threads found. */
export function best(finds: usize, n: i32): i32 {
  let id = load<i32>(finds), most = load<f32>(finds, 4);
  for (let i = 1; i < n; i++) {
    finds += FIND;
    if (load<f32>(finds, 4) > most) {
      id = load<i32>(finds);
      most = load<f32>(finds, 4);
    }
  }
  return id;
}

/** Four lanes side by side, each with its best and second; a NaN is passed over. Then one more look for who has the best. */
function find(x: usize, from: i32, to: i32, dst: usize): void {
  let tops = f32x4.splat(-Infinity), seconds = tops, i = from;
  for (; i + 4 <= to; i += 4) {
    const v = v128.load(x + (<usize>i << 2));
    seconds = f32x4.pmax(seconds, f32x4.pmin(v, tops));
    tops = f32x4.pmax(tops, v);
  }
  const whole = i;
  let best: f32 = -Infinity, second = largest(seconds);
  for (let lane = 0; lane < 4; lane++) {
    const top = f32x4.extract_lane(tops, 0);
    second = max(second, min(best, top));
    best = max(best, top);
    tops = v128.shuffle<i32>(tops, tops, 1, 2, 3, 0);
  }
  for (; i < to; i++) {
    const value = load<f32>(x + (<usize>i << 2));
    if (value > second) {
      second = min(best, value);
      best = max(best, value);
    }
  }
  let id = 0;
  if (best > -Infinity) {
    const wanted = f32x4.splat(best);
    for (id = from; id < whole && !v128.any_true(f32x4.eq(v128.load(x + (<usize>id << 2)), wanted)); ) id += 4;
    while (load<f32>(x + (<usize>id << 2)) != best) id++;
  }
  store<u32>(dst, id);
  store<f32>(dst, best, 4);
  store<f32>(dst, second, 8);
}
