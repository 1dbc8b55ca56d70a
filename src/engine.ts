/**
 * Where model and backend meet: weights in a backend's memory, and what passes over them are made of.
 */
import type { Backend } from "./backend/backend.js";
import { capabilities, createWasmBackend, type WasmOptions } from "./backend/wasm/wasm.js";
import { type CacheDtype, cacheDtypeOf, type Dtype, type DtypeName, dtypeOf } from "./dtype.js";
import { Kosmos2Error } from "./errors.js";
import { type GenerationConfig, readGenerationConfig } from "./generate/config.js";
import { agreed, Habits } from "./generate/guess.js";
import { Pace } from "./generate/pace.js";
import { Cache, type CacheFormat } from "./graph/cache.js";
import type { Matrix } from "./graph/graph.js";
import { bytesOf, type Memory } from "./graph/memory.js";
import { inIntegers } from "./graph/record.js";
import { BANS, Batch, type Choice, chosen, type NextTokens, type Pass, Recorder, roomFor, storedRows } from "./graph/recorder.js";
import { SinusoidTable } from "./graph/sinusoids.js";
import { Kosmos2Config } from "./model/config.js";
import { latents, predict, type Projected, read, see, states, type Weights as Handles } from "./model/kosmos2.js";
import { interpolatePositions } from "./model/positions.js";
import { cacheShape, estimate, headWidthOf, refuseTooLarge } from "./memory.js";
import { Passes, type Run, type Stages } from "./passes.js";
import { measureLimits, type Profile, Profiler } from "./profile.js";
import { countOf, type Prefix, type Text } from "./prefix.js";
import { warmUp } from "./warm-up.js";
import { Checkpoint } from "./weights/checkpoint.js";
import type { ModelFiles } from "./weights/files.js";
import { loadedDtype, loadWeights, type Weights } from "./weights/load.js";
import { handles } from "./weights/handles.js";

/** What progress of loading is: bytes summed over all files, the total known from the start. */
export interface LoadProgress {
  loaded: number;
  total: number;
  file: string;
  /** `verify`: what was downloaded is compared with its hash. */
  phase: "download" | "verify" | "read";
}

export interface EngineOptions extends Omit<WasmOptions, "maxBytes" | "minBytes"> {
  dtype?: DtypeName;
  /** How keys and values of a text are kept: f32, or half as much memory in f16 or i16. Default `"auto"`: f32 beside f32 weights, f16 beside f16, else i16. */
  cache?: CacheDtype;
  onProgress?: (progress: LoadProgress) => void;
}

/** A text that grows: its rows in the caches, and what positions need to know of it. */
export interface Sequence {
  readonly cache: Cache;
  /** Tokens so far that are not padding; the next one's position is one more, plus padTokenId. */
  known: number;
  /** How it was read on, by numbers of rows, if that can be done again for the next tokens. */
  readonly plans: Map<string, Plan>;
}

/** What one sequence reads in a pass. */
export interface Reading extends Text {
  readonly sequence: Sequence;
  /** 0 where a token only counts (or doesn't) for positions and is not read. Default all 1. */
  readonly mask?: readonly number[];
}

/** A reading after whose last rows tokens are chosen: one after each list of ids that may not be. All but the first of those rows are guesses. */
export interface Question extends Reading {
  readonly banned: readonly (readonly number[])[];
  /**
   * Whether the token that is chosen will most likely be read next, alone, with room for it, and no ban on what follows: then threads go on to it while the
   * host still learns which one it is. Default false
   */
  readonly next?: boolean;
}

/** Memory is reserved for one text of so many tokens, and this much more: many short ones. It is used only as they grow. */
const RESERVED_TOKENS = 2048, RESERVED_BYTES = 2 ** 28;

/** Positions known from loading on, so that most texts compute no sines and cosines while they are read. */
const POSITIONS = 256;

/** How long warming up may make loading last longer: a part of what it took so far, or so many milliseconds. */
const WARM_UP = 0.1, WARM_UP_MS = 30;

/** Prefixes that keep something at once; a block is 12 MiB at the released sizes, 6 in f16. */
const PREFIXES = 4;

/** Plans that a sequence keeps: more than the numbers of guesses that one text can have; batches have many combinations. */
const PLANS = 8;

/** Stands for a token that is not known yet, and is none. */
const UNKNOWN = -1;

/** A pass that reads as many tokens more in the same sequences: recorded once, run for many tokens. */
interface Plan {
  readonly pass: Pass;
  readonly sequences: readonly Sequence[];
  /** Rows of each sequence that it has room for. */
  readonly rooms: readonly number[];
  /** What it reads when it is written again. */
  readonly batch: Batch;
  readonly tokens: NextTokens;
  readonly banned: (readonly number[])[];
}

