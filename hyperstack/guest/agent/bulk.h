/* The data of a large archive past the agent's stream: by a disk that the host plugs in when much has come
 * (docs/protocol.md, Archives past the stream). One archive for each process; where nothing was offered, these are `read`
 * and `write`. */
#pragma once

#include "util.h"

#define BULK_PLACES 4
#define BULK_PLACE (1024 * 1024) /* bytes; that it is filled or emptied costs the guest as much as to move it does */
#define BULK_TURN 2 /* places that are emptied before that is said */
#define BULK_AFTER (1024 * 1024) /* bytes that go by the stream: a small archive needs no disk */

/* The host may give this process a disk. Before it enters a container's namespaces: disks are found from outside. */
void bulk_offer(void);
/* Keeps what is needed for that from being closed: puts it at `first`; the descriptor behind it. */
int bulk_keep(int first);

ssize_t bulk_read(int fd, uint8_t *data, size_t size);
ssize_t bulk_write(int fd, const uint8_t *data, size_t size);
bool bulk_flush(int fd); /* what `bulk_write` still holds; false with errno */
