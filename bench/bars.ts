/** What has to hold: ratios of figures of one run. */
import type { Row, Run } from "./run.js";

export interface Bar {
  /** Its number in the plan, and what it is about. */
  bar: string;
  /** At least this (at most, where `atMost`), and what to try for. */
  want: number;
  goal?: number;
  atMost?: boolean;
  /** Missing where one of the figures was not measured. */
  got?: number;
  ok: boolean | null;
  note?: string;
}

const GEMM = ["257×1024×4096", "72×2048×8192"];

export function bars(run: Run): Bar[] {
  const find = (what: string, engine: string, dtype: string, threads = 2, note?: string): Row | undefined =>
    run.rows.find((row) => row.what === what && row.engine === engine && row.dtype === dtype && row.threads === threads && (note === undefined || row.note === note));
  const ours = (what: string, dtype = "i8", threads = 2, note?: string) => find(what, "kosmos2", dtype, threads, note);
  /** How many times faster a is than b. */
  const faster = (a: Row | undefined, b: Row | undefined): number | undefined => a && b && b.median / a.median;

  const made: Bar[] = [];
  const bar = (name: string, got: number | undefined, want: number, more: Partial<Bar> = {}): void => {
    const known = got !== undefined && Number.isFinite(got);
    made.push({ bar: name, want, ...more, ...(known && { got }), ok: known ? (more.atMost ? got <= want : got >= want) : null });
  };

  const decode = ours("decode@100");
  bar("1 decode i8 at 100: share of the read bandwidth", decode?.fraction, 0.88, { goal: 0.95 });
  bar("1 decode i8 at 100: times llama.cpp Q8_0", faster(decode, find("decode@100", "llama.cpp", "q8_0")), 1.4);
  bar("1 decode i8 at 100: times wllama", faster(decode, find("decode@100", "wllama", "q8_0")), 8);

  const wide = "relaxed dots of 8-bit activations count as the limit; they are not what i8 computes";
  for (const what of GEMM) {
    bar(`2 i8 ${what}: share of the limit of 16-bit products`, ours(what)?.fraction, 0.76, { goal: 0.88 });
    bar(`2 i8 ${what}: share of the fastest 8-bit product`, ours(what)?.fractionOfFastest, 0.76, { goal: 0.88, note: wide });
    bar(`2 i8 ${what}: times onnxruntime-web int8`, faster(ours(what), find(what, "onnxruntime-web", "i8")), 1.15);
    bar(`2 i8 ${what}: times onnxruntime-web 4-bit`, faster(ours(what), find(what, "onnxruntime-web", "i4")), 3);
    bar(`2 f32 ${what}: times onnxruntime-web f32`, faster(ours(what, "f32"), find(what, "onnxruntime-web", "f32")), 1.7);
    bar(`2 f32 ${what}: share of the limit`, ours(what, "f32")?.fraction, 0.88);
  }

  for (const [what, name] of [["vision", "vision + resampler"], ["prefill", "prefill 72"]] as const) {
    bar(`3 ${name} i8: share of the limit of 16-bit products`, ours(what)?.fraction, 0.7, { goal: 0.82 });
    bar(`3 ${name} i8: share of the fastest 8-bit product`, ours(what)?.fractionOfFastest, 0.7, { goal: 0.82, note: wide });
    bar(`3 ${name} i8: times PyTorch f32`, faster(ours(what), find(what, "PyTorch", "f32")), 1);
    bar(`3 ${name} i8: times PyTorch bf16`, faster(ours(what), find(what, "PyTorch", "bf16")), 1, { note: "a goal, no bar" });
  }
  bar("3 prefill 72 i8: times wllama", faster(ours("prefill"), find("prefill", "wllama", "q8_0")), 10);

  const caption = ours("caption@64");
  bar("4 caption of 64 tokens i8: times PyTorch f32", faster(caption, find("caption@64", "PyTorch", "f32")), 4.3, { goal: 5 });
  bar("4 caption of 64 tokens i8: times PyTorch bf16", faster(caption, find("caption@64", "PyTorch", "bf16")), 2.4, { goal: 2.8 });

  bar("5 decode i4: times i8", faster(ours("decode@100", "i4"), decode), 0.9, { goal: 1.2 });
  bar("5 prefill i4: times i8", faster(ours("prefill", "i4"), ours("prefill")), 0.9);

  const pair = "one thread against two";
  for (const what of ["vision", "prefill"]) bar(`6 ${what} i8: two threads times one`, faster(ours(what, "i8", 2, pair), ours(what, "i8", 1, pair)), 1.85);
  const other = (what: string) => ours(`${what}, other ops`)?.median ?? NaN, tokens = 63; // the first is the prefill's
  const share = (other("vision") + other("prefill") + tokens * other("decode@100")) / (caption?.median ?? NaN);
  bar("6 share of a caption's time that is neither products nor attention", share, 0.08, { atMost: true });
  return made;
}
