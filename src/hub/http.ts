/**
 * Talking to a hub: redirects followed by hand, a token that stays with the hub's own host, patience with what may pass, and
 * words for what does not. Which bytes are wanted is not known here: see download.ts.
 */
import { Kosmos2Error, reason, type ErrorDetails } from "../errors.js";

/** As much of `fetch` as is needed, said without the DOM's types. */
export type Fetch = (
  url: string,
  init: { method: "GET" | "HEAD"; headers: Record<string, string>; redirect: "manual" | "follow"; cache: "no-store"; signal: AbortSignal },
) => Promise<HubResponse>;

export interface HubResponse {
  readonly ok: boolean;
  readonly status: number;
  /** "opaqueredirect" where a redirect is hidden. */
  readonly type: string;
  readonly url: string;
  readonly headers: { get(name: string): string | null };
  readonly body: {
    getReader(): { read(): Promise<{ done: boolean; value?: Uint8Array }>; cancel(reason?: unknown): Promise<void> };
    cancel(): Promise<void>;
  } | null;
}

/** How patient and in what pieces; the defaults are for the open network, tests have their own. */
export interface Tuning {
  /** Longest a connection may stay silent. */
  stallMs: number;
  /** Failures in a row, without a byte between them, before giving up. */
  retries: number;
  /** First wait after a failure; doubles each time, up to `longestWaitMs`. */
  waitMs: number;
  longestWaitMs: number;
  /** Longest `Retry-After` that is obeyed; a longer one is an error that says so. */
  longestRetryAfterMs: number;
  /** One request asks for at most this much. */
  partBytes: number;
  /** Written in pieces of this size: what a killed process loses, at most twice, of each connection. */
  writeBytes: number;
}

export const patience: Tuning = {
  stallMs: 20_000,
  retries: 6,
  waitMs: 500,
  longestWaitMs: 10_000,
  longestRetryAfterMs: 120_000,
  partBytes: 2 ** 26,
  writeBytes: 2 ** 18,
};

/** A fault that may pass by itself; `final` is what a caller sees if it does not. */
export class Passing extends Error {
  /** @param tries at most so many, when that is fewer than for others */
  constructor(readonly final: Kosmos2Error, readonly waitMs?: number, readonly tries = Infinity) {
    super(final.message);
  }
}

/** The hub's own word on a file, sent with the redirect to where the bytes lie (and lost by who follows blindly). */
export interface Linked {
  commit?: string;
  etag?: string;
  size?: number;
}

export interface Answer {
  readonly response: HubResponse;
  /** Where the last redirect led. */
  readonly url: string;
  readonly linked: Linked;
}

