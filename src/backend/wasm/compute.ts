/** One memory that is not shared, and the kernels over it: for a worker without SharedArrayBuffer, or for no worker at all. */
import { type Code, CONTROL, type Kernels, word } from "./control.js";
import { RECORD_BYTES } from "../../graph/record.js";
import { pause } from "../../pause.js";

const PAGE = 65536;
/** Records between two looks at the clock. */
const SLICE = 8;
/** How long a run may keep the event loop, in milliseconds. */
const TURN_MS = 8;

export class Compute {
  private readonly memory: WebAssembly.Memory;
  private readonly kernels: Kernels;
  private list = 0;

  constructor(module: WebAssembly.Module, pages: number, maximum: number) {
    this.memory = new WebAssembly.Memory({ initial: pages, maximum });
    this.kernels = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports as unknown as Kernels;
  }

  /** Makes the memory at least `bytes` long; returns its new length. */
  grow(bytes: number): number {
    const missing = Math.ceil((bytes - this.memory.buffer.byteLength) / PAGE);
    if (missing > 0) this.memory.grow(missing);
    return this.memory.buffer.byteLength;
  }

  view(address: number, bytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, bytes);
  }

  /**
   * @param list where the records are
   * @param laps gets the milliseconds that each record took
   */
  async run(list: number, count: number, laps?: Float64Array): Promise<Code> {
    this.list = list;
    const words = this.words();
    words[word.abort] = words[word.decision] = 0; // of an abort that came when all was done
    let code: Code = 0;
    let since = performance.now(), lap = since;
    const slice = laps ? 1 : SLICE;
    for (let done = 0; done < count && code === 0; done += slice) {
      code = this.kernels.run(this.list + done * RECORD_BYTES, Math.min(slice, count - done), 0, 1, CONTROL);
      const now = performance.now();
      if (laps) laps[done] = now - lap;
      lap = now;
      if (now - since > TURN_MS) {
        await pause(); // an abort's message comes in here
        since = lap = performance.now();
      }
    }
    return code;
  }

  abort(): void {
    this.words()[word.abort] = 1;
  }

  private words(): Uint32Array {
    return new Uint32Array(this.memory.buffer, 0, (CONTROL + 256) / 4);
  }
}
