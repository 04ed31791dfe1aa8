/* From the kernel's hand to an open port. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"
#include "cgroup.h"
#include "container.h"
#include "loop.h"
#include "machine.h"

#define PORT_NAME "org.hyperstack.agent.0"
#define OPEN_FILES 65536

static void must_mount(const char *type, const char *path, unsigned long flags, const char *options)
{
    make_directory(path, 0755);
    if (mount(type, path, type, flags, options) < 0 && errno != EBUSY)
        log_line("cannot mount %s on %s: %s", type, path, strerror(errno));
}

static void load_module(const char *name)
{
    char path[300];
    snprintf(path, sizeof(path), "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        log_line("cannot load module %s: %s", name, strerror(errno));
    close_fd(&fd);
    unlink(path);
}

/* /modules/order names the files to load, one a line. A kernel that has everything built in has no such file. */
static void load_modules(void)
{
    static char order[8192];
    char *rest = NULL;
    if (read_text(AT_FDCWD, "/modules/order", order, sizeof(order)) < 0)
        return;
    for (char *name = strtok_r(order, "\n", &rest); name; name = strtok_r(NULL, "\n", &rest))
        load_module(name);
    unlink("/modules/order");
    rmdir("/modules");
}

/* pivot_root refuses to leave the initramfs, so that what containers start from is to be another root. */
static void leave_initramfs(void)
{
    static const char *const moved[] = {"/dev", "/proc", "/sys"};
    char path[32];
    must_mount("tmpfs", "/root", MS_NOSUID, "mode=0755");
    for (size_t i = 0; i < COUNT_OF(moved); i++) {
        snprintf(path, sizeof(path), "/root%s", moved[i]);
        make_directory(path, 0755);
        if (mount(moved[i], path, NULL, MS_MOVE, NULL) < 0)
            log_line("cannot move %s: %s", moved[i], strerror(errno));
    }
    unlink("/init");
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        log_line("cannot leave the initramfs: %s", strerror(errno));
}

static void make_run_directories(void)
{
    static const char *const paths[] = {"/run", RUN_PATH, RUN_PATH "/containers", RUN_PATH "/volumes",
                                        RUN_PATH "/empty"};
    for (size_t i = 0; i < COUNT_OF(paths); i++)
        make_directory(paths[i], 0700);
}

static bool find_port(char port[static 64])
{
    char path[300], name[64];
    bool found = false;
    DIR *directory = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));) {
        snprintf(path, sizeof(path), "%s/name", entry->d_name);
        if (entry->d_name[0] == '.' || read_text(dirfd(directory), path, name, sizeof(name)) < 0)
            continue;
        name[strcspn(name, "\n")] = 0;
        found = strcmp(name, PORT_NAME) == 0;
        snprintf(port, 64, "/dev/%.50s", entry->d_name);
    }
    if (directory)
        closedir(directory);
    return found && access(port, F_OK) == 0;
}

/* The name comes in a message of its own after the port has, and no event tells of it. */
static void wait_for_port(char port[static 64])
{
    for (unsigned tries = 0; !find_port(port); tries++) {
        if (tries == 5000)
            log_line("there is no virtio-serial port named " PORT_NAME);
        usleep(tries < 5000 ? 1000 : 100000);
    }
}

/* A guest whose memory is full of programs' data thrashes for minutes on the few pages of code that are left, before
 * the kernel gives up and kills. With generations it kills when it cannot keep what was used within the last second. */
static void prevent_thrashing(void)
{
    if (write_text(AT_FDCWD, "/sys/kernel/mm/lru_gen/enabled", "y") == 0)
        write_text(AT_FDCWD, "/sys/kernel/mm/lru_gen/min_ttl_ms", "1000");
}

/* The balloon tells the host of free memory in pieces of 2 MiB, and only while 64 MiB (32 pieces) are free, which a small
 * machine seldom has. In pieces of 128 KiB (order 5) it tells of nearly all, from 4 MiB on. */
static void give_memory_back(void)
{
    write_text(AT_FDCWD, "/sys/module/page_reporting/parameters/page_reporting_order", "5");
}

void machine_boot(char port[static 64])
{
    umask(022);
    must_mount("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_mount("devtmpfs", "/dev", MS_NOSUID, NULL);
    load_modules();
    wait_for_port(port);
}

static void uevent_ready(struct watch *watch, uint32_t events)
{
    (void)events;
    char message[8192];
    bool block = false;
    for (;;) {
        ssize_t size = recv(watch->fd, message, sizeof(message) - 1, 0);
        if (size < 0 && errno == ENOBUFS) {
            block = true; /* some were lost: any may have been a disk's */
            continue;
        }
        if (size <= 0)
            break;
        message[size] = 0;
        block = block || (strncmp(message, "add@", 4) == 0 && strstr(message, "/block/"));
    }
    if (block)
        disks_changed();
}

static void listen_for_devices(void)
{
    static struct watch watch = {.ready = uevent_ready};
    const struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0
        || !loop_add(&watch, fd, 1 /* EPOLLIN */))
        log_line("cannot listen for devices: %s", strerror(errno));
}

/* The host has its answer by now and does its part meanwhile. */
void machine_settle(void)
{
    const struct rlimit files = {OPEN_FILES, OPEN_FILES};
    must_mount("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_mount("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    leave_initramfs();
    make_run_directories();
    setrlimit(RLIMIT_NOFILE, &files);
    setsid();
    prevent_thrashing();
    give_memory_back();
    if (!cgroups_init())
        log_line("cannot make control groups: %s", strerror(errno));
    listen_for_devices();
}
