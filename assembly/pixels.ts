/** Pillow's resize: see the host's processor/resize.ts. */
export const version: i32 = 1;
