/** What the host calls. */
export const version: i32 = 1;
