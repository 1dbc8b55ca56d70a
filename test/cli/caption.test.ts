import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { caption, type Engine } from "#src/cli/caption.js";
import { main } from "#src/cli/commands.js";
import { UsageError } from "#src/cli/options.js";
import type { Terminal } from "#src/cli/terminal.js";
import { Kosmos2Error, type Caption, type LoadOptions, type Profile } from "kosmos2-wasm";

const folder = mkdtempSync(join(tmpdir(), "kosmos2-cli-"));
after(() => rmSync(folder, { recursive: true }));

function terminal(live = false): Terminal & { stdout: string; stderr: string } {
  return {
    stdout: "", stderr: "", live, color: false,
    out(text) { this.stdout += text; },
    err(text) { this.stderr += text; },
  };
}

const answer: Caption = {
  caption: "An image of two keys.", generatedText: "<grounding> An image of<phrase> two keys</phrase>…", newIds: [5, 6, 2], stop: "eos",
  entities: [{
    phrase: "two keys", span: [12, 20], range: [12, 20],
    boxes: [
      { normalized: [0.140625, 0.796875, 0.328125, 0.953125], pixels: [31.5, 178.5, 73.5, 213.5], patches: [804, 970] },
      { normalized: [0.9, 0.9, 0.1, 0.1], patches: [1023, 0] }, // inverted, and of unknown size
    ],
  }],
  timings: { loadMs: 1, visionMs: 2, prefillMs: 3, decodeMs: 4 },
};

const profiled: Profile = {
  description: "i8, wasm", limits: { bandwidth: 50e9, int16: 90e9, int8: 100e9, float32: 50e9 }, ms: 1000,
  passes: [{ pass: "vision", times: 1, ms: 700 }, { pass: "decode", times: 3, ms: 250 }],
  operations: [
    { pass: "vision", kind: "matmul_i8", shape: "257×1024×4096", times: 24, ms: 600, leastMs: 450 },
    { pass: "decode", kind: "matmul_i8", shape: "1×2048×2048", times: 9, ms: 200, leastMs: 190 },
    { pass: "vision", kind: "attention", shape: "257×1024", times: 24, ms: 99, leastMs: 33 },
    { pass: "decode", kind: "layernorm", shape: "1×2048", times: 9, ms: 50, leastMs: 0 },
    { pass: "vision", kind: "copy", shape: "1×1024", times: 2, ms: 0.5, leastMs: 0 },
    { pass: "vision", kind: "copy", shape: "256×1024", times: 1, ms: 0.5, leastMs: 0 },
  ],
};

/** An engine that says `answer` about every picture but those whose name has "bad" in it, and notes what it was asked. */
function fake(): Engine & { asked: unknown[]; disposed: number; warn(message: string): void } {
  const notes = { asked: [] as unknown[], disposed: 0, warn: (_: string) => {} };
  const stream = (image: string, options: { signal: AbortSignal }) => {
    notes.asked.push({ image, ...options });
    const result = async () => {
      options.signal.throwIfAborted();
      if (image.includes("bad")) throw new Kosmos2Error("image-unreadable", "input", `Cannot decode "${image}"`);
      return answer;
    };
    return {
      async *[Symbol.asyncIterator]() {
        await result();
        yield { id: 5, text: " two" };
        options.signal.throwIfAborted();
        yield { id: 6, text: " keys" };
      },
      get result() { return result(); },
    };
  };
  const load = async (source: string, { logger, ...options }: LoadOptions) => {
    notes.warn = logger!.warn;
    notes.asked.push({ source, ...options });
    const processor = { postProcessGeneration: (text: string) => ({ caption: text.replace(/<.*?> ?/g, ""), entities: [] }) };
    const profile = async (work: () => Promise<unknown>) => ({ result: await work(), profile: profiled });
    return { stream, processor, profile, dispose: async () => void notes.disposed++ };
  };
  return Object.assign(notes, { load, annotate: async () => new TextEncoder().encode("PNG") }) as unknown as Engine & typeof notes;
}

const never = new AbortController().signal;

test("caption prints the caption and, for each box, pixels, fractions and cells", async () => {
  const t = terminal();
  assert.equal(await caption(["keys.png"], t, never, fake()), 0);
  assert.equal(t.stdout, [
    "An image of two keys.",
    "            pixels         0…1                      cells",
    "  two keys  32 179 74 214  0.141 0.797 0.328 0.953  4,25 – 10,30",
    "                           0.900 0.900 0.100 0.100  31,31 – 0,0",
    "",
  ].join("\n"));
  assert.equal(t.stderr, "");
});

