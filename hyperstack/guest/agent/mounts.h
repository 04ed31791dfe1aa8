/* Mounts by descriptor (fsopen, open_tree, move_mount...), and paths that cannot leave a root: no string that a
 * container controls is ever resolved outside it. Functions return -1 and fill in `problem` where they fail. */
#pragma once

#include "msgpack.h"

/* Attributes of a mount; the kernel's MOUNT_ATTR_ values. */
#define ATTR_RDONLY 1U
#define ATTR_NOSUID 2U
#define ATTR_NODEV 4U
#define ATTR_NOEXEC 8U
#define ATTR_NOATIME 0x10U

/* A new, detached mount. `options` are NULL-terminated pairs "key", "value"; a value of NULL makes a flag. */
int mount_new(const char *type, const char *source, const char *const *options, unsigned attributes,
              struct problem *problem);

struct tmpfs {
    int64_t size, files, uid, gid; /* 0: the kernel's choice of size and files; root */
    unsigned mode;
};

int mount_new_tmpfs(const char *source, const struct tmpfs *tmpfs, unsigned attributes, struct problem *problem);
int mount_clone(int fd_at, const char *path, struct problem *problem); /* a detached bind, with what is mounted below */
bool mount_restrict(int mount_fd, unsigned attributes, struct problem *problem); /* the whole tree */
bool mount_attach(int mount_fd, int target_fd, const char *what, struct problem *problem);
bool mount_attach_path(int mount_fd, const char *path, struct problem *problem);
bool unmount(const char *path); /* waits for nothing: a busy mount is detached */

/* A relative path; -1 with EXDEV where it, or a link on its way, leads out of the directory. */
int beneath_open(int directory, const char *path, int flags);

/* Paths inside a root. Symbolic links are followed as if the root were "/". */
int root_open(int root, const char *path, int flags);
int root_make_directory(int root, const char *path);       /* with missing parents; O_PATH descriptor, -1 with errno */
int root_make_file(int root, const char *path, unsigned mode); /* the same */
