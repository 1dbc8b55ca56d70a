/** What has to hold: ratios of figures of one run. */
import { eachRound, median, type Rounds } from "./measure.js";
import type { Row } from "./run.js";

export interface Bar {
  /** A number, and what it is about. */
  bar: string;
  /** At least this (at most, where `atMost`), and what to try for. */
  want: number;
  goal?: number;
  atMost?: boolean;
  /** The median of what the rounds gave, each of figures of that round alone; missing where one of the figures was not measured. */
  got?: number;
  lowest?: number;
  highest?: number;
  rounds: number;
  /** Nanoseconds of a word from core to core in each round, and what that gave: what waits for memory depends on where the cores are. */
  handovers?: { ns: number; got: number }[];
  ok: boolean | null;
  note?: string;
}

const GEMM = ["257×1024×4096", "72×2048×8192"];

export function bars(rows: readonly Row[]): Bar[] {
  const find = (what: string, engine: string, dtype: string, threads = 2, beside?: Row["beside"]): Row | undefined =>
    rows.find((row) => row.what === what && row.engine === engine && row.dtype === dtype && row.threads === threads && row.beside === beside);
  const ours = (what: string, dtype = "i8", threads = 2) => find(what, "kosmos2", dtype, threads);
  /** How many times faster a is than b. */
  const ratio = (a: number, b: number): number => b / a;
  const faster = (a: Row | undefined, b: Row | undefined): number[] => eachRound([a?.rounds ?? [], b?.rounds ?? []], ratio);
  const timesTorch = (what: string, dtype: string): number[] => faster(find(what, "kosmos2", "i8", 2, "PyTorch"), find(what, "PyTorch", dtype));
  const share = (rounds: Rounds | undefined): number[] => eachRound([rounds ?? []], (share) => share);

  const made: Bar[] = [];
  const bar = (name: string, figures: readonly number[], want: number, more: Partial<Bar> = {}): void => {
    const known = figures.filter(Number.isFinite), got = median(known);
    const seen = known.length > 0 && { got, lowest: Math.min(...known), highest: Math.max(...known) };
    made.push({ bar: name, want, ...more, ...seen, rounds: known.length, ok: seen ? (more.atMost ? got <= want : got >= want) : null });
  };

  const decode = ours("decode@100"), llama = find("decode@100", "llama.cpp", "q8_0"), wllama = find("decode@100", "wllama", "q8_0");
  const decodeBar = (name: string, want: number, figures: readonly Rounds[], of: (...figures: number[]) => number, more: Partial<Bar> = {}): void =>
    bar(name, eachRound(figures, of), want, { ...more, handovers: eachRound([decode?.handovers ?? [], ...figures], (ns, ...figures) => ({ ns, got: of(...figures) })) });
  decodeBar("1 decode i8 at 100: share of the read bandwidth, a plain sum", 0.88, [decode?.fractionsOfPlainSum ?? []], (share) => share, { goal: 0.95 });
  decodeBar("1 decode i8 at 100: share of the most that any sum reads", 0.88, [decode?.fractions ?? []], (share) => share, { goal: 0.95 });
  decodeBar("1 decode i8 at 100: times llama.cpp Q8_0", 1.4, [decode?.rounds ?? [], llama?.rounds ?? []], ratio);
  decodeBar("1 decode i8 at 100: times wllama", 8, [decode?.rounds ?? [], wllama?.rounds ?? []], ratio);
  const replay = ours("decode@100 guessed"), noBar = "a replay, no bar";
  bar("1 decode i8, guessed: times one by one", faster(replay, decode), 1, { note: noBar });
  bar("1 decode i8, guessed: times llama.cpp Q8_0", faster(replay, llama), 1.4, { note: noBar });

  const wide = "relaxed dots of 8-bit activations count as the limit; they are not what i8 computes";
  for (const what of GEMM) {
    bar(`2 i8 ${what}: share of the limit of 16-bit products`, share(ours(what)?.fractions), 0.76, { goal: 0.88 });
    bar(`2 i8 ${what}: share of the fastest 8-bit product`, share(ours(what)?.fractionsOfFastest), 0.76, { goal: 0.88, note: wide });
    bar(`2 i8 ${what}: times onnxruntime-web int8`, faster(ours(what), find(what, "onnxruntime-web", "i8")), 1.15);
    bar(`2 i8 ${what}: times onnxruntime-web 4-bit`, faster(ours(what), find(what, "onnxruntime-web", "i4")), 3);
    bar(`2 f32 ${what}: times onnxruntime-web f32`, faster(ours(what, "f32"), find(what, "onnxruntime-web", "f32")), 1.7);
    bar(`2 f32 ${what}: share of the limit`, share(ours(what, "f32")?.fractions), 0.88);
  }

  for (const [what, name] of [["vision", "vision + resampler"], ["prefill", "prefill 72"]] as const) {
    bar(`3 ${name} i8: share of the limit of 16-bit products`, share(ours(what)?.fractions), 0.7, { goal: 0.82 });
    bar(`3 ${name} i8: share of the fastest 8-bit product`, share(ours(what)?.fractionsOfFastest), 0.7, { goal: 0.82, note: wide });
    bar(`3 ${name} i8: times PyTorch f32`, timesTorch(what, "f32"), 1);
    bar(`3 ${name} i8: times PyTorch bf16`, timesTorch(what, "bf16"), 1, { note: "a goal, no bar" });
  }
  bar("3 prefill 72 i8: times wllama", faster(ours("prefill"), find("prefill", "wllama", "q8_0")), 10);

  bar("4 caption of 64 tokens i8: times PyTorch f32", timesTorch("caption@64", "f32"), 4.3, { goal: 5 });
  bar("4 caption of 64 tokens i8: times PyTorch bf16", timesTorch("caption@64", "bf16"), 2.4, { goal: 2.8 });

  bar("5 decode i4: times i8", faster(ours("decode@100", "i4"), decode), 0.9, { goal: 1.2 });
  bar("5 prefill i4: times i8", faster(ours("prefill", "i4"), ours("prefill")), 0.9);

  for (const what of ["vision", "prefill"]) bar(`6 ${what} i8: two threads times one`, faster(ours(what), ours(what, "i8", 1)), 1.85);
  const others = ["vision", "prefill", "decode@100"].map((what) => ours(`${what}, other ops`)?.rounds ?? []), caption = find("caption@64", "kosmos2", "i8", 2, "PyTorch"), tokens = 63; // the first is the prefill's
  bar("6 share of a caption's time that is neither products nor attention", eachRound([...others, caption?.rounds ?? []],
    (vision, prefill, decode, caption) => (vision + prefill + tokens * decode) / caption), 0.08, { atMost: true });
  return made;
}
