#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINGER_NS NSEC_PER_SEC /* how long a grandchild may keep an ended process's pipes */

struct process *processes;
static struct process *turn; /* whose stream is the next to send */

struct process *process_find(int64_t handle)
{
    for (struct process *process = processes; process; process = process->next)
        if (process->handle == handle)
            return process;
    return NULL;
}

void process_add(struct process *process)
{
    process->next = processes;
    processes = process;
}

static void process_free(struct process *process)
{
    for (struct process **at = &processes; *at; at = &(*at)->next) {
        if (*at == process) {
            *at = process->next;
            break;
        }
    }
    if (turn == process)
        turn = NULL;
    if (process->container && process->container->main == process)
        container_main_gone(process->container);
    timer_clear(&process->linger);
    output_free(&process->outputs[0]);
    output_free(&process->outputs[1]);
    if (!process->input.closed)
        input_close(&process->input);
    int status = process->status.fd;
    loop_remove(&process->status);
    close_fd(&status);
    close_fd(&process->terminal);
    close_fd(&process->terminal_peer);
    free(process);
}

static void pid_body(struct buffer *out, void *context)
{
    mp_put_map(out, 1);
    mp_key_int(out, "pid", ((struct process *)context)->pid);
}

/* The status pipe has ended: exec has succeeded, or the child has reported why not and is no process of the host's. */
void process_started(struct watch *watch, uint32_t events)
{
    (void)events;
    struct process *process = CONTAINER_OF(watch, struct process, status);
    struct problem problem;
    ssize_t got = read(watch->fd, &problem, sizeof(problem));
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int fd = watch->fd;
    loop_remove(watch);
    close_fd(&fd);
    process->starting = false;
    const struct call call = process->starter;
    if (got == sizeof(problem)) {
        problem.text[sizeof(problem.text) - 1] = 0;
        reply_problem(&call, &problem);
        process_free(process);
        return;
    }
    if (process->kind > PROCESS_EXEC) {
        reply_done(&call);
        return;
    }
    if (process->kind == PROCESS_MAIN && process->container) { /* else it was removed meanwhile */
        process->container->main_handle = process->handle;
        char path[64];
        snprintf(path, sizeof(path), "/proc/%d/root", process->pid);
        process->container->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    reply_with(&call, pid_body, process);
}

static void exit_body(struct buffer *out, void *context)
{
    const struct process *process = context;
    mp_put_map(out, 6);
    mp_key_str(out, "event", "exit");
    mp_key_int(out, "handle", process->handle);
    mp_key_int(out, "code", process->code);
    mp_key_int(out, "signal", process->signal);
    mp_key_bool(out, "oom", process->oom);
    mp_key_int(out, "time_ns", process->exit_ns);
}

static void linger_expired(struct timer *timer)
{
    struct process *process = CONTAINER_OF(timer, struct process, linger);
    output_finish(&process->outputs[0]);
    output_finish(&process->outputs[1]);
}

static void ended(struct process *process, int status)
{
    struct container *container = process->container;
    process->running = false;
    process->exit_ns = realtime_ns();
    process->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    process->code = process->signal ? 128 + process->signal : WEXITSTATUS(status);
    /* The kernel does not say whose kill it was. A shell whose child was killed says so with its own exit code. */
    if (container && process->kind <= PROCESS_EXEC && process->code == 128 + SIGKILL)
        process->oom = cgroup_oom_kills(container->cgroup) > process->oom_kills_before;
    if (container && container->main == process)
        container_main_gone(container);
    close_fd(&process->terminal_peer);
    if (!process->input.closed)
        input_close(&process->input);
    output_drain(&process->outputs[0]);
    output_drain(&process->outputs[1]);
    if (!process->outputs[0].ended || !process->outputs[1].ended) {
        process->linger.expired = linger_expired;
        timer_set(&process->linger, LINGER_NS);
    }
    send_event(exit_body, process);
    if (container)
        container_check_removal(container);
}

static struct process *find_pid(pid_t pid)
{
    for (struct process *process = processes; process; process = process->next)
        if (process->running && process->pid == pid)
            return process;
    return NULL;
}

void processes_reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        struct process *process = find_pid(pid);
        /* The answer to its start comes first. Without a report it was killed before or after exec: both are exits. */
        if (process && process->starting) {
            process_started(&process->status, 0);
            process = find_pid(pid);
        }
        if (process)
            ended(process, status);
    }
}

bool processes_running(void)
{
    for (struct process *process = processes; process; process = process->next)
        if (process->running)
            return true;
    return false;
}

