/* Volumes: file systems that the containers of a pod share. */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container.h"
#include "disks.h"
#include "files.h"
#include "mounts.h"

#define VOLUMES_PATH RUN_PATH "/volumes"

struct volume_request {
    char *op, *name, *serial, *port, *tray;
    int64_t tmpfs, files, mode, uid, gid;
    bool read_only;
};

static int mount_tmpfs(const struct volume_request *request, struct problem *problem)
{
    const struct tmpfs tmpfs = {.size = request->tmpfs, .files = request->files, .uid = request->uid, .gid = request->gid,
                                .mode = request->mode < 0 ? 0777U : (unsigned)request->mode};
    return mount_new_tmpfs(request->name, &tmpfs, request->read_only ? ATTR_RDONLY : 0, problem);
}

static int mount_disk(const struct volume_request *request, struct problem *problem)
{
    struct disk_table table;
    disks_scan(&table);
    int mounted = -1;
    if (disk_device(&table, request->serial, problem)) {
        mounted = disk_mount(&table, request->serial, "ext4", request->read_only, problem);
        if (mounted < 0 && problem->error == ENXIO)
            problem->error = EIO;
    }
    disks_free(&table);
    /* The mode of a disk's root is kept with the disk: only a first use asks for one. */
    if (mounted >= 0 && request->mode >= 0 && fchmodat(mounted, ".", (mode_t)request->mode, 0) < 0) {
        fail(problem, errno, "cannot set the mode of volume %s: %s", request->name, strerror(errno));
        close_fd(&mounted);
    }
    return mounted;
}

static int mount_files(const struct volume_request *request, struct problem *problem)
{
    struct disk_table table = {0};
    const char *tray = NULL;
    int mounted = -1;
    if (request->tray)
        disks_scan(&table);
    if (!request->tray || (tray = disk_device(&table, request->tray, problem)))
        mounted = files_mount(request->port, tray, problem);
    disks_free(&table);
    return mounted;
}

bool volume_mount(struct slice arguments, struct problem *problem)
{
    static const struct field fields[] = {
        {"op", FIELD_TEXT, false, offsetof(struct volume_request, op), 0, 32},
        {"name", FIELD_TEXT, false, offsetof(struct volume_request, name), 1, NAME_MAX_VOLUME},
        {"serial", FIELD_TEXT, true, offsetof(struct volume_request, serial), 1, 63},
        {"port", FIELD_TEXT, true, offsetof(struct volume_request, port), 1, 63},
        {"tray", FIELD_TEXT, true, offsetof(struct volume_request, tray), 1, 63},
        {"tmpfs", FIELD_INT, true, offsetof(struct volume_request, tmpfs), 0, INT64_MAX},
        {"files", FIELD_INT, true, offsetof(struct volume_request, files), 0, INT64_MAX},
        {"read_only", FIELD_BOOL, true, offsetof(struct volume_request, read_only), 0, 0},
        {"mode", FIELD_INT, true, offsetof(struct volume_request, mode), 0, 07777},
        {"uid", FIELD_INT, true, offsetof(struct volume_request, uid), 0, UINT32_MAX - 1},
        {"gid", FIELD_INT, true, offsetof(struct volume_request, gid), 0, UINT32_MAX - 1},
    };
    struct volume_request request = {.mode = -1};
    struct arena arena = {0};
    char path[PATH_LIMIT];
    bool good = decode_record(arguments, fields, COUNT_OF(fields), &request, &arena, problem);
    if (good && !is_name(request.name, NAME_MAX_VOLUME))
        good = fail(problem, EINVAL, "%.64s is no volume name", request.name);
    if (good && !!request.serial + !!request.port + !!request.tmpfs > 1)
        good = fail(problem, EINVAL, "a volume has either a serial, a port or a tmpfs size");
    int mounted = -1;
    if (good) {
        snprintf(path, sizeof(path), VOLUMES_PATH "/%s", request.name);
        if (access(path, F_OK) == 0)
            good = fail(problem, EEXIST, "volume %.64s is mounted", request.name);
    }
    if (good)
        mounted = request.serial ? mount_disk(&request, problem)
                  : request.port ? mount_files(&request, problem)
                                 : mount_tmpfs(&request, problem);
    if (mounted >= 0 && make_directory(path, 0700) < 0)
        fail(problem, errno, "cannot make %s", path);
    else if (mounted >= 0 && mount_attach_path(mounted, path, problem))
        problem->error = 0;
    else if (mounted >= 0)
        rmdir(path);
    good = mounted >= 0 && problem->error == 0;
    close_fd(&mounted);
    arena_free(&arena);
    return good;
}

bool volume_unmount(const char *name, struct problem *problem)
{
    char path[PATH_LIMIT];
    snprintf(path, sizeof(path), VOLUMES_PATH "/%s", name);
    if (!is_name(name, NAME_MAX_VOLUME) || access(path, F_OK) < 0)
        return fail(problem, ENOENT, "there is no volume %.64s", name);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        syncfs(fd);
    close_fd(&fd);
    if (!unmount(path))
        return fail(problem, errno, "cannot unmount volume %.64s: %s", name, strerror(errno));
    rmdir(path);
    return true;
}

void volumes_unmount(void)
{
    DIR *directory = opendir(VOLUMES_PATH);
    struct problem ignored;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (entry->d_name[0] != '.' || is_name(entry->d_name, NAME_MAX_VOLUME))
            volume_unmount(entry->d_name, &ignored);
    if (directory)
        closedir(directory);
}

bool volumes_exist(void)
{
    bool found = false;
    DIR *directory = opendir(VOLUMES_PATH);
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));)
        found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (directory)
        closedir(directory);
    return found;
}
