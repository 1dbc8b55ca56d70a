/** dst[M, D] = each row of x divided by max(‖row‖₂, 1e-12). Threads share rows. */
import { L2normalize } from "./record";
import { share } from "./share";
import { loadPart, mulAdd, sum } from "./simd";

export function l2normalize(op: L2normalize, t: i32, n: i32): void {
  const to = share(op.M, t + 1, n);
  for (let m = share(op.M, t, n); m < to; m++) {
    const x = op.x + (<usize>m * op.ldx << 2), dst = op.dst + (<usize>m * op.ldd << 2);
    const end = <usize>op.D << 2, rest = op.D & 3, whole = end & ~15;
    let squares = f32x4.splat(0);
    for (let k: usize = 0; k < whole; k += 16) {
      const v = v128.load(x + k);
      squares = mulAdd(v, v, squares);
    }
    if (rest) {
      const v = loadPart(x + whole, rest);
      squares = mulAdd(v, v, squares);
    }
    const length = max(sqrt(sum(squares)), <f32>1e-12);
    for (let k: usize = 0; k < whole; k += 16) v128.store(dst + k, f32x4.div(v128.load(x + k), f32x4.splat(length)));
    for (let k = whole; k < end; k += 4) store<f32>(dst + k, load<f32>(x + k) / length);
  }
}
