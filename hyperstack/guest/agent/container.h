/* Containers and volumes: what is mounted for them and which control group they have. Their processes are in
 * process.h. */
#pragma once

#include "cgroup.h"
#include "loop.h"
#include "port.h"

#define ID_MAX 64
#define NAME_MAX_VOLUME 255
#define RUN_PATH "/run/agent"

enum mount_kind { MOUNT_TMPFS, MOUNT_VOLUME };

struct mount_spec {
    enum mount_kind kind;
    char *kind_text, *source, *share, *subpath, *target;
    bool read_only, copy_up;
    int64_t size, files, mode, uid, gid, flags;
};

struct file_spec {
    char *path;
    struct slice data;
    int64_t mode;
};

struct container {
    struct container *next;
    char id[ID_MAX + 1];
    char path[sizeof(RUN_PATH "/containers/") + ID_MAX]; /* layers/N, writable/, root/ (the overlay), files/N */
    struct arena arena;                                  /* of what follows */
    char **layers;
    char *writable;
    struct mount_spec *mounts;
    size_t mount_count;
    struct file_spec *files;
    size_t file_count;
    char **masked, **readonly;
    bool read_only, privileged;
    int64_t shm_size;

    int cgroup;
    struct watch cgroup_events, memory_events;
    uint64_t oom_kills;
    bool paused;

    struct process *main; /* running, else NULL */
    int32_t main_handle;  /* of the last one that was started; 0: none was */
    char user[256];       /* whom it runs as, in the container's words */
    int main_pidfd;       /* its namespaces, for exec */
    int root;             /* its root directory as it sees it, with all its mounts; -1 while it does not run */
    int devpts;           /* its instance of devpts */

    struct call freezing; /* a pause or resume that has not happened yet; connection 0: none */
    struct call removal;
    bool removing;
};

extern struct container *containers;

struct container *container_find(const char *id, struct problem *problem);
/* `problem.error` is ENXIO where a disk is not there yet: then nothing was made. */
bool container_create(struct slice arguments, struct problem *problem);
/* New contents of files that it was created with; those that it was not are left out. */
bool container_rewrite(struct container *container, struct slice files, struct arena *arena, struct problem *problem);
bool container_remove(struct container *container, const struct call *call, struct problem *problem);
void container_check_removal(struct container *container); /* something of it has ended */
bool container_freeze(struct container *container, bool frozen, const struct call *call, struct problem *problem);
void container_main_gone(struct container *container);
void container_unmount(struct container *container);
int container_root(const struct container *container); /* a new descriptor of its root, running or not */

bool volume_mount(struct slice arguments, struct problem *problem); /* ENXIO as above */
bool volume_unmount(const char *name, struct problem *problem);
/* Serves a volume's files to another machine, which is at the other end of a port, until it lets go of that. */
/* `tray`: serial of the disk that large reads and writes go by; NULL: they go by the port. */
bool volume_serve(const char *name, const char *port, bool read_only, const char *tray, struct problem *problem);
void volumes_unmount(void);
bool volumes_exist(void);
bool is_name(const char *text, size_t max); /* of [a-zA-Z0-9_.-], not "." or ".." */

/* rootfs.c, in the container's first process: its mounts, and its root as "/". `shm` is a detached mount for /dev/shm,
 * which is taken over, or one of these. */
#define SHM_OWN (-1)
#define SHM_NONE (-2)
bool rootfs_enter(const struct container *container, const char *terminal, int shm, struct problem *problem);
/* The volumes alone, for an archive of a container that does not run. */
bool rootfs_enter_volumes(const struct container *container, struct problem *problem);
