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
