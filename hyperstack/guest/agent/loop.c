#include "loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

static int epoll_fd = -1;
static struct timer *timers; /* few at a time: an unsorted list does */

void loop_init(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
}

bool loop_add(struct watch *watch, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.ptr = watch};
    watch->fd = -1;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return false;
    watch->fd = fd;
    return true;
}

void loop_remove(struct watch *watch)
{
    if (watch->fd >= 0)
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->fd = -1;
}

void timer_set(struct timer *timer, int64_t delay_ns)
{
    timer_clear(timer);
    timer->due_ns = now_ns() + delay_ns;
    timer->next = timers;
    timers = timer;
}

void timer_clear(struct timer *timer)
{
    for (struct timer **at = &timers; *at; at = &(*at)->next) {
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    }
    timer->due_ns = 0;
}

static int run_timers(void)
{
    int64_t now = now_ns();
    int64_t nearest = INT64_MAX;
    for (struct timer *timer = timers; timer; timer = timer->next) {
        if (timer->due_ns <= now) {
            timer_clear(timer);
            timer->expired(timer);
            return 0; /* the list may be another one now */
        }
        if (timer->due_ns < nearest)
            nearest = timer->due_ns;
    }
    if (nearest == INT64_MAX)
        return -1;
    int64_t wait_ms = (nearest - now + 999999) / 1000000;
    return wait_ms > 3600000 ? 3600000 : (int)wait_ms;
}

void loop_run(void)
{
    for (;;) {
        int timeout = run_timers();
        /* One event at a time: what handles it may free any other watch. */
        struct epoll_event event;
        int got = epoll_wait(epoll_fd, &event, 1, timeout);
        if (got == 1) {
            struct watch *watch = event.data.ptr;
            watch->ready(watch, event.events);
        } else if (got < 0 && errno != EINTR) {
            log_line("epoll_wait: error %d", errno);
            usleep(10000);
        }
    }
}