void processes_detach(void)
{
    for (struct process *process = processes; process; process = process->next)
        process->outputs[0].attached = process->outputs[1].attached = process->input.attached = false;
}

bool processes_end_all(const struct container *container)
{
    bool any = false;
    for (struct process *process = processes; process; process = process->next) {
        if (process->container == container && process->running) {
            kill(process->pid, SIGKILL);
            any = true;
        }
    }
    return any;
}

void processes_forget_container(struct container *container)
{
    for (struct process *process = processes; process; process = process->next)
        if (process->container == container)
            process->container = NULL;
}

bool process_release(struct process *process, struct problem *problem)
{
    if (process->running)
        return fail(problem, EBUSY, "process %d runs", process->handle);
    process_free(process);
    return true;
}

struct signalling {
    int signal;
    bool reached;
};

static bool signal_one(pid_t pid, void *context)
{
    struct signalling *signalling = context;
    if (kill(pid, signalling->signal) == 0)
        signalling->reached = true;
    return true;
}

bool process_signal(struct process *process, int signal, bool all, struct problem *problem)
{
    if (!process->running)
        return fail(problem, ESRCH, "process %d has ended", process->handle);
    if (all && process->container && process->kind <= PROCESS_EXEC) {
        struct signalling signalling = {.signal = signal};
        if (signal == SIGKILL && cgroup_kill(process->container->cgroup))
            return true;
        cgroup_processes(process->container->cgroup, signal_one, &signalling);
        return signalling.reached || fail(problem, ESRCH, "the container has no process");
    }
    return kill(process->pid, signal) == 0 || fail(problem, errno, "cannot signal: %s", strerror(errno));
}

static void list_output(struct buffer *out, const char *key, const struct output *output)
{
    mp_put_str(out, key);
    mp_put_array(out, 3);
    mp_put_uint(out, output->acknowledged);
    mp_put_uint(out, output->written);
    mp_put_bool(out, output->ended);
}

void process_list(struct buffer *out)
{
    uint32_t count = 0;
    for (struct process *process = processes; process; process = process->next)
        count++;
    mp_put_array(out, count);
    for (struct process *process = processes; process; process = process->next) {
        mp_put_map(out, 11);
        mp_key_int(out, "handle", process->handle);
        mp_key_str(out, "container", process->container_id);
        mp_key_int(out, "pid", process->pid);
        mp_key_bool(out, "running", process->running);
        mp_key_int(out, "code", process->code);
        mp_key_int(out, "signal", process->signal);
        mp_key_bool(out, "oom", process->oom);
        mp_key_int(out, "exit_ns", process->exit_ns);
        mp_key_uint(out, "stdin", process->input.consumed + process->input.size);
        list_output(out, "stdout", &process->outputs[0]);
        list_output(out, "stderr", &process->outputs[1]);
    }
}

bool process_frame(const struct wire_frame *frame)
{
    struct process *process = process_find(frame->number);
    if (!process)
        return true; /* crossed with a failed start, or with a release */
    switch (frame->kind) {
    case WIRE_DATA:
        return input_add(&process->input, frame->offset, frame->body);
    case WIRE_EOF:
        return input_end(&process->input, frame->offset);
    case WIRE_ACK:
        return output_acknowledge(&process->outputs[frame->stream - 1], frame->offset);
    default:
        return false;
    }
}

static bool next_frame_of(struct process *process, struct stream_frame *frame, uint8_t *into, size_t max,
                          uint64_t window)
{
    struct input *input = &process->input;
    *frame = (struct stream_frame){.handle = process->handle};
    if (input_take_ack(input, &frame->offset)) {
        frame->kind = WIRE_ACK;
        return true;
    }
    if (input->attached && input->closed && !input->end_sent) {
        input->end_sent = true;
        frame->kind = WIRE_EOF;
        frame->offset = input->consumed;
        return true;
    }
    for (unsigned i = 0; i < 2; i++) {
        struct output *output = &process->outputs[i];
        frame->stream = i + 1;
        frame->offset = output->sent;
        frame->size = output_take(output, into, max, window);
        frame->kind = frame->size ? WIRE_DATA : WIRE_EOF;
        if (frame->size || output_take_end(output))
            return true;
    }
    return false;
}

bool processes_next_frame(struct stream_frame *frame, uint8_t *into, size_t max, uint64_t window)
{
    struct process *first = turn ? turn : processes;
    struct process *process = first;
    while (process) {
        struct process *next = process->next ? process->next : processes;
        if (next_frame_of(process, frame, into, max, window)) {
            turn = next;
            return true;
        }
        process = next == first ? NULL : next;
    }
    return false;
}
