/* A volume of this machine, for another machine that shares it: the server of files (../files) at a port. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../files/serve.h"
#include "container.h"
#include "disks.h"
#include "mounts.h"

#define HANDLES 4096
#define DESCRIPTORS 32768 /* of what the other machine knows; RLIMIT_NOFILE is twice that */

void die(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    log_line("file server: %s", text);
    _exit(1);
}

static int wait_for(const char *tray)
{
    int blocks = open("/sys/block", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int devices = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = disk_wait(blocks, devices, tray, O_RDWR | O_DIRECT | O_CLOEXEC);
    close_fd(&blocks);
    close_fd(&devices);
    return fd;
}

static _Noreturn void serve(int directory, bool read_only, const char *port_name, const char *tray)
{
    struct share share = {.fd = directory, .read_only = read_only};
    sigset_t none;
    int root;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_NAME, "serve");
    int port = files_port(port_name);
    if (port < 0)
        die("there is no port %s", port_name);
    int flags = fcntl(port, F_GETFL);
    if (flags < 0 || fcntl(port, F_SETFL, flags & ~O_NONBLOCK) < 0)
        die("the port %s: %s", port_name, strerror(errno));
    /* What it carries is the other machine's: nothing is lost where it is not to be had. */
    int disk = tray ? wait_for(tray) : -1;
    if (disk >= 0)
        session_tray_disk(disk);
    confine(&share, 1, NULL, 0, false, 0, 0, NULL, 0, &root);
    if (!handles_init(HANDLES) || !nodes_init(root, DESCRIPTORS))
        die("no memory");
    _exit(session_run(port));
}

bool volume_serve(const char *name, const char *port, bool read_only, const char *tray, struct problem *problem)
{
    char path[PATH_LIMIT];
    snprintf(path, sizeof(path), RUN_PATH "/volumes/%s", name);
    int directory = is_name(name, NAME_MAX_VOLUME) ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (directory < 0)
        return fail(problem, ENOENT, "there is no volume %.64s", name);
    pid_t pid = fork();
    if (pid == 0)
        serve(files_alone(directory), read_only, port, tray);
    close_fd(&directory);
    return pid > 0 || fail(problem, errno, "cannot start a file server: %s", strerror(errno));
}
