#!/usr/bin/env node
/** The bin: the process's streams and signals around commands.ts. */
import { main } from "./commands.js";
import { processTerminal } from "./terminal.js";

const interrupted = new AbortController();
process.on("SIGINT", () => {
  if (interrupted.signal.aborted) process.exit(130); // the second time: at once
  interrupted.abort(new Error("Interrupted"));
});
// a reader that went away (`| head`) wants no more: that is no failure
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  process.stderr.write(`kosmos2: Cannot write the results: ${error.message}\n`, () => process.exit(1));
});
process.stderr.on("error", () => {}); // results are worth more than what nobody reads

void main(process.argv.slice(2), processTerminal(), interrupted.signal).then((code) => {
  process.exitCode = code;
});
