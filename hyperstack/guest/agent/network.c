/* Loopback and eth0, by the old ioctls: they need no library and no parser. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine.h"

#define DEVICE "eth0"
#define DEVICE_WAIT_MS 2000 /* a NIC that is added together with the first call */

static bool device_ioctl(int fd, unsigned long request, struct ifreq *device, const char *name)
{
    strcpy(device->ifr_name, name);
    return ioctl(fd, (int)request, device) == 0;
}

static bool set_up(int fd, const char *name, bool up)
{
    struct ifreq device = {0};
    if (!device_ioctl(fd, SIOCGIFFLAGS, &device, name))
        return false;
    device.ifr_flags = (short)(up ? device.ifr_flags | IFF_UP : device.ifr_flags & ~IFF_UP);
    return device_ioctl(fd, SIOCSIFFLAGS, &device, name);
}

static bool wait_for_device(int fd)
{
    struct ifreq device = {0};
    for (int waited = 0; waited < DEVICE_WAIT_MS; waited++) {
        if (device_ioctl(fd, SIOCGIFINDEX, &device, DEVICE))
            return true;
        usleep(1000);
    }
    return false;
}

static bool set_mac(int fd, const char *mac)
{
    struct ifreq device = {.ifr_hwaddr.sa_family = ARPHRD_ETHER};
    uint8_t *byte = (uint8_t *)device.ifr_hwaddr.sa_data;
    char end;
    if (sscanf(mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", byte, byte + 1, byte + 2, byte + 3, byte + 4, byte + 5,
               &end) != 6) {
        errno = EINVAL;
        return false;
    }
    return device_ioctl(fd, SIOCSIFHWADDR, &device, DEVICE);
}

static struct sockaddr_in internet(struct in_addr address)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = address};
}

static bool set_address(int fd, unsigned long request, struct in_addr address)
{
    struct ifreq device = {0};
    const struct sockaddr_in internet_address = internet(address);
    memcpy(&device.ifr_addr, &internet_address, sizeof(internet_address));
    return device_ioctl(fd, request, &device, DEVICE);
}

static bool parse_address(const char *text, struct in_addr *address, struct in_addr *mask)
{
    char host[32], end;
    unsigned prefix;
    if (sscanf(text, "%31[0-9.]/%2u%c", host, &prefix, &end) != 2 || prefix > 32 || inet_pton(AF_INET, host, address) != 1)
        return false;
    mask->s_addr = prefix ? htonl(~0U << (32 - prefix)) : 0;
    return true;
}

static bool add_route(int fd, struct in_addr destination, struct in_addr mask, const struct in_addr *gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = (char[]){DEVICE}};
    const struct sockaddr_in to = internet(destination), by = internet(mask);
    memcpy(&route.rt_dst, &to, sizeof(to));
    memcpy(&route.rt_genmask, &by, sizeof(by));
    if (mask.s_addr == htonl(~0U))
        route.rt_flags |= RTF_HOST;
    if (gateway) {
        const struct sockaddr_in through = internet(*gateway);
        route.rt_flags |= RTF_GATEWAY;
        memcpy(&route.rt_gateway, &through, sizeof(through));
    }
    return ioctl(fd, SIOCADDRT, &route) == 0 || errno == EEXIST;
}

static bool set_gateway(int fd, const char *text)
{
    const struct in_addr any = {0}, one = {htonl(~0U)};
    struct in_addr gateway;
    if (inet_pton(AF_INET, text, &gateway) != 1) {
        errno = EINVAL;
        return false;
    }
    if (add_route(fd, any, any, &gateway))
        return true;
    /* A gateway outside the address's own network is reached over the link all the same. */
    return errno == ENETUNREACH && add_route(fd, gateway, one, NULL) && add_route(fd, any, any, &gateway);
}

static bool set_device(int fd, const struct network *network, struct problem *problem)
{
    struct in_addr address, mask;
    struct ifreq mtu = {.ifr_mtu = (int)network->mtu};
    if (!parse_address(network->address, &address, &mask))
        return fail(problem, EINVAL, "%.32s is not an address with its prefix", network->address);
    if (!wait_for_device(fd))
        return fail(problem, ENODEV, "there is no " DEVICE);
    /* Down, a template's device loses its routes, and takes another hardware address. */
    if (!set_up(fd, DEVICE, false) || (*network->mac && !set_mac(fd, network->mac)))
        return fail(problem, errno, "cannot set the hardware address %.32s: %s", network->mac, strerror(errno));
    if (network->mtu && !device_ioctl(fd, SIOCSIFMTU, &mtu, DEVICE))
        return fail(problem, errno, "cannot set the MTU %d: %s", (int)network->mtu, strerror(errno));
    if (!set_address(fd, SIOCSIFADDR, address) || !set_address(fd, SIOCSIFNETMASK, mask) || !set_up(fd, DEVICE, true))
        return fail(problem, errno, "cannot set the address %.32s: %s", network->address, strerror(errno));
    if (*network->gateway && !set_gateway(fd, network->gateway))
        return fail(problem, errno, "cannot route by %.32s: %s", network->gateway, strerror(errno));
    return true;
}

bool network_up(const struct network *network, struct problem *problem)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(problem, errno, "cannot make a socket: %s", strerror(errno));
    bool good = set_up(fd, "lo", true) || fail(problem, errno, "cannot bring up lo: %s", strerror(errno));
    good = good && (!network || set_device(fd, network, problem));
    close(fd);
    return good;
}

bool network_down(struct problem *problem)
{
    const struct in_addr none = {0};
    struct ifreq device = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(problem, errno, "cannot make a socket: %s", strerror(errno));
    bool good = !device_ioctl(fd, SIOCGIFINDEX, &device, DEVICE) ||
                (set_address(fd, SIOCSIFADDR, none) && set_up(fd, DEVICE, false)) ||
                fail(problem, errno, "cannot take down " DEVICE ": %s", strerror(errno));
    close(fd);
    return good;
}

void network_stats(struct buffer *out)
{
    static const char *const counters[] = {"rx_bytes", "rx_packets", "rx_errors", "rx_dropped",
                                           "tx_bytes", "tx_packets", "tx_errors", "tx_dropped"};
    mp_put_map(out, COUNT_OF(counters));
    for (size_t i = 0; i < COUNT_OF(counters); i++) {
        char path[96];
        uint64_t number;
        snprintf(path, sizeof(path), "/sys/class/net/" DEVICE "/statistics/%s", counters[i]);
        read_number(AT_FDCWD, path, &number);
        mp_key_uint(out, counters[i], number);
    }
}
