#include "stats.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "machine.h"

#define LISTED_MAX 4096
#define ARGUMENTS_EACH 4096            /* bytes of one process's command line */
#define ARGUMENTS_ALL (256 * 1024)     /* of all: with them the answer stays below a frame */

static void describe_container(struct buffer *out, const struct container *container)
{
    struct cgroup_usage usage = {0};
    cgroup_usage(container->cgroup, &usage);
    mp_put_str(out, container->id);
    mp_put_map(out, 15);
    mp_key_uint(out, "memory", usage.memory);
    mp_key_uint(out, "memory_peak", usage.memory_peak);
    mp_key_uint(out, "memory_limit", usage.memory_limit);
    mp_key_uint(out, "cpu_ns", usage.cpu_ns);
    mp_key_uint(out, "cpu_user_ns", usage.cpu_user_ns);
    mp_key_uint(out, "cpu_system_ns", usage.cpu_system_ns);
    mp_key_uint(out, "throttled_ns", usage.throttled_ns);
    mp_key_uint(out, "pids", usage.pids);
    mp_key_uint(out, "pids_limit", usage.pids_limit);
    mp_key_uint(out, "read_bytes", usage.read_bytes);
    mp_key_uint(out, "write_bytes", usage.write_bytes);
    mp_key_uint(out, "read_ops", usage.read_ops);
    mp_key_uint(out, "write_ops", usage.write_ops);
    mp_key_uint(out, "oom_kills", cgroup_oom_kills(container->cgroup));
    mp_key_uint(out, "cache", usage.cache);
}

