/** A thread of the pool in Node, Deno and Bun. */
import { parentPort } from "node:worker_threads";
import { thread } from "./worker.js";

const port = parentPort!;
port.on("message", thread({ post: (report, transfer) => port.postMessage(report, transfer) }));
