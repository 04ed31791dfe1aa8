#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "container.h"
#include "disks.h"
#include "files.h"
#include "port.h"
#include "process.h"

#define ENTROPY_MIN 32
#define ENTROPY_MAX 512

struct configure_request {
    char *op, *hostname, *domainname;
    int64_t time_ns, memory_reserve;
    struct slice entropy, net, sysctls, disks;
    bool share_pid;
};

static bool configured;

static bool set_time(int64_t time_ns, struct problem *problem)
{
    const struct timespec time = {time_ns / NSEC_PER_SEC, time_ns % NSEC_PER_SEC};
    return clock_settime(CLOCK_REALTIME, &time) == 0 ||
           fail(problem, errno, "cannot set the clock: %s", strerror(errno));
}

/* A clone has its template's random state: two clones would draw the same numbers. */
static bool reseed(struct slice entropy, struct problem *problem)
{
    struct {
        int entropy_count, buf_size; /* struct rand_pool_info */
        uint8_t buf[ENTROPY_MAX];
    } pool = {.entropy_count = (int)entropy.size * 8, .buf_size = (int)entropy.size};
    memcpy(pool.buf, entropy.data, entropy.size);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    bool good = fd >= 0 && ioctl(fd, RNDADDENTROPY, &pool) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
    if (!good)
        fail(problem, errno, "cannot reseed the random numbers: %s", strerror(errno));
    close_fd(&fd);
    explicit_bzero(&pool, sizeof(pool));
    return good;
}

static bool set_sysctl(struct slice key, struct slice value, struct problem *problem)
{
    char name[256], text[4096], path[sizeof("/proc/sys/") + 256];
    if (key.size >= sizeof(name) || value.size >= sizeof(text))
        return fail(problem, ENAMETOOLONG, "a sysctl is too long");
    snprintf(name, sizeof(name), "%.*s", (int)key.size, (const char *)key.data);
    snprintf(text, sizeof(text), "%.*s", (int)value.size, (const char *)value.data);
    /* In the dotted form a slash stands for a dot within a name, as sysctl(8) has it. */
    for (char *at = name; *at; at++)
        *at = *at == '.' ? '/' : *at == '/' ? '.' : *at;
    if (strstr(name, "..") || name[0] == '/')
        return fail(problem, EINVAL, "%.*s is no sysctl", (int)key.size, (const char *)key.data);
    snprintf(path, sizeof(path), "/proc/sys/%s", name);
    return write_text(AT_FDCWD, path, text) == 0 ||
           fail(problem, errno, "cannot set the sysctl %s: %s", path, strerror(errno));
}

bool set_sysctls(struct slice map, struct problem *problem)
{
    struct mp_reader reader = mp_reader(map);
    struct mp_value head, key, value;
    if (!map.size)
        return true;
    if (!mp_next(&reader, &head) || head.type != MP_MAP)
        return fail(problem, EINVAL, "sysctls is not a map");
    for (uint32_t i = 0; i < head.count; i++)
        if (!mp_next(&reader, &key) || key.type != MP_STR || !mp_next(&reader, &value) || value.type != MP_STR)
            return fail(problem, EINVAL, "sysctls holds what is not a string");
        else if (!set_sysctl(key.bytes, value.bytes, problem))
            return false;
    return true;
}

static bool decode_network(struct slice map, struct network *network, struct arena *arena, struct problem *problem)
{
    static char nic[] = NIC;
    static const struct field fields[] = {
        {"device", FIELD_TEXT, true, offsetof(struct network, device), 1, 15},
        {"mac", FIELD_TEXT, false, offsetof(struct network, mac), 0, 31},
        {"address", FIELD_TEXT, false, offsetof(struct network, address), 0, 31},
        {"gateway", FIELD_TEXT, false, offsetof(struct network, gateway), 0, 31},
        {"mtu", FIELD_INT, false, offsetof(struct network, mtu), 0, 65535},
        {"resolver", FIELD_TEXT, true, offsetof(struct network, resolver), 0, 31},
        {"address6", FIELD_TEXT, true, offsetof(struct network, address6), 0, 63},
        {"gateway6", FIELD_TEXT, true, offsetof(struct network, gateway6), 0, 63},
    };
    network->device = nic;
    return decode_record(map, fields, COUNT_OF(fields), network, arena, problem) &&
           ((is_name(network->device, 15) && strcmp(network->device, "lo") != 0) ||
            fail(problem, EINVAL, "%.32s is no device's name", network->device));
}

static bool set_resolver(const char *server, struct problem *problem)
{
    if (server && *server)
        return resolver_redirect(server) ||
               fail(problem, errno, "cannot redirect to the resolver %.32s: %s", server, strerror(errno));
    resolver_leave();
    return true;
}

static bool set_network(struct slice map, struct arena *arena, struct problem *problem)
{
    struct network network = {0};
    if (!map.data)
        return network_up(NULL, problem);
    return decode_network(map, &network, arena, problem) && network_up(&network, problem) &&
           set_resolver(network.resolver, problem);
}

bool machine_follow(struct slice wanted, const char *resolver, struct arena *arena, struct problem *problem)
{
    struct network networks[NETWORKS_MAX] = {0};
    struct slice *values;
    size_t count;
    if (!decode_array(wanted, "nets", NETWORKS_MAX, &values, &count, arena, problem))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!decode_network(values[i], &networks[i], arena, problem))
            return false;
    return network_follow(networks, count, problem) && set_resolver(resolver, problem);
}

