/**
 * A GGUF file of a GPT-2 whose sizes are those of Kosmos-2's decoder, or of a share of it: Q8_0 matrices, f32 norms and biases, random.
 * A few thousand blocks are made and then repeated. GGUF version 3: little-endian, tensors at multiples of 32.
 */
import { closeSync, existsSync, mkdirSync, openSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";

const F32 = 0, Q8_0 = 8;
const kinds = { u32: 4, f32: 6, bool: 7, string: 8, array: 9 };

/** Sizes of the whole decoder, of a quarter, and of a toy. */
export const sizes = {
  whole: { layers: 24, width: 2048, ffn: 8192, heads: 32, vocab: 65037 },
  quarter: { layers: 6, width: 2048, ffn: 8192, heads: 32, vocab: Math.ceil(65037 / 4) },
  tiny: { layers: 2, width: 256, ffn: 512, heads: 4, vocab: 1000 },
};

/** Writes the file unless it is there. @returns its path */
export function writeGguf(path, { layers, width, ffn, heads, vocab }) {
  if (existsSync(path)) return path;
  const context = 1024;
  const tensors = [["token_embd.weight", Q8_0, [width, vocab]], ["position_embd.weight", F32, [width, context]]];
  const norm = (name) => tensors.push([`${name}.weight`, F32, [width]], [`${name}.bias`, F32, [width]]);
  const linear = (name, inputs, outputs) => tensors.push([`${name}.weight`, Q8_0, [inputs, outputs]], [`${name}.bias`, F32, [outputs]]);
  for (let i = 0; i < layers; i++) {
    norm(`blk.${i}.attn_norm`);
    linear(`blk.${i}.attn_qkv`, width, 3 * width);
    linear(`blk.${i}.attn_output`, width, width);
    norm(`blk.${i}.ffn_norm`);
    linear(`blk.${i}.ffn_up`, width, ffn);
    linear(`blk.${i}.ffn_down`, ffn, width);
  }
  norm("output_norm");

  const head = new Bytes();
  const fields = [
    ["general.architecture", "string", "gpt2"], ["general.name", "string", "random"], ["gpt2.context_length", "u32", context], ["gpt2.embedding_length", "u32", width],
    ["gpt2.feed_forward_length", "u32", ffn], ["gpt2.block_count", "u32", layers], ["gpt2.attention.head_count", "u32", heads],
    ["gpt2.attention.layer_norm_epsilon", "f32", 1e-5], ["tokenizer.ggml.model", "string", "gpt2"], ["tokenizer.ggml.pre", "string", "default"],
    ["tokenizer.ggml.tokens", "array", Array.from({ length: vocab }, (_, i) => (i < 26 ? String.fromCharCode(97 + i) : `t${i}`))], ["tokenizer.ggml.merges", "array", ["a b"]],
    ["tokenizer.ggml.bos_token_id", "u32", 100], ["tokenizer.ggml.eos_token_id", "u32", 101], ["tokenizer.ggml.add_bos_token", "bool", false],
  ];
  head.text("GGUF").u32(3).u64(tensors.length).u64(fields.length);
  for (const [name, kind, value] of fields) {
    head.string(name).u32(kinds[kind]);
    if (kind === "string") head.string(value);
    else if (kind === "u32") head.u32(value);
    else if (kind === "f32") head.f32(value);
    else if (kind === "bool") head.text(value ? "\u0001" : "\u0000");
    else {
      head.u32(kinds.string).u64(value.length);
      for (const each of value) head.string(each);
    }
  }
  let offset = 0;
  for (const [name, type, dims] of tensors) {
    head.string(name).u32(dims.length);
    for (const dim of dims) head.u64(dim);
    head.u32(type).u64(offset);
    offset += Math.ceil(byteLength(type, dims) / 32) * 32;
  }
  head.pad(32);

  mkdirSync(dirname(path), { recursive: true });
  const file = openSync(`${path}.part`, "w");
  try {
    writeAll(file, head.bytes());
    const blocks = quantised(8192), ones = new Float32Array(65536).fill(1), small = new Float32Array(65536).map((_, i) => 0.02 * Math.sin(i * i));
    for (const [name, type, dims] of tensors) {
      const size = byteLength(type, dims);
      const pattern = type === Q8_0 ? blocks : new Uint8Array((/norm\.weight$/.test(name) ? ones : small).buffer);
      for (let at = 0; at < size; at += pattern.length) writeAll(file, pattern.subarray(0, Math.min(pattern.length, size - at)));
      writeAll(file, new Uint8Array(Math.ceil(size / 32) * 32 - size));
    }
  } finally {
    closeSync(file);
  }
  renameSync(`${path}.part`, path);
  return path;
}

const byteLength = (type, dims) => {
  const numbers = dims.reduce((product, dim) => product * dim, 1);
  return type === F32 ? 4 * numbers : (numbers / 32) * 34;
};

/** Q8_0 blocks: a scale (IEEE half) and 32 int8. The scale 0x0a8c is 0.0002, so that weights have a spread of 0.015. */
function quantised(count) {
  const bytes = new Uint8Array(count * 34);
  let state = 2463534242;
  for (let block = 0; block < count; block++) {
    bytes.set([0x8c, 0x0a], block * 34);
    for (let i = 2; i < 34; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      bytes[block * 34 + i] = Math.max(-127, state >> 24);
    }
  }
  return bytes;
}

function writeAll(file, bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
}

/** Bytes that are written one after the other. */
class Bytes {
  #bytes = new Uint8Array(1024);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  text(text) {
    const bytes = new TextEncoder().encode(text);
    const at = this.#room(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }
  string(text) {
    return this.u64(new TextEncoder().encode(text).length).text(text);
  }
  u32(value) {
    const at = this.#room(4);
    this.#view.setUint32(at, value, true);
    return this;
  }
  f32(value) {
    const at = this.#room(4);
    this.#view.setFloat32(at, value, true);
    return this;
  }
  u64(value) {
    const at = this.#room(8);
    this.#view.setBigUint64(at, BigInt(value), true);
    return this;
  }
  pad(to) {
    this.#room((to - (this.#length % to)) % to);
    return this;
  }
  bytes() {
    return this.#bytes.subarray(0, this.#length);
  }
  #room(bytes) {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#bytes.length) {
      const longer = new Uint8Array(2 * this.#length);
      longer.set(this.#bytes);
      this.#bytes = longer;
      this.#view = new DataView(longer.buffer);
    }
    return at;
  }
}
