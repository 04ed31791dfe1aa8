/* What the host may ask about a running sandbox. */
#pragma once

#include "container.h"

void stats_describe(struct buffer *out, const struct container *only); /* NULL: all containers */
void processes_describe(struct buffer *out, const struct container *container);
