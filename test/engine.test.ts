import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { Kosmos2Error, Kosmos2Processor } from "kosmos2-wasm";
import { Engine, type Question, type Sequence } from "#src/engine.js";
import { greedy } from "#src/generate/greedy.js";
import { Habits } from "#src/generate/guess.js";
import { Pace } from "#src/generate/pace.js";
import type { Choice } from "#src/graph/recorder.js";
import { openModel } from "#src/weights/source.js";
import { goldens, noGoldens, random } from "./support.js";

const engines = new Map<string, Promise<Engine>>();
async function engine(dtype: "f32" | "f16" | "i8" | "i4" | "w8a8"): Promise<Engine> {
  if (!engines.has(dtype)) engines.set(dtype, openModel("kosmos2-emoji", {}).then((files) => Engine.load(files, { dtype, threads: 2 })));
  return engines.get(dtype)!;
}
after(async () => {
  for (const each of engines.values()) await (await each).dispose();
});

const texts = [[0, 460, 25, 21, 27, 455, 59], [0, 460, 30, 31, 32, 33, 34, 35, 36, 37, 38]];

for (const dtype of ["f32", "f16", "i8", "i4", "w8a8"] as const) {
  test(`${dtype}: tokens chosen behind guesses are those chosen one by one, with the same logits and bans, in batches too`, async () => {
    const e = await engine(dtype), length = 40;
    const bans = (row: number, at: number) => (at % 5 === row ? [at, 455, 5] : []);
    const plain = await Promise.all(texts.map(async (text, row) => {
      const sequence = e.begin(), choices = [];
      for (let ids = text; choices.length < length; ids = [choices.at(-1)!.id]) choices.push((await e.choose([{ sequence, ids, banned: [bans(row, choices.length)] }]))[0][0]);
      e.end(sequence);
      return choices;
    }));
    const chance = random(1000, 7);
    let at = 0;
    const made: (typeof plain)[number][] = [[], []], sequences: Sequence[] = texts.map(() => e.begin());
    for (let pass = 0; made.some((choices) => choices.length < length); pass++) {
      const questions: Question[] = texts.map((text, row) => {
        const next = made[row].length, guesses = [];
        for (let i = 0; next > 0 && i < pass % 4 && next + i + 1 < length; i++) guesses.push(chance[at++ % 1000] > -0.6 && plain[row][next + i] ? plain[row][next + i].id : 17);
        const sure = next ? [made[row][next - 1].id] : text;
        return { sequence: sequences[row], ids: [...sure, ...guesses], banned: [0, ...guesses].map((_, i) => bans(row, next + i)) };
      }).filter((_, row) => made[row].length < length);
      const rows = texts.map((_, row) => row).filter((row) => made[row].length < length);
      for (const [i, choices] of (await e.choose(questions)).entries()) made[rows[i]].push(...choices);
    }
    sequences.forEach((sequence) => e.end(sequence));
    assert.deepEqual(made, plain);
  });
}

/** An engine with 2 threads in its rest, how often they went on by themselves since, and what is allocated. */
async function watched(dtype: "f32" | "i8") {
  const e = await engine(dtype), passes = e["passes"], counts = { ahead: 0 }, start = passes.start.bind(passes);
  passes.start = (...given: Parameters<typeof start>) => {
    if (given[3]) counts.ahead++;
    return start(...given);
  };
  const taken = () => (e.backend as unknown as { heap: { taken: Map<number, number> } }).heap.taken.size;
  const plain = async (text: readonly number[], length: number) => {
    const sequence = e.begin(), choices: Choice[] = [];
    for (let ids = text; choices.length < length; ids = [choices.at(-1)!.id]) choices.push((await e.choose([{ sequence, ids, banned: [[]] }]))[0][0]);
    e.end(sequence);
    return choices;
  };
  return { e, counts, taken, plain, quiet: () => passes.quiet(), done: () => void (passes.start = start) };
}

