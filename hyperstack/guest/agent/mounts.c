#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UNMOUNT_DETACH 2 /* MNT_DETACH: <sys/mount.h> does not go together with <linux/mount.h> */

static bool configure_mount(int context, const char *source, const char *const *options)
{
    if (source && syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", source, 0) < 0)
        return false;
    for (; options && options[0]; options += 2) {
        unsigned command = options[1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
        if (syscall(SYS_fsconfig, context, command, options[0], options[1], 0) < 0)
            return false;
    }
    return syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0;
}

int mount_new(const char *type, const char *source, const char *const *options, unsigned attributes,
              struct problem *problem)
{
    int mounted = -1;
    int context = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
    if (context >= 0 && configure_mount(context, source, options))
        mounted = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    if (mounted < 0) {
        int error = errno;
        /* The kernel's own words, where it has any ("e erofs: cannot find valid superblock"). */
        char words[160] = "";
        ssize_t size = context >= 0 ? read(context, words, sizeof(words) - 1) : 0;
        words[size > 0 ? size : 0] = 0;
        words[strcspn(words, "\n")] = 0;
        fail(problem, error, "cannot mount %s %s: %s %s", type, source ? source : "", strerror(error), words);
    }
    close_fd(&context);
    return mounted;
}

int mount_new_tmpfs(const char *source, const struct tmpfs *tmpfs, unsigned attributes, struct problem *problem)
{
    char size[32], files[32], mode[16], uid[32], gid[32];
    snprintf(size, sizeof(size), "%" PRId64, tmpfs->size);
    snprintf(files, sizeof(files), "%" PRId64, tmpfs->files);
    snprintf(mode, sizeof(mode), "%04o", tmpfs->mode);
    snprintf(uid, sizeof(uid), "%" PRId64, tmpfs->uid);
    snprintf(gid, sizeof(gid), "%" PRId64, tmpfs->gid);
    const char *options[11] = {"mode", mode, "uid", uid, "gid", gid};
    unsigned count = 6;
    if (tmpfs->size) {
        options[count++] = "size";
        options[count++] = size;
    }
    if (tmpfs->files) {
        options[count++] = "nr_inodes";
        options[count++] = files;
    }
    return mount_new("tmpfs", source, options, attributes, problem);
}

int mount_clone(int fd_at, const char *path, struct problem *problem)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | (*path ? 0 : AT_EMPTY_PATH);
    int cloned = (int)syscall(SYS_open_tree, fd_at, path, flags);
    if (cloned < 0)
        fail(problem, errno, "cannot bind %s: %s", path, strerror(errno));
    return cloned;
}

bool mount_restrict(int mount_fd, unsigned attributes, struct problem *problem)
{
    struct mount_attr set = {.attr_set = attributes};
    if (syscall(SYS_mount_setattr, mount_fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &set, sizeof(set)) < 0)
        return fail(problem, errno, "cannot set the attributes of a mount: %s", strerror(errno));
    return true;
}

bool mount_attach(int mount_fd, int target_fd, const char *what, struct problem *problem)
{
    if (syscall(SYS_move_mount, mount_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return fail(problem, errno, "cannot mount on %s: %s", what, strerror(errno));
    return true;
}

bool mount_attach_path(int mount_fd, const char *path, struct problem *problem)
{
    if (syscall(SYS_move_mount, mount_fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fail(problem, errno, "cannot mount on %s: %s", path, strerror(errno));
    return true;
}

bool unmount(const char *path)
{
    return syscall(SYS_umount2, path, 0) == 0 || (errno == EBUSY && syscall(SYS_umount2, path, UNMOUNT_DETACH) == 0);
}

static int open_within(int directory, const char *path, int flags, uint64_t resolve)
{
    struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = resolve | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, directory, *path ? path : ".", &how, sizeof(how));
}

int root_open(int root, const char *path, int flags)
{
    return open_within(root, path, flags, RESOLVE_IN_ROOT);
}

int beneath_open(int directory, const char *path, int flags)
{
    return open_within(directory, path, flags, RESOLVE_BENEATH);
}

/* Opens the directory `path`, and makes it in `parent` as `name` where it is missing. */
static int open_or_make(int root, const char *path, int parent, const char *name)
{
    int fd = root_open(root, path, O_PATH | O_DIRECTORY);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (mkdirat(parent, name, 0755) < 0)
        return -1;
    return root_open(root, path, O_PATH | O_DIRECTORY);
}

int root_make_directory(int root, const char *path)
{
    char prefix[PATH_LIMIT];
    size_t size = strlen(path);
    if (size >= sizeof(prefix)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int at = root_open(root, ".", O_PATH | O_DIRECTORY);
    for (size_t start = 0; at >= 0 && start < size;) {
        size_t end = start + strcspn(path + start, "/");
        if (end > start) {
            memcpy(prefix, path, end);
            prefix[end] = 0;
            int next = open_or_make(root, prefix, at, prefix + start);
            int error = errno;
            close_fd(&at);
            errno = error;
            at = next;
        }
        start = end + 1;
    }
    return at;
}

int root_make_file(int root, const char *path, unsigned mode)
{
    int fd = root_open(root, path, O_PATH);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    char parent[PATH_LIMIT];
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (strlen(path) >= sizeof(parent) || !*name) {
        errno = *name ? ENAMETOOLONG : EISDIR;
        return -1;
    }
    size_t size = (size_t)(name - path);
    memcpy(parent, path, size);
    parent[size] = 0;
    int directory = root_make_directory(root, parent);
    if (directory < 0)
        return -1;
    int made = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    int error = errno;
    close_fd(&directory);
    close_fd(&made);
    errno = error;
    return root_open(root, path, O_PATH);
}
