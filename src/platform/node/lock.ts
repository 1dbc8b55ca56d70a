/**
 * A lock between processes, as a file that its owner touches again and again; Node has no flock.
 * A dead owner's lock is taken over: at once when it ran on this machine, after a silence of `silentMs` else. A misjudgement is
 * possible (a laptop asleep), so nothing may be right only because of this lock: it saves a second download, no more.
 */
import { randomUUID } from "node:crypto";
import { readlinkSync } from "node:fs";
import { link, mkdir, open, readFile, rename, rm, stat, unlink, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { allowed } from "./allowed.js";

export interface LockTiming {
  /** The owner touches its file so often. */
  beatMs: number;
  /** An untouched file is a dead owner's. */
  silentMs: number;
  /** Who waits looks so often. */
  pollMs: number;
}

export const lockTiming: LockTiming = { beatMs: 2_000, silentMs: 30_000, pollMs: 200 };

/**
 * Processes that see each other's ids: in containers host names can be equal where process ids are not shared.
 * Asked for when a lock is, since Deno may refuse it; who has no name takes over no lock at once.
 */
let known: string | undefined;
const machine = (): string => (known ??= [allowed(hostname) ?? randomUUID(), allowed(() => readlinkSync("/proc/self/ns/pid"))].join(" ").trim());

export class Lock {
  /** Someone else took it. */
  lost = false;
  readonly #timer: ReturnType<typeof setInterval>;

  private constructor(readonly path: string, readonly key: string, timing: LockTiming) {
    this.#timer = setInterval(() => void this.#beat(), timing.beatMs);
    this.#timer.unref?.();
  }

  /** undefined when someone else has it. */
  static async take(path: string, timing: LockTiming): Promise<Lock | undefined> {
    await mkdir(dirname(path), { recursive: true });
    const key = randomUUID();
    try {
      const file = await open(path, "wx");
      await file.writeFile(JSON.stringify({ key, pid: process.pid, machine: machine() })).finally(() => file.close());
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") return undefined;
      throw error;
    }
    return new Lock(path, key, timing);
  }

  /** Takes it away from a dead owner. `seen` is what a waiter saw last time; undefined when the lock is alive or gone. */
  static async watch(path: string, seen: Seen | undefined, timing: LockTiming): Promise<Seen | undefined> {
    const text = await readFile(path, "utf8").catch(() => undefined);
    const touched = await stat(path).then((stats) => stats.mtimeMs, () => undefined);
    if (text === undefined || touched === undefined) return undefined;
    // Clocks of two machines may differ, so silence is measured on this one.
    const now: Seen = seen && seen.text === text && seen.touched === touched ? seen : { text, touched, since: performance.now() };
    if (!isDead(text) && performance.now() - now.since < timing.silentMs) return now;
    // Two waiters may be here at once; the second must not remove what the first has since taken.
    const aside = `${path}.${randomUUID()}`;
    if (!(await rename(path, aside).then(() => true, () => false))) return undefined;
    if ((await readFile(aside, "utf8").catch(() => text)) !== text) await link(aside, path).catch(() => {});
    await rm(aside, { force: true });
    return undefined;
  }

  async #beat(): Promise<void> {
    if (!(await this.check().catch(() => true))) return;
    const now = new Date();
    await utimes(this.path, now, now).catch(() => {});
  }

  /** Whether it is still ours. */
  async check(): Promise<boolean> {
    if (this.lost) return false;
    this.lost = keyOf(await readFile(this.path, "utf8").catch(() => "")) !== this.key;
    return !this.lost;
  }

  async release(): Promise<void> {
    clearInterval(this.#timer);
    if (await this.check()) await unlink(this.path).catch(() => {});
    this.lost = true;
  }
}

/** What a waiter saw of a lock, and since when it has not changed. */
export interface Seen {
  readonly text: string;
  readonly touched: number;
  readonly since: number;
}

function keyOf(text: string): string | undefined {
  try {
    return JSON.parse(text).key;
  } catch {
    return undefined;
  }
}

function isDead(text: string): boolean {
  try {
    const owner = JSON.parse(text);
    if (owner.machine !== machine()) return false;
    process.kill(owner.pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}
