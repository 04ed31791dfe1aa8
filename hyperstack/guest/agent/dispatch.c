/* From a frame to an operation; what names a disk that is not there yet waits for it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "container.h"
#include "disks.h"
#include "loop.h"
#include "machine.h"

#define WAITING_MAX 64 /* calls that wait for disks at once */

static void describe_body(struct buffer *out, void *context)
{
    (void)context;
    machine_describe(out);
}

/* The calls whose arguments have a record of their own. `create` and `volume` fail with ENXIO where a disk is not there
 * yet. */
static bool run_call(const struct call *call, const char *op, struct slice body, size_t window,
                     struct problem *problem)
{
    if (strcmp(op, "configure") == 0) {
        if (!machine_configure(body, problem))
            return false;
        reply_with(call, describe_body, NULL);
        return true;
    }
    bool create = strcmp(op, "create") == 0;
    if (!create && strcmp(op, "volume") != 0)
        return run_operation(call, op, body, window, problem);
    if (!(create ? container_create(body, problem) : volume_mount(body, problem)))
        return false;
    reply_done(call);
    return true;
}

/* A call that waits for a disk, with a copy of its body. */
struct waiting {
    struct waiting *next;
    struct timer deadline;
    struct call call;
    char op[33];
    size_t size;
    uint8_t body[];
};

static struct waiting *waiting;
static size_t waiting_count;

static void waiting_free(struct waiting *wait)
{
    for (struct waiting **at = &waiting; *at; at = &(*at)->next) {
        if (*at == wait) {
            *at = wait->next;
            break;
        }
    }
    waiting_count--;
    timer_clear(&wait->deadline);
    free(wait);
}

/* True where the call has its answer. */
static bool try_again(struct waiting *wait, bool last)
{
    struct problem problem = {0};
    if (!run_call(&wait->call, wait->op, (struct slice){wait->body, (uint32_t)wait->size}, 0, &problem)) {
        if (problem.error == ENXIO && !last)
            return false;
        reply_problem(&wait->call, &problem);
    }
    return true;
}

static void deadline_expired(struct timer *timer)
{
    struct waiting *wait = CONTAINER_OF(timer, struct waiting, deadline);
    try_again(wait, true);
    waiting_free(wait);
}

void disks_changed(void)
{
    for (struct waiting *wait = waiting; wait;) {
        struct waiting *next = wait->next;
        if (try_again(wait, false))
            waiting_free(wait);
        wait = next;
    }
}

void calls_forget(void)
{
    while (waiting)
        waiting_free(waiting);
}

static bool wait_for_disk(const struct call *call, const char *op, struct slice body)
{
    struct waiting *wait = waiting_count < WAITING_MAX ? calloc(1, sizeof(*wait) + body.size) : NULL;
    if (!wait)
        return false;
    wait->call = *call;
    snprintf(wait->op, sizeof(wait->op), "%s", op);
    wait->size = body.size;
    memcpy(wait->body, body.data, body.size);
    wait->next = waiting;
    waiting = wait;
    waiting_count++;
    wait->deadline.expired = deadline_expired;
    timer_set(&wait->deadline, DISK_WAIT_NS);
    disks_look();
    return true;
}

/* The value of `op`, wherever it stands in the map. */
static bool find_op(struct slice body, char op[static 33])
{
    struct mp_reader reader = mp_reader(body);
    struct mp_value map, key, value;
    if (!mp_next(&reader, &map) || map.type != MP_MAP)
        return false;
    for (uint32_t i = 0; i < map.count; i++) {
        struct mp_reader ahead;
        if (!mp_next(&reader, &key))
            return false;
        ahead = reader;
        if (slice_equals(key.bytes, "op") && mp_next(&ahead, &value) && value.type == MP_STR && value.bytes.size <= 32) {
            snprintf(op, 33, "%.*s", (int)value.bytes.size, (const char *)value.bytes.data);
            return true;
        }
        if (!mp_skip(&reader))
            return false;
    }
    return false;
}

bool calls_dispatch(const struct call *call, struct slice body, size_t window)
{
    struct problem problem = {0};
    char op[33];
    if (!mp_valid(body) || !find_op(body, op))
        return false;
    if (run_call(call, op, body, window, &problem))
        return true;
    if (problem.error != ENXIO || !wait_for_disk(call, op, body))
        reply_problem(call, &problem);
    return true;
}