/** Questions whose answers are under way. */
interface Asked {
  /** When it was asked; or, of what was asked ahead, when it could have been. */
  since: number;
  readonly run: Run;
  readonly plan: Plan;
  /** Whether the plan was there already. */
  readonly again: boolean;
  /** Of each sequence, rows that are read, and tokens known when they are. */
  readonly rows: readonly number[];
  readonly known: readonly number[];
}

/** The same, asked before the host knows which tokens it is about. */
interface Ahead extends Asked {
  readonly signal: AbortSignal | undefined;
  /** Rows that each sequence must have by then. */
  readonly lengths: readonly number[];
  /** The tokens, once they are known. */
  ids?: readonly number[];
}

export class Engine {
  /** How long loading took, and what was prepared then. */
  loadMs = 0;
  private readonly sinusoids: SinusoidTable;
  private readonly handles: Handles;
  /** How this model's answers went on. */
  readonly habits = new Habits();
  /** How long reading on takes. */
  readonly pace = new Pace();
  private latents: Projected | undefined;
  private readonly passes: Passes;
  private ahead: Ahead | undefined;
  /** Those that keep something; the last used stand last. */
  private readonly prefixes = new Set<Prefix>();
  /** The backend's; what is only kept in case is given up when there is no more. */
  private readonly memory: Memory = {
    alloc: (bytes) => {
      try {
        return this.backend.alloc(bytes);
      } catch (error) {
        if (this.prefixes.size === 0) throw error;
        for (const prefix of this.prefixes) this.forget(prefix);
        return this.backend.alloc(bytes);
      }
    },
    free: (address) => this.backend.free(address),
    write: (address, bytes) => this.backend.write(address, bytes),
  };

  private constructor(
    readonly config: Kosmos2Config, readonly generation: GenerationConfig, readonly dtype: Exclude<Dtype, "auto">,
    readonly cacheDtype: CacheFormat, readonly backend: Backend, private readonly weights: Weights,
  ) {
    const { embedDim, padTokenId } = config.textConfig;
    this.sinusoids = new SinusoidTable(backend, embedDim, padTokenId);
    this.handles = handles(weights);
    this.passes = new Passes(backend, this.memory);
  }

  /** What no picture changes is computed once. By the row invariant it is what each pass would compute. */
  private async prepare(signal: AbortSignal | undefined): Promise<void> {
    const { latentQueryNum } = this.config, { embedDim } = this.config.textConfig;
    const g = this.recorder(), parts = Object.entries(latents(g, this.handles));
    for (const [name, x] of parts) g.keep(name, x);
    const made = await this.passes.run("vision", g.finish(), signal);
    const kept = [...made].map(([name, { data }]) => {
      const address = this.backend.alloc(data.byteLength);
      this.backend.write(address, bytesOf(data));
      return [name, storedRows(address, latentQueryNum, embedDim)];
    });
    this.latents = Object.fromEntries(kept) as Projected;
    this.sinusoids.reserve(Math.min(POSITIONS, this.contextSize) - 1);
  }

  static async load(files: ModelFiles, options: EngineOptions = {}): Promise<Engine> {
    const start = performance.now();
    const { signal, onProgress, logger } = options;
    const asked = dtypeOf(options.dtype);
    cacheDtypeOf(options.cache, "f32"); // before any work
    const config = await Kosmos2Config.fromFiles(files, signal);
    const generation = await readGenerationConfig(files, config.textConfig, signal);
    const checkpoint = await Checkpoint.open(files, { signal });
    try {
      const dtype = loadedDtype(checkpoint, asked);
      const cache = cacheDtypeOf(options.cache, dtype, headWidthOf(config.textConfig));
      const { used } = await capabilities(options);
      const least = estimate(checkpoint, config, dtype, cache, used.threads), most = estimate(checkpoint, config, dtype, cache, used.threads, RESERVED_TOKENS);
      refuseTooLarge(files.name, least);
      const backend = await createWasmBackend({ ...options, minBytes: least.totalBytes, maxBytes: most.totalBytes + RESERVED_BYTES });
      try {
        const weights = await loadWeights(checkpoint, config, dtype, backend, {
          signal, logger,
          idle(reading) {
            const since = performance.now(), patience = Math.max(WARM_UP_MS, WARM_UP * (since - start));
            return warmUp(backend, config, dtype, cache, { signal, enough: () => !reading() && performance.now() - since > patience });
          },
          onProgress: onProgress && (({ loaded, total, file }) => onProgress({ loaded, total, file, phase: "read" })),
        });
        const engine = new Engine(config, generation, dtype, cache, backend, weights);
        await engine.prepare(signal);
        engine.loadMs = performance.now() - start;
        return engine;
      } catch (error) {
        await backend.dispose();
        throw error;
      }
    } finally {
      await checkpoint.close();
    }
  }

