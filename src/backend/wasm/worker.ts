/**
 * A thread of the pool. With shared memory it waits for jobs (it spins in wasm, then sleeps, then goes back to its event loop
 * until a message wakes it); with a memory of its own it does what messages say. worker.node.ts and worker.web.ts tie it to a port.
 */
import { Code, CONTROL, type Kernels, type Order, type Report, word } from "./control.js";
import { Compute } from "./compute.js";
import { RECORD_BYTES } from "../../graph/record.js";

/** Looks at the job word before sleeping: about 0.1 ms, longer than the host needs between two tokens of a small model. */
const SPINS = 40_000;
/** How long a thread sleeps before it goes back to its event loop. */
const SLEEP_MS = 20;
/** A sleeper at a barrier looks for poison this often. */
const LOOK_MS = 50;

export interface Port {
  post(report: Report, transfer?: ArrayBuffer[]): void;
}

/** @returns what to call for each message from the host */
export function thread(port: Port): (order: Order) => void {
  let serve: (() => void) | undefined; // with shared memory
  let compute: Compute | undefined; // without
  let work: Promise<unknown> = Promise.resolve();

  const failed = (error: unknown) => {
    const said = String(error), stack = (error as Error | undefined)?.stack ?? "";
    port.post({ type: "failed", message: stack.startsWith(said) ? stack : `${said}\n${stack}` }); // only V8's stack begins with what happened
  };

  function obey(order: Order): void | Promise<void> {
    switch (order.type) {
      case "start":
        if (order.memory) serve = sharedThread(port, order.module, order.memory, order.thread, order.threads);
        else compute = new Compute(order.module, order.pages, order.maximum);
        port.post({ type: "ready" });
        serve?.();
        return;
      case "go":
        return serve!();
      case "grow":
        compute!.grow(order.bytes);
        return;
      case "write":
        compute!.view(order.address, order.bytes.length).set(order.bytes);
        return;
      case "read": {
        const bytes = compute!.view(order.address, order.bytes).slice();
        return port.post({ type: "bytes", bytes }, [bytes.buffer as ArrayBuffer]);
      }
      case "run": {
        const laps = order.laps ? new Float64Array(order.count) : undefined;
        return compute!.run(order.list, order.count, laps).then((code) => port.post({ type: "done", code, laps }));
      }
    }
  }

  return (order) => {
    if (order.type === "abort") return compute!.abort(); // overtakes what is queued
    work = work.then(() => obey(order)).catch(failed);
  };
}

/** @returns what serves jobs until there are none for a while */
function sharedThread(port: Port, module: WebAssembly.Module, memory: WebAssembly.Memory, t: number, n: number): () => void {
  const words = new Int32Array(memory.buffer, 0, 256);
  const sleep = (address: number, value: number) => void Atomics.wait(words, address / 4, value, LOOK_MS);
  const kernels = new WebAssembly.Instance(module, { env: { memory, sleep } }).exports as unknown as Kernels;
  const parked = word.parked + t;
  let job = 0;
  /** How the last job ended, if the next one was there by then: the host hears of it where others need not wait for a thread that it takes the place of. */
  let untold: Code | undefined;

  function serve(): void {
    Atomics.store(words, parked, 0);
    for (;;) {
      if (kernels.spinForJob(CONTROL, job, SPINS) === job && Atomics.wait(words, word.job, job, SLEEP_MS) === "timed-out") {
        Atomics.store(words, parked, 1);
        if (Atomics.load(words, word.job) === job) return; // the host sees the flag and posts "go"
        Atomics.store(words, parked, 0);
      }
      if (Atomics.load(words, word.job) === job) continue;
      job = (job + 1) | 0; // the host may be one further
      const [list, count, laps, alone] = [word.list, word.count, word.laps, word.alone].map((each) => Atomics.load(words, each + (job & 1)) >>> 0);
      let code = Code.done, done = 0;
      if (untold !== undefined) {
        code = kernels.run(list, (done = alone), t, n, CONTROL);
        port.post({ type: "done", code: untold });
        untold = undefined;
      }
      if (code === Code.done) code = laps ? lapped(list, count, laps) : kernels.run(list + done * RECORD_BYTES, count - done, t, n, CONTROL);
      if (code === Code.poisoned) return;
      Atomics.add(words, word.left, 1);
      if (t === 0) {
        // The host clears flags for the next job, or words of this one, so nobody may still be reading them.
        while (Atomics.load(words, word.left) < n) if (Atomics.load(words, word.poison)) return;
        Atomics.store(words, word.left, 0);
        if (Atomics.load(words, word.job) === job) port.post({ type: "done", code });
        else untold = code;
      }
    }
  }

  /** One record at a time, with a look at the clock after each. */
  function lapped(list: number, count: number, address: number): Code {
    const laps = new Float64Array(memory.buffer, address, count);
    let since = performance.now();
    for (let i = 0; i < count; i++) {
      const code = kernels.run(list + i * RECORD_BYTES, 1, t, n, CONTROL);
      if (code !== Code.done) return code;
      const now = performance.now();
      if (t === 0) laps[i] = now - since;
      since = now;
    }
    return Code.done;
  }

  return () => {
    try {
      serve();
    } catch (error) {
      Atomics.store(words, word.poison, 1); // the others leave their barrier
      Atomics.notify(words, word.generation);
      throw error;
    }
  };
}
