/**
 * What a matmul does to its sums: the codes are the lines of `activations` in src/graph/graph.ts, but gelu and quick_gelu, which are most of
 * what there is to do, are epilogue.ts's. Lanes do not meet; same bits in every build.
 */
import { exp, mulAdd, sigmoid, tanh } from "./simd";

export function activate(u: v128, code: i32): v128 {
  switch (code) {
    case 0: return u;
    case 3: return relu(u);
    case 4: return f32x4.mul(u, sigmoid(u));
    case 5: { // (1 + tanh z) / 2 = σ(2 z), without the cancellation
      const cube = f32x4.mul(f32x4.mul(u, u), u);
      const z = mulAdd(cube, f32x4.splat(0.044715), u);
      return f32x4.mul(u, sigmoid(f32x4.mul(z, f32x4.splat(1.5957691216))));
    }
    case 6: return tanh(u);
    case 7: return sigmoid(u);
    case 8: return f32x4.mul(relu(u), relu(u));
    case 9: return f32x4.pmin(relu(u), f32x4.splat(6));
    case 10: return v128.bitselect(f32x4.mul(u, f32x4.splat(0.01)), u, f32x4.lt(u, f32x4.splat(0)));
    case 11: { // tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) + 2); past 20 it is 1 in f32
      const e = exp(f32x4.pmin(u, f32x4.splat(20)));
      const top = f32x4.mul(e, f32x4.add(e, f32x4.splat(2)));
      return f32x4.mul(u, f32x4.div(top, f32x4.add(top, f32x4.splat(2))));
    }
    default: unreachable(); return u;
  }
}

/** NaN stays NaN. */
function relu(u: v128): v128 {
  return f32x4.pmax(u, f32x4.splat(0));
}
