#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUPS_PATH "/sys/fs/cgroup/pods"
#define GROUP_DEPTH 16 /* groups that a privileged container may nest and still be counted */

static const char *const controllers[] = {"+cpu", "+memory", "+pids", "+io", "+cpuset"};

static int tools_fd = -1;

static void enable_controllers(const char *path)
{
    /* One by one: a kernel that lacks one of them still has the others. */
    for (size_t i = 0; i < COUNT_OF(controllers); i++)
        write_text(AT_FDCWD, path, controllers[i]);
}

bool cgroups_init(void)
{
    struct problem problem;
    enable_controllers("/sys/fs/cgroup/cgroup.subtree_control");
    if (make_directory(GROUPS_PATH, 0755) < 0)
        return false;
    enable_controllers(GROUPS_PATH "/cgroup.subtree_control");
    /* What a container is left when memory gets short is bounded by what its parent is. */
    write_text(AT_FDCWD, GROUPS_PATH "/memory.low", "max");
    tools_fd = cgroup_make("tools", true, &problem);
    return tools_fd >= 0;
}

bool cgroups_reserve(uint64_t bytes)
{
    char text[32];
    uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes >= total)
        return false;
    snprintf(text, sizeof(text), "%" PRIu64, total - bytes);
    return write_text(AT_FDCWD, GROUPS_PATH "/memory.max", bytes ? text : "max") == 0;
}

int cgroup_tools(void)
{
    return tools_fd;
}

int cgroup_containers(void)
{
    return open(GROUPS_PATH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

bool decode_limits(struct slice value, struct limits *limits, struct problem *problem)
{
    static const struct field fields[] = {
        {"memory", FIELD_INT, true, offsetof(struct limits, memory), 0, INT64_MAX},
        {"memory_low", FIELD_INT, true, offsetof(struct limits, memory_low), 0, INT64_MAX},
        {"swap", FIELD_INT, true, offsetof(struct limits, swap), 0, INT64_MAX},
        {"cpu_quota_us", FIELD_INT, true, offsetof(struct limits, cpu_quota_us), 0, INT64_MAX},
        {"cpu_period_us", FIELD_INT, true, offsetof(struct limits, cpu_period_us), 0, 1000000},
        {"cpu_weight", FIELD_INT, true, offsetof(struct limits, cpu_weight), 0, 10000},
        {"pids", FIELD_INT, true, offsetof(struct limits, pids), 0, INT64_MAX},
        {"io_weight", FIELD_INT, true, offsetof(struct limits, io_weight), 0, 10000},
    };
    *limits = (struct limits){-1, -1, -1, -1, -1, -1, -1, -1};
    return decode_record(value, fields, COUNT_OF(fields), limits, NULL, problem);
}

int cgroup_make(const char *name, bool all_devices, struct problem *problem)
{
    char path[256];
    snprintf(path, sizeof(path), GROUPS_PATH "/%s", name);
    int fd = -1;
    if (mkdir(path, 0755) == 0 || errno == EEXIST)
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        fail(problem, errno, "cannot make a control group: %s", strerror(errno));
    } else if (!all_devices && !cgroup_restrict_devices(fd)) {
        fail(problem, errno, "cannot restrict devices: %s", strerror(errno));
        close_fd(&fd);
        rmdir(path);
    }
    return fd;
}

static void remove_group(int parent, const char *name, unsigned depth)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (!directory) {
        close_fd(&fd);
        return;
    }
    for (struct dirent *entry; depth && (entry = readdir(directory));)
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            remove_group(fd, entry->d_name, depth - 1);
    closedir(directory);
    unlinkat(parent, name, AT_REMOVEDIR);
}