  /** Rows a sequence can have. */
  get contextSize(): number {
    return this.config.textConfig.maxPositionEmbeddings;
  }

  /**
   * One picture → its image rows.
   *
   * @param pixels [channels, height, width]
   * @returns embeds [latentQueryNum, embedDim] and the stages asked for
   */
  async see(
    pixels: Float32Array, height: number, width: number, options: { signal?: AbortSignal; stages?: readonly string[] } = {},
  ): Promise<{ embeds: Float32Array; stages: Stages }> {
    const { numChannels } = this.config.visionConfig;
    const stages = await this.passes.inTurn(options.signal, async () => {
      const positions = await this.positionsFor(height, width);
      const g = this.recorder(options.stages);
      const table = positions && g.input(positions.data, positions.rows, positions.columns);
      g.keep("image_embeds", see(g, g.input(pixels, numChannels * height, width), this.handles, this.config, { positions: table, latents: this.latents }));
      return this.passes.run("vision", g.finish(), options.signal);
    });
    return { embeds: stages.get("image_embeds")!.data, stages };
  }

  /** A new text. Give it back with `end`. */
  begin(): Sequence {
    return { cache: new Cache(this.memory, cacheShape(this.config.textConfig, this.cacheDtype), this.contextSize), known: 0, plans: new Map() };
  }

  /** A new text that begins with what `prefix` keeps, as far as it does: its sequence, to be given back, and what is left to read. */
  resume(prefix: Prefix, text: Text): Reading {
    const { embedDim, padTokenId } = this.config.textConfig;
    const found = prefix.find(this, text, embedDim);
    if (!found) return { sequence: this.begin(), ...text };
    this.prefixes.delete(prefix);
    this.prefixes.add(prefix);
    const { ids, places, images } = text, { rows, cache } = found;
    const known = ids.slice(0, rows).filter((id) => id !== padTokenId).length;
    const left = images?.subarray(countOf(places?.slice(0, rows)) * embedDim);
    return { sequence: { cache, known, plans: new Map() }, ids: ids.slice(rows), places: places?.slice(rows), images: left?.length ? left : undefined };
  }

  /** Keeps the beginning of a text that was read into a sequence. */
  keep(prefix: Prefix, text: Text, { cache }: Sequence): void {
    if (!prefix.keep(this, text, cache, this.config.textConfig.embedDim)) return;
    this.prefixes.add(prefix);
    for (const oldest of this.prefixes) {
      if (this.prefixes.size <= PREFIXES) break;
      this.forget(oldest);
    }
  }

  private forget(prefix: Prefix): void {
    this.prefixes.delete(prefix);
    prefix.drop();
  }

  end(sequence: Sequence): void {
    this.forgo(sequence);
    this.passes.whenQuiet(() => sequence.cache.free());
  }

  /**
   * Reads on in each sequence and chooses what comes next, never a banned token. Where guesses were read, one token after each as
   * long as they agree with what was chosen; the other rows are forgotten, as if they had not been read.
   *
   * @returns for each question, one choice or as many more as guesses agreed
   */
  async choose(questions: readonly Question[], signal?: AbortSignal): Promise<Choice[][]> {
    return this.passes.inTurn(signal, async () => {
      const asked = this.foreseen(questions, signal) ?? (await this.passes.quiet(), this.ask(questions, signal));
      const next = this.goOn(asked, questions, signal);
      try {
        const { data } = (await asked.run.kept).get("choice")!, ended = asked.run.ended!; // long ago, if it was asked ahead and nobody came for it
        if (asked.again) this.pace.note(asked.plan.banned.length, ended - asked.since);
        const best = chosen(data, this.backend.threads);
        let row = 0;
        const choices = questions.map((question) => {
          const made = question.banned.map(() => best[row++]);
          return agreed(question.ids.slice(question.ids.length - made.length + 1), made);
        });
        this.commit(questions, asked.rows, questions.map((question, i) => question.banned.length - choices[i].length));
        if (next) Object.assign(next, { ids: choices.map(([{ id }]) => id), since: Math.max(next.since, ended) });
        return choices;
      } catch (error) {
        for (const { sequence } of questions) this.forgo(sequence);
        throw error;
      }
    });
  }

