#include "bulk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disks.h"

#define SECTOR 512
#define SERIAL_SIZE 20

static struct {
    bool offered;         /* and not decided yet */
    int blocks, devices;  /* /sys/block and /dev of the agent */
    uint64_t passed;      /* by the stream */
    int disk;             /* -1: all goes by the stream */
    unsigned turn;        /* places were used */
    unsigned vacant;      /* places that may be written to */
    size_t size, used;    /* of the present place */
    uint8_t *data;        /* and what is in it */
} bulk = {.blocks = -1, .devices = -1, .disk = -1};

void bulk_offer(void)
{
    bulk.blocks = open("/sys/block", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bulk.devices = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bulk.offered = true;
}

int bulk_keep(int first)
{
    int *const kept[] = {&bulk.blocks, &bulk.devices};
    if (!bulk.offered)
        return first;
    for (size_t i = 0; i < COUNT_OF(kept); i++) /* out of each other's way */
        *kept[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, first + (int)COUNT_OF(kept));
    for (size_t i = 0; i < COUNT_OF(kept); i++)
        *kept[i] = dup2(*kept[i], first + (int)i);
    return first + (int)COUNT_OF(kept);
}

/* Less than `size` bytes only at the stream's end; -1 with errno. */
static ssize_t read_whole(int fd, void *data, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t got = read(fd, (uint8_t *)data + have, size - have);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            return -1;
        have += got > 0 ? (size_t)got : 0;
    }
    return (ssize_t)have;
}

static bool write_whole(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = write(fd, (const uint8_t *)data + done, size - done);
        if (put < 0 && errno != EINTR)
            return false;
        done += put > 0 ? (size_t)put : 0;
    }
    return true;
}


/* The host says by which disk the rest goes, or by none, and is told whether it does. */
static bool decide(void)
{
    char serial[SERIAL_SIZE + 1] = "";
    bulk.offered = false;
    ssize_t got = read_whole(STDIN_FILENO, serial, SERIAL_SIZE);
    if (got == 0)
        return true; /* nothing more comes */
    if (got != SERIAL_SIZE)
        return errno = EPROTO, false;
    if (*serial && (bulk.data = aligned_alloc(4096, BULK_PLACE)))
        bulk.disk = disk_wait(bulk.blocks, bulk.devices, serial, O_RDWR | O_DIRECT | O_CLOEXEC);
    bulk.vacant = BULK_PLACES;
    const uint8_t word = bulk.disk >= 0;
    return write_whole(STDOUT_FILENO, &word, sizeof(word));
}

/* How much may go by the stream before it is to be asked again; 0: something failed. */
static size_t stream_part(size_t size)
{
    if (bulk.offered && bulk.passed == BULK_AFTER && !decide())
        return 0;
    if (bulk.offered && size > BULK_AFTER - bulk.passed)
        return (size_t)(BULK_AFTER - bulk.passed);
    return size;
}

static size_t whole_sectors(size_t size)
{
    return (size + SECTOR - 1) / SECTOR * SECTOR;
}

static off_t next_place(void)
{
    return (off_t)(bulk.turn++ % BULK_PLACES) * BULK_PLACE;
}

/* The next place that the host has filled. False: there is none, with errno 0 at the end. */
static bool fetch(void)
{
    static const uint8_t words[BULK_TURN] = {1, 1};
    uint8_t record[4];
    if (bulk.size && bulk.turn % BULK_TURN == 0 && !write_whole(STDOUT_FILENO, words, sizeof(words)))
        return false;
    bulk.size = bulk.used = 0;
    ssize_t got = read_whole(STDIN_FILENO, record, sizeof(record));
    if (got <= 0)
        return errno = got == 0 ? 0 : errno, false;
    uint32_t size = get_le32(record);
    if (got != sizeof(record) || size == 0 || size > BULK_PLACE)
        return errno = EPROTO, false;
    size_t whole = whole_sectors(size);
    ssize_t read = pread(bulk.disk, bulk.data, whole, next_place());
    if (read != (ssize_t)whole)
        return errno = read < 0 ? errno : EIO, false;
    bulk.size = size;
    return true;
}

ssize_t bulk_read(int fd, uint8_t *data, size_t size)
{
    size_t part = stream_part(size);
    if (!part)
        return size ? -1 : 0;
    if (bulk.disk < 0) {
        ssize_t got = read(fd, data, part);
        bulk.passed += got > 0 ? (uint64_t)got : 0;
        return got;
    }
    if (bulk.used == bulk.size && !fetch())
        return errno ? -1 : 0;
    if (part > bulk.size - bulk.used)
        part = bulk.size - bulk.used;
    memcpy(data, bulk.data + bulk.used, part);
    bulk.used += part;
    return (ssize_t)part;
}

bool bulk_flush(int fd)
{
    uint8_t record[4], words[BULK_PLACES];
    if (bulk.disk < 0 || !bulk.used)
        return true;
    size_t whole = whole_sectors(bulk.used);
    memset(bulk.data + bulk.used, 0, whole - bulk.used);
    ssize_t put = pwrite(bulk.disk, bulk.data, whole, next_place());
    if (put != (ssize_t)whole)
        return errno = put < 0 ? errno : EIO, false;
    put_le32(record, (uint32_t)bulk.used);
    bulk.used = 0;
    bulk.vacant--;
    if (!write_whole(fd, record, sizeof(record)))
        return false;
    while (!bulk.vacant) { /* a byte for each place that the host has emptied */
        ssize_t got = read(STDIN_FILENO, words, sizeof(words));
        if (got == 0)
            return errno = EPIPE, false;
        if (got < 0 && errno != EINTR)
            return false;
        bulk.vacant += got > 0 ? (unsigned)got : 0;
    }
    return true;
}

ssize_t bulk_write(int fd, const uint8_t *data, size_t size)
{
    size_t part = stream_part(size);
    if (!part)
        return size ? -1 : 0;
    if (bulk.disk < 0) {
        ssize_t put = write(fd, data, part);
        bulk.passed += put > 0 ? (uint64_t)put : 0;
        return put;
    }
    if (part > BULK_PLACE - bulk.used)
        part = BULK_PLACE - bulk.used;
    memcpy(bulk.data + bulk.used, data, part);
    bulk.used += part;
    return bulk.used < BULK_PLACE || bulk_flush(fd) ? (ssize_t)part : -1;
}
