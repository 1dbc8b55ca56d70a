/** Where a command writes: results to stdout, everything else to stderr, colour only for people who see it. */

export interface Terminal {
  /** Results. */
  out(text: string): void;
  /** Progress, notes and errors. */
  err(text: string): void;
  /** Whether someone is watching both: then answers are streamed and progress is drawn. */
  readonly live: boolean;
  /** Whether stdout takes colour: a terminal, and no NO_COLOR (https://no-color.org). */
  readonly color: boolean;
}

export function processTerminal(): Terminal {
  const { stdout, stderr, env } = process;
  return {
    out: (text) => void stdout.write(text),
    err: (text) => void stderr.write(text),
    live: Boolean(stdout.isTTY && stderr.isTTY),
    color: Boolean(stdout.isTTY) && !env["NO_COLOR"] && env["TERM"] !== "dumb",
  };
}

/** What an engine may have to say: fewer threads than asked, tensors that nobody reads. */
export const logger = (terminal: Terminal) => ({ warn: (message: string) => terminal.err(`kosmos2: ${message}\n`) });

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 };

export function paint(terminal: Terminal, style: keyof typeof codes, text: string): string {
  return terminal.color ? `\x1b[${codes[style]}m${text}\x1b[0m` : text;
}

/** Rows under each other: columns as wide as their widest cell, numbers to the right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => { widths[i] = Math.max(widths[i] ?? 0, [...cell].length); });
  const pad = (cell: string, i: number) => {
    const space = " ".repeat(widths[i] - [...cell].length);
    return right.includes(i) ? space + cell : cell + space;
  };
  return rows.map((row) => `${row.map(pad).join("  ").trimEnd()}\n`).join("");
}
