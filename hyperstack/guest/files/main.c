/* server --socket FD --share FD:ro|rw[-flat]... [--tray FD] [--cgroup FD...] [--user UID --group GID...]
 *
 * Serves what is shared until the other end of the socket closes; standard error is closed when it begins to. Without --user it serves as root: files are their
 * makers' in the guest. With it, as that user and no more. */
#include "serve.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHARES_MAX 256
#define CGROUPS_MAX 16
#define GROUPS_MAX 1024
#define OPEN_MAX_WANTED 65536
#define OPEN_RESERVE 64
#define HANDLES_MAX 16384
#define FAILED 125

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    dprintf(2, "file server: ");
    vdprintf(2, format, arguments);
    dprintf(2, "\n");
    _exit(FAILED);
}

static unsigned number(const char *text, char **end)
{
    errno = 0;
    unsigned long value = strtoul(text, end, 10);
    if (errno || *end == text || value >= UINT32_MAX)
        die("%s is no number", text);
    return (unsigned)value;
}

static unsigned whole(const char *text)
{
    char *end;
    unsigned value = number(text, &end);
    if (*end)
        die("%s is no number", text);
    return value;
}

static void take_mode(struct share *share, const char *mode)
{
    share->read_only = !strncmp(mode, ":ro", 3);
    if (!share->read_only && strncmp(mode, ":rw", 3))
        die("%s is no mode of a share", mode);
    share->flat = !strcmp(mode + 3, "-flat");
    if (!share->flat && mode[3])
        die("%s is no mode of a share", mode);
}

/* As many descriptors as there may be, split between what is known and what is open. */
static unsigned raise_open_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit: %s", strerror(errno));
    if (limit.rlim_max > OPEN_MAX_WANTED)
        limit.rlim_max = OPEN_MAX_WANTED;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 4 * OPEN_RESERVE)
        die("too few files may be open");
    return (unsigned)limit.rlim_cur - OPEN_RESERVE;
}

static void map_tray(int fd)
{
    void *memory = mmap(NULL, (size_t)TRAY_PLACES * TRAY_PLACE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        die("the tray: %s", strerror(errno));
    close(fd);
    session_tray(memory);
}

int main(int argc, char **argv)
{
    static struct share shares[SHARES_MAX];
    static gid_t groups[GROUPS_MAX];
    int cgroups[CGROUPS_MAX], socket = -1, root;
    unsigned share_count = 0, cgroup_count = 0, group_count = 0;
    uid_t uid = 0;
    bool user = false;

    for (int i = 1; i + 1 < argc; i += 2) {
        char *value = argv[i + 1], *end;
        if (!strcmp(argv[i], "--socket")) {
            socket = (int)whole(value);
        } else if (!strcmp(argv[i], "--share") && share_count < SHARES_MAX) {
            shares[share_count].fd = (int)number(value, &end);
            take_mode(&shares[share_count++], end);
        } else if (!strcmp(argv[i], "--tray")) {
            map_tray((int)whole(value));
        } else if (!strcmp(argv[i], "--cgroup") && cgroup_count < CGROUPS_MAX) {
            cgroups[cgroup_count++] = (int)whole(value);
        } else if (!strcmp(argv[i], "--user")) {
            uid = whole(value);
            user = true;
        } else if (!strcmp(argv[i], "--group") && group_count < GROUPS_MAX) {
            groups[group_count++] = whole(value);
        } else {
            die("unknown option %s, or too many", argv[i]);
        }
    }
    if (argc % 2 == 0 || socket < 0 || !share_count || (user && !group_count))
        die("--socket and --share are needed, and with --user --group");
    signal(SIGPIPE, SIG_IGN);
    unsigned descriptors = raise_open_files();
    unsigned handles = descriptors / 2 < HANDLES_MAX ? descriptors / 2 : HANDLES_MAX;
    gid_t gid = user ? groups[0] : 0;
    confine(shares, share_count, cgroups, cgroup_count, user, uid, gid, groups, group_count, &root);
    if (!handles_init(handles) || !nodes_init(root, descriptors - handles - OPEN_RESERVE))
        die("no memory");
    close(STDERR_FILENO);
    return session_run(socket);
}
