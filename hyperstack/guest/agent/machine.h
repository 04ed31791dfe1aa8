/* The VM itself: boot, what a clone of it must renew, network, power. */
#pragma once

#include "msgpack.h"

void machine_boot(char port[static 64]); /* mounts, modules, waits for the port; its device's path */
void machine_run_uevents(void);          /* calls `disks_changed` of calls.c whenever a block device comes */
bool machine_configure(struct slice arguments, struct problem *problem);
bool machine_rewind(struct problem *problem); /* as if nobody had configured it; nothing may run in it */
void machine_describe(struct buffer *out); /* the reply to `configure` */
bool set_sysctls(struct slice map, struct problem *problem);
_Noreturn void machine_power_off(void);

/* network.c */
struct network {
    char *mac, *address, *gateway, *resolver;
    int64_t mtu;
};

bool network_up(const struct network *network, struct problem *problem); /* NULL: the loopback alone */
bool network_down(struct problem *problem); /* eth0, where there is one: without address and routes */
void network_stats(struct buffer *out);

/* resolver.c: who connects to Docker's name server reaches this one. False, with errno: this kernel cannot. */
bool resolver_redirect(const char *server);
void resolver_leave(void);

#define AGENT_VERSION "1.0"
