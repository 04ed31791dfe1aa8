/* Loopback, the NIC (eth0) and what shares it, by the old ioctls: they need no library and no parser.
 *
 * A pod has one NIC. Where it is on several networks, each further one is a device of its own on top of it (links.c),
 * whose hardware address tells the host which network a frame belongs to. */
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
        if (device_ioctl(fd, SIOCGIFINDEX, &device, NIC))
            return true;
        usleep(1000);
    }
    return false;
}

bool parse_mac(const char *text, uint8_t mac[static 6])
{
    char end;
    errno = EINVAL;
    return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5,
                  &end) == 6;
}

static bool set_mac(int fd, const char *name, const char *mac)
{
    struct ifreq device = {.ifr_hwaddr.sa_family = ARPHRD_ETHER};
    return parse_mac(mac, (uint8_t *)device.ifr_hwaddr.sa_data) && device_ioctl(fd, SIOCSIFHWADDR, &device, name);
}

static struct sockaddr_in internet(struct in_addr address)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = address};
}

static bool set_address(int fd, unsigned long request, const char *name, struct in_addr address)
{
    struct ifreq device = {0};
    const struct sockaddr_in internet_address = internet(address);
    memcpy(&device.ifr_addr, &internet_address, sizeof(internet_address));
    return device_ioctl(fd, request, &device, name);
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

static bool add_route(int fd, const char *name, struct in_addr destination, struct in_addr mask,
                      const struct in_addr *gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = (char *)name};
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

static bool set_gateway(int fd, const char *name, const char *text)
{
    const struct in_addr any = {0}, one = {htonl(~0U)};
    struct in_addr gateway;
    if (inet_pton(AF_INET, text, &gateway) != 1) {
        errno = EINVAL;
        return false;
    }
    if (add_route(fd, name, any, any, &gateway))
        return true;
    /* A gateway outside the address's own network is reached over the link all the same. */
    return errno == ENETUNREACH && add_route(fd, name, gateway, one, NULL) && add_route(fd, name, any, any, &gateway);
}

static bool set_device(int fd, const struct network *network, struct problem *problem)
{
    const char *name = network->device;
    struct in_addr address, mask;
    struct ifreq mtu = {.ifr_mtu = (int)network->mtu};
    if (!parse_address(network->address, &address, &mask))
        return fail(problem, EINVAL, "%.32s is not an address with its prefix", network->address);
    /* Down, a template's device loses its routes, and takes another hardware address. */
    if (!set_up(fd, name, false) || (*network->mac && !set_mac(fd, name, network->mac)))
        return fail(problem, errno, "cannot set the hardware address %.32s: %s", network->mac, strerror(errno));
    if (network->mtu && !device_ioctl(fd, SIOCSIFMTU, &mtu, name))
        return fail(problem, errno, "cannot set the MTU %d: %s", (int)network->mtu, strerror(errno));
    if (!set_address(fd, SIOCSIFADDR, name, address) || !set_address(fd, SIOCSIFNETMASK, name, mask) ||
        !set_up(fd, name, true))
        return fail(problem, errno, "cannot set the address %.32s: %s", network->address, strerror(errno));
    return !network->address6 || network6_set(name, network->address6, problem);
}

static bool set_gateways(int fd, const struct network *network, struct problem *problem)
{
    if (*network->gateway && !set_gateway(fd, network->device, network->gateway))
        return fail(problem, errno, "cannot route by %.32s: %s", network->gateway, strerror(errno));
    return !network->gateway6 || network6_route(network->device, network->gateway6, problem);
}

/* What every device was set to, as far as it matters whether it has to be set anew. */
static struct held {
    char device[IFNAMSIZ], mac[32], address[32], address6[64];
    int64_t mtu;
} held[NETWORKS_MAX];

static struct held *find_held(const char *device)
{
    for (size_t i = 0; i < NETWORKS_MAX; i++)
        if (strcmp(held[i].device, device) == 0)
            return &held[i];
    return NULL;
}

static struct held as_held(const struct network *network)
{
    struct held made = {.mtu = network->mtu};
    snprintf(made.device, sizeof(made.device), "%s", network->device);
    snprintf(made.mac, sizeof(made.mac), "%s", network->mac);
    snprintf(made.address, sizeof(made.address), "%s", network->address);
    snprintf(made.address6, sizeof(made.address6), "%s", network->address6 ? network->address6 : "");
    return made;
}

static bool hold(const struct network *network, struct problem *problem)
{
    struct held *at = find_held(network->device);
    if (!at && !(at = find_held("")))
        return fail(problem, ENOSPC, "too many devices");
    *at = as_held(network);
    return true;
}

bool network_up(const struct network *network, struct problem *problem)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(problem, errno, "cannot make a socket: %s", strerror(errno));
    bool good = set_up(fd, "lo", true) || fail(problem, errno, "cannot bring up lo: %s", strerror(errno));
    if (good && network)
        good = (wait_for_device(fd) || fail(problem, ENODEV, "there is no " NIC)) && set_device(fd, network, problem) &&
               set_gateways(fd, network, problem) && hold(network, problem);
    close(fd);
    return good;
}

static bool clear_nic(int fd, struct problem *problem)
{
    const struct in_addr none = {0};
    struct ifreq device = {0};
    return !device_ioctl(fd, SIOCGIFINDEX, &device, NIC) ||
           (set_address(fd, SIOCSIFADDR, NIC, none) && set_up(fd, NIC, false)) ||
           fail(problem, errno, "cannot take down " NIC ": %s", strerror(errno));
}

static bool is_wanted(const struct held *one, const struct network *networks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(networks[i].device, one->device) == 0)
            return true;
    return false;
}

