/** The end of every matmul: dst = act(sum + bias) + residual, for 8 outputs of a row. Nothing is read or written past column N. */
import { activate } from "./activation";
import { Matmul } from "./record";

/** Row m, outputs j … j + 7, whose sums are a and b. */
export function put(op: Matmul, m: i32, j: i32, a: v128, b: v128): void {
  const dst = op.dst + ((<usize>m * op.ldd + j) << 2);
  const residual = op.residual + ((<usize>m * op.ldr + j) << 2);
  if (j + 8 > op.N) {
    putPart(op, j, a, b, dst, residual);
    return;
  }
  if (op.bias) {
    const bias = op.bias + (<usize>j << 2);
    a = f32x4.add(a, v128.load(bias));
    b = f32x4.add(b, v128.load(bias, 16));
  }
  if (op.activation) {
    a = activate(a, op.activation);
    b = activate(b, op.activation);
  }
  if (op.residual) {
    a = f32x4.add(a, v128.load(residual));
    b = f32x4.add(b, v128.load(residual, 16));
  }
  v128.store(dst, a);
  v128.store(dst, b, 16);
}

/** The last outputs one by one; lane 0 is the next of them. */
function putPart(op: Matmul, j: i32, a: v128, b: v128, dst: usize, residual: usize): void {
  for (; j < op.N; j++, dst += 4, residual += 4) {
    let v = a;
    if (op.bias) v = f32x4.add(v, v128.load32_zero(op.bias + (<usize>j << 2)));
    if (op.activation) v = activate(v, op.activation);
    if (op.residual) v = f32x4.add(v, v128.load32_zero(residual));
    v128.store32_lane(dst, v, 0);
    a = v128.shuffle<i32>(a, b, 1, 2, 3, 4);
    b = v128.shuffle<i32>(b, b, 1, 2, 3, 0);
  }
}