static uint64_t memory_line(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

void stats_describe(struct buffer *out, const struct container *only)
{
    char memory[2048];
    uint32_t count = 0;
    for (const struct container *container = containers; container; container = container->next)
        count++;
    mp_put_map(out, networks_are_listed() ? 7 : 6);
    mp_put_str(out, "containers");
    mp_put_map(out, only ? 1 : count);
    for (const struct container *container = containers; container; container = container->next)
        if (!only || only == container)
            describe_container(out, container);
    mp_put_str(out, "net");
    network_stats(out);
    if (networks_are_listed()) {
        mp_put_str(out, "nets");
        networks_stats(out);
    }
    read_text(AT_FDCWD, "/proc/meminfo", memory, sizeof(memory));
    mp_key_uint(out, "memory_total", memory_line(memory, "MemTotal:"));
    mp_key_uint(out, "memory_free", memory_line(memory, "MemFree:"));
    mp_key_uint(out, "memory_available", memory_line(memory, "MemAvailable:"));
    mp_key_int(out, "uptime_ns", uptime_ns());
}

struct listing {
    pid_t pids[LISTED_MAX];     /* as the agent sees them */
    pid_t inner_pids[LISTED_MAX]; /* as the container does */
    uint32_t count;
};

/* The innermost of the process's ids; 0 where it has gone. */
static pid_t inner_pid(pid_t pid, uint32_t *uid)
{
    char path[64], text[4096];
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    if (read_text(AT_FDCWD, path, text, sizeof(text)) < 0)
        return 0;
    const char *uids = strstr(text, "\nUid:");
    const char *ids = strstr(text, "\nNSpid:");
    if (!uids || !ids)
        return 0;
    *uid = (uint32_t)strtoul(uids + 5, NULL, 10);
    const char *end = strchr(ids + 1, '\n');
    const char *at = end ? end : ids + strlen(ids);
    while (at > ids && !isspace((unsigned char)at[-1]))
        at--;
    return (pid_t)strtol(at, NULL, 10);
}

static bool list_one(pid_t pid, void *context)
{
    struct listing *listing = context;
    uint32_t uid;
    pid_t inner = pid > 0 ? inner_pid(pid, &uid) : 0;
    if (inner) {
        listing->pids[listing->count] = pid;
        listing->inner_pids[listing->count++] = inner;
    }
    return listing->count < LISTED_MAX;
}

static pid_t inner_parent(const struct listing *listing, pid_t parent)
{
    for (uint32_t i = 0; i < listing->count; i++)
        if (listing->pids[i] == parent)
            return listing->inner_pids[i];
    return 0; /* outside the container */
}

/* The fields of /proc/PID/stat behind the command, which may contain anything. */
struct process_status {
    char command[64];
    char state;
    int ppid, tty, nice, threads;
    uint64_t user_ticks, system_ticks, start_ticks, vsz, rss_pages;
};

static bool read_status(pid_t pid, struct process_status *status)
{
    char path[64], text[2048];
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    *status = (struct process_status){.state = '?'};
    if (read_text(AT_FDCWD, path, text, sizeof(text)) <= 0)
        return false;
    const char *open = strchr(text, '(');
    char *close = strrchr(text, ')');
    if (!open || !close)
        return false;
    *close = 0;
    snprintf(status->command, sizeof(status->command), "%s", open + 1);
    return sscanf(close + 1,
                  " %c %d %*d %*d %d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
                  " %*d %*d %*d %d %d %*d %" SCNu64 " %" SCNu64 " %" SCNu64,
                  &status->state, &status->ppid, &status->tty, &status->user_ticks, &status->system_ticks,
                  &status->nice, &status->threads, &status->start_ticks, &status->vsz, &status->rss_pages) == 10;
}

static void describe_arguments(struct buffer *out, pid_t pid, size_t *budget)
{
    char path[64];
    static char text[ARGUMENTS_EACH + 1];
    snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
    ssize_t size = *budget ? read_text(AT_FDCWD, path, text, sizeof(text)) : 0;
    if (size < 0)
        size = 0;
    if ((size_t)size > *budget)
        size = (ssize_t)*budget;
    *budget -= (size_t)size;
    uint32_t count = 0;
    for (ssize_t at = 0; at < size; at += (ssize_t)strnlen(text + at, (size_t)(size - at)) + 1)
        count++;
    mp_put_str(out, "arguments");
    mp_put_array(out, count);
    for (ssize_t at = 0; at < size;) {
        size_t length = strnlen(text + at, (size_t)(size - at));
        mp_put_bin(out, text + at, length);
        at += (ssize_t)length + 1;
    }
}

static void describe_process(struct buffer *out, const struct listing *listing, uint32_t index, size_t *budget)
{
    struct process_status status;
    uint32_t uid = 0;
    pid_t pid = listing->pids[index];
    uint64_t tick_ns = (uint64_t)NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK);
    read_status(pid, &status);
    inner_pid(pid, &uid);
    unsigned major_number = major((dev_t)(unsigned)status.tty), minor_number = minor((dev_t)(unsigned)status.tty);
    char tty[32] = "?";
    if (major_number == 136)
        snprintf(tty, sizeof(tty), "pts/%u", minor_number);
    mp_put_map(out, 13);
    mp_key_int(out, "pid", listing->inner_pids[index]);
    mp_key_int(out, "ppid", inner_parent(listing, status.ppid));
    mp_key_uint(out, "uid", uid);
    mp_key_str(out, "state", (char[]){status.state, 0});
    mp_key_str(out, "tty", tty);
    mp_key_int(out, "start_ns", realtime_ns() - uptime_ns() + (int64_t)(status.start_ticks * tick_ns));
    mp_key_uint(out, "cpu_ns", (status.user_ticks + status.system_ticks) * tick_ns);
    mp_key_uint(out, "rss", status.rss_pages * (uint64_t)sysconf(_SC_PAGESIZE));
    mp_key_uint(out, "vsz", status.vsz);
    mp_key_int(out, "nice", status.nice);
    mp_key_int(out, "threads", status.threads);
    mp_key_bin(out, "command", status.command, strlen(status.command));
    describe_arguments(out, pid, budget);
}

void processes_describe(struct buffer *out, const struct container *container)
{
    static struct listing listing;
    size_t budget = ARGUMENTS_ALL;
    listing.count = 0;
    cgroup_processes(container->cgroup, list_one, &listing);
    mp_put_map(out, 1);
    mp_put_str(out, "processes");
    mp_put_array(out, listing.count);
    for (uint32_t i = 0; i < listing.count; i++)
        describe_process(out, &listing, i, &budget);
}
