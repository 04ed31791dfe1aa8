/* The calls of the host: what each `op` takes, does and answers. */
#pragma once

#include "port.h"

/* False: the frame holds no call, a violation. `window` sizes the output rings of what the call starts. */
bool calls_dispatch(const struct call *call, struct slice body, size_t window);
void calls_forget(void);  /* a new connection: what waits for a disk is dropped */
void disks_changed(void); /* a disk has come: tries again what waits for one */

/* calls.c: every operation but configure, create and volume. It answers itself, or returns false with the reason. */
bool run_operation(const struct call *call, const char *op, struct slice body, size_t window, struct problem *problem);
