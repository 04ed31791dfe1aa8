/* name|uid[:group|gid], by the container's own /etc/passwd and /etc/group, as runc reads it. */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"

#define GROUPS_MAX 1024
#define ID_LIMIT 0x7fffffffUL

static bool parse_id(const char *text, unsigned *id)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    *id = (unsigned)number;
    return *text >= '0' && *text <= '9' && *end == 0 && errno == 0 && number <= ID_LIMIT;
}

static bool add_group(struct identity *identity, unsigned gid)
{
    for (size_t i = 0; i < identity->group_count; i++)
        if (identity->groups[i] == gid)
            return true;
    if (identity->group_count == GROUPS_MAX)
        return false;
    identity->groups[identity->group_count++] = gid;
    return true;
}

/* True where the user was found; a bare number need not be. `name` is what /etc/group knows the user by. */
static bool find_user(const char *wanted, struct identity *identity, char name[static 256])
{
    unsigned id = 0;
    bool numeric = parse_id(wanted, &id);
    bool found = false;
    FILE *file = fopen("/etc/passwd", "re");
    for (struct passwd *entry; file && !found && (entry = fgetpwent(file));) {
        /* A name of digits is looked for first, as a number only where there is no such name. */
        found = strcmp(entry->pw_name, wanted) == 0 || (numeric && entry->pw_uid == id);
        if (found) {
            identity->uid = entry->pw_uid;
            identity->gid = entry->pw_gid;
            snprintf(identity->home, sizeof(identity->home), "%s", entry->pw_dir);
            snprintf(name, 256, "%s", entry->pw_name);
        }
    }
    if (file)
        fclose(file);
    if (!found && numeric) {
        identity->uid = id;
        identity->gid = 0;
    }
    return found || numeric;
}

static bool find_group(const char *wanted, unsigned *gid)
{
    unsigned id = 0;
    bool numeric = parse_id(wanted, &id);
    bool found = false;
    FILE *file = fopen("/etc/group", "re");
    for (struct group *entry; file && !found && (entry = fgetgrent(file));) {
        found = strcmp(entry->gr_name, wanted) == 0 || (numeric && entry->gr_gid == id);
        if (found)
            *gid = entry->gr_gid;
    }
    if (file)
        fclose(file);
    if (!found && numeric)
        *gid = id;
    return found || numeric;
}

static void add_memberships(const char *name, struct identity *identity)
{
    FILE *file = fopen("/etc/group", "re");
    for (struct group *entry; file && (entry = fgetgrent(file));)
        for (char **member = entry->gr_mem; *member; member++)
            if (strcmp(*member, name) == 0)
                add_group(identity, entry->gr_gid);
    if (file)
        fclose(file);
}

/* Of a name that nobody has; a number is one that no id can have. */
static bool fail_to_find(const char *what, const char *file, const char *wanted, struct problem *problem)
{
    const char *digits = wanted + (*wanted == '-' || *wanted == '+');
    if (*digits && digits[strspn(digits, "0123456789")] == 0)
        return fail(problem, EINVAL, "uids and gids must be in range 0-2147483647");
    return fail(problem, EINVAL, "unable to find %s %.200s: no matching entries in %s file", what, wanted, file);
}

bool resolve_user(const struct process_spec *spec, struct identity *identity, struct problem *problem)
{
    char name[256] = "", wanted[256];
    snprintf(wanted, sizeof(wanted), "%s", spec->user && *spec->user ? spec->user : "0");
    char *group = strchr(wanted, ':');
    if (group)
        *group++ = 0;
    *identity = (struct identity){.groups = calloc(GROUPS_MAX, sizeof(unsigned)), .home = "/"};
    if (!identity->groups)
        return fail(problem, ENOMEM, "no memory for groups");
    if (!find_user(*wanted ? wanted : "0", identity, name))
        return fail_to_find("user", "passwd", wanted, problem);
    if (group && *group) {
        if (!find_group(group, &identity->gid))
            return fail_to_find("group", "group", group, problem);
    } else if (*name) {
        add_memberships(name, identity);
    }
    /* Among the others, too: a process that takes another group for its first one must not lose what denies it here. */
    if (!add_group(identity, identity->gid))
        return fail(problem, E2BIG, "more than %d groups", GROUPS_MAX);
    for (size_t i = 0; i < spec->group_count; i++)
        if (!add_group(identity, (unsigned)spec->groups[i]))
            return fail(problem, E2BIG, "more than %d groups", GROUPS_MAX);
    for (char **more = spec->group_names; more && *more; more++) {
        unsigned gid = 0;
        if (!find_group(*more, &gid))
            return fail_to_find("group", "group", *more, problem);
        if (!add_group(identity, gid))
            return fail(problem, E2BIG, "more than %d groups", GROUPS_MAX);
    }
    return true;
}
