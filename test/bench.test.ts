/** What the benchmark makes of its samples; that it measures is shown by `npm run bench -- --tiny`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bars } from "../bench/bars.js";
import { beside, byRound, eachRound, interleave, type Rounds, type Time } from "../bench/measure.js";
import { replay } from "../bench/replay.js";
import { barLines, rowLines } from "../bench/report.js";
import type { Row } from "../bench/run.js";

const ratio = (a: number, b: number) => b / a;

test("eachRound holds figures of one round against each other", () => {
  assert.deepEqual(eachRound([[1, 2, 4], [2, 6, 4]], ratio), [2, 3, 1]);
});

test("eachRound leaves out rounds that lack a figure, and holds one that was measured once against all", () => {
  const holes: Rounds = [];
  holes[1] = 6;
  holes[2] = 4;
  assert.deepEqual(eachRound([[1, 2, 4], holes], ratio), [3, 1]);
  assert.deepEqual(eachRound([[1, 2, 4], [undefined, 8, undefined]], ratio), [8, 4, 2]);
  assert.deepEqual(eachRound([[1, 2, 4], []], ratio), []);
});

test("interleave goes forwards and backwards, each task in the rounds that it takes part in", async () => {
  const order: string[] = [];
  const task = (name: string, takesPart?: (round: number) => boolean) => ({ times: [] as Time[], takesPart, measure: async () => [order.push(name)] });
  const tasks = [task("a"), task("b", (round) => round === 1), task("c")];
  await interleave(tasks, 3, (_, error) => assert.fail(String(error)));
  assert.equal(order.join(""), "accbaac");
  assert.deepEqual(Array.from(byRound(tasks[1].times)), [undefined, [4]]);
});

test("beside is what was seen last before and first after, whatever was seen at other times", () => {
  const look = (start: number, ...samples: number[]): Time => ({ round: 0, start, end: start + 1, samples });
  const looks = [look(0, 1), look(2, 2, 3), look(8, 4), look(10, 5)];
  assert.deepEqual(beside({ round: 0, start: 3, end: 8, samples: [] }, looks), [2, 3, 4]);
  assert.deepEqual(beside({ round: 0, start: 20, end: 21, samples: [] }, looks), [5]);
  assert.deepEqual(beside({ round: 0, start: 3, end: 8, samples: [] }, []), []);
});

test("replay charges each pass that the loop makes, and guesses only as far as they are worth it", async () => {
  const ids = Array.from({ length: 40 }, (_, i) => 10 + (i % 4)), answers = { answers: [{ prompt: [0, 1], ids }], shown: [], noRepeatNgramSize: 0, eosTokenId: [2] };
  const cheap = await replay(answers, [1, 1, 1, 1]), dear = await replay(answers, [1, 10, 10, 10]);
  assert.equal(cheap.tokens, 39);
  assert.ok(cheap.passes < 20, `${cheap.passes} passes`);
  assert.equal(cheap.ms, cheap.passes);
  assert.deepEqual(dear, { ms: 39, passes: 39, tokens: 39 });
});

const row = (what: string, engine: string, dtype: string, rounds: Rounds, more: Partial<Row> = {}): Row =>
  ({ part: "phases", what, engine, dtype, threads: 2, median: 0, p10: 0, p90: 0, samples: 1, rounds, ...more });

/** A run in which each engine has times of its own, so that a bar that takes another's row shows. */
function aRun(): Row[] {
  const rows = ["257×1024×4096", "72×2048×8192"].flatMap((what) => [
    row(what, "kosmos2", "i8", [10, 20], { fractions: [0.9, 0.8], fractionsOfFastest: [0.5, 0.4] }), row(what, "kosmos2", "f32", [30, 30], { fractions: [0.91, 0.93] }),
    row(what, "onnxruntime-web", "i8", [12, 26]), row(what, "onnxruntime-web", "i4", [35, 64]), row(what, "onnxruntime-web", "f32", [60, 66]),
  ]);
  for (const what of ["vision", "prefill"]) {
    rows.push(
      row(what, "kosmos2", "i8", [1000], { fractions: [0.85], fractionsOfFastest: [0.6] }), row(what, "kosmos2", "i8", [1900], { threads: 1 }),
      row(what, "kosmos2", "i8", [1100], { beside: "PyTorch" }), row(what, "PyTorch", "f32", [1210]), row(what, "PyTorch", "bf16", [550]), row(`${what}, other ops`, "kosmos2", "i8", [20]),
    );
  }
  return [
    ...rows, row("prefill", "wllama", "q8_0", [16000]), row("prefill", "kosmos2", "i4", [1250]),
    row("decode@100", "kosmos2", "i8", [25, 40, 40], { fractions: [0.8, 0.9, 0.95], fractionsOfPlainSum: [0.82, 0.92, 0.97], handovers: [165, 28, 27] }),
    row("decode@100", "kosmos2", "i4", [20, 20, 20]), row("decode@100", "llama.cpp", "q8_0", [37.5, 48, 44]), row("decode@100", "wllama", "q8_0", [300, 300, 300]),
    row("decode@100 guessed", "kosmos2", "i8", [20, 20, 20]), row("decode@100, other ops", "kosmos2", "i8", [1, 1, 1]),
    row("caption@64", "kosmos2", "i8", [4000], { beside: "PyTorch" }), row("caption@64", "PyTorch", "f32", [20000]), row("caption@64", "PyTorch", "bf16", [9000]),
  ];
}

