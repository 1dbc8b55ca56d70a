/** Folders and files that commands make: not where something is already, and refused in words where they can't be. */
import { readdir } from "node:fs/promises";
import { Kosmos2Error } from "../errors.js";

/** What lies in a folder that is to be made; nothing when it isn't there. @throws {Kosmos2Error} code `output-exists` when it is a file, `output-unwritable` */
export async function filesOf(out: string, action: string): Promise<string[]> {
  return readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    if (error.code === "ENOTDIR") throw new Kosmos2Error("output-exists", "input", `Cannot ${action} "${out}": it is a file; give a folder`, { file: out }, error);
    throw unwritable(out, action, error);
  });
}

export const notEmpty = (out: string, action: string): Kosmos2Error =>
  new Kosmos2Error("output-exists", "input", `Cannot ${action} "${out}": it is there and not empty; remove it, or give another folder`, { file: out });

export function unwritable(out: string, action: string, error: unknown, kept = ""): Kosmos2Error {
  const full = ["ENOSPC", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "");
  return new Kosmos2Error("output-unwritable", "state", `Cannot ${action} "${out}": ${full ? "the disk is full; make room" : (error as Error).message}${kept}`, { file: out }, error);
}
