/* The event loop: edge-triggered watches of descriptors, and timers. One thread, no locks. */
#pragma once

#include "util.h"

struct watch {
    int fd; /* -1: none. The watch does not own it */
    void (*ready)(struct watch *watch, uint32_t events);
};

struct timer {
    struct timer *next;
    int64_t due_ns; /* monotonic; 0: not set */
    void (*expired)(struct timer *timer);
};

void loop_init(void);
_Noreturn void loop_run(void);
bool loop_add(struct watch *watch, int fd, uint32_t events); /* EPOLLET is added */
void loop_remove(struct watch *watch);
void timer_set(struct timer *timer, int64_t delay_ns);
void timer_clear(struct timer *timer);
