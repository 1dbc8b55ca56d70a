/**
 * A hub on 127.0.0.1 that behaves like Hugging Face's, as far as a download sees it, and fails on demand. Two hosts, by port: the
 * hub itself (pages, small files, redirects with X-Linked-… headers) and the storage where large files lie.
 * It counts what is asked and every byte of files that is sent, and closes by itself.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface HubFile {
  bytes: Uint8Array;
  /** In LFS: named by sha256, and redirected to the storage. Default: more than 10 kB. */
  lfs?: boolean;
}

export interface Repo {
  id: string;
  commit: string;
  files: Record<string, HubFile>;
  /** Other names of `commit`. Default main. */
  branches?: string[];
  /** Asked for a token; with `gated` also the right one isn't enough. */
  token?: string;
  gated?: boolean;
}

/** What goes wrong with one answer. */
export type Fault =
  | { kind: "cut"; after: number }
  | { kind: "status"; status: number; retryAfter?: string }
  | { kind: "slow"; bytesPerTick: number; tickMs: number }
  | { kind: "stall"; after: number }
  | { kind: "length"; more: number }
  | { kind: "corrupt"; at: number }
  | { kind: "etag"; tag: string };

export interface Request {
  host: "hub" | "storage";
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
}

export const sha256 = remembered((bytes) => createHash("sha256").update(bytes).digest("hex"));
export const gitSha1 = remembered((bytes) => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex"));

function remembered(hash: (bytes: Uint8Array) => string): (bytes: Uint8Array) => string {
  const known = new WeakMap<Uint8Array, string>();
  return (bytes) => {
    const found = known.get(bytes) ?? hash(bytes);
    known.set(bytes, found);
    return found;
  };
}

export class TestHub {
  /** Of the hub: give it as `endpoint` or HF_ENDPOINT. */
  url = "";
  storageUrl = "";
  readonly requests: Request[] = [];
  /** Bytes of files that went into sockets. */
  served = 0;
  /** Asked for each answer that would carry a file's bytes (`GET`), and for pages (`page`). */
  fault: (request: Request, what: "page" | "file") => Fault | undefined = () => undefined;
  /** How many bytes are on their way: the server waits while they are more than 256 kB, as a network with such a window would. */
  underWay: () => number = () => 0;
  /** A mirror that has no pages. */
  noPages = false;
  /** A server that knows no ranges. */
  noRanges = false;
  readonly #repos: Map<string, Repo>;
  readonly #servers: Server[] = [];

  private constructor(repos: Repo[]) {
    this.#repos = new Map(repos.map((repo) => [repo.id, repo]));
  }

  static async start(...repos: Repo[]): Promise<TestHub> {
    const hub = new TestHub(repos);
    hub.url = await hub.#listen((request, response) => hub.#hub(request, response));
    hub.storageUrl = await hub.#listen((request, response) => hub.#storage(request, response));
    return hub;
  }

  async close(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #listen(handle: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
    const server = createServer((request, response) => {
      // Pages of other origins may read it, as they may the real one.
      response.setHeader("access-control-allow-origin", "*");
      response.setHeader("access-control-expose-headers", "x-repo-commit, x-linked-size, x-linked-etag, x-error-code, x-error-message, etag, content-range, content-length");
      if (request.method !== "OPTIONS") return handle(request, response);
      response.writeHead(204, { "access-control-allow-headers": "authorization, range, if-range, accept-encoding" }).end();
    });
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  #note(host: "hub" | "storage", { method = "GET", url = "/", headers }: IncomingMessage): Request {
    const request = { host, method, path: url, headers };
    this.requests.push(request);
    return request;
  }

  #hub(message: IncomingMessage, response: ServerResponse): void {
    const request = this.#note("hub", message);
    const { pathname } = new URL(request.path, this.url);
    const fail = (status: number, code: string, text: string) => {
      response.writeHead(status, { "x-error-code": code, "x-error-message": text, "content-length": 0 }).end();
    };
    const page = /^\/api\/models\/([\w.-]+\/[\w.-]+)(?:\/(revision|tree)\/([^/]+))?/.exec(pathname);
    const resolve = /^\/(?:api\/resolve-cache\/models\/)?([\w.-]+\/[\w.-]+)\/(?:resolve\/)?([^/]+)\/(.+)$/.exec(pathname);
    const [, id, revision] = page ? [page[0], page[1], decodeURIComponent(page[3] ?? "main")] : [resolve?.[0], resolve?.[1], decodeURIComponent(resolve?.[2] ?? "")];
    if (page && this.noPages) return void response.writeHead(404, { "content-length": 0 }).end();

    const repo = this.#repos.get(id ?? "");
    const given = message.headers.authorization?.replace("Bearer ", "");
    if (!repo || (repo.token && given === undefined)) return fail(repo || !given ? 401 : 404, repo?.gated ? "GatedRepo" : "RepoNotFound", "Repository not found");
    if (repo.token && given !== repo.token) return fail(401, "", "Invalid credentials in Authorization header");
    if (repo.gated) return fail(403, "GatedRepo", "Access to model is restricted");
    if (revision !== repo.commit && !(repo.branches ?? ["main"]).includes(revision)) return fail(404, "RevisionNotFound", "Invalid rev id");
    if (page) return this.#page(request, repo, page[2] === "tree", response);

    const file = repo.files[decodeURIComponent(resolve![3])];
    response.setHeader("x-repo-commit", repo.commit);
    if (!file) return fail(404, "EntryNotFound", "Entry not found");
    const lfs = file.lfs ?? file.bytes.length > 10_000;
    if (!lfs && !pathname.startsWith("/api/resolve-cache/")) {
      // As the hub does for small files: metadata and a redirect to itself.
      return void response.writeHead(307, { location: `/api/resolve-cache/models/${id}/${repo.commit}/${resolve![3]}?etag=x`, "content-length": 0 }).end();
    }
    if (!lfs) return this.#file(request, message, file.bytes, `"${gitSha1(file.bytes)}"`, response);
    response.writeHead(302, {
      location: `${this.storageUrl}/${sha256(file.bytes)}?X-Signature=secret`,
      "x-linked-etag": `"${sha256(file.bytes)}"`,
      "x-linked-size": file.bytes.length,
      "content-length": 0,
    }).end();
  }

  #page(request: Request, repo: Repo, tree: boolean, response: ServerResponse): void {
    const fault = this.fault(request, "page");
    if (fault?.kind === "status") return refuse(response, fault);
    const list = Object.entries(repo.files).map(([name, { bytes, lfs = bytes.length > 10_000 }]) => {
      const pointer = new TextEncoder().encode(`version https://git-lfs.github.com/spec/v1\noid sha256:${sha256(bytes)}\nsize ${bytes.length}\n`);
      const blob = gitSha1(lfs ? pointer : bytes);
      return tree
        ? { type: "file", oid: blob, size: bytes.length, path: name, ...(lfs && { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: pointer.length } }) }
        : { rfilename: name, blobId: blob, size: bytes.length, ...(lfs && { lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: pointer.length } }) };
    });
    const text = JSON.stringify(tree ? list : { _id: "0", id: repo.id, modelId: repo.id, sha: repo.commit, private: false, siblings: list });
    response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(text) }).end(request.method === "HEAD" ? undefined : text);
  }

  #storage(message: IncomingMessage, response: ServerResponse): void {
    const request = this.#note("storage", message);
    const hash = new URL(request.path, this.url).pathname.slice(1);
    for (const repo of this.#repos.values())
      for (const { bytes } of Object.values(repo.files))
        // Its own ETag looks like the other but is not it, as on the real storage.
        if (sha256(bytes) === hash) return this.#file(request, message, bytes, `"${sha256(new TextEncoder().encode(hash))}"`, response);
    response.writeHead(403, { "content-length": 0 }).end();
  }

  #file(request: Request, message: IncomingMessage, bytes: Uint8Array, tag: string, response: ServerResponse): void {
    const fault = this.fault(request, "file");
    if (fault?.kind === "status") return refuse(response, fault);
    if (fault?.kind === "etag") tag = fault.tag;
    const range = /^bytes=(\d+)-(\d*)$/.exec(message.headers.range ?? "");
    const condition = message.headers["if-range"];
    let [from, to] = [0, bytes.length];
    const partial = range && !this.noRanges && (condition === undefined || condition === tag);
    if (partial) {
      [from, to] = [Number(range[1]), range[2] ? Math.min(Number(range[2]) + 1, bytes.length) : bytes.length];
      if (from >= bytes.length) return void response.writeHead(416, { "content-range": `bytes */${bytes.length}`, "content-length": 0 }).end();
    }
    const more = fault?.kind === "length" ? fault.more : 0;
    let body = bytes.subarray(from, to);
    if (fault?.kind === "corrupt" && body.length > 0) {
      body = body.slice();
      body[fault.at % body.length] ^= 1;
    }
    response.writeHead(partial ? 206 : 200, {
      etag: tag,
      "accept-ranges": this.noRanges ? "none" : "bytes",
      "content-length": body.length + more,
      ...(partial && { "content-range": `bytes ${from}-${to - 1}/${bytes.length + more}` }),
    });
    if (request.method === "HEAD") return void response.end();
    void this.#send(response, more > 0 ? Buffer.concat([body, new Uint8Array(more)]) : body.subarray(0, body.length + Math.min(0, more)), fault);
  }

  /** 16 kB a millisecond, slower than a client, so that as on a network little is under way when a connection is given up. */
  async #send(response: ServerResponse, body: Uint8Array, fault: Fault | undefined): Promise<void> {
    const end = fault?.kind === "cut" || fault?.kind === "stall" ? Math.min(fault.after, body.length) : body.length;
    const step = fault?.kind === "slow" ? fault.bytesPerTick : 2 ** 14;
    const closed = new Promise<void>((resolve) => response.once("close", resolve));
    for (let at = 0; at < end && !response.destroyed; at += step) {
      while (this.underWay() > 2 ** 18 && !response.destroyed) await new Promise((resolve) => setTimeout(resolve, 1));
      const piece = body.subarray(at, Math.min(at + step, end));
      this.served += piece.length;
      await Promise.race([closed, new Promise((resolve) => response.write(piece, resolve))]);
      if (at + step < end) await new Promise((resolve) => setTimeout(resolve, fault?.kind === "slow" ? fault.tickMs : 1));
    }
    if (fault?.kind === "cut") return void response.socket?.destroy();
    if (fault?.kind !== "stall") response.end();
  }
}

function refuse(response: ServerResponse, { status, retryAfter }: { status: number; retryAfter?: string }): void {
  response.writeHead(status, { "content-length": 0, ...(retryAfter !== undefined && { "retry-after": retryAfter }) }).end();
}
