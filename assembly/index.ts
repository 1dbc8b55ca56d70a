/** What the host calls. Kernels are reached through `run` alone. */
export { run, spinForJob } from "./run";
