/**
 * A project of somebody else: an empty folder into which the packed package was installed, and the tools it may use
 * (test/runtimes, installed once, apart from the project's own tools). Both come through npm; without it the tests say loudly
 * that they checked nothing, and fail where CI is set.
 */
import { execFile, spawnSync } from "node:child_process";
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { promisify } from "node:util";
import { root } from "../support.js";

const runtimes = join(root, "test/runtimes");
const strict = Boolean(process.env["CI"]);

export const chromium = "/usr/bin/chromium";

/** The path of a tool of test/runtimes. */
export const tool = (name: string) => join(runtimes, "node_modules/.bin", name);
/** The folder of a package of test/runtimes. */
export const toolPackage = (name: string) => join(runtimes, "node_modules", name);

/** Installs test/runtimes, if its lock file is newer than what is there. @returns why it can't be, for a test's `skip` */
export function withTools(): string | false {
  const lock = join(runtimes, "package-lock.json"), installed = join(runtimes, "node_modules/.package-lock.json");
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return false;
  console.log("installing test/runtimes (Deno, Bun, Node 24, Vite, …), once");
  return orSkip(spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: runtimes, encoding: "utf8", timeout: 600_000 }), "npm ci in test/runtimes");
}

/** @returns why there is no browser, for a test's `skip` */
export function withChromium(): string | false {
  if (existsSync(chromium)) return false;
  if (strict) throw new Error(`${chromium} is not there: apt-get install -y chromium`);
  return `SKIPPED, NOT CHECKED: ${chromium} is not there (apt-get install -y chromium)`;
}

export interface Project {
  folder: string;
  /** The installed package's folder. */
  installed: string;
  /** The tarball and what is in it. */
  tarball: string;
  files: { path: string; size: number }[];
}

/** Packs the package and installs it into an empty project. @returns why not, for a test's `skip` */
export function withProject(): { project: Project; skip: false } | { project: undefined; skip: string } {
  const folder = mkdtempSync(join(tmpdir(), "kosmos2-consumer-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  // --ignore-scripts: the tests were built just now, and a build would take them away
  const packed = spawnSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", folder], { cwd: root, encoding: "utf8" });
  if (packed.status !== 0) throw new Error(`npm pack: ${packed.stderr}`);
  const [{ filename, files }] = JSON.parse(packed.stdout);
  const tarball = join(folder, filename);
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
  const why = orSkip(spawnSync("npm", ["install", "--prefer-offline", "--no-audit", "--no-fund", tarball], { cwd: folder, encoding: "utf8", timeout: 300_000 }), "npm install of the packed package");
  return why ? { project: undefined, skip: why } : { project: { folder, installed: join(folder, "node_modules/kosmos2-wasm"), tarball, files }, skip: false };
}

/** A failure to install is the network's: a loud skip, but an error in CI. */
function orSkip({ status, stderr, error }: { status: number | null; stderr: string; error?: Error }, what: string): string | false {
  if (status === 0) return false;
  const why = `${what}: ${error?.message ?? stderr.split("\n").filter((line) => line.includes("error")).slice(0, 4).join(" | ")}`;
  if (strict) throw new Error(why);
  return `SKIPPED, NOT CHECKED: ${why}`;
}

/** Runs a program. @throws with its output when it fails */
export async function run(file: string, args: readonly string[], options: { cwd?: string; env?: Record<string, string> } = {}): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(file, args, { cwd: options.cwd, env: { ...process.env, ...options.env }, maxBuffer: 1 << 26, timeout: 120_000 });
    return stdout;
  } catch (error) {
    const { message, stdout = "", stderr = "" } = error as Error & { stdout?: string; stderr?: string };
    throw new Error(`${message}\n${stdout}\n${stderr}`);
  }
}

/** Writes files into a folder, which is made. @returns the folder */
export function write(folder: string, files: Record<string, string>): string {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

const types: Record<string, string> = {
  ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".wasm": "application/wasm", ".png": "image/png",
};

/** Serves a folder's files. @param isolated sends the headers without which a page has no shared memory */
export async function serve(folder: string, isolated: boolean): Promise<{ url: string; server: Server }> {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname));
    const file = join(folder, path.endsWith("/") ? `${path}index.html` : path);
    if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404).end();
    const isolation = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp", "cross-origin-resource-policy": "same-origin" };
    response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream", "content-length": statSync(file).size, ...(isolated && isolation) });
    createReadStream(file).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, server };
}

interface Playwright {
  chromium: {
    launchPersistentContext(folder: string, options: object): Promise<{
      newPage(): Promise<{
        goto(url: string): Promise<unknown>;
        on(event: string, listener: (event: { message?: string; text?(): string; type?(): string }) => void): void;
        waitForFunction(expression: string, argument: undefined, options: object): Promise<unknown>;
        evaluate(expression: string): Promise<unknown>;
      }>;
      close(): Promise<void>;
    }>;
  };
}

/** Opens a page in headless Chromium and waits for its `globalThis.result`. @throws with the page's own words when it sets `failure` instead */
export async function visit(url: string): Promise<unknown> {
  const { chromium: browser } = (await import(join(toolPackage("playwright-core"), "index.mjs"))) as Playwright;
  const profile = mkdtempSync(join(tmpdir(), "kosmos2-chromium-"));
  const context = await browser.launchPersistentContext(profile, {
    executablePath: chromium, headless: true,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  try {
    const page = await context.newPage();
    const said: string[] = [];
    page.on("console", (message) => said.push(message.text?.() ?? ""));
    page.on("pageerror", (error) => said.push(error.message ?? ""));
    await page.goto(url);
    await page.waitForFunction("globalThis.result !== undefined || globalThis.failure !== undefined", undefined, { timeout: 60_000 }).catch((error: Error) => {
      throw new Error(`${error.message}\n${said.join("\n")}`);
    });
    const failure = await page.evaluate("globalThis.failure");
    if (failure !== undefined) throw new Error(`${failure}\n${said.join("\n")}`);
    return await page.evaluate("globalThis.result");
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

/** A program's own code in a page: sets `result`, or `failure`. */
export const page = (script: string, head = "") =>
  `<!doctype html><meta charset="utf-8"><title>test</title>${head}<script type="module">addEventListener("unhandledrejection", (event) => { globalThis.failure = String(event.reason?.stack ?? event.reason); });
${script}</script>`;

export const readText = (path: string) => readFileSync(path, "utf8");
