/* Disks by their serial, and the file systems made of them. */
#pragma once

#include "msgpack.h"

#define SERIAL_MAX 20 /* of a virtio-blk disk; SCSI has more */
#define DISK_WAIT_NS (10 * NSEC_PER_SEC)

struct disk {
    char serial[64];
    char device[48]; /* /dev/... */
};

struct disk_table {
    struct disk *disks;
    size_t count;
};

bool disks_rename(struct slice map, struct problem *problem); /* serial -> what calls name the disk by */
void disks_scan(struct disk_table *table);
void disks_free(struct disk_table *table);
/* NULL with ENXIO in `problem`: not there (yet). */
const char *disk_device(const struct disk_table *table, const char *serial, struct problem *problem);

/* The disk itself, by its own serial, found in these two (/sys/block and /dev), and waited for; -1: it does not come. */
int disk_wait(int blocks, int devices, const char *serial, int flags);

/* Have the kernel look for disks that came without a sign, as a clone's do, which were there before it woke. */
void disks_look(void);

/* A detached mount of a disk's file system. */
int disk_mount(const struct disk_table *table, const char *serial, const char *type, bool read_only,
               struct problem *problem);
