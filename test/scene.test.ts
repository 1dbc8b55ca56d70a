import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Kosmos2 } from "kosmos2-wasm";
import { fixtures } from "./support.js";

const pictures = ["keys", "rocket"].map((name) => `${fixtures}emoji/${name}.png`);
const prompts = [
  undefined, "<grounding> Describe this image in detail:", " An image of", "<grounding> Question: What color is the background? Answer:", "<grounding><phrase> It</phrase>",
];
let kosmos: Kosmos2;
before(async () => (kosmos = await Kosmos2.load()));
after(() => kosmos.dispose());
const code = (wanted: string) => (error: unknown) => (error as { code?: string }).code === wanted;

test("a scene answers every question as Kosmos2.caption does, without looking again", async () => {
  for (const picture of pictures) {
    const scene = await kosmos.see(picture);
    for (const prompt of [...prompts, ...prompts]) {
      const { timings: wantedTimings, ...wanted } = await kosmos.caption(picture, { prompt, maxNewTokens: 40 });
      const { timings, ...found } = await scene.caption({ prompt, maxNewTokens: 40 });
      assert.deepEqual(found, wanted);
      assert.ok(timings.visionMs < wantedTimings.visionMs / 2, `${timings.visionMs} ms of ${wantedTimings.visionMs}`);
    }
    scene.dispose();
  }
});

test("a scene knows its picture's size and has its image rows", async () => {
  const scene = await kosmos.see({ width: 30, height: 20, channels: 3, data: new Uint8Array(1800) });
  assert.deepEqual(scene.imageSize, { width: 30, height: 20 });
  assert.deepEqual(scene.imageEmbeds.dims, [1, 64, 192]);
  scene.dispose();
});

test("questions about several scenes at once are answered as one by one, in pieces too", async () => {
  const scenes = await Promise.all([...pictures, ...pictures, ...pictures].map((picture) => kosmos.see(picture)));
  const wanted = [];
  for (const picture of pictures) for (const prompt of prompts) wanted.push((await kosmos.caption(picture, { prompt, maxNewTokens: 24 })).newIds);
  const found = await Promise.all(scenes.map((scene) => Promise.all(prompts.map(async (prompt) => {
    const answer = scene.stream({ prompt, maxNewTokens: 24 }), ids: number[] = [];
    for await (const { id } of answer) ids.push(id);
    assert.deepEqual((await answer.result).newIds, ids);
    return ids;
  }))));
  assert.deepEqual(found.flat(), [...wanted, ...wanted, ...wanted]);
  scenes.forEach((scene) => scene.dispose());
});

test("a scene that is disposed of finishes what it is asked and refuses what comes later", async () => {
  const scene = await kosmos.see(pictures[0]), wanted = await kosmos.caption(pictures[0]);
  await scene.caption();
  const answer = scene.stream(), ids: number[] = [];
  for await (const { id } of answer) {
    scene.dispose();
    ids.push(id);
  }
  assert.deepEqual(ids, wanted.newIds);
  scene.dispose();
  await assert.rejects(scene.caption(), code("disposed"));
});

test("Kosmos2.see and a scene's questions can be aborted and refuse what they don't know", async () => {
  const reason = new Error("enough");
  await assert.rejects(kosmos.see(pictures[0], { signal: AbortSignal.abort(reason) }), reason);
  await assert.rejects(kosmos.see(pictures[0], { prompt: "x" } as never), code("option-unknown"));
  await assert.rejects(kosmos.see(new Uint8Array(9)), /Cannot decode the picture/);
  const scene = await kosmos.see(pictures[0]);
  await assert.rejects(scene.caption({ signal: AbortSignal.abort(reason) }), reason);
  assert.throws(() => scene.caption({ exif: false } as never), code("option-unknown"));
  const answer = scene.stream();
  for await (const _ of answer) break;
  await assert.rejects(answer.result, { name: "AbortError" });
  assert.ok((await scene.caption()).caption);
  scene.dispose();
});

test("a scene of a model that is gone rejects with code disposed", async () => {
  const other = await Kosmos2.load();
  const scene = await other.see(pictures[0]);
  await scene.caption({ maxNewTokens: 3 });
  await other.dispose();
  await assert.rejects(scene.caption(), code("disposed"));
  scene.dispose();
});
