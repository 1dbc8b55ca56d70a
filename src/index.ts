/** The public names. */
export { Kosmos2Error, type ErrorKind, type ErrorDetails } from "./errors.js";
export type { Tensor } from "./tensor.js";
