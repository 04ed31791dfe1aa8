/* The VM itself: boot, what a clone of it must renew, network, power. */
#pragma once

#include "msgpack.h"

void machine_boot(char port[static 64]); /* what it takes to answer: modules, waits for the port; its device's path */
void machine_settle(void); /* the rest; from then on `disks_changed` of calls.c is called whenever a block device comes */
bool machine_configure(struct slice arguments, struct problem *problem);
bool machine_follow(struct slice networks, const char *resolver, struct arena *arena, struct problem *problem);
#define VCPUS_MAX 1024
/* RAM and processors that the host has given since: how much of the RAM the containers leave, and processors to use. */
bool machine_grow(uint64_t memory_reserve, int64_t vcpus, struct problem *problem);
bool machine_rewind(struct problem *problem); /* as if nobody had configured it; nothing may run in it */
void machine_describe(struct buffer *out); /* the reply to `configure` */
bool set_sysctls(struct slice map, struct problem *problem);
_Noreturn void machine_power_off(void);

/* network.c */
#define NIC "eth0"
#define NETWORKS_MAX 32

struct network {
    char *device, *mac, *address, *gateway, *resolver;
    char *address6, *gateway6; /* NULL: none */
    int64_t mtu;
};

bool network_up(const struct network *network, struct problem *problem); /* NULL: the loopback alone */
bool network_down(struct problem *problem); /* without addresses, routes, and devices on top of the NIC */
/* Exactly these devices. What is as it was keeps its connections; what is gone is gone. */
bool network_follow(const struct network *networks, size_t count, struct problem *problem);
void network_stats(struct buffer *out);  /* of the NIC */
void networks_stats(struct buffer *out); /* of each device by its name */
bool networks_are_listed(void); /* whether more, or another, than the NIC is to be told of */
bool parse_mac(const char *text, uint8_t mac[static 6]); /* errno is EINVAL where it is none */

/* network6.c */
bool network6_set(const char *device, const char *text, struct problem *problem);
bool network6_route(const char *device, const char *gateway, struct problem *problem);
void network6_clear(const char *device);
void network6_forget_routes(void);

/* links.c: with errno. `below` is the index of the device that carries it. */
bool link_make(const char *name, int below, const uint8_t mac[static 6]);
bool link_delete(const char *name);
bool link_move(int index, int namespace); /* to another network namespace, where it is down and has no address */
bool link_up(const char *name, bool all); /* all: whatever hardware address a frame has */

bool nic_is_apart(void);
bool nic_take_apart(bool up); /* out of the containers' sight; up: for devices on top of it. Idempotent */
bool nic_bring_back(void);    /* down, without an address. Idempotent */

/* resolver.c: who asks Docker's name server asks this one. False, with errno: this kernel cannot. */
bool resolver_redirect(const char *server);
void resolver_leave(void);

#define AGENT_VERSION "1.0"