static bool drop_others(int fd, const struct network *networks, size_t count, struct problem *problem)
{
    for (size_t i = 0; i < NETWORKS_MAX; i++) {
        if (!*held[i].device || is_wanted(&held[i], networks, count))
            continue;
        if (strcmp(held[i].device, NIC) == 0) {
            if (*held[i].address6)
                network6_clear(NIC);
            if (!clear_nic(fd, problem))
                return false;
        } else if (!link_delete(held[i].device) && errno != ENODEV) {
            return fail(problem, errno, "cannot remove %s: %s", held[i].device, strerror(errno));
        }
        held[i] = (struct held){0};
    }
    return true;
}

bool network_down(struct problem *problem)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(problem, errno, "cannot make a socket: %s", strerror(errno));
    bool good = (nic_bring_back() || fail(problem, errno, "cannot bring back " NIC ": %s", strerror(errno))) &&
                drop_others(fd, NULL, 0, problem) && clear_nic(fd, problem);
    close(fd);
    return good;
}

static bool make_device(int fd, const struct network *network, struct problem *problem)
{
    uint8_t mac[6];
    struct ifreq nic = {0};
    if (strcmp(network->device, NIC) == 0)
        return true;
    if (!parse_mac(network->mac, mac))
        return fail(problem, EINVAL, "%.32s is no hardware address", network->mac);
    if (!wait_for_device(fd) || !device_ioctl(fd, SIOCGIFINDEX, &nic, NIC) || !set_up(fd, NIC, true))
        return fail(problem, ENODEV, "there is no " NIC);
    if (link_make(network->device, nic.ifr_ifindex, mac) || errno == EEXIST)
        return true;
    if (errno == EOPNOTSUPP)
        return fail(problem, errno, "this kernel has no macvlan, which a pod on several networks needs");
    return fail(problem, errno, "cannot make %s: %s", network->device, strerror(errno));
}

static bool is_as_wanted(const struct network *network)
{
    const struct held wanted = as_held(network), *has = find_held(network->device);
    return has && memcmp(has, &wanted, sizeof(wanted)) == 0;
}

/* It is put out of sight again where it is no network's; a kernel that cannot leaves it where it is. */
static bool place_nic(const struct network *networks, size_t count, bool done)
{
    bool wanted = false, changes = false;
    for (size_t i = 0; i < count; i++) {
        wanted = wanted || strcmp(networks[i].device, NIC) == 0;
        changes = changes || !is_as_wanted(&networks[i]);
    }
    if (wanted || (changes && !done))
        return nic_bring_back();
    return !done || nic_take_apart(count > 0) || !count || link_up(NIC, false);
}

static bool follow_one(int fd, const struct network *network, struct problem *problem)
{
    if (is_as_wanted(network))
        return true; /* its connections go on */
    struct network clamped = *network;
    struct ifreq nic = {0};
    if (!make_device(fd, network, problem))
        return false;
    /* What is on top of the NIC cannot have a larger MTU. */
    if (strcmp(network->device, NIC) != 0 && device_ioctl(fd, SIOCGIFMTU, &nic, NIC) && nic.ifr_mtu < network->mtu)
        clamped.mtu = nic.ifr_mtu;
    return set_device(fd, &clamped, problem) && hold(network, problem);
}

static void forget_gateways(int fd)
{
    struct rtentry any = {.rt_flags = RTF_UP};
    const struct sockaddr_in zero = internet((struct in_addr){0});
    memcpy(&any.rt_dst, &zero, sizeof(zero));
    memcpy(&any.rt_genmask, &zero, sizeof(zero));
    for (int i = 0; i < NETWORKS_MAX && ioctl(fd, SIOCDELRT, &any) == 0; i++)
        ;
    network6_forget_routes();
}

bool network_follow(const struct network *networks, size_t count, struct problem *problem)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(problem, errno, "cannot make a socket: %s", strerror(errno));
    bool good = (place_nic(networks, count, false) ||
                 fail(problem, errno, "cannot bring back " NIC ": %s", strerror(errno))) &&
                drop_others(fd, networks, count, problem);
    for (size_t i = 0; good && i < count; i++)
        good = follow_one(fd, &networks[i], problem);
    good = good && (place_nic(networks, count, true) ||
                    fail(problem, errno, "cannot bring up " NIC ": %s", strerror(errno)));
    if (good)
        forget_gateways(fd);
    for (size_t i = 0; good && i < count; i++)
        good = set_gateways(fd, &networks[i], problem);
    close(fd);
    return good;
}

static void device_stats(struct buffer *out, const char *device)
{
    static const char *const counters[] = {"rx_bytes", "rx_packets", "rx_errors", "rx_dropped",
                                           "tx_bytes", "tx_packets", "tx_errors", "tx_dropped"};
    mp_put_map(out, COUNT_OF(counters));
    for (size_t i = 0; i < COUNT_OF(counters); i++) {
        char path[96];
        uint64_t number;
        snprintf(path, sizeof(path), "/sys/class/net/%s/statistics/%s", device, counters[i]);
        read_number(AT_FDCWD, path, &number);
        mp_key_uint(out, counters[i], number);
    }
}

void network_stats(struct buffer *out)
{
    device_stats(out, NIC);
}

static uint32_t network_count(void)
{
    uint32_t count = 0;
    for (size_t i = 0; i < NETWORKS_MAX; i++)
        count += *held[i].device != 0;
    return count;
}

bool networks_are_listed(void)
{
    return network_count() > 1 || nic_is_apart();
}

void networks_stats(struct buffer *out)
{
    mp_put_map(out, network_count());
    for (size_t i = 0; i < NETWORKS_MAX; i++) {
        if (*held[i].device) {
            mp_put_str(out, held[i].device);
            device_stats(out, held[i].device);
        }
    }
}
