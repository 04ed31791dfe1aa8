/* What the guest has open. */
#include "serve.h"

#include <stdlib.h>
#include <unistd.h>

static struct handle *handles;
static unsigned capacity, hint;
static uint32_t serials;

bool handles_init(unsigned size)
{
    handles = calloc(size, sizeof(*handles));
    capacity = size;
    return handles != NULL;
}

uint64_t handle_add(int fd)
{
    for (unsigned tries = 0; tries < capacity; tries++) {
        unsigned at = hint++ % capacity;
        if (!handles[at].used) {
            handles[at] = (struct handle){.fd = fd, .serial = ++serials, .used = true};
            return (uint64_t)handles[at].serial << 32 | (at + 1);
        }
    }
    close(fd);
    return 0;
}

struct handle *handle_get(uint64_t number)
{
    uint32_t at = (uint32_t)number - 1;
    if ((uint32_t)number == 0 || at >= capacity || !handles[at].used || handles[at].serial != number >> 32)
        return NULL;
    return &handles[at];
}

void handle_remove(uint64_t number)
{
    struct handle *handle = handle_get(number);
    if (handle) {
        close(handle->fd);
        *handle = (struct handle){0};
    }
}