for (const dtype of ["f32", "i8"] as const) {
  test(`${dtype}: threads that go on by themselves choose the same, in batches too, over the bounds of blocks and plans`, async () => {
    const { e, counts, plain, done } = await watched(dtype), length = 40, long = Array.from({ length: 240 }, (_, i) => 3 + (i % 50));
    for (const batch of [[texts[0]], [long], [texts[1], long, texts[0]]]) {
      const wanted = await Promise.all(batch.map((text) => plain(text, length)));
      const sequences = batch.map(() => e.begin()), made: Choice[][] = batch.map(() => []);
      counts.ahead = 0;
      for (let i = 0; i < length; i++) {
        const questions = batch.map((text, row) => ({ sequence: sequences[row], ids: i ? [made[row][i - 1].id] : text, banned: [[]], next: i < length - 1 }));
        (await e.choose(questions)).forEach(([choice], row) => made[row].push(choice));
      }
      assert.deepEqual(made, wanted);
      assert.equal(counts.ahead, length - 1);
      sequences.forEach((sequence) => e.end(sequence));
    }
    done();
  });
}

test("what threads went on to in vain changes nothing: another token, a ban, guesses, another text or picture meanwhile, the end", async () => {
  const { e, counts, taken, plain, quiet, done } = await watched("f32"), [text, other] = texts;
  const right = await plain(text, 5);
  const pixels = Float32Array.from(random(3 * 224 * 224, 3)), seen = await e.see(pixels, 224, 224);
  const ways: Record<string, (sequence: Sequence, id: number) => Promise<unknown>> = {
    "as foreseen": async (sequence, id) => (await e.choose([{ sequence, ids: [id], banned: [[]] }]))[0],
    "as foreseen, and further": async (sequence, id) => (await e.choose([{ sequence, ids: [id], banned: [[]], next: true }]))[0],
    "another token": async (sequence) => (await e.choose([{ sequence, ids: [17], banned: [[]] }]))[0],
    "a ban": async (sequence, id) => (await e.choose([{ sequence, ids: [id], banned: [[right[1].id]] }]))[0],
    "guesses": async (sequence, id) => (await e.choose([{ sequence, ids: [id, right[1].id], banned: [[], []] }]))[0],
    "logits": async (sequence, id) => (await e.read([{ sequence, ids: [id] }], {})).get("logits")!.data,
    "another signal": async (sequence, id) => (await e.choose([{ sequence, ids: [id], banned: [[]] }], new AbortController().signal))[0],
    "a picture between": async (sequence, id) => {
      const found: Choice[] = [];
      for (let ids = [id]; found.length < 6; ids = [found.at(-1)!.id]) {
        found.push((await e.choose([{ sequence, ids, banned: [[]], next: found.length < 5 }]))[0][0]); // in one arena and the other
        assert.deepEqual((await e.see(pixels, 224, 224)).embeds, seen.embeds);
      }
      return found;
    },
    "another text first": async (sequence, id) => {
      const second = e.begin(), found = await Promise.all([
        e.choose([{ sequence: second, ids: other, banned: [[]], next: true }]), e.choose([{ sequence, ids: [id], banned: [[]] }]),
      ]);
      e.end(second);
      return found.map(([choices]) => choices);
    },
    "the end": async () => {},
  };
  let before = 0;
  for (const [way, ask] of Object.entries(ways)) {
    const found: unknown[] = [];
    for (const next of [false, true]) {
      counts.ahead = 0;
      const sequence = e.begin(), [[{ id }]] = await e.choose([{ sequence, ids: text, banned: [[]], next }]), rest: Choice[] = [];
      assert.equal(counts.ahead, next ? 1 : 0);
      const asked = await ask(sequence, id);
      for (let ids = [23]; rest.length < 3; ids = [rest.at(-1)!.id]) rest.push((await e.choose([{ sequence, ids, banned: [[]], next }]))[0][0]);
      found.push([asked, rest]);
      e.end(sequence);
      await quiet();
    }
    assert.deepEqual(found[1], found[0], way);
    before ||= taken(); // there is a second arena now
  }
  assert.deepEqual(await plain(text, 5), right);
  await quiet();
  assert.equal(taken(), before, "all is given back");
  done();
});