void cgroup_remove(const char *name)
{
    int parent = open(GROUPS_PATH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    remove_group(parent, name, GROUP_DEPTH);
    close_fd(&parent);
}

/* `none` is how the file says "no limit". A controller that this kernel lacks is an error where a limit is asked. */
static bool set_limit(int fd, const char *file, int64_t value, const char *none, struct problem *problem)
{
    char text[32];
    if (value < 0)
        return true;
    snprintf(text, sizeof(text), "%" PRId64, value);
    if (write_text(fd, file, value ? text : none) == 0 || (value == 0 && errno == ENOENT))
        return true;
    return fail(problem, errno, "cannot set %s to %s: %s", file, value ? text : none, strerror(errno));
}

static bool limit_cpu(int fd, const struct limits *limits, struct problem *problem)
{
    char text[64] = "max";
    if (limits->cpu_quota_us < 0 && limits->cpu_period_us < 0)
        return true;
    int64_t period = limits->cpu_period_us > 0 ? limits->cpu_period_us : 100000;
    if (limits->cpu_quota_us > 0)
        snprintf(text, sizeof(text), "%" PRId64 " %" PRId64, limits->cpu_quota_us, period);
    if (write_text(fd, "cpu.max", text) == 0)
        return true;
    return fail(problem, errno, "cannot set cpu.max to %s: %s", text, strerror(errno));
}

bool cgroup_limit(int fd, const struct limits *limits, struct problem *problem)
{
    return set_limit(fd, "memory.swap.max", limits->swap, "max", problem) &&
           set_limit(fd, "memory.low", limits->memory_low, "0", problem) &&
           set_limit(fd, "memory.max", limits->memory, "max", problem) && limit_cpu(fd, limits, problem) &&
           set_limit(fd, "cpu.weight", limits->cpu_weight, "100", problem) &&
           set_limit(fd, "pids.max", limits->pids, "max", problem) &&
           set_limit(fd, "io.weight", limits->io_weight, "default 100", problem);
}

bool cgroup_freeze(int fd, bool frozen)
{
    return write_text(fd, "cgroup.freeze", frozen ? "1" : "0") == 0;
}

bool cgroup_kill(int fd)
{
    return write_text(fd, "cgroup.kill", "1") == 0;
}

/* The number behind `key` in a file of lines "key number"; 0 where there is none. */
static uint64_t keyed_number(const char *text, const char *key)
{
    size_t size = strlen(key);
    for (const char *line = text; line && *line;) {
        if (strncmp(line, key, size) == 0 && line[size] == ' ')
            return strtoull(line + size + 1, NULL, 10);
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return 0;
}

bool cgroup_state(int fd, bool *populated, bool *frozen)
{
    char text[256];
    if (read_text(fd, "cgroup.events", text, sizeof(text)) < 0)
        return false;
    *populated = keyed_number(text, "populated") != 0;
    *frozen = keyed_number(text, "frozen") != 0;
    return true;
}

uint64_t cgroup_oom_kills(int fd)
{
    char text[512];
    return read_text(fd, "memory.events", text, sizeof(text)) < 0 ? 0 : keyed_number(text, "oom_kill");
}

static uint64_t sum_of(const char *text, const char *key)
{
    uint64_t sum = 0;
    for (const char *at = text; (at = strstr(at, key)); at += strlen(key))
        sum += strtoull(at + strlen(key), NULL, 10);
    return sum;
}

void cgroup_usage(int fd, struct cgroup_usage *usage)
{
    static char text[16384];
    read_number(fd, "memory.current", &usage->memory);
    read_number(fd, "memory.peak", &usage->memory_peak);
    read_number(fd, "memory.max", &usage->memory_limit);
    read_number(fd, "pids.current", &usage->pids);
    read_number(fd, "pids.max", &usage->pids_limit);
    read_text(fd, "memory.stat", text, sizeof(text));
    usage->cache = keyed_number(text, "inactive_file");
    read_text(fd, "cpu.stat", text, sizeof(text));
    usage->cpu_ns = keyed_number(text, "usage_usec") * 1000;
    usage->cpu_user_ns = keyed_number(text, "user_usec") * 1000;
    usage->cpu_system_ns = keyed_number(text, "system_usec") * 1000;
    usage->throttled_ns = keyed_number(text, "throttled_usec") * 1000;
    read_text(fd, "io.stat", text, sizeof(text));
    usage->read_bytes = sum_of(text, "rbytes=");
    usage->write_bytes = sum_of(text, "wbytes=");
    usage->read_ops = sum_of(text, "rios=");
    usage->write_ops = sum_of(text, "wios=");
}

static bool visit_group(int parent, const char *name, unsigned depth, bool (*visit)(pid_t, void *), void *context)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int list = fd >= 0 ? openat(fd, "cgroup.procs", O_RDONLY | O_CLOEXEC) : -1;
    FILE *file = list >= 0 ? fdopen(list, "r") : NULL;
    bool more = true;
    int pid;
    while (file && more && fscanf(file, "%d", &pid) == 1)
        more = visit(pid, context);
    if (file)
        fclose(file);
    else
        close_fd(&list);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *entry; directory && more && depth && (entry = readdir(directory));)
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            more = visit_group(fd, entry->d_name, depth - 1, visit, context);
    if (directory)
        closedir(directory);
    else
        close_fd(&fd);
    return more;
}

void cgroup_processes(int fd, bool (*visit)(pid_t pid, void *context), void *context)
{
    visit_group(fd, ".", GROUP_DEPTH, visit, context);
}
