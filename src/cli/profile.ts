/** `--profile`: where an answer's time went, as a table. */
import type { Profile } from "../index.js";
import { table } from "./terminal.js";

/** Operations that take less than this part of the time are told together, by kind. */
const LITTLE = 0.002;

const isProduct = (kind: string) => kind.startsWith("matmul_");
/** The sum of what some operations took. */
const msOf = (operations: Profile["operations"], which: (kind: string) => boolean) => operations.reduce((sum, { kind, ms }) => sum + (which(kind) ? ms : 0), 0);

/** Milliseconds of products, of attention, of all other operations, and of what lies outside passes. */
function parts({ ms, operations }: Profile) {
  const productsMs = msOf(operations, isProduct), attentionMs = msOf(operations, (kind) => kind === "attention");
  const othersMs = msOf(operations, () => true) - productsMs - attentionMs;
  return { productsMs, attentionMs, othersMs, outsideMs: ms - productsMs - attentionMs - othersMs };
}

export const profileJson = (profile: Profile): object => ({ ...profile, ...parts(profile) });

export function profileTable(profile: Profile): string {
  const { description, limits, ms, passes, operations } = profile, { productsMs, attentionMs, othersMs, outsideMs } = parts(profile);
  const share = (part: number) => `${((100 * part) / ms).toFixed(1)} %`, giga = (rate: number) => (rate / 1e9).toFixed(1);
  const row = (pass: string, what: string, times: number, took: number, leastMs: number) =>
    [`  ${pass}`, what, String(times), took.toFixed(2), share(took), leastMs ? `${((100 * leastMs) / took).toFixed(0)} %` : ""];
  const rows: string[][] = [];
  for (const { pass, times, ms: took } of passes) {
    const own = operations.filter((operation) => operation.pass === pass);
    rows.push(row(pass, "", times, took, own.reduce((sum, { leastMs }) => sum + leastMs, 0)));
    const little = new Map<string, { times: number; ms: number; leastMs: number }>();
    for (const { kind, shape, ...cost } of own) {
      if (cost.ms >= LITTLE * ms) rows.push(row("", `${kind} ${shape}`, cost.times, cost.ms, cost.leastMs));
      else {
        const sum = little.get(kind) ?? { times: 0, ms: 0, leastMs: 0 };
        little.set(kind, { times: sum.times + cost.times, ms: sum.ms + cost.ms, leastMs: sum.leastMs + cost.leastMs });
      }
    }
    for (const [kind, cost] of little) rows.push(row("", kind, cost.times, cost.ms, cost.leastMs));
  }
  return `\n${description}; at most ${giga(limits.bandwidth)} GB/s, ${giga(limits.int16)} G int16, ${giga(limits.int8)} G int8 and ${giga(limits.float32)} G f32 multiply-adds a second\n`
    + table([["", "", "times", "ms", "of all", "of limit"], ...rows], [2, 3, 4, 5])
    + `  products ${share(productsMs)}, attention ${share(attentionMs)}, other operations ${share(othersMs)}, outside passes ${share(outsideMs)} of ${ms.toFixed(0)} ms\n`;
}
