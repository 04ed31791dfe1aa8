#include "disks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mounts.h"

#define DISKS_MAX 4096
#define RENAMED_MAX 64
#define LOOK_US 1000

/* virtio-blk tells its serial itself; a SCSI disk in page 0x80 of its vital product data, after a header of four. */
static bool read_serial(int block, const char *name, char serial[static 64])
{
    char path[300];
    char page[68];
    snprintf(path, sizeof(path), "%s/serial", name);
    ssize_t size = read_text(block, path, serial, 64);
    if (size < 0) {
        snprintf(path, sizeof(path), "%s/device/vpd_pg80", name);
        size = read_text(block, path, page, sizeof(page)) - 4;
        if (size <= 0)
            return false;
        memcpy(serial, page + 4, (size_t)size);
        serial[size] = 0;
    }
    while (size > 0 && (serial[size - 1] == '\n' || serial[size - 1] == ' '))
        serial[--size] = 0;
    return size > 0;
}

/* What the host calls disks that have other serials. */
static struct {
    char serial[64], name[64];
} renamed[RENAMED_MAX];
static size_t renamed_count;

bool disks_rename(struct slice map, struct problem *problem)
{
    struct mp_reader reader = mp_reader(map);
    struct mp_value head, serial, name;
    renamed_count = 0;
    if (!map.size)
        return true;
    if (!mp_next(&reader, &head) || head.type != MP_MAP || head.count > RENAMED_MAX)
        return fail(problem, EINVAL, "disks is not a map of at most %d", RENAMED_MAX);
    for (uint32_t i = 0; i < head.count; i++) {
        if (!mp_next(&reader, &serial) || serial.type != MP_STR || serial.bytes.size >= sizeof(renamed[i].serial) ||
            !mp_next(&reader, &name) || name.type != MP_STR || name.bytes.size >= sizeof(renamed[i].name))
            return fail(problem, EINVAL, "disks holds what is no serial");
        snprintf(renamed[i].serial, sizeof(renamed[i].serial), "%.*s", (int)serial.bytes.size,
                 (const char *)serial.bytes.data);
        snprintf(renamed[i].name, sizeof(renamed[i].name), "%.*s", (int)name.bytes.size, (const char *)name.bytes.data);
    }
    renamed_count = head.count;
    return true;
}

static void rename_disk(char serial[static 64])
{
    for (size_t i = 0; i < renamed_count; i++)
        if (strcmp(renamed[i].serial, serial) == 0) {
            strcpy(serial, renamed[i].name);
            return;
        }
}

void disks_scan(struct disk_table *table)
{
    *table = (struct disk_table){0};
    DIR *block = opendir("/sys/block");
    if (!block)
        return;
    for (struct dirent *entry; (entry = readdir(block)) && table->count < DISKS_MAX;) {
        struct disk disk;
        if (entry->d_name[0] == '.' || strlen(entry->d_name) > 32 ||
            !read_serial(dirfd(block), entry->d_name, disk.serial))
            continue;
        rename_disk(disk.serial);
        struct disk *disks = realloc(table->disks, (table->count + 1) * sizeof(disk));
        if (!disks)
            break;
        snprintf(disk.device, sizeof(disk.device), "/dev/%.32s", entry->d_name);
        table->disks = disks;
        table->disks[table->count++] = disk;
    }
    closedir(block);
}

void disks_free(struct disk_table *table)
{
    free(table->disks);
    *table = (struct disk_table){0};
}

void disks_look(void)
{
    /* Channel and target are the host's choice: looking through all that there could be takes a second. */
    static const char where[] = "0 0 -";
    char path[300];
    DIR *hosts = opendir("/sys/class/scsi_host");
    for (struct dirent *entry; hosts && (entry = readdir(hosts));) {
        snprintf(path, sizeof(path), "%s/scan", entry->d_name);
        if (entry->d_name[0] != '.' && write_text(dirfd(hosts), path, where) < 0)
            log_line("cannot look for disks on %s: %s", entry->d_name, strerror(errno));
    }
    if (hosts)
        closedir(hosts);
}

/* The kernel shows a disk that it is still adding: it has a node then, and no device behind it. */
static bool opens(const char *device)
{
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    bool there = fd >= 0;
    close_fd(&fd);
    return there;
}

static int disk_open(int blocks, int devices, const char *serial, int flags)
{
    char found[64];
    int fd = -1, listed = openat(blocks, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = listed >= 0 ? fdopendir(listed) : NULL;
    for (struct dirent *entry; listing && fd < 0 && (entry = readdir(listing));)
        if (entry->d_name[0] != '.' && strlen(entry->d_name) <= 32 && read_serial(blocks, entry->d_name, found) &&
            strcmp(found, serial) == 0)
            fd = openat(devices, entry->d_name, flags);
    if (listing)
        closedir(listing);
    else
        close_fd(&listed);
    return fd;
}

int disk_wait(int blocks, int devices, const char *serial, int flags)
{
    int64_t deadline = now_ns() + DISK_WAIT_NS;
    int fd;
    while ((fd = disk_open(blocks, devices, serial, flags)) < 0 && now_ns() < deadline)
        usleep(LOOK_US);
    return fd;
}

const char *disk_device(const struct disk_table *table, const char *serial, struct problem *problem)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->disks[i].serial, serial) == 0 && opens(table->disks[i].device))
            return table->disks[i].device;
    fail(problem, ENXIO, "there is no disk with the serial %s", serial);
    return NULL;
}

int disk_mount(const struct disk_table *table, const char *serial, const char *type, bool read_only,
               struct problem *problem)
{
    static const char *const read_only_option[] = {"ro", NULL, NULL};
    const char *device = disk_device(table, serial, problem);
    return device ? mount_new(type, device, read_only ? read_only_option : NULL, read_only ? ATTR_RDONLY : 0, problem)
                  : -1;
}
