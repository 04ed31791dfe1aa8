/* Devices on top of the NIC, by netlink: no ioctl makes them. Each is a macvlan with a hardware address of its own. */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine.h"

struct link_request {
    struct nlmsghdr head;
    struct ifinfomsg link;
    uint8_t attributes[256];
};

static struct rtattr *put(struct link_request *request, unsigned short type, const void *data, size_t size)
{
    struct rtattr *attribute = (void *)((uint8_t *)request + NLMSG_ALIGN(request->head.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(size);
    if (size)
        memcpy(RTA_DATA(attribute), data, size);
    request->head.nlmsg_len = NLMSG_ALIGN(request->head.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
    return attribute;
}

/* `attribute` holds all that was put after it. */
static void end(struct link_request *request, struct rtattr *attribute)
{
    attribute->rta_len = (unsigned short)((uint8_t *)request + request->head.nlmsg_len - (uint8_t *)attribute);
}

static bool ask(struct link_request *request)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        uint8_t more[1024];
    } answer;
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return false;
    ssize_t size = -1;
    if (sendto(fd, request, request->head.nlmsg_len, 0, (const void *)&kernel, sizeof(kernel)) >= 0)
        size = recv(fd, &answer, sizeof(answer), 0);
    int error = errno;
    close(fd);
    if (size >= (ssize_t)(sizeof(answer.head) + sizeof(answer.error)) && answer.head.nlmsg_type == NLMSG_ERROR)
        error = -answer.error.error;
    else if (size >= 0)
        error = EPROTO;
    errno = error;
    return error == 0;
}

bool link_make(const char *name, int below, const uint8_t mac[static 6])
{
    const uint32_t mode = MACVLAN_MODE_BRIDGE;
    struct link_request request = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof(request.link)), .nlmsg_type = RTM_NEWLINK,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL},
        .link = {.ifi_family = AF_UNSPEC},
    };
    put(&request, IFLA_IFNAME, name, strlen(name) + 1);
    put(&request, IFLA_LINK, &below, sizeof(below));
    put(&request, IFLA_ADDRESS, mac, 6);
    struct rtattr *info = put(&request, IFLA_LINKINFO, NULL, 0);
    put(&request, IFLA_INFO_KIND, "macvlan", sizeof("macvlan"));
    struct rtattr *data = put(&request, IFLA_INFO_DATA, NULL, 0);
    put(&request, IFLA_MACVLAN_MODE, &mode, sizeof(mode));
    end(&request, data);
    end(&request, info);
    return ask(&request);
}

static bool change(int index, unsigned short attribute, int value, unsigned flags)
{
    struct link_request request = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof(request.link)), .nlmsg_type = RTM_NEWLINK,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .link = {.ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_flags = flags, .ifi_change = flags},
    };
    if (attribute)
        put(&request, attribute, &value, sizeof(value));
    return ask(&request);
}

bool link_move(int index, int namespace)
{
    return change(index, IFLA_NET_NS_FD, namespace, 0);
}

bool link_up(const char *name, bool all)
{
    return change((int)if_nametoindex(name), 0, 0, all ? IFF_UP | IFF_PROMISC : IFF_UP);
}

bool link_delete(const char *name)
{
    struct link_request request = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof(request.link)), .nlmsg_type = RTM_DELLINK,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex(name)},
    };
    if (!request.link.ifi_index) {
        errno = ENODEV;
        return false;
    }
    return ask(&request);
}
