/** One line of `kosmos2 verify`, and what its parts share: names that a glob chooses, and reference values read from a folder. */
import { readFileSync } from "node:fs";

/** What came of one group of cases. A skipped case was not checked, and its message says why. */
export interface Check {
  /** Path of the group: "models/tiny/vision.layer.0", "processor/encode", … */
  name: string;
  cases: number;
  failed: number;
  skipped: number;
  /** What differed, or why something was skipped; the first few. */
  messages: readonly string[];
  /** Largest absolute difference met, and the largest allowed: where numbers are compared. */
  worst?: number;
  limit?: number;
}

/** Whether a group of cases is wanted. */
export type Wanted = (name: string) => boolean;

/**
 * `--only`: `*` stands for anything but a slash, `**` for anything, `?` for one character. A glob means a group and all below it; without
 * a slash it may name any part of a path: "tiny", "greedy", "vision.*" and "models/odd" all do what they look like.
 */
export function globs(patterns: readonly string[]): Wanted {
  const expressions = patterns.map((glob) => {
    const body = glob.replace(/\/+$/, "").replace(/[.+^${}()|[\]\\]/g, "\\$&")
      .replace(/\*+/g, (stars) => (stars.length > 1 ? ".*" : "[^/]*")).replace(/\?/g, "[^/]");
    return new RegExp(glob.includes("/") ? `^${body}($|/)` : `(^|/)${body}($|/)`);
  });
  return (name) => expressions.length === 0 || expressions.some((expression) => expression.test(name));
}

/** Numbers and their shape, as the references and the engine both have them. */
export interface Numbers {
  readonly data: ArrayLike<number>;
  readonly dims: readonly number[];
}

/** The F32 tensors of a reference file (safetensors). The file is ours: it is believed. */
export function readTensors(path: string): (name: string) => { type: "float32"; data: Float32Array; dims: number[] } {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { shape: number[]; data_offsets: [number, number] }> = JSON.parse(bytes.toString("utf8", 8, start));
  return (name) => {
    if (!Object.hasOwn(header, name)) throw new Error(`Cannot check "${name}": ${path} has no such tensor`);
    const { shape, data_offsets: [from, to] } = header[name];
    return { type: "float32", data: new Float32Array(bytes.buffer.slice(bytes.byteOffset + start + from, bytes.byteOffset + start + to)), dims: shape };
  };
}

/** Compares numbers one by one; another count, or a NaN, is infinitely far off. */
export function compare(name: string, found: Numbers, wanted: Numbers, limit: number): Check {
  let worst = found.data.length === wanted.data.length ? 0 : Infinity, at = -1;
  for (let i = 0; worst < Infinity && i < wanted.data.length; i++) {
    const difference = Math.abs(found.data[i] - wanted.data[i]);
    if (difference > worst || Number.isNaN(difference)) [worst, at] = [Number.isNaN(difference) ? Infinity : difference, i];
  }
  if (worst <= limit) return { name, cases: 1, failed: 0, skipped: 0, messages: [], worst, limit };
  const message = at < 0 ? `found [${found.dims}], wanted [${wanted.dims}]` : `worst at [${place(at, wanted.dims)}]: found ${found.data[at]}, wanted ${wanted.data[at]}`;
  return { name, cases: 1, failed: 1, skipped: 0, messages: [message], worst, limit };
}

/** Compares lists of ids. */
export function sameIds(name: string, found: readonly number[], wanted: readonly number[]): Check {
  const at = wanted.findIndex((id, i) => id !== found[i]);
  const same = at < 0 && found.length === wanted.length;
  const i = at < 0 ? wanted.length : at;
  return { name, cases: 1, failed: same ? 0 : 1, skipped: 0, messages: same ? [] : [`id ${i}: found ${found[i] ?? "none"}, wanted ${wanted[i] ?? "none"}`] };
}

export function skip(name: string, cases: number, why: string): Check {
  return { name, cases, failed: 0, skipped: cases, messages: [why] };
}

/** Several checks of one kind as one line, with the worst number of all. */
export function merge(name: string, checks: readonly Check[]): Check {
  const sum = (key: "cases" | "failed" | "skipped") => checks.reduce((total, check) => total + check[key], 0);
  const merged: Check = { name, cases: sum("cases"), failed: sum("failed"), skipped: sum("skipped"), messages: checks.flatMap((check) => check.messages) };
  const worst = checks.filter((check) => check.worst !== undefined).sort((a, b) => b.worst! / b.limit! - a.worst! / a.limit!)[0];
  return worst ? { ...merged, worst: worst.worst!, limit: worst.limit! } : merged;
}

function place(index: number, dims: readonly number[]): string {
  const coordinates: number[] = [];
  for (const dim of [...dims].reverse()) {
    coordinates.unshift(index % dim);
    index = Math.floor(index / dim);
  }
  return coordinates.join(", ");
}
