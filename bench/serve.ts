/**
 * The child's side of a contender (contender.ts): orders come as JSON lines on stdin, answers leave as JSON lines on descriptor 3,
 * since libraries write what they like to stdout. One order at a time; the end of stdin ends the process.
 */
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";

/** What this process was told beside its program, by arguments or by the environment. */
export const flags = (): string => [...process.execArgv, process.env.NODE_OPTIONS].filter(Boolean).join(" ") || "no flags";

/** What a contender can be told to do, by name. */
export type Orders = Record<string, (order: never) => unknown>;

export function serve(orders: Orders): void {
  let work: Promise<void> = Promise.resolve();
  const answer = (reply: object) => writeSync(3, `${JSON.stringify(reply)}\n`);
  const obey = async (line: string): Promise<void> => {
    const order = JSON.parse(line) as { do: string };
    const act = orders[order.do] as ((order: object) => unknown) | undefined;
    try {
      if (!act) throw new RangeError(`Cannot do "${order.do}": known are ${Object.keys(orders).join(", ")}`);
      answer({ ok: (await act(order)) ?? null });
    } catch (error) {
      answer({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  };
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => (work = work.then(() => obey(line))));
  lines.on("close", () => process.exit(0));
}
