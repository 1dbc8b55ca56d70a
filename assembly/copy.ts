/** dst[M, D] = x, or x + y. Threads share columns, so that one row is work for all. */
import { Copy } from "./record";
import { share } from "./share";

export function copy(op: Copy, t: i32, n: i32): void {
  const from = <usize>share(op.D, t, n), to = <usize>share(op.D, t + 1, n);
  for (let m: usize = 0; m < <usize>op.M; m++) {
    const x = op.x + (m * op.ldx << 2), y = op.y + (m * op.ldy << 2), dst = op.dst + (m * op.ldd << 2);
    if (op.y == 0) memory.copy(dst + (from << 2), x + (from << 2), (to - from) << 2);
    else add(dst, x, y, from, to);
  }
}

function add(dst: usize, x: usize, y: usize, from: usize, to: usize): void {
  let k = from << 2;
  const end = to << 2;
  for (; k + 16 <= end; k += 16) v128.store(dst + k, f32x4.add(v128.load(x + k), v128.load(y + k)));
  for (; k < end; k += 4) store<f32>(dst + k, load<f32>(x + k) + load<f32>(y + k));
}