test("bars hold the figures of one round against each other, and say below where the median is", () => {
  const made = bars(aRun());
  const got = Object.fromEntries(made.map(({ bar, got, ok }) => [bar, [Math.round(got! * 1000) / 1000, ok]]));
  assert.deepEqual(got, {
    "1 decode i8 at 100: share of the read bandwidth, a plain sum": [0.92, true],
    "1 decode i8 at 100: share of the most that any sum reads": [0.9, true],
    "1 decode i8 at 100: times llama.cpp Q8_0": [1.2, false],
    "1 decode i8 at 100: times wllama": [7.5, false],
    "1 decode i8, guessed: times one by one": [2, true],
    "1 decode i8, guessed: times llama.cpp Q8_0": [2.2, true],
    ...Object.fromEntries(["257×1024×4096", "72×2048×8192"].flatMap((what) => [
      [`2 i8 ${what}: share of the limit of 16-bit products`, [0.85, true]], [`2 i8 ${what}: share of the fastest 8-bit product`, [0.45, false]],
      [`2 i8 ${what}: times onnxruntime-web int8`, [1.25, true]], [`2 i8 ${what}: times onnxruntime-web 4-bit`, [3.35, true]],
      [`2 f32 ${what}: times onnxruntime-web f32`, [2.1, true]], [`2 f32 ${what}: share of the limit`, [0.92, true]],
    ])),
    ...Object.fromEntries(["vision + resampler", "prefill 72"].flatMap((name) => [
      [`3 ${name} i8: share of the limit of 16-bit products`, [0.85, true]], [`3 ${name} i8: share of the fastest 8-bit product`, [0.6, false]],
      [`3 ${name} i8: times PyTorch f32`, [1.1, true]], [`3 ${name} i8: times PyTorch bf16`, [0.5, false]],
    ])),
    "3 prefill 72 i8: times wllama": [16, true],
    "4 caption of 64 tokens i8: times PyTorch f32": [5, true],
    "4 caption of 64 tokens i8: times PyTorch bf16": [2.25, false],
    "5 decode i4: times i8": [2, true],
    "5 prefill i4: times i8": [0.8, false],
    "6 vision i8: two threads times one": [1.9, true],
    "6 prefill i8: two threads times one": [1.9, true],
    "6 share of a caption's time that is neither products nor attention": [0.026, true], // 20 + 20 + 63 of 4000 ms
  });
  const llama = made.find(({ bar }) => bar.endsWith("at 100: times llama.cpp Q8_0"))!;
  assert.deepEqual([llama.want, llama.lowest, llama.highest, llama.rounds], [1.4, 1.1, 1.5, 3]);
  assert.deepEqual(llama.handovers, [{ ns: 165, got: 1.5 }, { ns: 28, got: 1.2 }, { ns: 27, got: 1.1 }]);
});

test("a bar without one of its figures is not measured, and one of a share at most can be above", () => {
  const rows = aRun(), without = bars(rows.filter(({ engine }) => engine !== "llama.cpp")), llama = without.find(({ bar }) => bar.endsWith("at 100: times llama.cpp Q8_0"))!;
  assert.deepEqual([llama.got, llama.ok, llama.rounds], [undefined, null, 0]);
  const slow = bars(rows.map((row) => (row.what === "decode@100, other ops" ? { ...row, rounds: [6] } : row))).at(-1)!;
  assert.equal(slow.ok, false);
  assert.match(barLines([llama, slow]), /not measured[^]* 10\.4%[^]*BELOW/);
});

test("a row shows its median, percentiles and share, and in whose company it was measured", () => {
  const text = rowLines([row("decode@100", "kosmos2", "i8", [40], { median: 40, p10: 38, p90: 44, fraction: 0.912, later: true, peakRss: 2.5e9 })]);
  assert.match(text, /decode@100 +kosmos2 +i8 +2 +40\.00 +38\.00 +44\.00 +1 +1 +25\.00 tok\/s +91\.2% +2\.50 +later than the others/);
});
