/**
 * Where what the hub gave is kept. A store knows contents by their hash and gives them names: `commit` + file. It knows no
 * network. On a disk: platform/node/hub-store.ts, in Hugging Face's layout; in a browser: platform/web/hub-store.ts.
 */
import type { ByteSource } from "../platform/platform.js";

/** Bytes `from` up to, not including, `to`. */
export type Span = readonly [from: number, to: number];

/** What a file holds, as the hub names it. */
export interface Content {
  /** sha256 of the bytes (64 digits; files in LFS), or git's sha1 of them (40 digits). Other servers' tags can't be checked. */
  readonly etag: string;
  /** In bytes. */
  readonly size: number;
}

/** The files of one repository. */
export interface HubStore {
  /** For messages: where it lies. */
  readonly place: string;
  /** The commit that a branch or tag stood for when it was last fetched. */
  readCommit(revision: string): Promise<string | undefined>;
  writeCommit(revision: string, commit: string): Promise<void>;
  /** `absent`: the hub is known to have no such file at that commit. undefined: nothing is known. */
  has(commit: string, file: string): Promise<"here" | "absent" | undefined>;
  markAbsent(commit: string, file: string): Promise<void>;
  open(commit: string, file: string): Promise<ByteSource | undefined>;
  /** Names a content that is here whole. False when it is not. */
  link(commit: string, file: string, content: Content): Promise<boolean>;
  /**
   * Begins or continues a content, alone: waits while another process does the same.
   * undefined when it is here whole, perhaps since that other process has ended.
   */
  begin(content: Content, signal: AbortSignal): Promise<Unfinished | undefined>;
  /** Bytes that these contents still need, and that are free, where that is known. */
  room?(contents: readonly Content[]): Promise<{ needed: number; free: number } | undefined>;
}

/** A content on its way. What was written outlives a killed process, but for a small rest. */
export interface Unfinished {
  /** What is there, in order, apart from each other. */
  readonly have: readonly Span[];
  /** The ETag of the server that sent it: it goes into If-Range. */
  readonly sentBy: string | undefined;
  setSentBy(tag: string | undefined): Promise<void>;
  write(bytes: Uint8Array, at: number): Promise<void>;
  read(into: Uint8Array, at: number): Promise<void>;
  /** Forgets all bytes; stays open. */
  clear(): Promise<void>;
  /** All bytes are there and are the right ones: makes it whole, at one stroke. */
  finish(): Promise<void>;
  /** Ends the work; what is there stays for the next one. */
  close(): Promise<void>;
}

/** Another process took this content over, since this one seemed dead: begin again. */
export class Superseded extends Error {}

/** `spans` and one more, in order, merged where they meet. */
export function addSpan(spans: readonly Span[], from: number, to: number): Span[] {
  const before: Span[] = [], after: Span[] = [];
  for (const span of spans) {
    if (span[1] < from) before.push(span);
    else if (span[0] > to) after.push(span);
    else [from, to] = [Math.min(from, span[0]), Math.max(to, span[1])];
  }
  return from < to ? [...before, [from, to], ...after] : [...before, ...after];
}

/** What of [from, to) is not in `spans`. */
export function gaps(spans: readonly Span[], from: number, to: number): Span[] {
  const found: Span[] = [];
  for (const [start, end] of spans) {
    if (start >= to) break;
    if (start > from) found.push([from, start]);
    from = Math.max(from, end);
  }
  if (from < to) found.push([from, to]);
  return found;
}

export function covered(spans: readonly Span[]): number {
  return spans.reduce((sum, [from, to]) => sum + to - from, 0);
}

/** What the environment says about the hub; in a browser nothing but defaults. */
export interface HubSettings {
  /** Default "https://huggingface.co". */
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly cacheDir: string;
  readonly offline: boolean;
}

/** A hash that takes its bytes in pieces. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** Lower-case hexadecimal digits; ends it. */
  hex(): string;
}
