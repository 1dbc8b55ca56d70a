/** What can't be read, or may not be (Deno asks for permissions), is undefined. */
export function allowed<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
