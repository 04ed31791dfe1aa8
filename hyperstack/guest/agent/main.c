/* The agent: PID 1 of a HyperVM. Boots the machine, then serves the host through one port. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "loop.h"
#include "machine.h"
#include "port.h"
#include "process.h"

static void children_ready(struct watch *watch, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    while (read(watch->fd, &info, sizeof(info)) == sizeof(info))
        continue; /* one signal may stand for many children */
    processes_reap();
}

/* On the kernel's command line, which hands on what it does not know. A machine that becomes a template is saved when it
 * opens its port, and nobody talks to it before. */
#define WHOLE "agent_whole"

int main(void)
{
    static struct watch children = {.ready = children_ready};
    char port[64];
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signal(SIGPIPE, SIG_IGN);
    machine_boot(port);
    loop_init();
    if (!loop_add(&children, signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK), EPOLLIN))
        log_line("cannot watch children");
    if (getenv(WHOLE)) {
        machine_settle();
        port_open(port, NULL);
    } else {
        port_open(port, machine_settle);
    }
    loop_run();
}