/** `"abc"`, `W/"abc"` and `abc` are one. */
export function plainEtag(tag: string | null): string | undefined {
  return tag?.replace(/^W\//, "").replace(/^"|"$/g, "") || undefined;
}

export class HubClient {
  readonly endpoint: string;
  readonly tuning: Tuning;
  /** The page of the repository, for messages. */
  readonly page: string;
  /**
   * A page's fetch hides redirects: there the browser follows them, and drops the token on the way to another host itself.
   * The other host's headers can't be seen then either.
   */
  #byHand = true;
  readonly #fetch: Fetch;
  readonly #token: string | undefined;

  /** @param id of the repository */
  constructor(endpoint: string, id: string, token: string | undefined, fetch: Fetch | undefined, tuning: Partial<Tuning> = {}) {
    try {
      const url = new URL(endpoint);
      if (url.protocol !== "https:" && url.protocol !== "http:") throw new TypeError(url.protocol);
    } catch (cause) {
      throw new Kosmos2Error("hub-endpoint-invalid", "input", `Cannot use the hub at "${endpoint}": it is not an http(s) URL; see HF_ENDPOINT`, { found: endpoint }, cause);
    }
    this.endpoint = endpoint.replace(/\/+$/, "");
    this.page = `${this.endpoint}/${id}`;
    this.#fetch = fetch ?? ((url, init) => globalThis.fetch(url, init));
    this.#token = token;
    this.tuning = { ...patience, ...tuning };
  }

  get seesHeaders(): boolean {
    return this.#byHand;
  }

  get hasToken(): boolean {
    return this.#token !== undefined;
  }

  /**
   * One request, through its redirects. Whatever the status: it is returned; refuse() judges it. The body must be read with
   * readBody(), or cancelled.
   *
   * @throws {Passing} no answer
   */
  async send(method: "GET" | "HEAD", url: string, headers: Record<string, string>, signal: AbortSignal): Promise<Answer> {
    const linked: Linked = {};
    for (let hops = 0; hops < 10; hops++) {
      const own = new URL(url).origin === new URL(this.endpoint).origin;
      const sent: Record<string, string> = { "accept-encoding": "identity", ...headers };
      if (own && this.#token) sent["authorization"] = `Bearer ${this.#token}`;
      const response = await this.#once(url, { method, headers: sent, redirect: this.#byHand ? "manual" : "follow", cache: "no-store" }, signal);
      if (response.type === "opaqueredirect") {
        this.#byHand = false;
        continue;
      }
      if (own) {
        linked.commit ??= response.headers.get("x-repo-commit") ?? undefined;
        linked.etag ??= plainEtag(response.headers.get("x-linked-etag"));
        linked.size ??= wholeNumber(response.headers.get("x-linked-size"));
      }
      const next = response.status >= 300 && response.status < 400 ? response.headers.get("location") : null;
      if (!next || response.status === 304) return { response, url: response.url || url, linked };
      await response.body?.cancel().catch(() => {});
      const target = new URL(next, url);
      // Never from a guarded connection to an open one.
      if (target.protocol !== "https:" && !(target.protocol === "http:" && new URL(url).protocol === "http:"))
        throw new Kosmos2Error("hub-refused", "download", `Cannot follow ${url}: it leads to ${target.protocol}//${target.host}; wanted https`, { file: url });
      url = target.href;
      if (method === "HEAD" && linked.etag && new URL(url).origin !== new URL(this.endpoint).origin) return { response, url, linked };
    }
    throw new Passing(new Kosmos2Error("hub-unavailable", "download", `Cannot fetch ${url}: 10 redirects lead nowhere`, { file: url }));
  }

  async #once(url: string, init: Omit<Parameters<Fetch>[1], "signal">, signal: AbortSignal): Promise<HubResponse> {
    const watch = new Watch(this.tuning.stallMs, signal);
    try {
      return await this.#fetch(url, { ...init, signal: watch.signal });
    } catch (error) {
      signal.throwIfAborted();
      throw unreachable(url, watch.stalled ? `no answer in ${this.tuning.stallMs / 1000} s` : reason(error), error);
    } finally {
      watch.stop();
    }
  }

  /** A small text, with retries: JSON of the hub's own. */
  async text(url: string, what: string, signal: AbortSignal): Promise<{ text: string; linked: Linked } | undefined> {
    return this.retrying(async () => {
      const { response, linked } = await this.send("GET", url, { accept: "application/json" }, signal);
      if (response.status === 404 && !response.headers.get("x-error-code")) {
        await response.body?.cancel().catch(() => {});
        return undefined; // a mirror without this page
      }
      await this.refuse(response, url, what);
      const chunks: Uint8Array[] = [];
      let size = 0;
      await this.readBody(response, url, signal, (chunk) => {
        chunks.push(chunk);
        size += chunk.length;
        if (size > 2 ** 25) throw new Kosmos2Error("hub-refused", "download", `Cannot read ${url}: it has more than 32 MiB`, { file: url });
      });
      return { text: new TextDecoder().decode(join(chunks, size)), linked };
    }, () => 0, signal);
  }

  /**
   * Passes a body on, piece by piece, as it comes.
   * @param take returns false to have seen enough; the rest is then not fetched
   * @throws {Passing} the connection is cut or silent
   */
  async readBody(response: HubResponse, url: string, signal: AbortSignal, take: (chunk: Uint8Array) => Promise<boolean | void> | boolean | void): Promise<void> {
    const reader = response.body?.getReader();
    if (!reader) return;
    const abort = () => void reader.cancel(signal.reason).catch(() => {});
    signal.addEventListener("abort", abort, { once: true });
    let ended = false;
    try {
      for (;;) {
        let timer: ReturnType<typeof setTimeout> | undefined;
        const silence = new Promise<never>((_, reject) => {
          timer = setTimeout(() => reject(new Error(`silent for ${this.tuning.stallMs / 1000} s`)), this.tuning.stallMs);
        });
        const { value, done } = await Promise.race([reader.read(), silence])
          .catch((error) => {
            signal.throwIfAborted();
            throw unreachable(url, reason(error), error);
          })
          .finally(() => clearTimeout(timer));
        signal.throwIfAborted();
        if (done) {
          ended = true;
          return;
        }
        if (value && (await take(value)) === false) return;
      }
    } finally {
      signal.removeEventListener("abort", abort);
      if (!ended) await reader.cancel().catch(() => {});
    }
  }

  /**
   * Turns a status that is not 2xx into an error that says what to do.
   * @param what for messages: `"org/name"`, or a file of it
   */
  async refuse(response: HubResponse, url: string, what: string): Promise<void> {
    if (response.ok) return;
    const { status } = response;
    const own = new URL(response.url || url).origin === new URL(this.endpoint).origin;
    const kind = response.headers.get("x-error-code") ?? "";
    const said = response.headers.get("x-error-message");
    await response.body?.cancel().catch(() => {});
    const heard = `${new URL(response.url || url).host} answers ${status}${said ? ` (${said.slice(0, 200)})` : ""}`;
    const fail = (code: string, cure: string, details: ErrorDetails = {}) =>
      new Kosmos2Error(code, "download", `Cannot fetch ${what}: ${heard}; ${cure}`, { found: status, file: url, ...details });

    if (status === 408 || status === 425 || status === 429 || status >= 500) {
      const waitMs = retryAfter(response.headers.get("retry-after"));
      const final = fail("hub-unavailable", waitMs ? `try again in ${Math.ceil(waitMs / 1000)} s` : "try again later");
      if (waitMs !== undefined && waitMs > this.tuning.longestRetryAfterMs) throw final;
      throw new Passing(final, waitMs);
    }
    // Where the bytes lie, links live for a while only; the hub gives new ones.
    if (!own) throw new Passing(fail("hub-unavailable", "its link may have expired; try again"));
    if (kind === "GatedRepo")
      throw fail("hub-gated", `its owner asks for agreement: accept the terms on its page at ${this.page}, then pass a token of that account (option token, HF_TOKEN)`);
    if (kind === "RevisionNotFound") throw fail("hub-not-found", "there is no such branch, tag or commit; see option revision");
    if (kind === "EntryNotFound") throw fail("hub-not-found", "there is no such file at this revision");
    if (status === 401)
      throw fail("hub-unauthorized", this.hasToken
        ? "the token is not valid for it, or it does not exist: check the name and the token (option token, HF_TOKEN)"
        : "it does not exist, or is private: check the name, or pass a token that may read it (option token, HF_TOKEN)");
    if (status === 403)
      throw fail("hub-forbidden", this.hasToken ? "the token may not read it: give it read access to this repository" : "pass a token that may read it (option token, HF_TOKEN)");
    if (status === 404 || status === 410) throw fail("hub-not-found", "check its name");
    throw fail("hub-refused", "see what that page says in a browser");
  }

  /** Tries again what may pass. `progress` grows as bytes come; who makes progress is not counted out. */
  async retrying<T>(work: () => Promise<T>, progress: () => number, signal: AbortSignal): Promise<T> {
    for (let failures = 0, before = progress(); ; ) {
      signal.throwIfAborted();
      try {
        return await work();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof Passing)) throw error;
        if (progress() > before) failures = 0;
        before = progress();
        if (++failures > this.tuning.retries || failures >= error.tries) throw error.final;
        const wait = Math.min(this.tuning.waitMs * 2 ** (failures - 1), this.tuning.longestWaitMs);
        await sleep(error.waitMs ?? wait * (0.5 + Math.random() / 2), signal); // jitter: many clients must not come back as one
      }
    }
  }
}

