/** A model's folder, wherever it is: what `ModelSource` becomes. */
import type { ByteSource } from "../platform/platform.js";

export interface ModelFiles {
  /** For messages: the path, id or URL as the user gave it. */
  readonly name: string;
  /** Opens `config.json` and the like; undefined when the folder has no such file. The caller closes what it opens. */
  open(file: string, signal?: AbortSignal): Promise<ByteSource | undefined>;
}

/** The whole of a small file as text; undefined when there is none. */
export async function readText(files: ModelFiles, file: string, signal?: AbortSignal): Promise<string | undefined> {
  const source = await files.open(file, signal);
  if (!source) return undefined;
  try {
    const bytes = new Uint8Array(source.size);
    await source.read(bytes, 0, signal);
    return new TextDecoder().decode(bytes);
  } finally {
    await source.close();
  }
}
