/** A process of its own that takes a lock and keeps it: `node locked.js PATH`. */
import { Lock, lockTiming } from "#src/platform/node/lock.js";

const lock = await Lock.take(process.argv[2], lockTiming);
process.send?.(lock ? "taken" : "not taken");
setTimeout(() => {}, 60_000);
