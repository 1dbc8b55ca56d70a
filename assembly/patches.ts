/**
 * dst[(height / patch) · (width / patch), channels · patch²] = the squares of pixels [channels, height, width], one a row:
 * squares row by row, their numbers by channel, y, x. Pixels past the last whole square are left out. Threads share squares.
 */
import { Patches } from "./record";
import { share } from "./share";

export function patches(op: Patches, t: i32, n: i32): void {
  const patch = op.patch, across = op.width / patch, count = across * (op.height / patch);
  const from = share(count, t, n), to = share(count, t + 1, n);
  for (let i = from; i < to; i++) {
    let dst = op.dst + (<usize>i * op.ldd << 2);
    const corner = <usize>(i / across * patch) * op.width + i % across * patch;
    for (let c = 0; c < op.channels; c++) {
      for (let y = 0; y < patch; y++, dst += <usize>patch << 2) {
        const line = (<usize>c * op.height + y) * op.width + corner;
        memory.copy(dst, op.pixels + (line << 2), <usize>patch << 2);
      }
    }
  }
}
