/**
 * Carries a list of records out, all threads together: each does its part of a record, then waits for the others.
 *
 * Threads meet in the control block, 16 words of u32:
 *
 *   0 arrived      threads at the barrier           4 abort     set by the host at any time
 *   1 generation   barriers passed                  5 leave     what the last to arrive read in `abort`
 *   2 sleepers     threads that gave up spinning    6 job       number of the last job, counted up by the host
 *   3 poison       not 0: a worker died
 *
 * Threads spin here and sleep in JavaScript: V8 11.3 (Node 20), until it has optimised a function, loses local variables over a
 * memory.atomic.wait32 in it, and a thread whose barrier's generation is lost goes on alone (test/kernels/run.test.ts).
 *
 * Without shared memory there are no barriers: the host may run the threads' parts one after another, record by record.
 */
import { argmax } from "./argmax";
import { attention } from "./attention";
import { copy } from "./copy";
import { embed } from "./embed";
import { l2normalize } from "./l2normalize";
import { layernorm } from "./layernorm";
import { limit } from "./limit";
import { matmul_f16 } from "./matmul_f16";
import { matmul_f32 } from "./matmul_f32";
import { matmul_i4 } from "./matmul_i4";
import { matmul_i8 } from "./matmul_i8";
import { matmul_w8a8 } from "./matmul_w8a8";
import { pack } from "./pack";
import { patches } from "./patches";
import { quantize, quantize_i8 } from "./quantize";
import {
  Argmax, Attention, Copy, Embed, Kind, L2normalize, Layernorm, Limit, Matmul, Pack, Patches, Quantize, Record, RECORD_BYTES, Store, goesOn,
} from "./record";
import { store_keys, store_values } from "./store";

/** Bytes from the control block's beginning. */
const ARRIVED: usize = 0, GENERATION: usize = 4, SLEEPERS: usize = 8, POISON: usize = 12;
const ABORT: usize = 16, LEAVE: usize = 20, JOB: usize = 24;

/** Looks at the generation before a thread sleeps: 50 to 100 µs. */
const SPINS: i32 = 50000;

/** Sleeps while the word is `value`, until notified, or for a while: who is woken looks again, at the poison too. */
// @ts-ignore: decorator
@external("env", "sleep") declare function sleep(word: usize, value: i32): void;

/** 0: ran to the end. */
const ABORTED: i32 = 1, POISONED: i32 = 2;

/**
 * @param list `count` records
 * @param t this thread, 0 … n − 1
 * @param n threads that run this list
 * @returns 0 at the end, 1 when the host asked to abort (after a whole record, the same for all threads), 2 when a worker died
 */
export function run(list: usize, count: i32, t: i32, n: i32, control: usize): i32 {
  let leave = cutOff(control, n) ? meet(control, n) : 0;
  if (leave) return leave;
  for (let i = 0; i < count; i++, list += RECORD_BYTES) {
    carryOut(list, t, n);
    if (goesOn(list)) continue;
    leave = meet(control, n);
    if (leave) return leave;
  }
  return 0;
}

function carryOut(list: usize, t: i32, n: i32): void {
  switch (changetype<Record>(list).kind) {
    case Kind.matmul_f32: { matmul_f32(changetype<Matmul>(list), t, n); break; }
    case Kind.matmul_f16: { matmul_f16(changetype<Matmul>(list), t, n); break; }
    case Kind.matmul_i8: { matmul_i8(changetype<Matmul>(list), t, n); break; }
    case Kind.matmul_w8a8: { matmul_w8a8(changetype<Matmul>(list), t, n); break; }
    case Kind.quantize: { quantize(changetype<Quantize>(list), t, n); break; }
    case Kind.quantize_i8: { quantize_i8(changetype<Quantize>(list), t, n); break; }
    case Kind.layernorm: { layernorm(changetype<Layernorm>(list), t, n); break; }
    case Kind.l2normalize: { l2normalize(changetype<L2normalize>(list), t, n); break; }
    case Kind.embed: { embed(changetype<Embed>(list), t, n); break; }
    case Kind.patches: { patches(changetype<Patches>(list), t, n); break; }
    case Kind.copy: { copy(changetype<Copy>(list), t, n); break; }
    case Kind.store_keys: { store_keys(changetype<Store>(list), t, n); break; }
    case Kind.store_values: { store_values(changetype<Store>(list), t, n); break; }
    case Kind.attention: { attention(changetype<Attention>(list), t, n); break; }
    case Kind.argmax: { argmax(changetype<Argmax>(list), t, n); break; }
    case Kind.limit: { limit(changetype<Limit>(list), t, n); break; }
    case Kind.pack: { pack(changetype<Pack>(list), t, n); break; }
    case Kind.matmul_i4: { matmul_i4(changetype<Matmul>(list), t, n); break; }
    default: unreachable();
  }
}

/**
 * Whether an abort ended the run before, and so ends this one, which threads went on to: its first record may already need what that one did not come to.
 * The same for all threads: nobody writes `leave` before all have met again, nor clears `abort` while there is a run.
 */
function cutOff(control: usize, n: i32): bool {
  if (ASC_FEATURE_THREADS) return atomic.load<i32>(control + (n == 1 ? ABORT : LEAVE)) != 0;
  else return false;
}

/** The end of a record. @returns what `run` returns, or 0 to go on */
function meet(control: usize, n: i32): i32 {
  if (ASC_FEATURE_THREADS) {
    if (n == 1) return atomic.load<i32>(control + ABORT) ? ABORTED : 0;
    return barrier(control, n);
  } else return load<i32>(control + ABORT) ? ABORTED : 0;
}

function barrier(control: usize, n: i32): i32 {
  if (ASC_FEATURE_THREADS) {
    const generation = atomic.load<i32>(control + GENERATION);
    if (atomic.add<i32>(control + ARRIVED, 1) + 1 == n) {
      // Nobody reads `leave` before the generation changes, and nobody arrives again before having read it.
      atomic.store<i32>(control + LEAVE, atomic.load<i32>(control + ABORT) ? ABORTED : 0);
      atomic.store<i32>(control + ARRIVED, 0);
      atomic.add<i32>(control + GENERATION, 1);
      if (atomic.load<i32>(control + SLEEPERS)) atomic.notify(control + GENERATION, n);
    } else if (!spinUntilNot(control + GENERATION, generation, SPINS)) {
      atomic.add<i32>(control + SLEEPERS, 1);
      while (atomic.load<i32>(control + GENERATION) == generation && !atomic.load<i32>(control + POISON)) {
        sleep(control + GENERATION, generation);
      }
      atomic.sub<i32>(control + SLEEPERS, 1);
    }
    return atomic.load<i32>(control + POISON) ? POISONED : atomic.load<i32>(control + LEAVE);
  } else return 0;
}

/** @returns whether the word changed before `spins` looks were over */
function spinUntilNot(word: usize, value: i32, spins: i32): bool {
  if (ASC_FEATURE_THREADS) {
    for (; spins > 0; spins--) if (atomic.load<i32>(word) != value) return true;
    return false;
  } else return true;
}

/** Looks at the job word until the host has counted it on from `last`, `spins` times at most. @returns the job word */
export function spinForJob(control: usize, last: i32, spins: i32): i32 {
  spinUntilNot(control + JOB, last, spins);
  return ASC_FEATURE_THREADS ? atomic.load<i32>(control + JOB) : load<i32>(control + JOB);
}
