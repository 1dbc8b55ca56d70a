/**
 * A process of its own for leaks.test.ts: does one thing again and again and prints, for each round, the memory it holds when all
 * garbage is collected, in bytes: `node --expose-gc rounds.js captions|loads|kept ROUNDS OPTIONS`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Kosmos2, type LoadOptions } from "kosmos2-wasm";
import { fixtures } from "./support.js";

const [what, rounds, options] = process.argv.slice(2);
const picture = `${fixtures}emoji/keys.png`, load = () => Kosmos2.load("kosmos2-emoji", JSON.parse(options) as LoadOptions);
const collect = (globalThis as unknown as { gc(): void }).gc;

/** RSS once what was dropped is gone: buffers go a moment after the objects that held them, threads' memory when they have ended. */
async function held(): Promise<number> {
  collect();
  await sleep(10);
  collect();
  return process.memoryUsage.rss();
}

const curve: number[] = [], kept: Float32Array[] = [];
const kosmos = what === "captions" ? await load() : undefined;
for (let i = 0; i < Number(rounds); i++) {
  if (kosmos) await kosmos.caption(picture);
  else {
    const once = await load();
    await once.caption(picture);
    await once.dispose();
    if (what === "kept") kept.push(new Float32Array(2 ** 18).fill(1)); // a leak of 1 MiB, for a test of the test
  }
  curve.push(await held());
}
await kosmos?.dispose();
console.log(JSON.stringify(curve));
