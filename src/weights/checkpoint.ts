/** A model's tensors, in one file or in shards, as Hugging Face saves them. Opening reads headers alone. */
import { Kosmos2Error } from "../errors.js";
import type { ByteSource } from "../platform/platform.js";
import { withOwnNames } from "./fairseq.js";
import { isPlainName, notFound, readJson, type ModelFiles } from "./files.js";
import { readHeader, type Header, type TensorPlace } from "./safetensors.js";

const single = "model.safetensors";
const index = "model.safetensors.index.json";

/** A tensor and the file that it lies in. */
export interface StoredTensor extends TensorPlace {
  readonly file: string;
}

/**
 * @example
 *   const checkpoint = await Checkpoint.open(await openModel("./model"));
 *   checkpoint.tensors.get("text_model.lm_head.weight"); // { dtype: "F32", shape: [65037, 2048], file, start, end }
 *   await checkpoint.close();
 */
export class Checkpoint {
  private constructor(
    /** For messages: the folder as the user named it. */
    readonly name: string,
    /** By Hugging Face's names, also where the file has fairseq's. */
    readonly tensors: ReadonlyMap<string, StoredTensor>,
    /** What each file says of itself and its tensors. */
    readonly headers: ReadonlyMap<string, Header>,
    private readonly sources: ReadonlyMap<string, ByteSource>,
  ) {}

  /**
   * Opens model.safetensors, or else the shards of model.safetensors.index.json. The caller closes it.
   *
   * @throws {Kosmos2Error} codes `model-not-found`, `weights-index-invalid`, `weights-incomplete`, `weights-header-invalid`
   */
  static async open(files: ModelFiles, options: { signal?: AbortSignal } = {}): Promise<Checkpoint> {
    const { signal } = options;
    const sources = new Map<string, ByteSource>(), headers = new Map<string, Header>();
    const open = async (file: string): Promise<Header | undefined> => {
      const source = await files.open(file, signal);
      if (!source) return undefined;
      sources.set(file, source);
      const header = await readHeader(source, `${files.name}: ${file}`, signal);
      headers.set(file, header);
      return header;
    };
    try {
      const whole = await open(single);
      if (whole) return new Checkpoint(files.name, withOwnNames(placed(whole, single)), headers, sources);

      const weightMap = await readIndex(files, signal);
      const tensors = new Map<string, StoredTensor>();
      for (const [file, names] of weightMap) {
        const header = await open(file);
        if (!header) throw incomplete(files, file, undefined, `shard "${file}", which its index names, is missing`);
        const there = placed(header, file);
        for (const name of names) {
          const tensor = there.get(name);
          if (!tensor) throw incomplete(files, file, name, `tensor "${name}" is missing from "${file}", where its index says it is`);
          tensors.set(name, tensor);
        }
      }
      return new Checkpoint(files.name, withOwnNames(tensors), headers, sources);
    } catch (error) {
      await Promise.allSettled([...sources.values()].map((source) => source.close()));
      throw error;
    }
  }

  /** Fills all of `into` (which may be shared memory) from byte `offset` of a file. */
  async read(file: string, into: Uint8Array, offset: number, signal?: AbortSignal): Promise<void> {
    try {
      await this.sources.get(file)!.read(into, offset, signal);
    } catch (error) {
      if (signal?.aborted || error instanceof Kosmos2Error) throw error;
      throw new Kosmos2Error("file-unreadable", "load", `Cannot read "${this.place(file)}": ${(error as Error).message}`, { file }, error);
    }
  }

  /** For messages: `folder: file`. */
  place(file: string): string {
    return `${this.name}: ${file}`;
  }

  async close(): Promise<void> {
    await Promise.all([...this.sources.values()].map((source) => source.close()));
  }
}

function placed(header: Header, file: string): Map<string, StoredTensor> {
  return new Map([...header.tensors].map(([name, place]) => [name, { ...place, file }]));
}

/** The tensors of each shard. */
async function readIndex(files: ModelFiles, signal?: AbortSignal): Promise<Map<string, string[]>> {
  const json = await readJson(files, index, signal, "weights-index-invalid");
  if (json === undefined) throw await notFound(files, `${single} or ${index}`);
  const invalid = (problem: string, tensor?: string, found?: unknown): Kosmos2Error =>
    new Kosmos2Error("weights-index-invalid", "integrity", `Cannot use "${files.name}: ${index}": ${problem}`, { file: index, tensor, found });
  const weightMap = (json as { weight_map?: unknown } | null)?.weight_map;
  if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap)) throw invalid("its weight_map is not an object");
  const shards = new Map<string, string[]>();
  for (const [name, file] of Object.entries(weightMap)) {
    if (typeof file !== "string" || !isPlainName(file) || !file.endsWith(".safetensors"))
      throw invalid(`tensor "${name}" is said to lie in ${JSON.stringify(file)}; wanted a .safetensors file of the same folder`, name, file);
    const names = shards.get(file);
    if (names) names.push(name);
    else shards.set(file, [name]);
  }
  return shards;
}

function incomplete(files: ModelFiles, file: string, tensor: string | undefined, problem: string): Kosmos2Error {
  return new Kosmos2Error("weights-incomplete", "integrity", `Cannot open "${files.name}": ${problem}; download it again`, { file, tensor });
}