test("threads go on by themselves neither while another call waits nor while a profile is taken, nor without shared memory", async () => {
  const { e, counts, done } = await watched("f32"), [sequence, second] = [e.begin(), e.begin()];
  await Promise.all([e.choose([{ sequence, ids: texts[0], banned: [[]], next: true }]), e.choose([{ sequence: second, ids: texts[1], banned: [[]] }])]);
  await e.profile(() => e.choose([{ sequence, ids: [17], banned: [[]], next: true }]));
  assert.equal(counts.ahead, 0);
  for (const each of [sequence, second]) e.end(each);
  done();
  const own = await Engine.load(await openModel("kosmos2-emoji", {}), { dtype: "f32", shared: false }), text = own.begin();
  const [[{ id }]] = await own.choose([{ sequence: text, ids: texts[0], banned: [[]], next: true }]);
  assert.equal(own["ahead"], undefined);
  assert.equal((await own.choose([{ sequence: text, ids: [id], banned: [[]], next: true }])).length, 1);
  await own.dispose();
});

test("an abort ends what threads went on to as well, and the engine goes on", async () => {
  const { e, taken, plain, quiet, done } = await watched("f32"), right = await plain(texts[0], 5), before = taken();
  for (const early of [true, false]) {
    const controller = new AbortController(), reason = new Error("enough"), sequence = e.begin();
    let choice = e.choose([{ sequence, ids: texts[1], banned: [[]], next: true }], controller.signal);
    if (!early) {
      const [[{ id }]] = await choice;
      choice = e.choose([{ sequence, ids: [id], banned: [[]], next: true }], controller.signal);
    }
    controller.abort(reason);
    await assert.rejects(choice, reason);
    e.end(sequence);
    assert.deepEqual(await plain(texts[0], 5), right);
  }
  await quiet();
  assert.equal(taken(), before);
  done();
});

test("threads take no token from a pass that was ended or did not begin", async () => {
  const { e, taken, plain, quiet, done } = await watched("f32"), long = Array.from({ length: 400 }, (_, i) => 3 + (i % 50));
  const right = await plain(texts[0], 5), before = (await plain(long, 1), taken());
  const heap = (e.backend as unknown as { heap: { alloc(bytes: number): number; taken: Map<number, number> } }).heap, alloc = heap.alloc;
  const garbage = () => {
    for (const { room } of e["passes"]["arenas"]) {
      const address = room["address"];
      if (address) e.backend.write(address, new Uint8Array(heap.taken.get(address)! - 64).fill(0x7f)); // as a token it lies far outside of all memory
    }
  };
  const reason = new Error("enough");
  for (let round = 0; round < 6; round++) {
    const controller = new AbortController(), sequence = e.begin();
    garbage();
    const choice = e.choose([{ sequence, ids: long, banned: [[]], next: true }], controller.signal);
    setTimeout(() => controller.abort(reason), round);
    await assert.rejects(choice, reason);
    e.end(sequence);
  }
  await quiet();
  // no room for the list of the pass, of the next one, …
  for (let room = 0, found = 0; found === 0; room++) {
    const lists = (e.backend as unknown as { lists: { address: number; bytes: number }[] }).lists, sequence = e.begin();
    for (const list of lists) {
      if (list.address) e.backend.free(list.address);
      list.address = list.bytes = 0;
    }
    garbage();
    let left = room;
    heap.alloc = (bytes) => {
      if (left-- <= 0) throw new Kosmos2Error("memory-exhausted", "memory", "Cannot get more");
      return alloc.call(heap, bytes);
    };
    const choice = await e.choose([{ sequence, ids: texts[1], banned: [[]], next: true }]).catch((error: Kosmos2Error) => void assert.equal(error.code, "memory-exhausted"));
    heap.alloc = alloc;
    if (choice && e["ahead"]) found++;
    if (choice) assert.deepEqual((await e.choose([{ sequence, ids: [choice[0][0].id], banned: [[]] }]))[0], (await plain(texts[1], 2)).slice(1));
    e.end(sequence);
    await quiet();
    assert.deepEqual(await plain(texts[0], 5), right);
  }
  await quiet();
  assert.ok(taken() <= before + 1);
  done();
});

