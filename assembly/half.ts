/** IEEE halves and bfloat16: to f32 exactly, from f32 to the nearest (halves to even), infinities and NaN kept. As in src/weights/quant.ts and reference.ts. */

/** Four halves, one in the low 16 bits of each lane (the others 0), as f32. */
export function halves(bits: v128): v128 {
  const size = i32x4.shl(v128.and(bits, i32x4.splat(0x7fff)), 13);
  const value = f32x4.mul(size, f32x4.splat(5.192296858534828e33)); // 2¹¹²: moves the exponent's bias, subnormals too
  const special = i32x4.ge_u(size, i32x4.splat(0x0f800000));
  const sign = i32x4.shl(v128.and(bits, i32x4.splat(0x8000)), 16);
  return v128.or(v128.or(value, sign), v128.and(special, i32x4.splat(0x7f800000)));
}

export function half(bits: u32): f32 {
  return f32x4.extract_lane(halves(i32x4.splat(bits)), 0);
}

/** Four f32 as halves, one in each lane. 65520 and more become infinite. */
export function toHalves(v: v128): v128 {
  const size = v128.and(v, i32x4.splat(0x7fffffff)), sign = v128.and(i32x4.shr_u(v, 16), i32x4.splat(0x8000));
  const odd = v128.and(i32x4.shr_u(size, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(size, odd), i32x4.splat(0xfff - (112 << 23))), 13);
  const small = i32x4.sub(f32x4.add(size, f32x4.splat(0.5)), i32x4.splat(0x3f000000)); // 0.5 has the spacing of subnormal halves
  const big = v128.bitselect(i32x4.splat(0x7e00), i32x4.splat(0x7c00), i32x4.gt_u(size, i32x4.splat(0x7f800000)));
  let bits = v128.bitselect(small, normal, i32x4.lt_u(size, i32x4.splat(0x38800000)));
  bits = v128.bitselect(big, bits, i32x4.ge_u(size, i32x4.splat(0x47800000)));
  return v128.or(bits, sign);
}