static bool apply(const struct configure_request *request, struct arena *arena, struct problem *problem)
{
    const char *domain = request->domainname ? request->domainname : "";
    if (!set_time(request->time_ns, problem) || !reseed(request->entropy, problem))
        return false;
    if (sethostname(request->hostname, strlen(request->hostname)) < 0 || setdomainname(domain, strlen(domain)) < 0)
        return fail(problem, errno, "cannot set the host name: %s", strerror(errno));
    if (!set_network(request->net, arena, problem) || !set_sysctls(request->sysctls, problem))
        return false;
    if (request->memory_reserve && !cgroups_reserve((uint64_t)request->memory_reserve))
        return fail(problem, EINVAL, "memory_reserve leaves the containers nothing");
    if (!disks_rename(request->disks, problem))
        return false;
    return !request->share_pid || share_pid_namespace(problem);
}

bool machine_configure(struct slice arguments, struct problem *problem)
{
    static const struct field fields[] = {
        {"op", FIELD_TEXT, false, offsetof(struct configure_request, op), 0, 32},
        {"time_ns", FIELD_INT, false, offsetof(struct configure_request, time_ns), 0, INT64_MAX},
        {"entropy", FIELD_BYTES, false, offsetof(struct configure_request, entropy), ENTROPY_MIN, ENTROPY_MAX},
        {"hostname", FIELD_TEXT, false, offsetof(struct configure_request, hostname), 0, 64},
        {"domainname", FIELD_TEXT, true, offsetof(struct configure_request, domainname), 0, 64},
        {"net", FIELD_MAP, true, offsetof(struct configure_request, net), 0, 0},
        {"sysctls", FIELD_MAP, true, offsetof(struct configure_request, sysctls), 0, 0},
        {"disks", FIELD_MAP, true, offsetof(struct configure_request, disks), 0, 0},
        {"share_pid", FIELD_BOOL, true, offsetof(struct configure_request, share_pid), 0, 0},
        {"memory_reserve", FIELD_INT, true, offsetof(struct configure_request, memory_reserve), 0, INT64_MAX},
    };
    struct configure_request request = {0};
    struct arena arena = {0};
    if (configured)
        return fail(problem, EALREADY, "the sandbox is configured");
    bool good = decode_record(arguments, fields, COUNT_OF(fields), &request, &arena, problem) &&
                apply(&request, &arena, problem);
    arena_free(&arena);
    configured = good;
    return good;
}

static bool bring_up(int64_t number, struct problem *problem)
{
    char path[64], state[4] = "";
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", (int)number);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool up = fd >= 0 && read(fd, state, sizeof(state) - 1) > 0 && (state[0] == '1' || pwrite(fd, "1", 1, 0) == 1);
    if (!up)
        fail(problem, errno, "cannot bring up processor %d: %s", (int)number, strerror(errno));
    close_fd(&fd);
    return up;
}

bool machine_grow(uint64_t memory_reserve, int64_t vcpus, struct problem *problem)
{
    for (int64_t number = 1; number < vcpus; number++) /* the first has no such file */
        if (!bring_up(number, problem))
            return false;
    return cgroups_reserve(memory_reserve) || fail(problem, EINVAL, "memory_reserve leaves the containers nothing");
}

bool machine_rewind(struct problem *problem)
{
    if (containers || processes || volumes_exist() || pid_namespace_is_shared())
        return fail(problem, EBUSY, "the sandbox is in use");
    if (!network_down(problem))
        return false;
    resolver_leave();
    configured = false;
    port_renew_key();
    return true;
}

void machine_describe(struct buffer *out)
{
    struct utsname name;
    uname(&name);
    mp_put_map(out, 4);
    mp_key_uint(out, "memory", (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    mp_key_int(out, "cpus", sysconf(_SC_NPROCESSORS_ONLN));
    mp_key_str(out, "kernel", name.release);
    mp_key_str(out, "agent", AGENT_VERSION);
}

/* What programs mapped into memory is written when they end, and by then whoever carries files has to be there. */
static void end_programs(void)
{
    const struct timespec moment = {0, NSEC_PER_SEC / 1000};
    int64_t patience_ns = now_ns() + NSEC_PER_SEC;
    for (struct container *container = containers; container; container = container->next)
        cgroup_kill(container->cgroup);
    for (bool populated = true, frozen; populated && now_ns() < patience_ns; nanosleep(&moment, NULL)) {
        populated = false;
        for (struct container *container = containers; container && !populated; container = container->next)
            if (!cgroup_state(container->cgroup, &populated, &frozen))
                populated = false;
    }
    sync();
}

void machine_power_off(void)
{
    const struct timespec moment = {0, NSEC_PER_SEC / 1000};
    if (files_served())
        end_programs();
    int64_t patience_ns = now_ns() + NSEC_PER_SEC;
    /* From PID 1: everybody else. What does not even die of that has to be left behind. */
    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, WNOHANG) >= 0 && now_ns() < patience_ns)
        nanosleep(&moment, NULL);
    while (containers) {
        struct container *container = containers;
        containers = container->next;
        container_unmount(container);
    }
    volumes_unmount();
    sync();
    reboot(RB_POWER_OFF);
    /* A kernel that cannot switch off: a reset ends the VM too. */
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}
