/* Processes that the host started: the containers' commands, execs and archives. A record stays until `release`. */
#pragma once

#include "container.h"
#include "layer.h"
#include "stream.h"

#define PROCESSES_MAX 4096

enum process_kind { PROCESS_MAIN, PROCESS_EXEC, PROCESS_ARCHIVE_READ, PROCESS_ARCHIVE_WRITE, PROCESS_LAYER_READ };

struct process {
    struct process *next;
    int32_t handle;
    enum process_kind kind;
    char container_id[ID_MAX + 1];
    struct container *container; /* NULL once it is removed */
    pid_t pid;
    bool running;
    int terminal;      /* the master, for sizes; -1: no terminal */
    int terminal_peer; /* keeps the terminal from hanging up before the process has opened it, and after */
    struct output outputs[2];
    struct input input;
    struct watch status; /* the child's report: a struct problem, or nothing once exec has succeeded */
    struct call starter;
    bool starting;
    int code, signal;
    bool oom;
    int64_t exit_ns;
    uint64_t oom_kills_before;
    struct timer linger;
};

extern struct process *processes;

struct process *process_find(int64_t handle);
void process_add(struct process *process);
void process_started(struct watch *status, uint32_t events); /* for `status.ready` */
void processes_reap(void);
bool processes_running(void);
void processes_detach(void); /* a new connection: nothing flows until `attach` */
bool processes_end_all(const struct container *container); /* kills them; true while there are any */
void processes_forget_container(struct container *container);
bool process_release(struct process *process, struct problem *problem);
bool process_signal(struct process *process, int signal, bool all, struct problem *problem);
void process_list(struct buffer *out);

struct stream_frame {
    enum wire_kind kind;
    unsigned stream;
    int32_t handle;
    uint64_t offset;
    size_t size;
};

bool process_frame(const struct wire_frame *frame); /* DATA, ACK, EOF; false: a violation */
/* The next frame that a stream has to send; the bytes of DATA in `into`. Streams take turns. */
bool processes_next_frame(struct stream_frame *frame, uint8_t *into, size_t max, uint64_t window);

/* launch.c */

struct process_spec {
    char **argv, **env;
    char *cwd, *user;
    int64_t *groups; /* more groups */
    size_t group_count;
    char **group_names; /* and those by name, or number, of the container's own /etc/group */
    char *pid_of, *ipc_of; /* containers whose namespaces it is in; NULL: its own, and the sandbox's */
    bool own_ipc, no_shm;
    int64_t rows, columns, oom_score_adj;
    uint64_t capabilities; /* one bit each */
    struct {
        int resource;
        uint64_t soft, hard;
    } rlimits[16];
    size_t rlimit_count;
    struct slice seccomp; /* struct sock_filter[] */
    bool terminal, input, no_new_privileges, init, has_oom_score_adj;
};

/* What a child is to do; lives until the child has been made. */
struct job {
    enum process_kind kind;
    struct container *container;
    const struct container *pid_donor, *ipc_donor; /* they run; NULL where there is none */
    struct process_spec spec;
    char *path; /* archives */
    char *user; /* whose an archive's files become with `copy_uid_gid`; NULL: the container's, where it has run */
    enum layer_form form;
    bool no_overwrite_dir_non_dir, copy_uid_gid;
    bool bulk; /* archives: see bulk.h */
    int stdio[3];
    int status;
    char terminal[32]; /* "dev/pts/N", or empty */
};

bool decode_process(struct slice value, struct process_spec *spec, struct arena *arena, struct problem *problem);
/* Answers `call` itself, when exec has succeeded or failed; false: not even a child was made. */
bool process_launch(struct job *job, int64_t handle, size_t window, const struct call *call, struct problem *problem);
bool pid_namespace_is_shared(void);
bool share_pid_namespace(struct problem *problem); /* from now on all containers are in one, held by a process */

/* child.c */
_Noreturn void child_main(struct job *job);

/* user.c: inside the container's root. */
struct identity {
    unsigned uid, gid;
    unsigned *groups;
    size_t group_count;
    char home[PATH_LIMIT];
};

bool resolve_user(const struct process_spec *spec, struct identity *identity, struct problem *problem);
