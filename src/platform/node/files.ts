/** Files of a disk, read in pieces, also straight into shared memory. */
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Kosmos2Error } from "../../errors.js";
import { isPlainName, type ModelFiles } from "../../weights/files.js";
import type { ByteSource } from "../platform.js";

/** The model in this package. */
export const embeddedModel: ModelFiles = folder("kosmos2-emoji", fileURLToPath(new URL("../../../models/kosmos2-emoji", import.meta.url)));

/**
 * A folder of the disk.
 * @param source path or `file:` URL
 * @throws {Kosmos2Error} code `model-not-found`
 */
export async function openFolder(source: string): Promise<ModelFiles> {
  let problem: string | undefined;
  let path = source;
  try {
    if (/^file:/i.test(source)) path = fileURLToPath(source);
    if (!(await stat(path)).isDirectory()) problem = "it is a file; pass the folder that it lies in";
  } catch (error) {
    problem = code(error) === "ENOENT" ? "there is no such folder" : (error as Error).message;
  }
  if (problem) throw new Kosmos2Error("model-not-found", "load", `Cannot open "${source}": ${problem}`, { found: source });
  return folder(source, path);
}

function folder(name: string, path: string): ModelFiles {
  return {
    name,
    list: () => readdir(path),
    async open(file, signal) {
      if (!isPlainName(file)) throw new Kosmos2Error("path-refused", "input", `Cannot open "${file}" of "${name}": it is not a plain file name`, { file });
      return openPath(join(path, file), signal);
    },
  };
}

/** Most bytes of one read: the kernel moves at most 2³¹ − 4096, and an abort waits for no longer than this takes. */
const mostRead = 2 ** 26;

/** Opens a file; undefined when there is none. @throws {Kosmos2Error} code `path-refused` for what is no file, `file-unreadable` */
export async function openPath(path: string, signal?: AbortSignal): Promise<ByteSource | undefined> {
  signal?.throwIfAborted();
  try {
    const stats = await stat(path); // first: to open a pipe is to wait for its writer
    if (!stats.isFile()) {
      const [found, cure] = stats.isDirectory() ? ["a folder", "name the files in it"] : ["a pipe or device", "pass its bytes; kosmos2 caption - reads standard input"];
      throw new Kosmos2Error("path-refused", "input", `Cannot open "${path}": it is ${found}, wanted a file; ${cure}`, { file: path, found });
    }
    const handle = await open(path);
    return {
      size: stats.size,
      async read(into, offset, signal) {
        for (let done = 0; done < into.length; ) {
          signal?.throwIfAborted();
          const { bytesRead } = await handle.read(into, done, Math.min(into.length - done, mostRead), offset + done);
          if (bytesRead === 0) throw new RangeError(`Cannot read ${into.length} bytes at ${offset} of "${path}": it ends at ${offset + done}`);
          done += bytesRead;
        }
      },
      close: () => handle.close(),
    };
  } catch (error) {
    if (code(error) === "ENOENT") return undefined;
    throw error instanceof Kosmos2Error ? error : new Kosmos2Error("file-unreadable", "load", `Cannot open "${path}": ${(error as Error).message}`, { file: path }, error);
  }
}

function code(error: unknown): string | undefined {
  return (error as { code?: string } | undefined)?.code;
}
