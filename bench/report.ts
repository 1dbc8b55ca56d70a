/** A run for people: tables for the terminal, a chart for a page. */
import type { Bar } from "./bars.js";
import type { Machine } from "./machine.js";
import { median, most } from "./measure.js";
import type { Row, Run } from "./run.js";

/** Lines of columns; the first line is the head, numbers lean to the right. */
function table(lines: readonly (readonly string[])[]): string {
  const widths = lines[0].map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  const right = widths.map((_, i) => lines.slice(1).every((line) => /^[-\d.,×%+]*$/.test(line[i])));
  return lines.map((line) => `  ${line.map((cell, i) => (right[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join("  ").trimEnd()}`).join("\n");
}

const number = (x: number): string => (x >= 1000 ? x.toFixed(0) : x >= 100 ? x.toFixed(1) : x >= 1 ? x.toFixed(2) : x.toPrecision(3));
const percent = (x: number | undefined): string => (x === undefined ? "" : `${(100 * x).toFixed(1)}%`);

/** What a row's time is worth: multiply-adds or tokens a second. */
function rate({ work, part, what, median }: Row): string {
  if (/^decode@\d+( guessed)?$/.test(what)) return `${number(1000 / median)} tok/s`;
  if (part === "kernels" && /^(1|4)×/.test(what) && work) return `${number(work[0].bytes / median / 1e6)} GB/s`;
  const macs = work ? work.reduce((all, { products, attention }) => all + products + attention, 0) : part === "kernels" ? what.split("×").reduce((all, n) => all * Number(n), 1) : 0;
  return macs && !what.startsWith("caption") ? `${number(macs / median / 1e6)} GMAC/s` : "";
}

export function limitLines(run: Run): string {
  return table([
    ["limit", "threads", "p90", "median", "lowest", "highest", "of"],
    ...[...run.limits].filter(([, samples]) => median(samples) > 0).sort().map(([key, samples]) => {
      const [name, threads] = key.split(" ");
      return [name, threads, number(most(samples)), number(median(samples)), number(Math.min(...samples)), number(Math.max(...samples)), name === "handover" ? "ns" : name === "bandwidth" || name === "plain_sum" ? "GB/s" : "GMAC/s"];
    }),
  ]);
}

export function rowLines(rows: readonly Row[]): string {
  return table([
    ["what", "engine", "dtype", "threads", "ms", "p10", "p90", "n", "rounds", "rate", "of limit", "GB", "note"],
    ...rows.map((row) => [
      row.what, row.engine, row.dtype, String(row.threads), number(row.median), number(row.p10), number(row.p90), String(row.samples), String(row.rounds.filter((ms) => ms !== undefined).length), rate(row),
      percent(row.fraction), row.peakRss ? (row.peakRss / 1e9).toFixed(2) : "", [row.beside && `beside ${row.beside}`, row.later && "later than the others", row.note].filter(Boolean).join("; "),
    ]),
  ]);
}

export function barLines(bars: readonly Bar[]): string {
  const value = ({ bar }: Bar, x: number | undefined) => (x === undefined ? "-" : bar.includes("share") ? percent(x) : `${x.toFixed(2)}×`);
  const note = (bar: Bar) => [bar.note, bar.handovers?.map(({ ns, got }) => `${value(bar, got)} at ${ns.toFixed(0)} ns`).join(", ")].filter(Boolean).join("; ");
  return table([
    ["bar", "want", "got", "lowest", "highest", "rounds", "goal", ""],
    ...bars.map((bar) => [bar.bar, value(bar, bar.want), value(bar, bar.got), value(bar, bar.lowest), value(bar, bar.highest), String(bar.rounds), value(bar, bar.goal), `${bar.ok === null ? "not measured" : bar.ok ? "ok" : "BELOW"}${note(bar) ? ` (${note(bar)})` : ""}`]),
  ]);
}

const colours: Record<string, string> = { kosmos2: "#2b6cb0", PyTorch: "#dd6b20", "llama.cpp": "#805ad5", wllama: "#b794f4", "onnxruntime-web": "#38a169", "tfjs-wasm": "#d69e2e" };
const colour = (engine: string): string => colours[engine.split(",")[0]] ?? "#718096";

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** Bars of time, shorter is better: captions, phases and the two products that bars are about. */
export function chart(rows: readonly Row[], machine: Machine): string {
  const panels: [title: string, rows: Row[]][] = [
    ["Caption of 64 tokens", "caption@64"], ["Vision + resampler", "vision"], ["Prefill of 72 tokens", "prefill"], ["A token at context 100", "decode@100"],
    ["Product 257×1024×4096", "257×1024×4096"], ["Product 72×2048×8192", "72×2048×8192"], ["Product 1×2048×8192", "1×2048×8192"],
  ].map(([title, what]) => [title, rows.filter((row) => row.what === what && row.threads === 2 && (!row.beside || what.startsWith("caption")))]);
  const width = 760, left = 190, right = 175, line = 20;
  let y = 68;
  const parts: string[] = [];
  for (const [title, shown] of panels.filter(([, shown]) => shown.length > 0)) {
    const longest = Math.max(...shown.map((row) => row.median));
    parts.push(`<text x="12" y="${y}" font-weight="bold">${escape(title)}</text>`);
    y += 8;
    for (const row of [...shown].sort((a, b) => a.median - b.median)) {
      const length = Math.max(1, ((width - left - right) * row.median) / longest);
      const text = `${row.median >= 1000 ? `${(row.median / 1000).toFixed(2)} s` : `${number(row.median)} ms`}${row.fraction ? `, ${percent(row.fraction)} of limit` : ""}`;
      parts.push(
        `<text x="${left - 8}" y="${y + 14}" text-anchor="end">${escape(`${row.engine} ${row.dtype}${row.scale ? ` (× ${row.scale})` : ""}${row.later ? " *" : ""}`)}</text>`,
        `<rect x="${left}" y="${y + 3}" width="${length.toFixed(1)}" height="${line - 6}" rx="2" fill="${colour(row.engine)}"/>`,
        `<text x="${(left + length + 6).toFixed(1)}" y="${y + 14}">${escape(text)}</text>`,
      );
      y += line;
    }
    y += 24;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" viewBox="0 0 ${width} ${y}" font-family="system-ui, sans-serif" font-size="12" fill="#1a202c">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="24" font-size="15" font-weight="bold">Kosmos-2 on two threads: time, shorter is better</text>
<text x="12" y="40" fill="#4a5568">${escape(`${machine.cpu}, ${machine.system}, ${machine.date.slice(0, 10)}${rows.some(({ later }) => later) ? "; * measured later than the others" : ""}`)}</text>
${parts.join("\n")}
</svg>
`;
}
