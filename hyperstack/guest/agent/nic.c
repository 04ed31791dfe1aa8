/* Where the NIC is: with the containers as long as it is one of their networks, else in a network namespace of the
 * agent's own. They do not see it there, and what is on top of it goes on working. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include "machine.h"

static int with_containers = -1, apart = -1; /* the namespaces; apart: -1 until it is needed */
static bool is_apart;

/* The agent has one thread, so what it is in for a moment nobody else is. */
static bool make_apart(void)
{
    if (apart >= 0)
        return true;
    if (with_containers < 0 && (with_containers = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) < 0)
        return false;
    if (unshare(CLONE_NEWNET) < 0)
        return false;
    apart = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    return setns(with_containers, CLONE_NEWNET) == 0 && apart >= 0;
}

bool nic_is_apart(void)
{
    return is_apart;
}

bool nic_take_apart(bool up)
{
    const int index = (int)if_nametoindex(NIC);
    if (is_apart || !index)
        return true;
    if (!make_apart() || !link_move(index, apart))
        return false;
    is_apart = true;
    if (!up)
        return true;
    if (setns(apart, CLONE_NEWNET) < 0)
        return false;
    /* A move makes a device forget the hardware addresses of those on top of it; it never learns them again. */
    const bool good = link_up(NIC, true);
    return setns(with_containers, CLONE_NEWNET) == 0 && good;
}

bool nic_bring_back(void)
{
    if (!is_apart)
        return true;
    if (setns(apart, CLONE_NEWNET) < 0)
        return false;
    is_apart = !link_move((int)if_nametoindex(NIC), with_containers);
    return setns(with_containers, CLONE_NEWNET) == 0 && !is_apart;
}
