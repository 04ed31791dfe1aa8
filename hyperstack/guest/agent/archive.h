/* Tar in and out of a container's root. These run in a child of their own, whose root is the container's. */
#pragma once

#include "msgpack.h"

bool archive_read(const char *path, int out, struct problem *problem);
bool archive_write(const char *path, int in, bool no_overwrite_dir_non_dir, bool copy_uid_gid, struct problem *problem);
bool archive_copy(int from, int to, struct problem *problem); /* what is in one directory into another */
