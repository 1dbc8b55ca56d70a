/**
 * Rows of x become rows position … of a cache, whose block b (BLOCK rows) is at table[b] + offset. Threads share columns, so that
 * one row is work for all.
 *
 *   store_keys     [BLOCK / 8][D][8]   panels of 8 rows, as attention reads 8 scores at once
 *   store_values   [BLOCK][ldd]        row by row, as attention adds rows up
 */
import { BLOCK, Store } from "./record";
import { share } from "./share";

export function store_keys(op: Store, t: i32, n: i32): void {
  const from = share(op.D, t, n), to = share(op.D, t + 1, n);
  for (let m = 0; m < op.M; m++) {
    const x = op.x + (<usize>m * op.ldx << 2), row = (op.position + m) % BLOCK;
    let dst = block(op, m) + ((<usize>(row >> 3) * op.D + from) << 5) + (<usize>(row & 7) << 2);
    for (let c = from; c < to; c++, dst += 32) store<f32>(dst, load<f32>(x + (<usize>c << 2)));
  }
}

export function store_values(op: Store, t: i32, n: i32): void {
  const from = <usize>share(op.D, t, n), to = <usize>share(op.D, t + 1, n);
  for (let m = 0; m < op.M; m++) {
    const x = op.x + ((<usize>m * op.ldx + from) << 2), row = <usize>((op.position + m) % BLOCK);
    memory.copy(block(op, m) + ((row * op.ldd + from) << 2), x, (to - from) << 2);
  }
}

/** Where the block of row m begins. */
function block(op: Store, m: i32): usize {
  return <usize>load<u32>(op.table + (<usize>((op.position + m) / BLOCK) << 2)) + op.offset;
}
