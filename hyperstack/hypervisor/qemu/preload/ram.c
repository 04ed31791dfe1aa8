/*
 * ram: gives a QEMU its guest's RAM from a descriptor that it got, and a clone's holes memory of their own.
 *
 * Preloaded into every QEMU. A path /ram/N stands for descriptor N, so that QEMU, which can only open RAM by a path,
 * opens nothing. Where a file is mapped privately (a clone of a template), only its data is: what is a hole in the file
 * becomes anonymous memory. Else a clone that touches a hole would fill it in the file, for all to pay, and have its
 * copy as well. The file may be open for reading only, which QEMU by itself would refuse: a clone, whatever
 * becomes of it, cannot write to the template.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "raw.h"

/* Extents closer than this are mapped as one: a process may have 65,530 mappings, and each costs the kernel memory. */
#define GAP_MAX (256 * 1024)
#define PAGE ((int64_t)4096)

static int ram_fd = -1;
static int ram_is_private;

EXPORTED int open64(const char *path, int flags, ...)
{
    va_list more;
    const char *name = after(path, "/ram/");
    int number = name ? small_number(name) : -1;

    if (number >= 0)
        return ram_fd = (int)told(RAW(SYS_fcntl, number, F_DUPFD_CLOEXEC, 3));
    va_start(more, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    return (int)told(RAW(SYS_openat, AT_FDCWD, (long)path, flags, mode));
}

/* Where a guest gives memory back, QEMU makes a hole in the file behind it as well. In a template's there is nothing to be
 * given back: what the process has of its own goes when the memory does. */
EXPORTED int fallocate64(int fd, int mode, off_t offset, off_t size)
{
    if (fd == ram_fd && ram_is_private)
        return 0;
    return (int)told(RAW(SYS_fallocate, fd, mode, offset, size));
}

static long map(void *address, size_t size, int protection, int flags, int fd, int64_t offset)
{
    return RAW(SYS_mmap, (long)address, (long)size, protection, flags, fd, offset);
}

static long map_data(long base, int64_t size, int protection, int fd)
{
    int64_t start = RAW(SYS_lseek, fd, 0, SEEK_DATA, 0, 0, 0);

    while (start >= 0 && start < size) {
        int64_t next, end = start;

        do {
            end = RAW(SYS_lseek, fd, end, SEEK_HOLE, 0, 0, 0);
            if (end < 0)
                return end;
            next = RAW(SYS_lseek, fd, end, SEEK_DATA, 0, 0, 0);
            if (next >= 0 && next - end < GAP_MAX)
                end = next;
        } while (end == next && end < size);
        start &= -PAGE;
        end = ((end < size ? end : size) + PAGE - 1) & -PAGE;
        long mapped = map((char *)base + start, (size_t)(end - start), protection, MAP_PRIVATE | MAP_FIXED, fd, start);
        if (mapped < 0 && mapped > -4096)
            return mapped;
        start = next;
    }
    return start == -ENXIO || start >= size ? base : start;
}

EXPORTED void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fd < 0 || fd != ram_fd || (flags & MAP_TYPE) != MAP_PRIVATE || offset)
        return (void *)told(map(address, size, protection, flags, fd, offset));
    ram_is_private = 1;
    long base = map(address, size, protection, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base < 0 && base > -4096)
        return (void *)told(base);
    return (void *)told(map_data(base, (int64_t)size, protection, fd));
}
