/** The two ways in which an encoded picture can be refused. */
import { Kosmos2Error } from "../errors.js";

/** The file is of a known format and damaged. */
export function broken(format: string, problem: string, cause?: unknown): Kosmos2Error {
  return new Kosmos2Error("image-unreadable", "input", `Cannot decode the ${format} picture: ${problem}`, { found: problem }, cause);
}

/** The file is of a kind that is not read. */
export function unsupported(found: string): Kosmos2Error {
  return new Kosmos2Error("image-format", "unsupported",
    `Cannot decode the picture: ${found} is not read; give JPEG, PNG, WebP, GIF or plain BMP, or pixels as { width, height, channels, data }`, { found });
}
