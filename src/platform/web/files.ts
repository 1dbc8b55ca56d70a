/** The model in this package, fetched from beside the code; there are no other files here. */
import { Kosmos2Error } from "../../errors.js";
import { bytesSource, type ModelFiles } from "../../weights/files.js";
import type { ByteSource } from "../platform.js";

/** Each address is a literal of its own: bundlers find it and copy the file. */
const addresses: Readonly<Record<string, () => URL>> = {
  "config.json": () => new URL("../../../models/kosmos2-emoji/config.json", import.meta.url),
  "generation_config.json": () => new URL("../../../models/kosmos2-emoji/generation_config.json", import.meta.url),
  "preprocessor_config.json": () => new URL("../../../models/kosmos2-emoji/preprocessor_config.json", import.meta.url),
  "tokenizer.json": () => new URL("../../../models/kosmos2-emoji/tokenizer.json", import.meta.url),
  "tokenizer_config.json": () => new URL("../../../models/kosmos2-emoji/tokenizer_config.json", import.meta.url),
  "model.safetensors": () => new URL("../../../models/kosmos2-emoji/model.safetensors", import.meta.url),
};

/** The model in this package. */
export const embeddedModel: ModelFiles = {
  name: "kosmos2-emoji",
  list: async () => Object.keys(addresses),
  async open(file, signal): Promise<ByteSource | undefined> {
    if (!Object.hasOwn(addresses, file)) return undefined;
    const url = addresses[file]().href;
    const response = await fetch(url, { signal }).catch((error) => {
      if (signal?.aborted) throw signal.reason;
      throw failed(url, (error as Error).message, error);
    });
    if (!response.ok) throw failed(url, `the server answers ${response.status}`);
    return bytesSource(new Uint8Array(await response.arrayBuffer()));
  },
};

function failed(url: string, why: string, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("download-failed", "download",
    `Cannot fetch "${url}": ${why}; serve the package's folder models/kosmos2-emoji at this address, or pass the files themselves`, { file: url }, cause);
}

/** @throws {Kosmos2Error} code `path-unsupported`, always */
export async function openFolder(source: string): Promise<ModelFiles> {
  throw new Kosmos2Error("path-unsupported", "unsupported", `Cannot open "${source}": there are no folders here; pass the files themselves, as File[] or bytes by name`);
}

/** @throws {Kosmos2Error} code `path-unsupported`, always */
export async function openPath(path: string): Promise<ByteSource | undefined> {
  throw new Kosmos2Error("path-unsupported", "unsupported", `Cannot open "${path}": there are no paths here; pass the bytes or a Blob`);
}
