/* Control groups, version 2. Containers live in /sys/fs/cgroup/pods/<id>; what the agent runs for the host (archives)
 * in pods/tools; the agent itself in the root, which no limit reaches. */
#pragma once

#include "msgpack.h"

/* -1: leave as it is; 0: no limit. Bytes, microseconds, counts. */
struct limits {
    int64_t memory, memory_low, swap, cpu_quota_us, cpu_period_us, cpu_weight, pids, io_weight;
};

struct cgroup_usage {
    uint64_t memory, memory_peak, memory_limit, cache;
    uint64_t cpu_ns, cpu_user_ns, cpu_system_ns, throttled_ns;
    uint64_t pids, pids_limit;
    uint64_t read_bytes, write_bytes, read_ops, write_ops;
};

bool cgroups_init(void);
bool cgroups_reserve(uint64_t bytes); /* RAM that all containers together leave to the kernel and the agent */
int cgroup_tools(void);
int cgroup_containers(void); /* the directory above all of theirs, the caller's to close; -1 with errno */

bool decode_limits(struct slice value, struct limits *limits, struct problem *problem);

/* `fd` is the directory of one container's group. */
int cgroup_make(const char *name, bool all_devices, struct problem *problem);
void cgroup_remove(const char *name);
bool cgroup_limit(int fd, const struct limits *limits, struct problem *problem);
bool cgroup_freeze(int fd, bool frozen);
bool cgroup_kill(int fd);
bool cgroup_state(int fd, bool *populated, bool *frozen);
uint64_t cgroup_oom_kills(int fd);
void cgroup_usage(int fd, struct cgroup_usage *usage);

/* Calls `visit` for every process of the group and of the groups below it, until it says false. */
void cgroup_processes(int fd, bool (*visit)(pid_t pid, void *context), void *context);

/* devices.c: allows Docker's default devices alone; access needs no node, as anyone with CAP_MKNOD makes nodes. */
bool cgroup_restrict_devices(int fd);
