/* What a container's first process mounts, in its own mount namespace, before its root becomes "/". */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "archive.h"
#include "container.h"
#include "mounts.h"

#define DEFAULT_SHM_SIZE (64 * 1024 * 1024) /* Docker's */
#define UNMOUNT_DETACH 2

static bool attach(int root, int mounted, const char *target, struct problem *problem)
{
    if (mounted < 0)
        return false;
    int fd = root_make_directory(root, target);
    bool good = fd >= 0 ? mount_attach(mounted, fd, target, problem)
                        : fail(problem, errno, "cannot make the directory %s: %s", target, strerror(errno));
    close_fd(&fd);
    close(mounted);
    return good;
}

static bool attach_file(int root, int mounted, const char *target, struct problem *problem)
{
    if (mounted < 0)
        return false;
    int fd = root_make_file(root, target, 0644);
    bool good = fd >= 0 ? mount_attach(mounted, fd, target, problem)
                        : fail(problem, errno, "cannot make the file %s: %s", target, strerror(errno));
    close_fd(&fd);
    close(mounted);
    return good;
}

static bool make_node(int directory, const char *name, mode_t type, dev_t device)
{
    return mknodat(directory, name, type | 0666, device) == 0 || errno == EEXIST;
}

/* A privileged container has every device of its VM. */
static void copy_nodes(int from, int to, unsigned depth)
{
    int fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (!directory) {
        close_fd(&fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat status;
        if (entry->d_name[0] == '.' || fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
            make_node(to, entry->d_name, status.st_mode & S_IFMT, status.st_rdev);
        } else if (S_ISDIR(status.st_mode) && depth && mkdirat(to, entry->d_name, 0755) == 0) {
            int from_below = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            int to_below = openat(to, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            copy_nodes(from_below, to_below, depth - 1);
            close_fd(&from_below);
            close_fd(&to_below);
        }
    }
    closedir(directory);
}

static bool fill_dev(int dev, bool privileged, struct problem *problem)
{
    static const struct {
        const char *name;
        unsigned major, minor;
    } nodes[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const char *const links[][2] = {
        {"/proc/self/fd", "fd"},       {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
        {"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"},      {"pts/ptmx", "ptmx"},
    };
    for (size_t i = 0; i < COUNT_OF(nodes); i++)
        if (!make_node(dev, nodes[i].name, S_IFCHR, makedev(nodes[i].major, nodes[i].minor)))
            return fail(problem, errno, "cannot make /dev/%s: %s", nodes[i].name, strerror(errno));
    for (size_t i = 0; i < COUNT_OF(links); i++)
        if (symlinkat(links[i][0], dev, links[i][1]) < 0 && errno != EEXIST)
            return fail(problem, errno, "cannot make /dev/%s: %s", links[i][1], strerror(errno));
    if (privileged) {
        int from = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        copy_nodes(from, dev, 3);
        close_fd(&from);
    }
    return true;
}

static bool mount_shm(const struct container *container, int root, int shm, struct problem *problem)
{
    char size[32];
    snprintf(size, sizeof(size), "%" PRId64, container->shm_size ? container->shm_size : DEFAULT_SHM_SIZE);
    const char *const options[] = {"mode", "1777", "size", size, NULL};
    if (shm == SHM_OWN)
        shm = mount_new("tmpfs", "shm", options, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, problem);
    return shm == SHM_NONE || attach(root, shm, "dev/shm", problem);
}

static bool mount_dev(const struct container *container, int root, const char *terminal, int shm,
                      struct problem *problem)
{
    static const char *const options[] = {"mode", "755", "size", "65536k", NULL};
    static const char *const queue_options[] = {NULL};
    if (!attach(root, mount_new("tmpfs", "tmpfs", options, ATTR_NOSUID, problem), "dev", problem))
        return false;
    int dev = root_open(root, "dev", O_RDONLY | O_DIRECTORY);
    bool good = dev >= 0 && fill_dev(dev, container->privileged, problem);
    close_fd(&dev);
    if (!good)
        return false;
    unsigned attributes = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    if (!attach(root, fcntl(container->devpts, F_DUPFD_CLOEXEC, 3), "dev/pts", problem) ||
        !attach(root, mount_new("mqueue", "mqueue", queue_options, attributes, problem), "dev/mqueue", problem) ||
        !mount_shm(container, root, shm, problem))
        return false;
    if (!terminal)
        return true;
    int peer = root_open(root, terminal, O_PATH);
    good = attach_file(root, mount_clone(peer, "", problem), "dev/console", problem);
    close_fd(&peer);
    return good;
}

static bool mount_system(const struct container *container, int root, const char *terminal, int shm,
                         struct problem *problem)
{
    unsigned attributes = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    unsigned guarded = attributes | (container->privileged ? 0 : ATTR_RDONLY);
    return attach(root, mount_new("proc", "proc", NULL, attributes, problem), "proc", problem) &&
           mount_dev(container, root, terminal, shm, problem) &&
           attach(root, mount_new("sysfs", "sysfs", NULL, guarded, problem), "sys", problem) &&
           attach(root, mount_new("cgroup2", "cgroup", NULL, guarded, problem), "sys/fs/cgroup", problem);
}

static int new_tmpfs(const struct mount_spec *mount, struct problem *problem)
{
    const struct tmpfs tmpfs = {.size = mount->size, .files = mount->files, .uid = mount->uid, .gid = mount->gid,
                                .mode = mount->mode ? (unsigned)mount->mode : 01777U};
    return mount_new_tmpfs("tmpfs", &tmpfs, 0, problem);
}

/* Whether nobody has put anything into a volume; a fresh ext4 has its lost+found. */
static bool is_empty(int directory)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    bool empty = listing != NULL;
    for (struct dirent *entry; empty && (entry = readdir(listing));)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                strcmp(entry->d_name, "lost+found") == 0;
    if (listing)
        closedir(listing);
    else
        close_fd(&fd);
    return empty;
}

static bool copy_up(int root, const char *target, int volume, struct problem *problem)
{
    int from = root_open(root, target, O_RDONLY | O_DIRECTORY);
    if (from < 0)
        return errno == ENOENT || errno == ENOTDIR || fail(problem, errno, "cannot read %s", target);
    bool good = !is_empty(volume) || archive_copy(from, volume, problem);
    close_fd(&from);
    return good;
}

/* What is mounted of a volume: nothing that links of its own lead to outside. Neither absence is a command's. */
static int open_part(const struct mount_spec *mount, struct problem *problem)
{
    char path[PATH_LIMIT];
    const char *subpath = mount->subpath && *mount->subpath ? mount->subpath : ".";
    snprintf(path, sizeof(path), RUN_PATH "/volumes/%s", mount->source);
    int volume = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (volume >= 0 && mount->share && *mount->share) {
        int share = beneath_open(volume, mount->share, O_PATH | O_DIRECTORY);
        close_fd(&volume);
        volume = share;
    }
    if (volume < 0) {
        fail(problem, EINVAL, "there is no volume %s", mount->source);
        return -1;
    }
    int part = beneath_open(volume, subpath, O_PATH);
    if (part < 0 && errno == EXDEV)
        fail(problem, EINVAL, "path \"%s\" escapes from volume %s", subpath, mount->source);
    else if (part < 0)
        fail(problem, EINVAL, "cannot access path \"%s\" in volume %s: %s", subpath, mount->source, strerror(errno));
    close_fd(&volume);
    return part;
}

static int bind_volume(int root, const struct mount_spec *mount, bool *is_directory, struct problem *problem)
{
    struct stat status;
    int mounted = -1, source = open_part(mount, problem);
    if (source >= 0 && fstat(source, &status) < 0) {
        fail(problem, EIO, "a part of volume %s: %s", mount->source, strerror(errno));
    } else if (source >= 0) {
        *is_directory = S_ISDIR(status.st_mode);
        if (!*is_directory || !mount->copy_up || copy_up(root, mount->target, source, problem))
            mounted = mount_clone(source, "", problem);
    }
    close_fd(&source);
    return mounted;
}

static unsigned attributes_of(const struct mount_spec *mount)
{
    /* MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC are the attributes' own values; MS_NOATIME is 1024. */
    unsigned attributes = (unsigned)mount->flags & (ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    if (mount->flags & 1024)
        attributes |= ATTR_NOATIME;
    return attributes | (mount->read_only ? ATTR_RDONLY : 0);
}

static bool mount_user(const struct mount_spec *mount, int root, struct problem *problem)
{
    bool is_directory = true;
    int mounted = mount->kind == MOUNT_TMPFS ? new_tmpfs(mount, problem)
                                             : bind_volume(root, mount, &is_directory, problem);
    if (mounted >= 0 && mount->kind == MOUNT_TMPFS && mount->copy_up && !copy_up(root, mount->target, mounted, problem))
        close_fd(&mounted);
    unsigned attributes = attributes_of(mount);
    if (mounted >= 0 && attributes && !mount_restrict(mounted, attributes, problem))
        close_fd(&mounted);
    return is_directory ? attach(root, mounted, mount->target, problem)
                        : attach_file(root, mounted, mount->target, problem);
}

static bool mount_users(const struct container *container, int root, bool volumes_only, struct problem *problem)
{
    for (size_t i = 0; i < container->mount_count; i++) {
        const struct mount_spec *mount = &container->mounts[i];
        if (!volumes_only || mount->kind == MOUNT_VOLUME)
            if (!mount_user(mount, root, problem))
                return false;
    }
    return true;
}

static bool bind_files(const struct container *container, int root, struct problem *problem)
{
    char path[PATH_LIMIT];
    for (size_t i = 0; i < container->file_count; i++) {
        snprintf(path, sizeof(path), "%s/files/%zu", container->path, i);
        if (!attach_file(root, mount_clone(AT_FDCWD, path, problem), container->files[i].path, problem))
            return false;
    }
    return true;
}

/* Covers a file with /dev/null and a directory with nothing. */
static bool mask(int root, const char *path, struct problem *problem)
{
    static const char *const options[] = {"size", "0", NULL};
    struct stat status;
    int target = root_open(root, path, O_PATH);
    if (target < 0 || fstat(target, &status) < 0) {
        close_fd(&target);
        return errno == ENOENT || errno == ENOTDIR || fail(problem, errno, "cannot mask %s", path);
    }
    int cover = S_ISDIR(status.st_mode) ? mount_new("tmpfs", "tmpfs", options, ATTR_RDONLY, problem)
                                        : mount_clone(AT_FDCWD, "/dev/null", problem);
    bool good = cover >= 0 && mount_attach(cover, target, path, problem);
    close_fd(&cover);
    close_fd(&target);
    return good;
}

static bool make_read_only(int root, const char *path, struct problem *problem)
{
    int target = root_open(root, path, O_PATH);
    if (target < 0)
        return errno == ENOENT || errno == ENOTDIR || fail(problem, errno, "cannot protect %s", path);
    int cover = mount_clone(target, "", problem);
    bool good = cover >= 0 && mount_restrict(cover, ATTR_RDONLY, problem) && mount_attach(cover, target, path, problem);
    close_fd(&cover);
    close_fd(&target);
    return good;
}

static bool guard_paths(const struct container *container, int root, struct problem *problem)
{
    for (char **path = container->readonly; *path; path++)
        if (!make_read_only(root, *path, problem))
            return false;
    for (char **path = container->masked; *path; path++)
        if (!mask(root, *path, problem))
            return false;
    return true;
}

/* The root alone: what is mounted below it keeps its own attributes. */
static bool protect_root(int root, struct problem *problem)
{
    struct {
        uint64_t set, clear, propagation, userns;
    } attributes = {.set = ATTR_RDONLY}; /* struct mount_attr */
    if (syscall(SYS_mount_setattr, root, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
        return fail(problem, errno, "cannot make the root read-only: %s", strerror(errno));
    return true;
}

/* The former root is what pivot_root put on top of the new one: detaching it leaves the container nothing of it. */
static bool enter(int root, struct problem *problem)
{
    if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        syscall(SYS_umount2, ".", UNMOUNT_DETACH) < 0 || chdir("/") < 0)
        return fail(problem, errno, "cannot enter the root: %s", strerror(errno));
    return true;
}

static int open_overlay(const struct container *container, struct problem *problem)
{
    char path[PATH_LIMIT];
    snprintf(path, sizeof(path), "%s/root", container->path);
    int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        fail(problem, errno, "cannot open %s: %s", path, strerror(errno));
    return root;
}

bool rootfs_enter(const struct container *container, const char *terminal, int shm, struct problem *problem)
{
    int root = open_overlay(container, problem);
    umask(0);
    bool good = root >= 0 && mount_system(container, root, terminal, shm, problem) &&
                mount_users(container, root, false, problem) && bind_files(container, root, problem) &&
                guard_paths(container, root, problem) &&
                (!container->read_only || protect_root(root, problem)) && enter(root, problem);
    umask(022);
    close_fd(&root);
    return good;
}

bool rootfs_enter_volumes(const struct container *container, struct problem *problem)
{
    int root = open_overlay(container, problem);
    bool good = root >= 0 && mount_users(container, root, true, problem) && enter(root, problem);
    close_fd(&root);
    return good;
}
