/**
 * The wasm backend in its three forms, best first: a pool of threads over shared memory; one worker with a memory of its own;
 * no worker at all, where the caller's thread computes and lets its event loop turn between operations.
 *
 * Which form and which build: whatever the runtime is seen to be able to do, never its name.
 */
import { relaxedSimd, simd } from "wasm-feature-detect";
import { availableThreads, hasWorkers, loadModule, startWorker } from "#platform";
import { Kosmos2Error } from "../../errors.js";
import type { WorkerFactory, WorkerHandle } from "../../platform/platform.js";
import type { WasmUrl } from "../../platform/modules.js";
import type { Backend } from "../backend.js";
import { Compute } from "./compute.js";
import { Code, HEAP, MAX_THREADS, type Order, type Report, word } from "./control.js";
import { Room } from "../../graph/memory.js";
import { beforeProducts } from "../../graph/record.js";
import { shown } from "../../options.js";
import { abortable } from "../../pause.js";
import { Heap } from "./heap.js";

const PAGE = 65536;
/** Pages of a wasm32 memory at most: 4 GiB. */
const MAX_PAGES = 65536;
const FIRST_PAGES = 16;

export interface WasmOptions {
  /** Threads that compute. Default: what the machine really grants, or KOSMOS2_THREADS. */
  threads?: number;
  /** Which build. Default: relaxed SIMD where the runtime has it. */
  engine?: "plain" | "relaxed";
  /** Whether threads share memory. Default: where the runtime allows it. Without it there is one thread. */
  shared?: boolean;
  wasmUrl?: WasmUrl;
  workerFactory?: WorkerFactory;
  /** false: the caller's thread computes, as where there are no workers. */
  worker?: boolean;
  /** The most memory that will be needed, in bytes: shared memory reserves its addresses at the start. Default 4 GiB. */
  maxBytes?: number;
  /** The least that is of any use; where so much can't be shared, memory is not shared. Default maxBytes */
  minBytes?: number;
  signal?: AbortSignal;
  /** Hears what is worth knowing and is no error: why fewer threads compute than were meant to. Default: nobody. */
  logger?: { warn(message: string): void };
}

/** What this runtime offers, what is used of it, and why not more. */
export interface Capabilities {
  simd: boolean;
  relaxedSimd: boolean;
  sharedMemory: boolean;
  workers: boolean;
  availableThreads: number;
  /** What an engine loaded with the given options uses. */
  used: { engine: "plain" | "relaxed"; shared: boolean; threads: number; worker: boolean };
  /** Why it doesn't use more, a sentence each. */
  reasons: string[];
}

/**
 * With `maxBytes` it is tried out whether so much memory can be shared.
 *
 * @throws {Kosmos2Error} code `engine-unsupported`, `shared-unsupported` or `option-invalid` for what was asked and can't be had
 */
export async function capabilities(options: WasmOptions = {}): Promise<Capabilities> {
  const reasons: string[] = [];
  const has = { simd: await simd(), relaxedSimd: await relaxedSimd(), ...sharing(), workers: options.worker !== false && (hasWorkers() || options.workerFactory !== undefined) };
  if (!has.simd) throw new Kosmos2Error("engine-unsupported", "unsupported", "Cannot run the kernels: this runtime has no wasm SIMD; use one of 2021 or later");
  const engine = options.engine ?? (has.relaxedSimd ? "relaxed" : "plain");
  if (engine !== "plain" && engine !== "relaxed") throw invalid("engine", engine, '"plain" or "relaxed"');
  if (engine === "relaxed" && !has.relaxedSimd) {
    throw new Kosmos2Error("engine-unsupported", "unsupported", 'Cannot use engine "relaxed": this runtime has no relaxed SIMD (Node 20 needs --experimental-wasm-relaxed-simd); leave the option out');
  }
  if (!has.relaxedSimd) reasons.push("no relaxed SIMD in this runtime (Node 20: --experimental-wasm-relaxed-simd): f32 and f16 products take two instructions for one");
  const canShare = has.sharedMemory && has.workers;
  if (options.shared && !canShare) {
    throw new Kosmos2Error("shared-unsupported", "unsupported", `Cannot share memory: ${has.why || "this runtime has no workers"}; leave the option out to run on one thread`);
  }
  if (!canShare) reasons.push(`one thread: ${has.why || "this runtime has no workers"}`);
  let shared = options.shared ?? canShare;
  if (canShare && !shared) reasons.push("one thread: shared memory was declined");
  if (shared && options.maxBytes !== undefined) {
    const most = pagesOf(options.maxBytes), pages = reserve(pagesOf(options.minBytes ?? 0), most, true)?.pages ?? 0;
    if (pages === 0 && !options.shared) shared = false;
    if (pages < most) reasons.push(pages === 0 ? `one thread: ${tooLarge(options)}` : `only ${pages * PAGE} of ${most * PAGE} bytes of memory can be shared here`);
  }
  if (!has.workers) reasons.push("no workers: the caller's thread computes, a few milliseconds at a time");
  const available = availableThreads();
  if (options.threads !== undefined && !(Number.isInteger(options.threads) && options.threads >= 1)) throw invalid("threads", options.threads, "a whole number from 1");
  const wanted = options.threads ?? available.threads;
  const threads = shared ? Math.min(wanted, MAX_THREADS) : 1;
  const why = wanted > MAX_THREADS ? [`the most there can be, not ${wanted}`] : [];
  if (options.threads === undefined) why.push(available.why);
  if (shared && why.length) reasons.push(`${threads} thread${threads > 1 ? "s" : ""}: ${why.join("; ")}`);
  return {
    simd: has.simd, relaxedSimd: has.relaxedSimd, sharedMemory: has.sharedMemory, workers: has.workers, availableThreads: available.threads,
    used: { engine, shared, threads, worker: has.workers }, reasons,
  };
}

