/**
 * A pack: a model's folder whose weights already are what the kernels read (quant.ts), so that loading is reading. `kosmos2 pack` makes one.
 *
 * Its weights are safetensors of at most 256 MiB. A matrix is U8 [panels, bytes of a panel] under the checkpoint's own name; one that fits no
 * file is cut between panels into `name/0`, `name/1`, …, each alone in its file. Norms, biases and positions are F32 as they were. Every
 * tensor begins at a multiple of 64 bytes of its file; what fills up to there is U8 `__padding__/n`. They lie in the order of `modelTensors`,
 * in which tokens are made faster; any other is fine. The metadata of each file:
 *
 *   format           "kosmos2-pack"            dtype            "i8", what most matrices are
 *   version          "4"                       group_size       "128", inputs of a scale (i8, w8a8); "32", inputs of a share (i4)
 *   source_sha256    of the checkpoint: SHA-256 of a line `name dtype shape sha256` for each of its tensors that are here, sorted,
 *                    each ended by a line feed; `shape` is "2048,8192". How it was cut into files doesn't matter
 *   source_revision  its commit on the hub, where that is known
 *   tensors          JSON: stored name → Entry
 *
 * The row of the padding token in the table of embeddings is zero here, as loading makes it.
 */
import { Kosmos2Error } from "../errors.js";
import { GROUP, SHARED } from "../graph/record.js";
import type { Kosmos2Config } from "../model/config.js";
import type { Checkpoint } from "./checkpoint.js";
import { panelBytes, panelOf, type Format } from "./quant.js";
import { safetensorsHeader, type Dtype } from "./safetensors.js";
import { aliasesOf, formatOf, modelTensors, shapeOf, storedBytes, type TensorSpec } from "./tensors.js";

export const packName = "kosmos2-pack";
export const packVersion = "4";
/** Most bytes of a file, and how much of them a header may take. */
const mostFile = 2 ** 28, roomForHeader = 2 ** 20;
/** Every tensor of a pack begins at a multiple of so many bytes. */
const ALIGN = 64;

const dtypes: readonly string[] = ["f32", "f16", "i8", "i4", "w8a8"] satisfies Format[];
const groupSizes: Partial<Record<string, string>> = { i8: String(GROUP), i4: String(SHARED), w8a8: String(GROUP) };
const paddingName = "__padding__/";

/** What a pack's metadata says of a stored tensor. */
export interface Entry {
  readonly format: Format | "rows";
  /** As the checkpoint had it. */
  readonly shape: readonly number[];
  /** Of a part: the whole one's name, and the first panel that is here. */
  readonly of?: string;
  readonly panel?: number;
  /** The checkpoint's type, and SHA-256 of its bytes there (of the whole tensor). */
  readonly source_dtype: string;
  readonly source_sha256: string;
  /** SHA-256 of the bytes here. */
  readonly sha256: string;
}

/** What a pack says of itself. */
export interface PackInfo {
  readonly dtype: Format;
  readonly sourceSha256: string;
  readonly sourceRevision: string | undefined;
  /** By the names that they are stored under. */
  readonly entries: ReadonlyMap<string, Entry>;
}