  /** @param before what must have been answered first, if threads are to go on from it to this */
  private ask(questions: readonly Question[], signal: AbortSignal | undefined, before?: Asked): Asked {
    const since = performance.now();
    const { tokens, rows, known, images } = this.arrange(questions, before);
    const { plans } = questions[0].sequence, shape = `${before ? 1 - before.run.arena : 0} ${rows}`, banned = questions.flatMap((question) => question.banned);
    let plan = plans.get(shape);
    const again = plan !== undefined && serves(plan, questions, before);
    if (plan && again) {
      Object.assign(plan.tokens, tokens);
      plan.banned.splice(0, banned.length, ...banned);
      plan.batch.before = before?.rows;
    } else {
      const g = this.recorder(), batch = this.batch(questions, rows);
      batch.before = before?.rows;
      const x = read(g, tokens, this.imageInput(g, images), batch, this.handles, this.config.textConfig, questions.map((question) => question.banned.length));
      g.argmax("choice", predict(g, x, this.handles, this.config.textConfig), banned);
      const rooms = batch.sequences.map(({ seen }) => roomFor(seen()));
      plan = { pass: g.finish(), sequences: questions.map(({ sequence }) => sequence), rooms, batch, tokens, banned };
      if (questions.every(readsOn)) {
        plans.delete(shape);
        if (plans.size === PLANS) plans.delete(plans.keys().next().value!);
        plans.set(shape, plan);
      }
    }
    const run = this.passes.start(questions.every(readsOn) ? "decode" : "prefill", plan.pass, signal, before?.run);
    return { since, run, plan, again, rows, known };
  }

  /** Lets threads go on to what will be asked next, where that is likely enough (`Question.next`) and nobody else waits. */
  private goOn(asked: Asked, questions: readonly Question[], signal: AbortSignal | undefined): Ahead | undefined {
    const { passes } = this;
    if (this.ahead || !passes.free || !passes.holds(asked.run) || !questions.every(({ next, banned }) => next && banned.length === 1)) return undefined;
    const next = questions.map(({ sequence }): Question => ({ sequence, ids: [UNKNOWN], banned: [[]] }));
    try {
      return (this.ahead = { ...this.ask(next, signal, asked), signal, lengths: questions.map(({ sequence }, i) => sequence.cache.length + asked.rows[i]) });
    } catch (error) {
      if (error instanceof Kosmos2Error && error.code === "memory-exhausted") return undefined; // it was only in case
      throw error;
    }
  }

  /** What threads went on to, if it is what is asked now. */
  private foreseen(questions: readonly Question[], signal: AbortSignal | undefined): Asked | undefined {
    const { ahead } = this, { padTokenId } = this.config.textConfig;
    const same = ahead && ahead.signal === signal && questions.length === ahead.rows.length && questions.every((question, i) => {
      const { sequence, ids: [id], banned: [ban] } = question;
      return readsOn(question) && question.ids.length === 1 && id === ahead.ids?.[i] && id !== padTokenId && ban.length === 0 &&
        sequence === ahead.plan.sequences[i] && sequence.cache.length === ahead.lengths[i];
    });
    if (same) this.ahead = undefined;
    else for (const { sequence } of questions) this.forgo(sequence);
    return same ? ahead : undefined;
  }

  /** Gives up what threads went on to in this text. */
  private forgo(sequence: Sequence): void {
    const { ahead } = this;
    if (!ahead?.plan.sequences.includes(sequence)) return;
    this.ahead = undefined;
    if (!ahead.run.ended) this.backend.abort(); // nothing else runs: others wait until it has ended
  }

  /** Reads on in each sequence; keeps the logits of all rows read (stage `logits`) and the stages asked for. */
  read(readings: readonly Reading[], options: { signal?: AbortSignal; stages?: readonly string[]; logits?: boolean }): Promise<Stages> {
    return this.passes.inTurn(options.signal, async () => {
      const { tokens, rows, images } = this.arrange(readings);
      const g = this.recorder(options.stages);
      const x = read(g, tokens, this.imageInput(g, images), this.batch(readings, rows), this.handles, this.config.textConfig);
      if (options.logits ?? true) g.keep("logits", predict(g, x, this.handles, this.config.textConfig));
      else states(g, x, this.handles, this.config.textConfig);
      const kept = await this.passes.run("prefill", g.finish(), options.signal);
      this.commit(readings, rows);
      return kept;
    });
  }

