/** A thread of the pool in a page: a module worker. */
import { thread } from "./worker.js";

const scope = globalThis as unknown as { postMessage(message: unknown, transfer?: ArrayBuffer[]): void; onmessage: unknown };
const obey = thread({ post: (report, transfer) => scope.postMessage(report, transfer ?? []) });
scope.onmessage = (event: MessageEvent) => obey(event.data);
