/* What a container has changed of its image, and its root without what is mounted in it. */
#pragma once

#include <sys/stat.h>

#include "container.h"

enum layer_form {
    LAYER_TAR,     /* the writable layer as an image's layer */
    LAYER_CHANGES, /* its names: 'A', 'C' or 'D', an absolute path and a zero byte, each; parents before children */
    LAYER_ROOT,    /* the whole root as a tar, without volumes */
};

bool layer_form_of(const char *name, enum layer_form *form);
/* In a child of its own, in a mount namespace of its own. */
bool layer_read(const struct container *container, enum layer_form form, int out, struct problem *problem);

/* Of overlayfs's upper directories. */
bool layer_is_whiteout(const struct stat *status);
bool layer_is_opaque(int directory);
bool layer_is_plain(int directory, const char *path, struct problem *problem); /* false: it says what cannot be packed */
/* Whether it is there only because something was mounted on it: one of `points`, and empty. */
bool layer_is_mount_point(char *const *points, const char *path, int directory, const char *name,
                          const struct stat *status);
