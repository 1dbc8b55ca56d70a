/** Passes over a backend's memory: one at a time and first come, first served. Their results lie in an arena until the next one. */
import type { Backend } from "./backend/backend.js";
import type { Memory } from "./graph/memory.js";
import type { Pass } from "./graph/recorder.js";
import { abortable } from "./pause.js";
import type { PassName, Profiler } from "./profile.js";

/** Stages by name: what was kept. */
export type Stages = Map<string, { rows: number; columns: number; data: Float32Array }>;

export class Passes {
  /** Those that hear what passes cost. */
  readonly profilers = new Set<Profiler>();
  private last: Promise<void> = Promise.resolve();
  private arena = 0;
  private arenaBytes = 0;

  constructor(private readonly backend: Backend, private readonly memory: Memory) {}

  /** One work at a time; others wait in the order they came. */
  async inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const before = this.last;
    let done!: () => void;
    this.last = new Promise((resolve) => (done = resolve));
    try {
      await abortable(before, signal); // whoever gives up while waiting hears so at once
      return await work();
    } finally {
      void before.then(done);
    }
  }

  /** To be called in one's turn. @returns what the pass keeps */
  async run(name: PassName, pass: Pass, signal: AbortSignal | undefined): Promise<Stages> {
    const { backend, profilers } = this;
    if (pass.arenaBytes > this.arenaBytes) {
      if (this.arena) backend.free(this.arena);
      this.arena = this.arenaBytes = 0;
      this.arena = this.memory.alloc(pass.arenaBytes);
      this.arenaBytes = pass.arenaBytes;
    }
    const records = pass.at(this.arena, backend), laps = profilers.size ? new Float64Array(pass.count) : undefined;
    await backend.run(records, pass.count, signal, laps);
    if (laps) for (const profiler of profilers) profiler.note(name, records, laps);
    const kept: Stages = new Map();
    for (const [name, { offset, rows, columns, stride }] of pass.kept) {
      const bytes = await backend.read(this.arena + offset, rows * stride * 4);
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
