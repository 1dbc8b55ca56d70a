/** Staying polite in long work: the event loop gets its turns, and an abort is heard. */

/** Lets the event loop have its turn: timers, input, painting. Sooner than setTimeout, and in every runtime. */
export function pause(): Promise<void> {
  return new Promise((resume) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close(); // an open port keeps Node alive
      resume();
    };
    port2.postMessage(0);
  });
}

/**
 * For long loops: `await turn()` at every step. It mostly does nothing; every 10 ms it lets the event loop run.
 * Rejects with the signal's reason.
 */
export function turns(signal?: AbortSignal): () => Promise<void> {
  let last = performance.now();
  return async () => {
    signal?.throwIfAborted();
    if (performance.now() - last < 10) return;
    await pause();
    signal?.throwIfAborted();
    last = performance.now();
  };
}

/** A controller that aborts when `outer` does. To let go of `outer`, abort it yourself when all is over. */
export function following(outer: AbortSignal | undefined): AbortController {
  const controller = new AbortController();
  const abort = () => controller.abort(outer!.reason);
  if (outer?.aborted) abort();
  else outer?.addEventListener("abort", abort, { signal: controller.signal });
  return controller;
}

/** The same promise, which rejects as soon as the signal aborts; what cannot be stopped then ends unheard. */
export function abortable<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return work;
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
