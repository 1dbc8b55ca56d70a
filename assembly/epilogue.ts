/**
 * The end of every matmul: a tile keeps its sums in dst, then dst = act(dst + bias) + residual in place. In two steps, since V8
 * would store all sums in every turn of the tile's loop if a call followed while they are in registers.
 */
import { activate } from "./activation";
import { Matmul } from "./record";

/** Writes the first `count` (1 … 8, or more: 8) of a row's sums. */
// @ts-ignore: decorator
@inline export function keep(dst: usize, a: v128, b: v128, count: i32): void {
  if (count >= 8) {
    v128.store(dst, a);
    v128.store(dst, b, 16);
  } else {
    let v = a;
    if (count & 4) {
      v128.store(dst, a);
      v = b;
      dst += 16;
    }
    if (count & 2) {
      v128.store64_lane(dst, v, 0);
      v = v128.shuffle<i32>(v, v, 2, 3, 2, 3);
      dst += 8;
    }
    if (count & 1) v128.store32_lane(dst, v, 0);
  }
}

/** Rows m … m + rows − 1, outputs j … j + 8 · panels − 1. Nothing is read or written past column N. */
export function finish(op: Matmul, m: i32, rows: i32, j: i32, panels: i32): void {
  if (op.bias == 0 && op.activation == 0 && op.residual == 0) return;
  const end = min(j + (panels << 3), op.N);
  for (let row = m; row < m + rows; row++) {
    const dst = op.dst + (<usize>row * op.ldd << 2), residual = op.residual + (<usize>row * op.ldr << 2);
    let i = j;
    for (; i + 4 <= end; i += 4) {
      const at = <usize>i << 2;
      let v = v128.load(dst + at);
      if (op.bias) v = f32x4.add(v, v128.load(op.bias + at));
      if (op.activation) v = activate(v, op.activation);
      if (op.residual) v = f32x4.add(v, v128.load(residual + at));
      v128.store(dst + at, v);
    }
    for (; i < end; i++) {
      const at = <usize>i << 2;
      let v = v128.load32_zero(dst + at);
      if (op.bias) v = f32x4.add(v, v128.load32_zero(op.bias + at));
      if (op.activation) v = activate(v, op.activation);
      if (op.residual) v = f32x4.add(v, v128.load32_zero(residual + at));
      v128.store32_lane(dst + at, v, 0);
    }
  }
}
