/**
 * Passes over a backend's memory: one at a time and first come, first served. Their results lie in an arena until the next one; in a second arena, where
 * threads go on to a pass by themselves.
 */
import type { Backend } from "./backend/backend.js";
import { type Memory, Room } from "./graph/memory.js";
import type { Pass } from "./graph/recorder.js";
import { abortable } from "./pause.js";
import type { PassName, Profiler } from "./profile.js";

/** Stages by name: what was kept. */
export type Stages = Map<string, { rows: number; columns: number; data: Float32Array }>;

/** A pass under way. */
export interface Run {
  /** What the pass keeps. */
  readonly kept: Promise<Stages>;
  /** Where its results lie: in which of two arenas, and at which address. */
  readonly arena: number;
  readonly address: number;
  /** How many passes that arena has had. */
  readonly turn: number;
  /** When it ended, as `performance.now()` says it; undefined until then. */
  readonly ended: number | undefined;
}

export class Passes {
  /** Those that hear what passes cost. */
  readonly profilers = new Set<Profiler>();
  private last: Promise<void> = Promise.resolve();
  private waiting = 0;
  private readonly arenas = [{ room: new Room(), turns: 0 }, { room: new Room(), turns: 0 }];
  /** Passes that have not ended, and when they will have. */
  private running = 0;
  private end: Promise<void> = Promise.resolve();

  constructor(private readonly backend: Backend, private readonly memory: Memory) {}

  /** One work at a time; others wait in the order they came. */
  async inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const before = this.last;
    let done!: () => void;
    this.last = new Promise((resolve) => (done = resolve));
    this.waiting++;
    try {
      await abortable(before, signal).finally(() => this.waiting--); // whoever gives up while waiting hears so at once
      return await work();
    } finally {
      void before.then(done);
    }
  }

  /** Whether threads may go on to another pass by themselves: nobody waits for a turn, or for what each pass costs. */
  get free(): boolean {
    return this.backend.queues && this.waiting === 0 && this.profilers.size === 0;
  }

  /** Whether no other pass has begun where this one's results lie. */
  holds({ arena, turn }: Run): boolean {
    return this.arenas[arena].turns === turn;
  }

  /** All that runs has come to its end: to be waited for, in one's turn, by all who do not begin after a pass that they know of. */
  quiet(): Promise<void> {
    return this.end;
  }

  /** Does something as soon as nothing runs: at once, or later. */
  whenQuiet(work: () => void): void {
    if (this.running) void this.end.then(work);
    else work();
  }

  /** A pass alone. @returns what it keeps */
  async run(name: PassName, pass: Pass, signal: AbortSignal | undefined): Promise<Stages> {
    await this.quiet();
    return this.start(name, pass, signal).kept;
  }

  /**
   * @param after what may still be under way: threads go on to this pass when that has ended, and results of both are there meanwhile
   * @throws what keeps it from beginning
   */
  start(name: PassName, pass: Pass, signal: AbortSignal | undefined, after?: Run): Run {
    const { backend, memory } = this, arena = after ? 1 - after.arena : 0, place = this.arenas[arena];
    place.turns++; // first: what was there is lost even if there is no room for this one
    // what `after` goes on from lies in this arena, where threads may not have come to it yet
    const address = place.room.in({ alloc: (bytes) => memory.alloc(bytes), free: (old) => this.whenQuiet(() => memory.free(old)) }, pass.arenaBytes);
    const records = pass.at(address, backend), laps = this.profilers.size ? new Float64Array(pass.count) : undefined;
    const done = backend.run(records, pass.count, signal, laps);
    const run: Run & { ended: number | undefined } = {
      arena, address, turn: place.turns, ended: undefined, kept: this.results(name, pass, address, records, done, laps),
    };
    const ended = () => {
      this.running--;
      run.ended = performance.now();
    };
    this.running++;
    this.end = run.kept.then(ended, ended);
    return run;
  }

  private async results(
    name: PassName, pass: Pass, arena: number, records: Uint8Array, done: Promise<void>, laps: Float64Array | undefined,
  ): Promise<Stages> {
    const { backend, profilers } = this;
    await done;
    if (laps) for (const profiler of profilers) profiler.note(name, records, laps);
    const kept: Stages = new Map();
    for (const [name, { offset, rows, columns, stride }] of pass.kept) {
      const bytes = await backend.read(arena + offset, rows * stride * 4);
      const data = new Float32Array(bytes.buffer, bytes.byteOffset, rows * stride);
      kept.set(name, { rows, columns, data: stride === columns ? data : compact(data, rows, columns, stride) });
    }
    return kept;
  }
}

/** Rows of a stride without what lies between them. */
function compact(data: Float32Array, rows: number, columns: number, stride: number): Float32Array {
  const dense = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) dense.set(data.subarray(row * stride, row * stride + columns), row * columns);
  return dense;
}
