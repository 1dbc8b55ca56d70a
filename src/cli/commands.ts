/**
 * Which command a command line means, and what becomes of its errors.
 * Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
 */
import { readFileSync } from "node:fs";
import { UsageError } from "./options.js";
import type { Terminal } from "./terminal.js";

export type Command = (args: string[], terminal: Terminal, signal: AbortSignal) => Promise<number>;

/** Each is loaded when it is called: starting takes no longer than it must. */
const commands: Record<string, () => Promise<{ run: Command; usage: string }>> = {
  caption: () => import("./caption.js").then(({ caption: run, captionUsage: usage }) => ({ run, usage })),
  verify: () => import("./verify.js").then(({ verify: run, verifyUsage: usage }) => ({ run, usage })),
  doctor: () => import("./doctor.js").then(({ doctor: run, doctorUsage: usage }) => ({ run, usage })),
  pack: () => import("./weights.js").then(({ packCommand: run, packUsage: usage }) => ({ run, usage })),
  inspect: () => import("./weights.js").then(({ inspectCommand: run, inspectUsage: usage }) => ({ run, usage })),
  "verify-pack": () => import("./weights.js").then(({ verifyPackCommand: run, verifyPackUsage: usage }) => ({ run, usage })),
  synthesize: () => import("./weights.js").then(({ synthesizeCommand: run, synthesizeUsage: usage }) => ({ run, usage })),
};

async function usage(): Promise<string> {
  const lines = await Promise.all(Object.values(commands).map(async (load) => (await load()).usage.split("\n")[0]));
  return `Kosmos-2 in WebAssembly: says what is in a picture, and where.

${lines.map((line) => `  ${line}`).join("\n")}

kosmos2 COMMAND --help tells more; kosmos2 --version says which this is.
`;
}

/** Runs a command line. @returns the exit code */
export async function main(args: string[], terminal: Terminal, signal: AbortSignal): Promise<number> {
  const [name = "", ...rest] = args;
  if (name === "--version" || name === "-v") {
    terminal.out(`${JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")).version}\n`);
    return 0;
  }
  if (name === "--help" || name === "-h" || name === "help") return terminal.out(await usage()), 0;
  const command = Object.hasOwn(commands, name) ? await commands[name]() : undefined;
  try {
    if (!command) throw new UsageError(name ? `there is no command "${name}"` : "a command is missing");
    if (rest.includes("--help") || rest.includes("-h")) return terminal.out(command.usage), 0;
    return await command.run(rest, terminal, signal);
  } catch (error) {
    if (signal.aborted) return 130;
    if (error instanceof UsageError) {
      terminal.err(`kosmos2: ${error.message}\n\n${command?.usage ?? (await usage())}`);
      return 2;
    }
    terminal.err(`kosmos2: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}
