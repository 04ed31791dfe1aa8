/* File systems that are served over a port of this machine: FUSE's requests go out, answers come in. */
#pragma once

#include "msgpack.h"

/* A detached mount of what is served at the port `port`, which may still be on its way. -1 where it cannot be.
 * `tray`: device of the disk with the data of large reads; NULL: there is none. */
int files_mount(const char *port, const char *tray, struct problem *problem);
int files_port(const char *name); /* the open port, once somebody is at its other end; -1 after ten seconds */
int files_alone(int fd);          /* in a new process: closes all that it has of the agent's but this; its number now */
bool files_served(void); /* whether there is one: then programs end, and are written out, before all else does */
