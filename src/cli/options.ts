/** The command line, read with node:util's parseArgs; whatever is wrong with it becomes a UsageError (exit code 2). */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs, type ParseArgsConfig } from "node:util";

type Options = NonNullable<ParseArgsConfig["options"]>;
type Parsed<T extends Options> = ReturnType<typeof parseArgs<{ options: T; allowPositionals: true; strict: true }>>;

export class UsageError extends Error {}

/** Options that `caption` and `verify` share: how the engine runs. */
export const engineOptions = {
  dtype: { type: "string" },
  cache: { type: "string" },
  threads: { type: "string" },
  engine: { type: "string" },
  "no-shared": { type: "boolean" },
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const satisfies Options;

export function parse<T extends Options>(args: readonly string[], options: T): Pick<Parsed<T>, "values" | "positionals"> {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    const [what] = (error as Error).message.split(/\.(?:\s|$)/), option = /--[\w-]+(?=.* argument is ambiguous)/.exec(what)?.[0];
    throw new UsageError(option ? `${option} needs a value; one that begins with a dash is written ${option}=-…` : what);
  }
}

/** A whole number from 1 up, or undefined when the option is absent. */
export function count(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (!/^[1-9]\d{0,8}$/.test(value)) throw new UsageError(`--${name} takes a whole number from 1 up, not "${value}"`);
  return Number(value);
}

export function oneOf<T extends string>(name: string, value: string | undefined, choices: readonly T[]): T | undefined {
  if (value === undefined || (choices as readonly string[]).includes(value)) return value as T | undefined;
  throw new UsageError(`--${name} takes ${choices.join(", ")}, not "${value}"`);
}

export const dtypes = ["auto", "f32", "f16", "i8", "i4", "w8a8", "fp32", "fp16", "q8", "q4"] as const;
export const caches = ["auto", "f32", "f16", "i16"] as const;
export const engines = ["plain", "relaxed"] as const;

/** The part of `LoadOptions` that the command line can say. */
export function loadOptions(values: { dtype?: string; cache?: string; threads?: string; engine?: string; "no-shared"?: boolean }) {
  const dtype = oneOf("dtype", values.dtype, dtypes);
  const cache = oneOf("cache", values.cache, caches);
  const threads = count("threads", values.threads);
  const engine = oneOf("engine", values.engine, engines);
  return { ...(dtype && { dtype }), ...(cache && { cache }), ...(threads && { threads }), ...(engine && { engine }), ...(values["no-shared"] && { shared: false }) };
}

/** `--model`: a folder that exists is meant as one; anything else is what `Kosmos2.load` takes it for. */
export function modelSource(value: string | undefined): string {
  if (value === undefined || value === "kosmos2-emoji") return "kosmos2-emoji";
  return existsSync(value) ? resolve(value) : value;
}