/** Aborts a request that is not answered in time, or when `outer` is aborted. */
class Watch {
  stalled = false;
  readonly #controller = new AbortController();
  readonly #timer: ReturnType<typeof setTimeout>;
  readonly #forward: () => void;

  constructor(stallMs: number, private readonly outer: AbortSignal) {
    this.#forward = () => this.#controller.abort(outer.reason);
    if (outer.aborted) this.#forward();
    outer.addEventListener("abort", this.#forward, { once: true });
    this.#timer = setTimeout(() => {
      this.stalled = true;
      this.#controller.abort();
    }, stallMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.outer.removeEventListener("abort", this.#forward);
  }
}

export function unreachable(url: string, why: string, cause?: unknown): Passing {
  const { host } = new URL(url);
  return new Passing(new Kosmos2Error("hub-unreachable", "download",
    `Cannot fetch ${url.split("?")[0]}: ${host}: ${why}; check the network, or load what is cached with localFilesOnly`, { file: url.split("?")[0] }, cause));
}

function wholeNumber(text: string | null): number | undefined {
  return text !== null && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** Seconds, or a date (RFC 9110, 10.2.3), in ms from now. */
function retryAfter(text: string | null): number | undefined {
  if (!text) return undefined;
  const ms = /^\d+$/.test(text.trim()) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
}

export function join(chunks: readonly Uint8Array[], size: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}
