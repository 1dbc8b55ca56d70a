/** A model's folder, wherever it is: what `ModelSource` becomes. */
import { Kosmos2Error } from "../errors.js";
import type { ByteSource } from "../platform/platform.js";

export interface ModelFiles {
  /** For messages: the path, id or URL as the user gave it. */
  readonly name: string;
  /** The commit on the hub, of a model from there. */
  readonly revision?: string;
  /** Opens `config.json` and the like; undefined when the folder has no such file. The caller closes what it opens. */
  open(file: string, signal?: AbortSignal): Promise<ByteSource | undefined>;
  /** Names of the files that are there, for messages. */
  list?(): Promise<readonly string[]>;
}

/** Longest text that is read whole: a tokenizer's table is 17 MB. */
const mostText = 2 ** 28;

/** The whole of a small file as text; undefined when there is none. */
export async function readText(files: ModelFiles, file: string, signal?: AbortSignal): Promise<string | undefined> {
  const source = await files.open(file, signal);
  if (!source) return undefined;
  try {
    if (source.size > mostText)
      throw new Kosmos2Error("file-too-large", "load", `Cannot read "${file}" of "${files.name}": it is ${source.size} bytes; wanted at most ${mostText}`,
        { file, found: source.size, wanted: mostText });
    const bytes = new Uint8Array(source.size);
    await source.read(bytes, 0, signal);
    return new TextDecoder().decode(bytes);
  } finally {
    await source.close();
  }
}

/**
 * What a JSON file holds; undefined when there is no such file.
 * @throws {Kosmos2Error} `code` when it is not JSON
 */
export async function readJson(files: ModelFiles, file: string, signal?: AbortSignal, code = "config-invalid"): Promise<unknown> {
  const text = await readText(files, file, signal);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Kosmos2Error(code, "load", `Cannot use "${files.name}: ${file}": it is not JSON (${(error as Error).message})`, { file }, error);
  }
}

/** Says in which folder a file is that a reader, which knows only what it holds, has no use for: `Cannot use "./model: tokenizer.json": …`. */
export async function inFolder<T>(files: ModelFiles, file: string, read: () => T | Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof Kosmos2Error)) throw error;
    const { code, kind, message, details, cause } = error;
    throw new Kosmos2Error(code, kind, message.replace(/^Cannot use (\S+\.json|an image processor)(?=[: ])/, () => `Cannot use "${files.name}: ${file}"`), { file, ...details }, cause);
  }
}

/** A name of a file in the folder itself: no separator, no way up, no drive. */
export function isPlainName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && !/[/\\:\0]/.test(name);
}

/** What to throw when a folder lacks a file; says what is there. */
export async function notFound(files: ModelFiles, file: string): Promise<Kosmos2Error> {
  const there = (await files.list?.().catch(() => undefined))?.slice().sort();
  const shown = there && (there.length ? `it holds ${there.slice(0, 12).join(", ")}${there.length > 12 ? `, and ${there.length - 12} more` : ""}` : "it is empty");
  return new Kosmos2Error("model-not-found", "load",
    `Cannot open "${files.name}": it has no ${file}${shown ? `; ${shown}` : ""}`, { file, found: there, wanted: file });
}

export function endsEarly(found: number, offset: number, wanted: number): RangeError {
  return new RangeError(`Cannot read ${wanted} bytes at ${offset}: the file ends at ${found}`);
}

/** Bytes already in memory; they are neither copied nor detached. */
export function bytesSource(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    async read(into, offset, signal) {
      signal?.throwIfAborted();
      if (offset + into.length > bytes.length) throw endsEarly(bytes.length, offset, into.length);
      into.set(bytes.subarray(offset, offset + into.length));
    },
    async close() {},
  };
}
