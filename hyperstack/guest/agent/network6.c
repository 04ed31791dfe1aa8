/* IPv6 of a device, by ioctls. Without it in the kernel, a pod that asks for an IPv6 address is told so. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine.h"

struct address_request { /* struct in6_ifreq of linux/ipv6.h, which musl has not */
    struct in6_addr address;
    uint32_t prefix;
    int index;
};

static void set_option(const char *device, const char *option, const char *value)
{
    char path[96];
    snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", device, option);
    write_text(AT_FDCWD, path, value);
}

static bool parse_address6(const char *text, struct in6_addr *address, uint32_t *prefix)
{
    char host[INET6_ADDRSTRLEN], end;
    return sscanf(text, "%45[0-9a-fA-F:.]/%3u%c", host, prefix, &end) == 2 && *prefix <= 128 &&
           inet_pton(AF_INET6, host, address) == 1;
}

bool network6_set(const char *device, const char *text, struct problem *problem)
{
    struct address_request request = {.index = (int)if_nametoindex(device)};
    if (!parse_address6(text, &request.address, &request.prefix))
        return fail(problem, EINVAL, "%.64s is not an IPv6 address with its prefix", text);
    /* The host gives each address once, and answers no router solicitations: nothing to wait for. */
    set_option(device, "accept_ra", "0");
    set_option(device, "accept_dad", "0");
    set_option(device, "dad_transmits", "0");
    set_option(device, "disable_ipv6", "1"); /* drops what it had */
    set_option(device, "disable_ipv6", "0");
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && (ioctl(fd, SIOCSIFADDR, &request) == 0 || errno == EEXIST);
    if (!good)
        fail(problem, errno, "cannot set the address %.64s: %s", text, strerror(errno));
    close_fd(&fd);
    return good;
}

bool network6_route(const char *device, const char *gateway, struct problem *problem)
{
    struct in6_rtmsg route = {.rtmsg_flags = RTF_UP | RTF_GATEWAY, .rtmsg_metric = 1,
                              .rtmsg_ifindex = (int)if_nametoindex(device)};
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && inet_pton(AF_INET6, gateway, &route.rtmsg_gateway) == 1 &&
                (ioctl(fd, SIOCADDRT, &route) == 0 || errno == EEXIST);
    if (!good)
        fail(problem, errno, "cannot route by %.64s: %s", gateway, strerror(errno));
    close_fd(&fd);
    return good;
}

void network6_clear(const char *device)
{
    set_option(device, "disable_ipv6", "1");
}

void network6_forget_routes(void)
{
    struct in6_rtmsg any = {.rtmsg_flags = RTF_UP | RTF_GATEWAY};
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (int i = 0; fd >= 0 && i < NETWORKS_MAX && ioctl(fd, SIOCDELRT, &any) == 0; i++)
        ;
    close_fd(&fd);
}
