import assert from "node:assert/strict";
import { test } from "node:test";
import { cgroupCpus } from "#src/platform/node/workers.js";

const cpus = (files: Record<string, string>): number => cgroupCpus((path) => files[path] ?? "");

test("the least CPU quota of a process's cgroup and of those around it counts", () => {
  const files = {
    "/proc/self/cgroup": "0::/pod/container", "/sys/fs/cgroup/pod/container/cpu.max": "max 100000", "/sys/fs/cgroup/pod/cpu.max": "150000 100000",
    "/sys/fs/cgroup/cpu.max": "400000 100000",
  };
  assert.equal(cpus(files), 1.5);
  assert.equal(cpus({ ...files, "/sys/fs/cgroup/pod/container/cpu.max": "50000 100000" }), 0.5);
  assert.equal(cpus({ "/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "200000 100000" }), 2);
});

test("the first version of cgroups has a file for each of both numbers, -1 for no limit", () => {
  const files = { "/proc/self/cgroup": "4:cpu,cpuacct:/docker/1", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000" };
  assert.equal(cpus(files), 3);
  assert.equal(cpus({ ...files, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1" }), Infinity);
});

test("without quotas, and without cgroups at all, there is no limit", () => {
  assert.equal(cpus({ "/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/cpu.max": "max 100000" }), Infinity);
  assert.equal(cpus({}), Infinity);
});