test("caption --profile tells what the answer cost, by pass and operation, small ones by kind", async () => {
  const t = terminal();
  assert.equal(await caption(["keys.png", "--profile"], t, never, fake()), 0);
  assert.equal(t.stdout.slice(t.stdout.indexOf("\ni8")), `
i8, wasm; at most 50.0 GB/s, 90.0 G int16, 100.0 G int8 and 50.0 G f32 multiply-adds a second
                                   times      ms  of all  of limit
  vision                               1  700.00  70.0 %      69 %
          matmul_i8 257×1024×4096     24  600.00  60.0 %      75 %
          attention 257×1024          24   99.00   9.9 %      33 %
          copy                         3    1.00   0.1 %
  decode                               3  250.00  25.0 %      76 %
          matmul_i8 1×2048×2048        9  200.00  20.0 %      95 %
          layernorm 1×2048             9   50.00   5.0 %
  products 80.0 %, attention 9.9 %, other operations 5.1 %, outside passes 5.0 % of 1000 ms
`);
  const json = terminal();
  assert.equal(await caption(["keys.png", "--profile", "--json"], json, never, fake()), 0);
  const { profile } = JSON.parse(json.stdout);
  assert.deepEqual([profile.productsMs, profile.attentionMs, profile.othersMs, profile.outsideMs, profile.operations.length], [800, 99, 51, 50, 6]);
});

test("caption --json prints one object a picture and line, with every promised field", async () => {
  const t = terminal();
  assert.equal(await caption(["a.png", "b.png", "--json"], t, never, fake()), 0);
  const lines = t.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map(({ image }) => image), ["a.png", "b.png"]);
  assert.deepEqual(Object.keys(lines[0]), ["image", "prompt", "generatedText", "newIds", "caption", "entities", "stop", "timings"]);
  assert.deepEqual(lines[0].entities, JSON.parse(JSON.stringify(answer.entities)));
  assert.equal(lines[0].prompt, "<grounding> An image of");
});

test("caption hands its options to the engine, tells on stderr what that has to say, and gives the model back", async () => {
  const engine = fake(), t = terminal();
  const args = ["x.png", "--model", folder, "--dtype", "f32", "--cache", "f16", "--threads", "3", "--engine", "plain", "--no-shared", "--max-new-tokens", "7", "--prompt", "<grounding> Hm"];
  await caption(args, t, never, engine);
  engine.warn("Only one thread");
  assert.equal(t.stderr, "kosmos2: Only one thread\n");
  assert.deepEqual(engine.asked, [
    { source: folder, dtype: "f32", cache: "f16", threads: 3, engine: "plain", shared: false, signal: never },
    { image: "x.png", prompt: "<grounding> Hm", maxNewTokens: 7, signal: never },
  ]);
  assert.equal(engine.disposed, 1);
});

test("caption reports a bad picture, does the others, and exits 1", async () => {
  const t = terminal();
  assert.equal(await caption(["a.png", "bad.png", "c.png", "--json"], t, never, fake()), 1);
  assert.equal(t.stdout.trimEnd().split("\n").length, 2);
  assert.equal(t.stderr, 'kosmos2: bad.png: Cannot decode "bad.png"\n');
});

test("caption streams to a terminal on stderr, and says when a prompt can have no boxes", async () => {
  const t = terminal(true);
  assert.equal(await caption(["a.png", "--prompt", "An image of"], t, never, fake()), 0);
  assert.match(t.stderr, /no <grounding>.*\n two keys\n$/s);
  assert.doesNotMatch(t.stdout, / two keys\n two/);
});

test("caption --annotate writes a file for one picture, and into a folder for many, each name once", async () => {
  await caption(["a.png", "--annotate", join(folder, "one.png")], terminal(), never, fake());
  assert.equal(readFileSync(join(folder, "one.png"), "utf8"), "PNG");
  await caption(["x/a.jpg", "y/a.png", "--annotate", folder], terminal(), never, fake());
  assert.deepEqual(["a.png", "a-2.png"].map((name) => readFileSync(join(folder, name), "utf8")), ["PNG", "PNG"]);
});

test("caption --annotate names no two pictures alike, whatever their names come to", async () => {
  for (const [i, images] of [["x/a.png", "x/a-2.png", "y/a.png"], ["dog.jpg", "dog.png", "dog-2.png"], ["a.png", "A.png"]].entries()) {
    const to = join(folder, `names-${i}`);
    mkdirSync(to);
    assert.equal(await caption([...images, "--annotate", to], terminal(), never, fake()), 0);
    assert.equal(new Set(readdirSync(to).map((name) => name.toLowerCase())).size, images.length, images.join(" "));
  }
});

test("caption --annotate refuses to write over a picture, also by another name", async () => {
  const engine = fake(), own = join(folder, "own"), picture = join(own, "picture.png");
  mkdirSync(own);
  writeFileSync(picture, "the original");
  symlinkSync(picture, join(folder, "link.png"));
  symlinkSync(own, join(folder, "other"));
  for (const args of [[picture, picture], [picture, own], [picture, join(folder, "other")], [pathToFileURL(picture).href, picture], [picture, join(folder, "link.png")], [join(folder, "link.png"), picture]]) {
    await assert.rejects(caption([args[0], "--annotate", args[1]], terminal(), never, engine), (error) => error instanceof UsageError && /would write over the picture/.test(error.message), args.join(" "));
  }
  assert.deepEqual([engine.asked, readFileSync(picture, "utf8")], [[], "the original"]);
});

