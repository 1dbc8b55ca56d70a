/**
 * dst[M, D] = scale · row + sinusoid: row ids[m] of the table, or row −1 − ids[m] of the images. Threads share rows.
 * The table is packed as the weight of a matmul (it is the lm_head too), so a row is one lane of a panel.
 */
import { best, FIND } from "./argmax";
import { half } from "./half";
import { I4_GROUP, I4_STEP, I8_GROUP, I8_STEP, laneOfI8, offsetOfI4, offsetOfI8, OUTPUTS, panelBytes, scaleAt, SCALES, shareBytes, shiftOfI4, W8A8_GROUP, W8A8_SCALES } from "./pack";
import { Embed, Format, GROUP, SHARED } from "./record";
import { share } from "./share";

export function embed(op: Embed, t: i32, n: i32): void {
  const to = share(op.M, t + 1, n);
  for (let m = share(op.M, t, n); m < to; m++) {
    const id = op.found ? best(op.found + <usize>(m * n) * FIND, n) : load<i32>(op.ids + (<usize>m << 2));
    const dst = op.dst + (<usize>m * op.ldd << 2), sinusoid = <usize>load<u32>(op.positions + (<usize>m << 2));
    if (id < 0) fromRow(op, dst, op.images + (<usize>(-1 - id) * op.ldi << 2), 4, sinusoid);
    else if (op.format == Format.f32) fromRow(op, dst, op.table + ((<usize>(id >> 3) * op.D) << 5) + (<usize>(id & 7) << 2), 32, sinusoid);
    else if (op.format == Format.f16) fromHalves(op, dst, op.table + ((<usize>(id >> 3) * op.D) << 4) + (<usize>(id & 7) << 1), sinusoid);
    else if (op.format == Format.i8) fromInt8(op, dst, id, sinusoid);
    else if (op.format == Format.i4) fromInt4(op, dst, id, sinusoid);
    else from7Bits(op, dst, id, sinusoid);
  }
}

function put(op: Embed, dst: usize, k: i32, value: f32, sinusoid: usize): void {
  const at = <usize>k << 2;
  store<f32>(dst + at, op.scale * value + load<f32>(sinusoid + at));
}

function fromRow(op: Embed, dst: usize, x: usize, step: usize, sinusoid: usize): void {
  for (let k = 0; k < op.D; k++, x += step) put(op, dst, k, load<f32>(x), sinusoid);
}

function fromHalves(op: Embed, dst: usize, x: usize, sinusoid: usize): void {
  for (let k = 0; k < op.D; k++, x += 16) put(op, dst, k, half(load<u16>(x)), sinusoid);
}

function fromInt8(op: Embed, dst: usize, id: i32, sinusoid: usize): void {
  const lane = id % OUTPUTS, offset = offsetOfI8(lane);
  let group = op.table + <usize>(id / OUTPUTS) * panelBytes(Format.i8, op.D);
  for (let from = 0; from < op.D; from += GROUP, group += I8_GROUP) {
    const scale = scaleAt(group + (<usize>lane << 1)), to = min(from + GROUP, op.D), numbers = group + SCALES + laneOfI8(lane);
    for (let k = from; k < to; k++) {
      const at = <usize>((k - from) >> 1) * I8_STEP + <usize>(((k - from) & 1) << 1);
      put(op, dst, k, scale * <f32><i8>(<i32>load<u8>(numbers + at) - offset), sinusoid);
    }
  }
}

function fromInt4(op: Embed, dst: usize, id: i32, sinusoid: usize): void {
  const lane = id % OUTPUTS, shift = shiftOfI4(lane), offset = offsetOfI4(lane);
  let group = op.table + <usize>(id / OUTPUTS) * panelBytes(Format.i4, op.D);
  for (let from = 0; from < op.D; from += GROUP, group += I4_GROUP) {
    const to = min(from + GROUP, op.D), scale = scaleAt(group + (<usize>lane << 1)), shares = group + SCALES + lane;
    const numbers = group + SCALES + shareBytes(to - from) + (<usize>(lane & 3) << 2);
    for (let k = from; k < to; k++) {
      const i = k - from, bits = <i32>load<u16>(numbers + <usize>(i >> 1) * I4_STEP + (<usize>(i & 1) << 1)), share = load<i8>(shares + <usize>((i / SHARED) * OUTPUTS));
      put(op, dst, k, scale * <f32>share * <f32>(((((bits >> shift) & 15) - offset) << 28) >> 28), sinusoid);
    }
  }
}

function from7Bits(op: Embed, dst: usize, id: i32, sinusoid: usize): void {
  const lane = <usize>(id & 7);
  let group = op.table + <usize>(id >> 3) * panelBytes(Format.w8a8, op.D);
  for (let from = 0; from < op.D; from += GROUP, group += W8A8_GROUP) {
    const scale = scaleAt(group + (lane << 1)), to = min(from + GROUP, op.D), numbers = group + W8A8_SCALES + (lane << 2);
    for (let k = from; k < to; k++) {
      const at = (<usize>((k - from) >> 2) << 5) + ((k - from) & 3);
      put(op, dst, k, scale * <f32>(<i32>load<u8>(numbers + at) - 64), sinusoid);
    }
  }
}
