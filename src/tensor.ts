/** Numbers with a shape, as they cross the public surface. Inside the engine a matrix is a `Matrix` (graph/graph.ts). */

interface TensorData {
  float32: Float32Array;
  int32: Int32Array;
}

/** Row-major numbers of their own: never a view of wasm memory, valid after `dispose()`. */
export interface Tensor<T extends keyof TensorData = "float32"> {
  readonly type: T;
  readonly data: TensorData[T];
  readonly dims: readonly number[];
}

/** @throws {RangeError} when `data` does not hold exactly as many numbers as `dims` say */
export function tensor<T extends keyof TensorData>(type: T, data: TensorData[T], dims: readonly number[]): Tensor<T> {
  const size = dims.reduce((product, dim) => product * dim, 1);
  if (data.length !== size) throw new RangeError(`Cannot make a tensor [${dims}]: ${data.length} numbers for ${size} places`);
  return { type, data, dims };
}
