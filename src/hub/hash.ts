/**
 * SHA-1 and SHA-256 in pieces (FIPS 180-4), for browsers, whose crypto.subtle takes only whole contents.
 * Node has its own: see platform/node/hub-store.ts.
 */
import type { Hasher } from "./store.js";

const rotl = (x: number, n: number): number => (x << n) | (x >>> (32 - n));
const rotr = (x: number, n: number): number => (x >>> n) | (x << (32 - n));

/** First 32 bits of the fractions of the n-th roots (2: square, 3: cube) of the first `count` primes. */
function rootsOfPrimes(count: number, n: 2 | 3): Int32Array {
  const words: number[] = [];
  for (let p = 2; words.length < count; p++) {
    let prime = true;
    for (let d = 2; d * d <= p; d++) if (p % d === 0) prime = false;
    if (!prime) continue;
    const root = n === 2 ? Math.sqrt(p) : Math.cbrt(p);
    words.push(((root - Math.floor(root)) * 2 ** 32) | 0);
  }
  return Int32Array.from(words);
}

const constants = rootsOfPrimes(64, 3);

abstract class Blocks implements Hasher {
  protected abstract readonly state: Int32Array;
  protected readonly words = new Int32Array(80);
  #block = new Uint8Array(64);
  #view = new DataView(this.#block.buffer);
  #filled = 0;
  #length = 0;

  /** Mixes this.words[0..15] into this.state. */
  protected abstract mix(): void;

  update(bytes: Uint8Array): void {
    this.#length += bytes.length;
    let at = 0;
    if (this.#filled > 0) {
      at = Math.min(64 - this.#filled, bytes.length);
      this.#block.set(bytes.subarray(0, at), this.#filled);
      this.#filled += at;
      if (this.#filled < 64) return;
      this.#take(this.#view, 0);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (; at + 64 <= bytes.length; at += 64) this.#take(view, at);
    this.#block.set(bytes.subarray(at));
    this.#filled = bytes.length - at;
  }

  hex(): string {
    const bits = this.#length * 8;
    const tail = new Uint8Array(((119 - (this.#length % 64)) % 64) + 1); // then 8 bytes of length fill the block
    tail[0] = 0x80;
    this.update(tail);
    const length = new DataView(new ArrayBuffer(8));
    length.setUint32(0, Math.floor(bits / 2 ** 32));
    length.setUint32(4, bits >>> 0);
    this.update(new Uint8Array(length.buffer));
    return [...this.state].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  #take(view: DataView, at: number): void {
    for (let i = 0; i < 16; i++) this.words[i] = view.getInt32(at + 4 * i);
    this.mix();
  }
}

class Sha256 extends Blocks {
  protected readonly state = rootsOfPrimes(8, 2);

  protected mix(): void {
    const w = this.words, s = this.state;
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15], y = w[i - 2];
      w[i] = (w[i - 16] + (rotr(x, 7) ^ rotr(x, 18) ^ (x >>> 3)) + w[i - 7] + (rotr(y, 17) ^ rotr(y, 19) ^ (y >>> 10))) | 0;
    }
    let a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i]) | 0;
      const t2 = ((rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    s[0] += a; s[1] += b; s[2] += c; s[3] += d; s[4] += e; s[5] += f; s[6] += g; s[7] += h;
  }
}

class Sha1 extends Blocks {
  protected readonly state = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0);

  protected mix(): void {
    const w = this.words, s = this.state;
    for (let i = 16; i < 80; i++) w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    let a = s[0], b = s[1], c = s[2], d = s[3], e = s[4];
    for (let i = 0; i < 80; i++) {
      const [f, k] =
        i < 20 ? [(b & c) | (~b & d), 0x5a827999]
        : i < 40 ? [b ^ c ^ d, 0x6ed9eba1]
        : i < 60 ? [(b & c) | (b & d) | (c & d), 0x8f1bbcdc]
        : [b ^ c ^ d, 0xca62c1d6];
      const t = (rotl(a, 5) + f + e + k + w[i]) | 0;
      e = d; d = c; c = rotl(b, 30); b = a; a = t;
    }
    s[0] += a; s[1] += b; s[2] += c; s[3] += d; s[4] += e;
  }
}

export function createHasher(name: "sha1" | "sha256"): Hasher {
  return name === "sha1" ? new Sha1() : new Sha256();
}