test("caption --annotate refuses what it can't write before it does any work", { skip: process.getuid?.() === 0 && "root may write anywhere" }, async () => {
  const engine = fake(), closed = join(folder, "closed");
  mkdirSync(closed);
  chmodSync(closed, 0o500);
  for (const to of [closed, join(closed, "x.png")]) await assert.rejects(caption(["a.png", "--annotate", to], terminal(), never, engine), /cannot write .*: EACCES/);
  assert.deepEqual(engine.asked, []);
});

test("caption says which annotated copy it could not write, and does the other pictures", async () => {
  const t = terminal(), to = join(folder, "odd");
  mkdirSync(join(to, "a.png"), { recursive: true });
  assert.equal(await caption(["a.png", "b.png", "--annotate", to], t, never, fake()), 1);
  assert.match(t.stderr, /^kosmos2: a\.png: Cannot write ".*a\.png": EISDIR[^\n]*\n$/);
  assert.equal(readFileSync(join(to, "b.png"), "utf8"), "PNG");
});

test("caption refuses wrong usage before it loads anything", async () => {
  const engine = fake();
  for (const args of [
    [], ["a.png", "--threads", "0"], ["a.png", "--threads", "two"], ["a.png", "--dtype", "i7"], ["a.png", "--engine", "fast"], ["a.png", "--max-new-tokens", "-1"],
    ["a.png", "--colour"], ["a.png", "--prompt"], ["a.png", "b.png", "--annotate", "out.png"], ["a.png", "--annotate", "out.jpg"], ["a.png", "--annotate", "nowhere/"], ["a.png", "--annotate", "nowhere/x.png"],
  ]) {
    await assert.rejects(caption(args, terminal(), never, engine), UsageError, args.join(" "));
  }
  assert.deepEqual(engine.asked, []);
});

test("wrong usage is said in one line", async () => {
  for (const [args, said] of [
    [["a.png", "--threads", "-1"], "--threads needs a value; one that begins with a dash is written --threads=-…"],
    [["a.png", "--prompt", "--json"], "--prompt needs a value; one that begins with a dash is written --prompt=-…"],
    [["a.png", "--prompt"], "Option '--prompt <value>' argument missing"],
    [["a.png", "--colour"], "Unknown option '--colour'"],
  ] as const) await assert.rejects(caption([...args], terminal(), never, fake()), new UsageError(said));
});

test("caption stops when interrupted and gives the model back", async () => {
  const controller = new AbortController(), engine = fake();
  const load = engine.load;
  engine.load = (async (...args: Parameters<typeof load>) => (controller.abort(new Error("Interrupted")), load(...args))) as typeof load;
  await assert.rejects(caption(["a.png"], terminal(), controller.signal, engine), /Interrupted/);
  assert.equal(engine.disposed, 1);
});

test("caption --json prints what there is of an interrupted answer", async () => {
  const controller = new AbortController(), t = terminal();
  const engine = fake();
  const load = engine.load;
  engine.load = (async (...args: Parameters<typeof load>) => {
    const kosmos = await load(...args), stream = kosmos.stream.bind(kosmos);
    kosmos.stream = (...given) => {
      const answer = stream(...given);
      return { get result() { return answer.result; }, async *[Symbol.asyncIterator]() {
        for await (const piece of answer) {
          yield piece;
          controller.abort(new Error("Interrupted")); // after the first piece
        }
      } };
    };
    return kosmos;
  }) as typeof load;
  await assert.rejects(caption(["a.png", "b.png", "--json"], t, controller.signal, engine), /Interrupted/);
  assert.deepEqual(JSON.parse(t.stdout), {
    image: "a.png", prompt: "<grounding> An image of", generatedText: "<grounding> An image of two", newIds: [5], caption: "An image of two", entities: [], stop: "abort", timings: {},
  });
});

test("main exits 2 for wrong usage, 0 for help and version, 1 for failure, 130 when interrupted", async () => {
  const run = async (args: string[], signal = never) => {
    const t = terminal();
    return [await main(args, t, signal), t.stdout !== "", t.stderr !== ""];
  };
  assert.deepEqual(await run([]), [2, false, true]);
  assert.deepEqual(await run(["describe"]), [2, false, true]);
  assert.deepEqual(await run(["toString"]), [2, false, true]);
  assert.deepEqual(await run(["caption"]), [2, false, true]);
  assert.deepEqual(await run(["--help"]), [0, true, false]);
  assert.deepEqual(await run(["caption", "--help"]), [0, true, false]);
  assert.deepEqual(await run(["--version"]), [0, true, false]);
  writeFileSync(join(folder, "config.json"), "{");
  assert.deepEqual(await run(["caption", "x.png", "--model", folder]), [1, false, true]);
  assert.deepEqual(await run(["caption", "x.png"], AbortSignal.abort(new Error("Interrupted"))), [130, false, false]);
});
