/** A process that is measured: started once, told what to do, idle while others are measured. serve.ts is the other end. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

/** What a contender says of itself: printed, and kept in the JSON. */
export interface About {
  /** "onnxruntime-web 1.30.0" */
  version: string;
  /** What decides its speed: threads, flags, attention, file type. */
  settings: string;
}

export class Contender {
  private pending: { resolve: (value: never) => void; reject: (error: Error) => void } | undefined;
  private last = "";
  private ended: string | undefined;

  private constructor(readonly name: string, private readonly child: ChildProcess) {
    createInterface({ input: child.stdio[3] as Readable }).on("line", (line) => {
      const reply = JSON.parse(line) as { ok?: never; error?: string };
      const { pending } = this;
      this.pending = undefined;
      if (reply.error === undefined) pending?.resolve(reply.ok as never);
      else pending?.reject(new Error(`${name}: ${reply.error}`));
    });
    child.stderr!.on("data", (text) => (this.last = (this.last + String(text)).slice(-2000)));
    child.on("error", (error) => this.end(error.message));
    child.on("exit", (code, signal) => this.end(`it ended with ${signal ?? code}`));
    child.stdin!.on("error", () => {}); // its exit says more
  }

  /** @param command program and arguments */
  static start(name: string, command: readonly string[], env: Record<string, string> = {}): Contender {
    const [file, ...args] = command;
    return new Contender(name, spawn(file, args, { stdio: ["pipe", "ignore", "pipe", "pipe"], env: { ...process.env, ...env } }));
  }

  /** @param order what to do and whatever it takes */
  ask<T>(order: { do: string; [field: string]: unknown }, timeoutMs = 300_000): Promise<T> {
    if (this.ended) return Promise.reject(new Error(`${this.name}: ${this.ended}`));
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.end(`"${order.do}" took more than ${timeoutMs / 1000} s`);
        void this.close();
      }, timeoutMs);
      const settled = <A extends unknown[]>(then: (...args: A) => void) => (...args: A) => {
        clearTimeout(timer);
        then(...args);
      };
      this.pending = { resolve: settled(resolve as (value: never) => void), reject: settled(reject) };
      this.child.stdin!.write(`${JSON.stringify(order)}\n`);
    });
  }

  /** The most memory it ever had, in bytes; its own children's is not in it. */
  get peakRss(): number | undefined {
    try {
      return 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${this.child.pid}/status`, "utf8"))![1]);
    } catch {
      return undefined;
    }
  }

  async close(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.stdin!.end();
    const timer = setTimeout(() => this.child.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(timer);
  }

  private end(reason: string): void {
    const said = this.last.trim().split("\n"), telling = said.find((line) => /error/i.test(line)) ?? said.at(-1);
    this.ended ??= reason + (telling ? `: ${telling.trim()}` : "");
    this.pending?.reject(new Error(`${this.name}: ${this.ended}`));
    this.pending = undefined;
  }
}