/** A stretch of a tensor as a pack stores it: rows (panels, of a matrix) from … to − 1. */
export interface PlannedPart {
  readonly name: string;
  readonly spec: TensorSpec;
  readonly format: Format | "rows";
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

/** Which parts lie in which file, in order. The same for every machine and every source of the same tensors. */
export function planPack(specs: readonly TensorSpec[], dtype: Format, most = mostFile - roomForHeader): PlannedPart[][] {
  const files: PlannedPart[][] = [];
  let room = 0;
  for (const spec of specs) {
    const { N, K } = shapeOf(spec), format = formatOf(spec, dtype), bytes = storedBytes(spec, dtype);
    const unit = format === "rows" ? bytes : panelBytes(format, K), units = format === "rows" ? 1 : Math.ceil(N / panelOf(format));
    if (bytes > most && units > 1) {
      const step = Math.max(1, Math.floor(most / unit));
      for (let from = 0; from < units; from += step) {
        const to = Math.min(units, from + step);
        files.push([{ name: `${spec.name}/${from / step}`, spec, format, from, to, bytes: (to - from) * unit }]);
      }
      room = 0;
      continue;
    }
    if (bytes > room) {
      files.push([]);
      room = most;
    }
    files.at(-1)!.push({ name: spec.name, spec, format, from: 0, to: units, bytes });
    room -= Math.ceil(bytes / ALIGN) * ALIGN;
  }
  return files;
}

/** What a header says besides its tensors. */
export interface PackFacts {
  readonly dtype: Format;
  readonly sourceSha256: string;
  readonly sourceRevision?: string;
}

/**
 * A file's header; as long as another one of the same parts, whatever the hashes in it.
 *
 * @returns the bytes, and where in the file each part begins
 */
export function packHeader(parts: readonly PlannedPart[], facts: PackFacts, hashes: (part: PlannedPart) => Pick<Entry, "source_dtype" | "source_sha256" | "sha256">) {
  const stored: { name: string; dtype: Dtype; shape: readonly number[] }[] = [], places: number[] = [], entries: Record<string, Entry> = {};
  let end = 0;
  for (const part of parts) {
    const gap = -end & (ALIGN - 1), { name, spec, format, from, to, bytes } = part;
    if (gap > 0) stored.push({ name: `${paddingName}${stored.length}`, dtype: "U8", shape: [gap] });
    places.push(stored.length);
    stored.push(format === "rows" ? { name, dtype: "F32", shape: spec.shape } : { name, dtype: "U8", shape: [to - from, bytes / (to - from)] });
    entries[name] = { format, shape: spec.shape, ...(name !== spec.name && { of: spec.name, panel: from }), ...hashes(part) };
    end += gap + bytes;
  }
  const metadata: Record<string, string> = {
    format: packName, version: packVersion, dtype: facts.dtype, ...(groupSizes[facts.dtype] && { group_size: groupSizes[facts.dtype] }),
    source_sha256: facts.sourceSha256, ...(facts.sourceRevision !== undefined && { source_revision: facts.sourceRevision }),
    tensors: JSON.stringify(entries),
  };
  const { header, starts, size } = safetensorsHeader(stored, metadata, ALIGN);
  return { header, starts: places.map((i) => starts[i]), size };
}

/** The line of a tensor in what `source_sha256` is the hash of. */
export const sourceLine = (name: string, dtype: string, shape: readonly number[], sha256: string): string => `${name} ${dtype} ${shape.join(",")} ${sha256}\n`;

/**
 * Whether a checkpoint is a pack, and what it says of itself; its tensors are looked at by `findPacked`.
 *
 * @throws {Kosmos2Error} codes `pack-version` for one of another version, `pack-invalid` for one that can't be right
 */
export function packInfo(checkpoint: Checkpoint): PackInfo | undefined {
  const files = [...checkpoint.headers];
  if (!files.some(([, { metadata }]) => metadata.format === packName)) return undefined;
  const [first, { metadata: facts }] = files[0];
  const entries = new Map<string, Entry>();
  for (const [file, { metadata, tensors }] of files) {
    const invalid = (problem: string, found?: unknown) => packInvalid(checkpoint, file, problem, undefined, found);
    if (metadata.format !== packName) throw invalid("it belongs to no pack, but others of its folder do");
    if (metadata.version !== packVersion) {
      throw new Kosmos2Error("pack-version", "unsupported",
        `Cannot load "${checkpoint.place(file)}": it is a pack of version ${JSON.stringify(metadata.version)}; wanted ${packVersion}: pack the checkpoint again with this kosmos2`,
        { file, found: metadata.version, wanted: packVersion });
    }
    for (const key of ["dtype", "source_sha256", "source_revision", "group_size"])
      if (metadata[key] !== facts[key]) throw invalid(`its ${key} is ${metadata[key]}, that of "${first}" is ${facts[key]}: they are of different packs`, metadata[key]);
    if (!dtypes.includes(metadata.dtype)) throw invalid(`its dtype is ${JSON.stringify(metadata.dtype)}; wanted ${dtypes.join(", ")}`, metadata.dtype);
    const groupSize = groupSizes[metadata.dtype];
    if (groupSize && metadata.group_size !== groupSize) throw invalid(`its group_size is ${metadata.group_size}; wanted ${groupSize}`, metadata.group_size);
    const said = readEntries(metadata.tensors ?? "");
    if (!said) throw invalid("its list of tensors is not one");
    for (const name of tensors.keys()) {
      if (name.startsWith(paddingName)) continue;
      const entry = said.get(name);
      if (!entry || !checkpoint.tensors.has(name)) throw invalid(`tensor "${name}" is not in its list or in the index`);
      if (entries.has(name)) throw invalid(`tensor "${name}" is in another file too`);
      entries.set(name, entry);
    }
  }
  return { dtype: facts.dtype as Format, sourceSha256: facts.source_sha256 ?? "", sourceRevision: facts.source_revision, entries };
}

function readEntries(text: string): Map<string, Entry> | undefined {
  try {
    const list = Object.entries(JSON.parse(text) as Record<string, Entry>);
    const fine = list.every(([, { format, shape, of, panel }]) =>
      (format === "rows" || dtypes.includes(format)) && Array.isArray(shape) && shape.length > 0 && shape.every((dim) => Number.isSafeInteger(dim) && dim > 0) &&
      (of === undefined ? panel === undefined : typeof of === "string" && Number.isSafeInteger(panel) && panel! >= 0));
    return fine ? new Map(list) : undefined;
  } catch {
    return undefined;
  }
}

/** A tensor of the model in a pack. */
export interface PackedTensor {
  readonly spec: TensorSpec;
  readonly format: Format | "rows";
  readonly N: number;
  readonly K: number;
  /** Where it lies; several parts follow one another, each alone in its file. */
  readonly parts: readonly { readonly file: string; readonly start: number; readonly end: number }[];
}

/**
 * Finds all that a model needs in a pack, and checks that every size is what the kernels will take it for.
 *
 * @returns the tensors by name, and names that stand for another tensor
 * @throws {Kosmos2Error} codes `pack-invalid`, `weights-incomplete`, `weights-shape`
 */
export function findPacked(checkpoint: Checkpoint, info: PackInfo, config: Kosmos2Config): { found: ReadonlyMap<string, PackedTensor>; aliases: ReadonlyMap<string, string> } {
  const parts = new Map<string, { entry: Entry; stored: string }[]>();
  for (const [stored, entry] of info.entries) {
    const name = entry.of ?? stored, known = parts.get(name);
    if (known) known.push({ entry, stored });
    else parts.set(name, [{ entry, stored }]);
  }
  const aliases = aliasesOf(config, (name) => parts.has(name));
  const found = new Map<string, PackedTensor>();
  for (const spec of modelTensors(config)) {
    if (aliases.has(spec.name)) continue;
    const list = parts.get(spec.name);
    if (!list) {
      throw new Kosmos2Error("weights-incomplete", "integrity",
        `Cannot load "${checkpoint.name}": tensor "${spec.name}" [${spec.shape}] is missing from the pack`, { tensor: spec.name, wanted: spec.shape });
    }
    parts.delete(spec.name);
    found.set(spec.name, whole(checkpoint, spec, list));
  }
  for (const [name, [{ stored }]] of parts) throw packInvalid(checkpoint, checkpoint.tensors.get(stored)!.file, `no model of its config.json has a tensor "${name}"`, name);
  return { found, aliases };
}

/** A tensor's parts put together. */
function whole(checkpoint: Checkpoint, spec: TensorSpec, list: { entry: Entry; stored: string }[]): PackedTensor {
  const { N, K } = shapeOf(spec), { format } = list[0].entry, { name } = spec;
  const places = list.map(({ stored }) => checkpoint.tensors.get(stored)!);
  const invalid = (i: number, problem: string) => packInvalid(checkpoint, places[i].file, `tensor "${list[i].stored}" ${problem}`, name);
  const unit = format === "rows" ? N * K * 4 : panelBytes(format, K), units = format === "rows" ? 1 : Math.ceil(N / panelOf(format));
  if ((format === "rows") !== (spec.role === "rows")) throw invalid(0, `is stored as ${format}; wanted ${spec.role === "rows" ? "rows" : "a matrix"}`);
  list.forEach(({ entry: { shape, format: other } }, i) => {
    if (shape.length !== spec.shape.length || shape.some((dim, axis) => dim !== spec.shape[axis]))
      throw new Kosmos2Error("weights-shape", "load",
        `Cannot load "${checkpoint.place(places[i].file)}": tensor "${name}" is [${shape}]; wanted [${spec.shape}], as config.json says`,
        { tensor: name, file: places[i].file, found: shape, wanted: spec.shape });
    if (other !== format) throw invalid(i, `is ${other}, another part of it ${format}`);
  });
  const order = list.map((_, i) => i).sort((a, b) => (list[a].entry.panel ?? 0) - (list[b].entry.panel ?? 0));
  let at = 0;
  for (const i of order) {
    const { file, start, end, dtype } = places[i], header = checkpoint.headers.get(file)!, { of, panel = 0 } = list[i].entry;
    if (dtype !== (format === "rows" ? "F32" : "U8")) throw invalid(i, `has the type ${dtype}; wanted ${format === "rows" ? "F32" : "U8"}`);
    if (start % ALIGN !== 0 || header.start % ALIGN !== 0) throw invalid(i, `begins at byte ${start}; wanted a multiple of ${ALIGN}`);
    if (of !== undefined && (header.start !== start || header.end !== end)) throw invalid(i, "is a part, but not alone in its file");
    if (panel * unit !== at) throw invalid(i, `begins at panel ${panel}; wanted ${at / unit}`);
    at += end - start;
    if (at > unit * units || (end - start) % unit !== 0) throw invalid(i, `is ${end - start} bytes; wanted ${unit * units} in all, in units of ${unit}`);
  }
  if (at !== unit * units) throw invalid(order.at(-1)!, `ends after ${at} bytes; wanted ${unit * units}`);
  return { spec, format, N, K, parts: order.map((i) => places[i]) };
}

function packInvalid(checkpoint: Checkpoint, file: string, problem: string, tensor?: string, found?: unknown): Kosmos2Error {
  return new Kosmos2Error("pack-invalid", "integrity", `Cannot load "${checkpoint.place(file)}": ${problem}; pack the checkpoint again`, { file, tensor, found });
}