const invalid = (option: string, found: unknown, wanted: string) =>
  new Kosmos2Error("option-invalid", "input", `Cannot use option ${option}: found ${shown(found)}, wanted ${wanted}`, { found, wanted });

function sharing(): { sharedMemory: boolean; why: string } {
  if (typeof SharedArrayBuffer === "undefined") return { sharedMemory: false, why: "no SharedArrayBuffer; a page needs COOP and COEP headers for it" };
  if ((globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated === false) {
    return { sharedMemory: false, why: "the page is not cross-origin isolated; send COOP and COEP headers" };
  }
  try {
    new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    return { sharedMemory: true, why: "" };
  } catch {
    return { sharedMemory: false, why: "wasm memory can't be shared in this runtime" };
  }
}

/**
 * Starts the backend that suits this runtime. Where memory can't be shared as large as it must be, or threads don't start, fewer
 * threads do with what there is, and the logger hears of it.
 */
export async function createWasmBackend(options: WasmOptions = {}): Promise<Backend> {
  const { signal, logger, workerFactory } = options;
  const { used: { engine, shared, threads, worker }, reasons } = await capabilities({ ...options, maxBytes: undefined });
  if (threads < options.threads!) logger?.warn(`Of ${options.threads} threads not all compute (${reasons.find((reason) => /^\w+ threads?: /.test(reason))})`);
  const most = pagesOf(options.maxBytes ?? MAX_PAGES * PAGE), least = options.minBytes === undefined ? most : pagesOf(options.minBytes);
  const started = async <T extends WasmBackend>(backend: T): Promise<T> => {
    try {
      await backend.start(signal);
      return backend;
    } catch (error) {
      await backend.dispose();
      throw error;
    }
  };
  signal?.throwIfAborted();
  if (shared) {
    const module = await loadModule(`${engine}-shared`, options.wasmUrl, signal);
    for (let count = threads; ; count = Math.ceil(count / 2)) {
      const reserved = reserve(least, most);
      if (!reserved && options.shared) {
        throw new Kosmos2Error("memory-exhausted", "memory", `Cannot share memory: ${tooLarge(options)}; use a smaller dtype, or leave the option out`, { neededBytes: least * PAGE });
      }
      if (!reserved) break;
      try {
        return await started(new SharedBackend(module, engine, count, reserved.memory, reserved.pages, workerFactory));
      } catch (error) {
        if (count === 1 || !(error instanceof Kosmos2Error && error.code === "worker-lost")) throw error;
        logger?.warn(`Of ${count} threads not all did start (${error.message}): ${Math.ceil(count / 2)} compute`);
      }
    }
    logger?.warn(`One thread computes: ${tooLarge(options)}`);
  }
  const module = await loadModule(engine, options.wasmUrl, signal);
  return started(worker ? new WorkerBackend(module, engine, most, workerFactory) : new InlineBackend(module, engine, most));
}

const pagesOf = (bytes: number) => Math.min(MAX_PAGES, Math.ceil(bytes / PAGE) + FIRST_PAGES);
const tooLarge = ({ minBytes, maxBytes }: WasmOptions) => `${minBytes ?? maxBytes ?? MAX_PAGES * PAGE} bytes of memory can't be shared here`;

/**
 * Shared memory that may grow to `most` pages, or to fewer where there is no room for so many addresses; undefined when not even to `least`.
 *
 * @param whole finds out how far it can really grow: newer engines (V8 13) take fewer addresses than they were asked for and say nothing.
 *   It costs no memory until it is written to, but memory does not shrink again
 */
function reserve(least: number, most: number, whole = false): { memory: WebAssembly.Memory; pages: number } | undefined {
  for (const pages of [...new Set([most, Math.ceil((least + most) / 2), least])]) {
    try {
      const initial = Math.min(FIRST_PAGES, pages), memory = new WebAssembly.Memory({ initial, maximum: pages, shared: true });
      return { memory, pages: whole ? initial + grown(memory, pages - initial) : pages };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }
  return undefined;
}

/** Grows a memory by `pages`, or by as many as it can, to 16 MiB. Returns how many. */
function grown(memory: WebAssembly.Memory, pages: number): number {
  let done = 0, step = pages;
  while (done < pages && (step >= 256 || step === pages)) {
    try {
      memory.grow(step);
      done += step;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      step = Math.floor(step / 2);
    }
    step = Math.min(step, pages - done);
  }
  return done;
}

/** What all three share: the heap, one run at a time, abort, the end. */
abstract class WasmBackend implements Backend {
  abstract readonly description: string;
  readonly threads: number = 1;
  readonly queues: boolean = false;
  protected readonly heap: Heap;
  /** Where records are written, in turn: those of one run stay until it has ended. */
  private readonly lists = [new Room(), new Room()];
  private runs = 0;
  private gone: Kosmos2Error | undefined;
  /** Rejects whatever is being waited for. */
  private readonly fates = new Set<(error: Kosmos2Error) => void>();

  constructor(private readonly maximum: number) {
    this.heap = new Heap(HEAP, FIRST_PAGES * PAGE, (bytes) => this.growTo(bytes));
  }

  abstract start(signal?: AbortSignal): Promise<void>;
  abstract view(address: number, bytes: number): Uint8Array | undefined;
  abstract write(address: number, bytes: Uint8Array): void;
  abstract read(address: number, bytes: number): Promise<Uint8Array>;
  protected abstract grow(bytes: number): number;
  protected abstract execute(list: number, count: number, laps?: Float64Array): Promise<Code>;
  abstract abort(): void;
  protected abstract end(): Promise<void>;

  alloc(bytes: number): number {
    if (this.gone) throw this.gone;
    return this.heap.alloc(bytes);
  }

  free(address: number): void {
    if (!this.gone) this.heap.free(address);
  }

  run(records: Uint8Array, count: number, signal?: AbortSignal, laps?: Float64Array): Promise<void> {
    if (this.gone) throw this.gone;
    signal?.throwIfAborted();
    const list = this.lists[this.queues ? this.runs++ & 1 : 0].in(this.heap, records.length, records.length);
    this.write(list, records);
    return this.toTheEnd(list, count, signal, laps);
  }

  private async toTheEnd(list: number, count: number, signal: AbortSignal | undefined, laps: Float64Array | undefined): Promise<void> {
    const abort = () => this.abort();
    signal?.addEventListener("abort", abort);
    try {
      await this.unlessLost(this.execute(list, count, laps));
    } finally {
      signal?.removeEventListener("abort", abort);
    }
    signal?.throwIfAborted();
  }

  async dispose(): Promise<void> {
    this.lose(new Kosmos2Error("disposed", "state", "Cannot go on: the model was disposed of; load it again"));
    await this.end();
  }

  /** From here on everything rejects. */
  protected lose(error: Kosmos2Error): void {
    this.gone ??= error;
    for (const reject of this.fates) reject(this.gone);
    this.fates.clear();
  }

  protected unlessLost<T>(work: Promise<T>): Promise<T> {
    if (this.gone) return Promise.reject(this.gone);
    return new Promise<T>((resolve, reject) => {
      this.fates.add(reject);
      work.then(resolve, reject).finally(() => this.fates.delete(reject));
    });
  }

  private growTo(bytes: number): number {
    const limit = this.maximum * PAGE;
    try {
      if (bytes <= limit) return this.grow(bytes);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
    throw new Kosmos2Error(
      "memory-exhausted", "memory",
      `Cannot get ${bytes} bytes of memory: ${limit} at most; use a smaller dtype, a shorter context or fewer answers at once`,
      { neededBytes: bytes, availableBytes: limit },
    );
  }
}

/** @param reason the message has its first line, details the stack that may follow */
const lost = (reason: string) =>
  new Kosmos2Error("worker-lost", "worker", `Cannot go on: a thread of the engine died: ${reason.split("\n")[0]}; load the model again`, { found: reason });

/** Threads over one memory that the host sees as well. */
class SharedBackend extends WasmBackend {
  readonly description: string;
  override readonly queues = true;
  private readonly words: Int32Array;
  private workers: WorkerHandle[] = [];
  /** Who waits for the end of each job there is. */
  private readonly waiting: ((code: Code) => void)[] = [];
  private ended = false;

  constructor(
    private readonly module: WebAssembly.Module, engine: string, override readonly threads: number,
    private readonly memory: WebAssembly.Memory, pages: number, private readonly factory?: WorkerFactory,
  ) {
    super(pages);
    this.description = `wasm, ${engine} SIMD, ${threads} thread${threads > 1 ? "s" : ""}, shared memory`;
    this.words = new Int32Array(this.memory.buffer, 0, 256);
  }

  async start(signal?: AbortSignal): Promise<void> {
    const ready = Array.from({ length: this.threads }, (_, thread) => new Promise<void>((resolve) => {
      const worker = startWorker({
        message: (data) => {
          const report = data as Report;
          if (report.type === "ready") resolve();
          else if (report.type === "done") this.waiting.shift()!(report.code);
          else if (report.type === "failed") this.kill(report.message);
        },
        lost: (reason) => this.kill(reason),
      }, this.factory);
      this.workers.push(worker);
      const { module, memory, threads } = this;
      worker.post({ type: "start", module, memory, thread, threads, pages: 0, maximum: 0 } satisfies Order);
    }));
    await this.unlessLost(abortable(Promise.all(ready), signal));
    for (const worker of this.workers) worker.busy(false);
  }

  view(address: number, bytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, bytes);
  }

  write(address: number, bytes: Uint8Array): void {
    this.view(address, bytes.length).set(bytes);
  }

  async read(address: number, bytes: number): Promise<Uint8Array> {
    const copy = new Uint8Array(bytes);
    copy.set(this.view(address, bytes));
    return copy;
  }

  protected grow(bytes: number): number {
    this.memory.grow(Math.max(0, Math.ceil((bytes - this.memory.buffer.byteLength) / PAGE)));
    return this.memory.buffer.byteLength;
  }

  protected async execute(list: number, count: number, laps?: Float64Array): Promise<Code> {
    const { words, workers, waiting } = this;
    const address = laps ? this.heap.alloc(laps.byteLength) : 0;
    const behind = waiting.length > 0;
    if (!behind) {
      Atomics.store(words, word.abort, 0);
      Atomics.store(words, word.decision, 0);
    }
    const job = Atomics.load(words, word.job) + 1, odd = job & 1;
    Atomics.store(words, word.list + odd, list);
    Atomics.store(words, word.count + odd, count);
    Atomics.store(words, word.laps + odd, address);
    Atomics.store(words, word.alone + odd, behind && !laps ? beforeProducts(new DataView(this.memory.buffer, list), count) : 0);
    for (const worker of workers) worker.busy(true);
    const code = await new Promise<Code>((resolve) => {
      waiting.push(resolve);
      Atomics.store(words, word.job, job);
      Atomics.notify(words, word.job);
      workers.forEach((worker, t) => Atomics.load(words, word.parked + t) && worker.post({ type: "go" } satisfies Order));
    });
    if (waiting.length === 0) for (const worker of workers) worker.busy(false);
    if (laps) {
      laps.set(new Float64Array(this.memory.buffer, address, laps.length));
      this.heap.free(address);
    }
    return code;
  }

  abort(): void {
    Atomics.store(this.words, word.abort, 1);
  }

  private kill(reason: string): void {
    if (this.ended) return;
    this.lose(lost(reason));
    void this.end();
  }

  protected async end(): Promise<void> {
    this.ended = true;
    Atomics.store(this.words, word.poison, 1); // nobody waits at a barrier for a thread that is gone
    Atomics.notify(this.words, word.generation);
    await Promise.all(this.workers.splice(0).map((worker) => worker.terminate()));
  }
}

/** One worker with a memory of its own; everything crosses as messages, in order. */
class WorkerBackend extends WasmBackend {
  readonly description: string;
  private worker: WorkerHandle | undefined;
  private readonly waiting: ((report: Report) => void)[] = [];
  private bytes = FIRST_PAGES * PAGE;
  private ended = false;

  constructor(private readonly module: WebAssembly.Module, engine: string, private readonly pages: number, private readonly factory?: WorkerFactory) {
    super(pages);
    this.description = `wasm, ${engine} SIMD, 1 thread, memory of its own`;
  }

  async start(signal?: AbortSignal): Promise<void> {
    this.worker = startWorker({
      message: (data) => {
        const report = data as Report;
        if (report.type === "failed") this.kill(report.message);
        else this.waiting.shift()?.(report);
      },
      lost: (reason) => this.kill(reason),
    }, this.factory);
    await abortable(this.ask({ type: "start", module: this.module, thread: 0, threads: 1, pages: FIRST_PAGES, maximum: this.pages }), signal);
  }

  view(): undefined {
    return undefined;
  }

  write(address: number, bytes: Uint8Array): void {
    const copy = bytes.slice();
    this.worker!.post({ type: "write", address, bytes: copy } satisfies Order, [copy.buffer as ArrayBuffer]);
  }

  async read(address: number, bytes: number): Promise<Uint8Array> {
    return ((await this.ask({ type: "read", address, bytes })) as Report & { type: "bytes" }).bytes;
  }

  protected grow(bytes: number): number {
    this.bytes = Math.ceil(bytes / PAGE) * PAGE;
    this.worker!.post({ type: "grow", bytes: this.bytes } satisfies Order);
    return this.bytes;
  }

  protected async execute(list: number, count: number, laps?: Float64Array): Promise<Code> {
    const done = (await this.ask({ type: "run", list, count, laps: laps !== undefined })) as Report & { type: "done" };
    if (done.laps) laps?.set(done.laps);
    return done.code;
  }

  abort(): void {
    this.worker?.post({ type: "abort" } satisfies Order);
  }

  private async ask(order: Order): Promise<Report> {
    this.worker!.busy(true);
    const answer = new Promise<Report>((resolve) => this.waiting.push(resolve));
    this.worker!.post(order);
    const report = await this.unlessLost(answer);
    if (this.waiting.length === 0) this.worker?.busy(false);
    return report;
  }

  private kill(reason: string): void {
    if (this.ended) return;
    this.lose(lost(reason));
    void this.end();
  }

  protected async end(): Promise<void> {
    this.ended = true;
    await this.worker?.terminate();
  }
}

/** No worker: the caller's thread computes. */
class InlineBackend extends WasmBackend {
  readonly description: string;
  private compute: Compute | undefined;

  constructor(private readonly module: WebAssembly.Module, engine: string, private readonly pages: number) {
    super(pages);
    this.description = `wasm, ${engine} SIMD, on the caller's thread`;
  }

  async start(): Promise<void> {
    this.compute = new Compute(this.module, FIRST_PAGES, this.pages);
  }

  view(address: number, bytes: number): Uint8Array {
    return this.compute!.view(address, bytes);
  }

  write(address: number, bytes: Uint8Array): void {
    this.view(address, bytes.length).set(bytes);
  }

  async read(address: number, bytes: number): Promise<Uint8Array> {
    return this.view(address, bytes).slice();
  }

  protected grow(bytes: number): number {
    return this.compute!.grow(bytes);
  }

  protected async execute(list: number, count: number, laps?: Float64Array): Promise<Code> {
    try {
      return await this.compute!.run(list, count, laps);
    } catch (error) {
      const { code, kind, message, details } = lost(String(error));
      this.lose(new Kosmos2Error(code, kind, message, details, error)); // memory is in no known state
      throw error;
    }
  }

  abort(): void {
    this.compute?.abort();
  }

  protected async end(): Promise<void> {
    this.abort();
  }
}
