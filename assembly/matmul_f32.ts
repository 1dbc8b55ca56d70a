/**
 * dst[M, N] = act(x[M, K] · w[N, K]ᵀ + bias) + residual.  w in f32. Threads share panels.
 *
 * w is packed in panels of 8 outputs, [⌈N / 8⌉][K][8]: one k of a panel is two vectors. Several rows are rows_f32.ts's. One row takes three
 * panels at once:
 *
 *               n0 … n3   n4 … n7   n8 … n11  n12 … n15 n16 … n19 n20 … n23
 *             ┌─────────┬─────────┬─────────┬─────────┬─────────┬─────────┐  w: 2 vectors of each panel a step of k
 *     x[k] ─► │   a0    │   b0    │   a1    │   b1    │   a2    │   b2    │  x: 1 splat
 *             └─────────┴─────────┴─────────┴─────────┴─────────┴─────────┘  a, b: 6 sums
 */
import { finish, keep } from "./epilogue";
import { Format, Matmul } from "./record";
import { rowsByF32 } from "./rows_f32";
import { share } from "./share";
import { fma } from "./simd";

export function matmul_f32(op: Matmul, t: i32, n: i32): void {
  const panels = (op.N + 7) >> 3, to = share(panels, t + 1, n);
  let p = share(panels, t, n);
  if (op.M == 1) {
    const apart = (to - p) / 3, end = p + apart;
    for (; p < end; p++) tile_1x24(op, p << 3, apart << 3, op.w + <usize>p * (<usize>op.K << 5));
    p += 2 * apart;
  }
  rowsByF32(op, t, p, to, Format.f32);
}

/**
 * One row, three panels at once, `apart` outputs from each other (streams of memory, as share.ts says): enough sums under way to hide an addition's
 * latency; a fourth would be too many registers.
 */
function tile_1x24(op: Matmul, j: i32, apart: i32, w0: usize): void {
  const further = <usize>apart * (<usize>op.K << 2);
  let x = op.x, w1 = w0 + further, w2 = w1 + further;
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, b0 = a0, b1 = a0, b2 = a0;
  for (let end = x + (<usize>op.K << 2); x < end; x += 4) {
    const s = v128.load32_splat(x);
    a0 = fma(s, v128.load(w0), a0); b0 = fma(s, v128.load(w0, 16), b0);
    a1 = fma(s, v128.load(w1), a1); b1 = fma(s, v128.load(w1, 16), b1);
    a2 = fma(s, v128.load(w2), a2); b2 = fma(s, v128.load(w2, 16), b2);
    w0 += 32; w1 += 32; w2 += 32;
  }
  const dst = op.dst + (<usize>j << 2), count = op.N - j;
  keep(dst, a0, b0, count);
  keep(dst + (<usize>apart << 2), a1, b1, count - apart);
  keep(dst + (<usize>apart << 3), a2, b2, count - 2 * apart);
  for (let i = 0; i < 3; i++) finish(op, 0, 1, j + i * apart, 1);
}