test("a pass that threads went on to takes as long as it ran, however late somebody comes for it", async () => {
  const { e, done } = await watched("f32"), pace = e.pace, sequence = e.begin();
  Object.assign(e, { pace: new Pace() });
  let [[{ id }]] = await e.choose([{ sequence, ids: texts[0], banned: [[]], next: true }]);
  for (let i = 0; i < 8; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    [[{ id }]] = await e.choose([{ sequence, ids: [id], banned: [[]], next: true }]);
  }
  assert.ok(e.pace.cost(1) < 50, `${e.pace.cost(1)} ms`);
  Object.assign(e, { pace });
  e.end(sequence);
  done();
});

test("an engine can be disposed of while threads go on by themselves", async () => {
  const e = await Engine.load(await openModel("kosmos2-emoji", {}), { dtype: "f32", threads: 2 }), sequence = e.begin();
  const [[{ id }]] = await e.choose([{ sequence, ids: texts[0], banned: [[]], next: true }]);
  assert.ok(e["ahead"]);
  await e.dispose();
  await assert.rejects(e.choose([{ sequence, ids: [id], banned: [[]] }]), (error: Error & { code?: string }) => error.code === "disposed");
  e.end(sequence);
});

for (const dtype of ["f32", "i8"] as const) {
  test(`${dtype}: a choice leaves out what no later row needs, and finds the very logits of a reading of all rows, in batches too`, async () => {
    const e = await engine(dtype), sequences = texts.map(() => e.begin());
    const chosen = await e.choose(texts.map((ids, row) => ({ sequence: sequences[row], ids, banned: row ? [[], []] : [[]] })));
    for (const [row, ids] of texts.entries()) {
      const sequence = e.begin(), { data, columns } = (await e.read([{ sequence, ids }], {})).get("logits")!;
      const at = ids.length - (row ? 2 : 1), logits = data.subarray(at * columns, (at + 1) * columns), best = logits.reduce((a, b) => Math.max(a, b));
      assert.deepEqual([chosen[row][0].id, chosen[row][0].logit], [logits.indexOf(best), best]);
      e.end(sequence);
    }
    sequences.forEach((sequence) => e.end(sequence));
  });
}

test("f32: captions of 60 scenes with guesses are the reference's, in fewer passes", { skip: noGoldens }, async () => {
  const e = await engine("f32"), processor = await Kosmos2Processor.fromPretrained("kosmos2-emoji"), habits = new Habits();
  const { cases } = JSON.parse(readFileSync(`${goldens}emoji/cases.json`, "utf8")) as { cases: { image: string; prompt: string; new_ids: number[] }[] };
  let passes = 0, tokens = 0;
  for (const { image, prompt, new_ids } of cases) {
    const { inputIds, imageEmbedsPositionMask, pixelValues } = await processor.process({ text: prompt, images: `${goldens}emoji/${image}` });
    const { embeds } = await e.see(pixelValues!.data, 224, 224), sequence = e.begin(), ids = [...inputIds.data], made: number[] = [];
    for await (const { id } of greedy([ids], async ([step]) => {
      passes++;
      const first = sequence.cache.length === 0 && { places: [...imageEmbedsPositionMask.data], images: embeds };
      return (await e.choose([{ sequence, ids: step.ids, banned: step.banned, ...first }])).map((choices) => choices.map(({ id }) => id));
    }, { maxNewTokens: 96, noRepeatNgramSize: 0, eosTokenId: [2], contextSize: e.contextSize, lookahead: 3, habits })) made.push(id);
    e.end(sequence);
    assert.deepEqual(made, new_ids, image);
    tokens += made.length;
  }
  assert.ok(passes < 0.7 * tokens, `${passes} passes for ${tokens} tokens`);
});