  /** What all passes cost that run until `work` is done. */
  async profile<T>(work: () => Promise<T>): Promise<{ result: T; profile: Profile }> {
    const limits = await this.passes.inTurn(undefined, async () => {
      await this.passes.quiet();
      return measureLimits(this.backend, this.weights.matrix("text_model.model.embed_tokens"));
    });
    const profiler = new Profiler(limits);
    this.passes.profilers.add(profiler);
    try {
      const result = await work();
      return { result, profile: profiler.finish(`${this.dtype}, ${this.backend.description}`) };
    } finally {
      this.passes.profilers.delete(profiler);
    }
  }

  async dispose(): Promise<void> {
    await this.backend.dispose();
  }

  /**
   * The tokens of a batch one sequence after the other, with their positions; makes room for them in the caches.
   *
   * @param before what is read and chosen before that, if it isn't yet
   */
  private arrange(readings: readonly Reading[], before?: Asked) {
    const { padTokenId } = this.config.textConfig;
    const ids: number[] = [], positions: number[] = [], rows: number[] = [], known: number[] = [];
    const images: Float32Array[] = [];
    let imageRows = 0;
    for (const [i, { sequence, ...reading }] of readings.entries()) {
      let count = before?.known[i] ?? sequence.known;
      const start = ids.length;
      reading.ids.forEach((id, at) => {
        const pad = id === padTokenId;
        if (!pad) count++;
        if (reading.mask?.[at] === 0) return;
        ids.push(reading.places?.[at] ? -1 - imageRows++ : id);
        positions.push(pad ? padTokenId : padTokenId + count);
      });
      if (reading.images) images.push(reading.images);
      rows.push(ids.length - start);
      known.push(count);
      sequence.cache.reserve((before?.rows[i] ?? 0) + ids.length - start);
    }
    this.sinusoids.reserve(positions.reduce((last, position) => Math.max(last, position), 0));
    const tokens: NextTokens = { ids, positions, found: before && before.run.address + before.plan.pass.kept.get("choice")!.offset };
    return { tokens, rows, known, images: images.length ? { data: joined(images), rows: imageRows } : undefined };
  }

  /**
   * Takes in what was read.
   *
   * @param rows that each sequence read
   * @param wrong how many of each one's last ids were guessed wrong
   */
  private commit(readings: readonly Reading[], rows: readonly number[], wrong?: readonly number[]): void {
    const { padTokenId } = this.config.textConfig;
    for (const [i, { sequence, ids }] of readings.entries()) {
      const right = ids.length - (wrong?.[i] ?? 0);
      sequence.cache.length += rows[i] - (ids.length - right);
      for (let at = 0; at < right; at++) if (ids[at] !== padTokenId) sequence.known++;
    }
  }

  private recorder(stages: readonly string[] = []): Recorder {
    const wanted = new Set(stages);
    return new Recorder(this.backend.threads, this.sinusoids, inIntegers(this.dtype), (tap) => wanted.has(tap));
  }

  private batch(readings: readonly Reading[], rows: readonly number[]): Batch {
    return new Batch(readings.map(({ sequence }, i) => ({ cache: sequence.cache, rows: rows[i] })));
  }

  private imageInput(g: Recorder, images: { data: Float32Array; rows: number } | undefined): Matrix | undefined {
    return images && g.input(images.data, images.rows, this.config.textConfig.embedDim);
  }

  /** The vision tower's positions for a picture of another size than the checkpoint's; undefined for its own. */
  private async positionsFor(height: number, width: number) {
    const { imageSize, patchSize } = this.config.visionConfig;
    if (height === imageSize && width === imageSize) return undefined;
    const { address, rows, columns } = this.weights.rows("vision_model.model.embeddings.position_embedding.weight");
    const table = new Float32Array((await this.backend.read(address, rows * columns * 4)).buffer);
    const data = interpolatePositions(table, columns, imageSize / patchSize, Math.floor(height / patchSize), Math.floor(width / patchSize));
    return { data, rows: data.length / columns, columns };
  }
}

/** Whether a pass for this question can be run again for the next tokens. */
const readsOn = ({ ids, banned, mask, places, images }: Question) => ids.length === banned.length && !mask && !places && !images;

/** Whether a plan of the right numbers of rows can read on in these very sequences. */
function serves(plan: Plan, questions: readonly Question[], before?: Asked): boolean {
  return questions.length === plan.sequences.length && questions.every((question, i) => {
    const { sequence, ids, banned } = question, rows = sequence.cache.length + (before?.rows[i] ?? 0) + ids.length;
    return sequence === plan.sequences[i] && readsOn(question) && rows <= plan.rooms[i] && banned.every((list) => list.length <= BANS);
  });
}

function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0];
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
