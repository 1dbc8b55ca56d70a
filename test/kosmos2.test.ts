import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Kosmos2 } from "kosmos2-wasm";
import { fixtures } from "./support.js";

const picture = `${fixtures}emoji/keys.png`;
let kosmos: Kosmos2;
before(async () => (kosmos = await Kosmos2.load()));
after(() => kosmos.dispose());

test("Kosmos2.caption describes a picture and says where things stand", async () => {
  const { caption, entities, generatedText, newIds, stop, timings } = await kosmos.caption(picture);
  assert.ok(entities.length > 0);
  for (const { phrase, range, boxes } of entities) {
    assert.equal(caption.slice(...range), phrase);
    for (const { normalized, pixels } of boxes) {
      assert.ok(normalized.every((v) => v >= 0 && v <= 1));
      assert.ok(pixels && pixels.every((v) => v >= 0));
    }
  }
  assert.ok(generatedText.startsWith("<grounding>") && generatedText.includes("<patch_index_"));
  assert.deepEqual([stop, newIds.at(-1)], ["eos", 2]);
  assert.ok(Object.values(timings).every((ms) => ms > 0));
});

for (const [where, options] of [["threads", { threads: 2 }], ["a worker", { shared: false }]] as const) {
  test(`Kosmos2.profile on ${where} times every operation of every pass and changes no answer`, async () => {
    await using profiled = await Kosmos2.load("kosmos2-emoji", options);
    const { result, profile } = await profiled.profile(() => profiled.caption(picture));
    assert.deepEqual(result.newIds, (await kosmos.caption(picture)).newIds);
    assert.deepEqual(profile.passes.map(({ pass }) => pass), ["vision", "prefill", "decode"]);
    for (const { pass, ms } of profile.passes) {
      const own = profile.operations.filter((operation) => operation.pass === pass);
      assert.ok(Math.abs(own.reduce((sum, operation) => sum + operation.ms, 0) - ms) < 1e-6 * ms && ms < profile.ms);
    }
    const { visionConfig: c } = profiled.model.config, products = profile.operations.filter(({ pass, kind }) => pass === "vision" && kind === "matmul_i8");
    const widening = products.find(({ shape }) => shape === `${(c.imageSize / c.patchSize) ** 2 + 1}×${c.hiddenSize}×${c.intermediateSize}`)!;
    assert.equal(widening.times, c.numHiddenLayers);
    assert.ok(products.every(({ ms, leastMs }) => ms > 0 && leastMs > 0) && Object.values(profile.limits).every((rate) => rate > 1e8));
  });
}

test("profiles that are taken at once each have all that ran meanwhile", async () => {
  const ask = () => kosmos.profile(() => kosmos.caption(picture)), profiles = await Promise.all([ask(), ask(), ask()]);
  for (const { profile } of profiles) {
    const times = Object.fromEntries(profile.passes.map(({ pass, times }) => [pass, times]));
    assert.ok(times.vision >= 1 && times.prefill >= 1 && times.decode >= 1, JSON.stringify(times));
  }
});

test("the pieces of Kosmos2.stream concatenate to what was generated after the prompt", async () => {
  const answer = kosmos.stream(picture);
  let text = "";
  const ids: number[] = [];
  for await (const piece of answer) {
    text += piece.text;
    ids.push(piece.id);
  }
  const { generatedText, newIds } = await answer.result;
  assert.equal(`<grounding> An image of${text}`, generatedText);
  assert.deepEqual(ids, newIds);
  await assert.rejects(async () => { for await (const _ of answer); }, { code: "answer-read" });
});

test("work begins when it is asked for, and leaving the loop ends it", async () => {
  const idle = kosmos.stream("/nowhere.png"); // never asked for: never opened
  const answer = kosmos.stream(picture);
  for await (const _ of answer) break;
  await assert.rejects(answer.result, { name: "AbortError" });
  await assert.rejects(idle.result, (error) => (error as { code?: string }).code !== undefined);
});

test("many captions at once are all right, and one bad picture harms none of them", async () => {
  const wanted = await kosmos.caption(picture);
  const all = await Promise.allSettled(Array.from({ length: 12 }, (_, i) => kosmos.caption(i === 5 ? new Uint8Array(10) : picture)));
  all.forEach((one, i) => {
    assert.equal(one.status, i === 5 ? "rejected" : "fulfilled");
    if (one.status === "fulfilled") assert.deepEqual(one.value.newIds, wanted.newIds);
  });
});

test("Kosmos2.caption is aborted with the signal's reason, also while it waits for its turn", async () => {
  const reason = new Error("too late"), controller = new AbortController();
  const busy = Array.from({ length: 6 }, () => kosmos.caption(picture));
  const waiting = kosmos.caption(picture, { signal: controller.signal });
  controller.abort(reason);
  await assert.rejects(waiting, reason);
  await Promise.all(busy);
  await assert.rejects(kosmos.caption(picture, { signal: AbortSignal.abort(reason) }), reason);
});

test("without a picture there is no answer, but an error that says so", async () => {
  for (const nothing of [undefined, null]) {
    const wanted = { code: "image-invalid", message: new RegExp(`it is ${nothing}; give a path, .*was a file chosen`) };
    await assert.rejects(kosmos.caption(nothing as never), wanted);
    await assert.rejects(kosmos.see(nothing as never), wanted);
    await assert.rejects(async () => { for await (const _ of kosmos.stream(nothing as never)); }, wanted);
  }
});

test("options that are none, or of another kind, are refused with a code", async () => {
  const scene = await kosmos.see(picture), invalid = { code: "option-invalid" };
  for (const options of [null, 5, "x", { prompt: null }, { prompt: 5 }, { prompt: ["a"] }, { signal: {} }, { maxNewTokens: NaN }] as never[]) {
    assert.throws(() => kosmos.caption(picture, options), invalid);
    assert.throws(() => scene.caption(options), invalid);
  }
  for (const options of [null, { fetch: 5 }, { exif: "no" }, { maxPixels: NaN }, { signal: 5 }] as never[]) await assert.rejects(kosmos.see(picture, options), invalid);
  await assert.rejects(Kosmos2.load("kosmos2-emoji", null as never), invalid);
  await assert.rejects(Kosmos2.load("HTTP://[bad"), { code: "model-source-invalid" });
  assert.equal((await scene.caption({ signal: null as never })).stop, "eos"); // as in fetch's options
  scene.dispose();
});

test("Kosmos2.caption refuses options that it does not know", () => {
  assert.throws(() => kosmos.caption(picture, { promt: "x" } as never), (error) => (error as { code?: string }).code === "option-unknown");
});

test("the event loop stays free while a picture is captioned", async () => {
  await kosmos.caption(picture);
  let worst = 0, tick = performance.now();
  const timer = setInterval(() => {
    worst = Math.max(worst, performance.now() - tick);
    tick = performance.now();
  }, 1);
  for (let i = 0; i < 5; i++) await kosmos.caption(picture);
  clearInterval(timer);
  assert.ok(worst < 250, `blocked for ${worst} ms`); // the bar is 50 ms on a quiet machine; tests share theirs
});
