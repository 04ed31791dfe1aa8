/*
 * fork: makes a QEMU that stands still into two, threads and all.
 *
 * A machine that has done once what every machine does has all that code translated, which is most of what a start
 * costs under emulation. A copy of its process shares that, and its memory, until it writes to it.
 *
 * The environment's HYPERSTACK_FORK names a socket. Each message on it is a `struct request` with descriptors, and is
 * answered with a number, negative errno where it failed. FORK makes one child, and the answer is its pid. REPLACE puts
 * descriptors in the place of others; a child has a socket of its own for that. When the other end hangs up, the parent
 * ends; a child goes on.
 *
 * How: the socket's signal interrupts the main thread, which makes every other thread stop in a handler of the same
 * signal, forks itself, and lets them go. In the child it takes the place it is given (control groups, user, sockets in
 * the place of the parent's) and makes every thread again, on its old stack and with its old thread-local storage, so
 * that all of them return from their handlers as if nothing had been. Wherever a thread was, the memory that it works
 * on was copied at that moment: no lock is lost.
 *
 * x86-64 and glibc only, as the one QEMU that it is preloaded into.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "raw.h"

/* glibc's own for cancelling threads: no thread of QEMU's ever blocks it, and QEMU never cancels one. */
#define SIGNAL 32
#define RESTORER 0x04000000
#define SET_OWNER 15 /* F_SETOWN_EX */
#define SET_SIGNAL 10
#define NUMBERS_MAX 256
#define THREADS_MAX 64
#define DESCRIPTORS_MAX 128
#define TID_SEARCH 2304 /* bytes of a thread's own record, among which is its number */
#define TUN_SET_OFFLOAD 0x400454d0
#define TUN_SET_HEADER_SIZE 0x400454d8

enum { FAILED = 125 };

enum { FORK = 1, REPLACE = 2 };

/* Descriptors come in this order: control groups to join, then those that replace others. */
struct request {
    uint32_t kind;
    uint32_t uid, cgroups, replaced, eventfds, threads;
    int32_t tap;                   /* which of the replaced is the NIC's, by its number; -1: none */
    char name[12];                 /* takes the place of the parent's in the process list */
    int32_t numbers[NUMBERS_MAX];  /* descriptors to replace, descriptors of eventfds, threads */
};

struct thread {
    long rbx, rbp, r12, r13, r14, r15, rsp, rip, tls;
    int *tid_at; /* glibc's record of its number */
};

static int control = -1;
static int is_child;
static long tid_offset; /* of that record from the thread's pointer */
static struct thread threads[THREADS_MAX];
static int stopped, claimed, generation;
static struct { unsigned offload; int header_size; } tap = {.header_size = -1};
static char *shown_name; /* where the command line has it */

/* Returns 0; and once more, 1, when `revive` has made the thread again. */
int save(struct thread *) __attribute__((returns_twice));
/* A new thread that goes on where `save` was called; its number or a negative errno. */
long revive(struct thread *);
void restorer(void);

#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS \
                      | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
_Static_assert(THREAD_FLAGS == 0x3d0f00, "as written below");
_Static_assert(SYS_clone == 56 && SYS_rt_sigreturn == 15, "as written below");

__asm__(".text\n"
        ".hidden save, revive, restorer\n"
        ".globl save, revive, restorer\n"
        "save:\n"
        "  mov %rbx, 0(%rdi)\n  mov %rbp, 8(%rdi)\n  mov %r12, 16(%rdi)\n  mov %r13, 24(%rdi)\n"
        "  mov %r14, 32(%rdi)\n  mov %r15, 40(%rdi)\n"
        "  lea 8(%rsp), %rdx\n  mov %rdx, 48(%rdi)\n  mov (%rsp), %rdx\n  mov %rdx, 56(%rdi)\n"
        "  xor %eax, %eax\n  ret\n"
        "revive:\n"
        "  push %r12\n  mov %rdi, %r12\n"
        "  mov $56, %eax\n  mov $0x3d0f00, %edi\n  mov 48(%r12), %rsi\n  mov 72(%r12), %rdx\n"
        "  mov 72(%r12), %r10\n  mov 64(%r12), %r8\n  syscall\n"
        "  test %rax, %rax\n  jz 1f\n  pop %r12\n  ret\n"
        "1:\n"
        "  mov %r12, %rdi\n  mov 0(%rdi), %rbx\n  mov 8(%rdi), %rbp\n  mov 16(%rdi), %r12\n  mov 24(%rdi), %r13\n"
        "  mov 32(%rdi), %r14\n  mov 40(%rdi), %r15\n  mov $1, %eax\n  jmp *56(%rdi)\n"
        "restorer:\n"
        "  mov $15, %eax\n  syscall\n");

static void __attribute__((noreturn)) leave(int status)
{
    for (;;)
        RAW(SYS_exit_group, status);
}

static void need(long result)
{
    static const char words[] = "a forked machine could not take its place\n";

    if (result < 0) {
        RAW(SYS_write, 2, words, sizeof(words) - 1);
        leave(FAILED);
    }
}

static long thread_pointer(void)
{
    long pointer;

    RAW(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, &pointer);
    return pointer;
}

static void wait_while(int *at, int value, const struct timespec *limit)
{
    RAW(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, limit);
}

static void wake(int *at)
{
    RAW(SYS_futex, at, FUTEX_WAKE_PRIVATE, THREADS_MAX);
}

/* What every thread but the first does on the signal. */
static void stand_still(void)
{
    int mine = __atomic_load_n(&generation, __ATOMIC_SEQ_CST);
    int slot = __atomic_fetch_add(&claimed, 1, __ATOMIC_SEQ_CST);

    if (slot >= THREADS_MAX)
        return;
    struct thread *thread = &threads[slot];
    thread->tls = thread_pointer();
    thread->tid_at = (int *)(thread->tls + tid_offset);
    if (save(thread))
        return;
    __atomic_fetch_add(&stopped, 1, __ATOMIC_SEQ_CST);
    wake(&stopped);
    while (__atomic_load_n(&generation, __ATOMIC_SEQ_CST) == mine)
        wait_while(&generation, mine, NULL);
}

/* QEMU has settled with what it found there whether it may block. */
static void put_in_place(int fd, int number)
{
    long before = RAW(SYS_fcntl, number, F_GETFL), after = RAW(SYS_fcntl, fd, F_GETFL);

    need(before);
    need(after);
    if ((before ^ after) & O_NONBLOCK)
        need(RAW(SYS_fcntl, fd, F_SETFL, after ^ O_NONBLOCK));
    need(RAW(SYS_dup3, fd, number, O_CLOEXEC));
    need(RAW(SYS_close, fd));
}

/* The new tap as the guest has it already. */
static void set_tap(int fd)
{
    if (tap.header_size >= 0)
        need(RAW(SYS_ioctl, fd, TUN_SET_HEADER_SIZE, &tap.header_size));
    need(RAW(SYS_ioctl, fd, TUN_SET_OFFLOAD, tap.offload));
}

static void drop_privileges(unsigned uid)
{
    static const int kept[] = {CAP_SETUID, CAP_SETGID, CAP_SYS_ADMIN, CAP_SETPCAP}; /* by the jail, for this */
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};

    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        need(RAW(SYS_prctl, PR_CAPBSET_DROP, kept[i]));
    need(RAW(SYS_setgroups, 0, NULL));
    need(RAW(SYS_setresgid, uid, uid, uid));
    need(RAW(SYS_setresuid, uid, uid, uid));
    need(RAW(SYS_capset, &header, none));
}

static void replace(const struct request *request, const int *fds)
{
    for (unsigned i = 0; i < request->replaced; i++) {
        if (request->numbers[i] == request->tap)
            set_tap(fds[i]);
        put_in_place(fds[i], request->numbers[i]);
    }
}

/* Requests interrupt the first thread. */
static void listen_to_requests(void)
{
    struct { int type, pid; } owner = {0 /* a thread */, (int)RAW(SYS_gettid)};

    need(RAW(SYS_fcntl, control, SET_OWNER, &owner));
    need(RAW(SYS_fcntl, control, SET_SIGNAL, SIGNAL));
    need(RAW(SYS_fcntl, control, F_SETFL, O_RDWR | O_ASYNC | O_NONBLOCK));
    need(RAW(SYS_fcntl, control, F_SETFD, FD_CLOEXEC));
}

/* Room for descriptors that come later: to enlarge a table that threads share, the kernel waits for a grace period (12 ms,
 * measured). Nobody shares it yet. */
static void enlarge_table(void)
{
    long last = RAW(SYS_fcntl, control, F_DUPFD_CLOEXEC, 255);

    need(last);
    need(RAW(SYS_close, last));
}

/* In the child, alone so far. */
static void take_place(const struct request *request, const int *fds)
{
    const int32_t *number = request->numbers + request->replaced;

    for (unsigned i = 0; i < request->cgroups; i++, fds++) {
        need(RAW(SYS_write, *fds, "0", 1));
        need(RAW(SYS_close, *fds));
    }
    replace(request, fds);
    is_child = 1;
    /* Raised once, lest a wake-up be lost that was under way. */
    for (unsigned i = 0; i < request->eventfds; i++, number++) {
        long fd = RAW(SYS_eventfd2, 1, O_CLOEXEC | O_NONBLOCK);
        need(fd);
        put_in_place((int)fd, *number);
    }
    for (unsigned i = 0; shown_name && i < sizeof(request->name) && shown_name[i]; i++)
        shown_name[i] = request->name[i];
    need(RAW(SYS_setsid));
    drop_privileges(request->uid);
    enlarge_table();
    /* The kernel compares users when it sends the signal. */
    listen_to_requests();
    need(install_filter());
}

/* True when so many threads stand still. */
static int stop_threads(const int32_t *tids, unsigned count, int *expected)
{
    const struct timespec limit = {1, 0};
    long self = RAW(SYS_getpid);
    int now;

    stopped = claimed = *expected = 0;
    for (unsigned i = 0; i < count; i++)
        if (tids[i] != self && RAW(SYS_tgkill, self, tids[i], SIGNAL) == 0)
            ++*expected;
    while ((now = __atomic_load_n(&stopped, __ATOMIC_SEQ_CST)) < *expected)
        if (RAW(SYS_futex, &stopped, FUTEX_WAIT_PRIVATE, now, &limit) == -ETIMEDOUT)
            return 0;
    return 1;
}

/* The child's pid, a negative errno; 0 in the child, once it is confined and whole. */
static long branch(const struct request *request, const int *fds)
{
    int count;
    long pid = -EBUSY;

    if (stop_threads(request->numbers + request->replaced + request->eventfds, request->threads, &count))
        /* A sibling, so that whoever waits for the parent is told of this one's end as well. */
        pid = RAW(SYS_clone,
                  CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD | CLONE_NEWNS | CLONE_NEWNET
                      | CLONE_NEWIPC | CLONE_NEWUTS,
                  0, 0, thread_pointer() + tid_offset);
    if (pid == 0) {
        take_place(request, fds);
        for (int i = 0; i < count; i++)
            need(revive(&threads[i]));
        return 0;
    }
    __atomic_fetch_add(&generation, 1, __ATOMIC_SEQ_CST);
    wake(&generation);
    return pid;
}

static int is_sound(const struct request *request, long size, unsigned fds)
{
    const long head = sizeof(*request) - sizeof(request->numbers);
    uint64_t numbers = size < head ? 0 : (uint64_t)request->replaced + request->eventfds + request->threads;

    return size >= head && numbers <= NUMBERS_MAX && request->threads <= THREADS_MAX
           && ((request->kind == FORK && request->uid > 0 && !is_child)
               || (request->kind == REPLACE && request->cgroups == 0))
           && (uint64_t)(size - head) == 4 * numbers
           && (uint64_t)request->cgroups + request->replaced == fds;
}

static void serve(void)
{
    struct request request;
    union {
        char space[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
        struct cmsghdr aligned;
    } ancillary;
    struct iovec part = {&request, sizeof(request)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof(ancillary)};
    long size = RAW(SYS_recvmsg, control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (size == -EAGAIN || size == -EINTR)
        return;
    if (size <= 0) {
        if (!is_child)
            leave(0);
        RAW(SYS_close, control);
        control = -1;
        return;
    }
    const struct cmsghdr *head = message.msg_controllen ? CMSG_FIRSTHDR(&message) : NULL;
    const int *fds = head ? (const int *)CMSG_DATA(head) : NULL;
    unsigned count = head ? (unsigned)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
    int64_t answer = -EINVAL;
    if (is_sound(&request, size, count)) {
        if (request.kind == REPLACE) {
            replace(&request, fds);
            answer = count = 0;
        } else if ((answer = branch(&request, fds)) == 0) {
            return; /* in the child */
        }
    }
    for (unsigned i = 0; i < count; i++)
        RAW(SYS_close, fds[i]);
    RAW(SYS_write, control, &answer, sizeof(answer));
}

static void on_signal(int number)
{
    (void)number;
    if (RAW(SYS_gettid) == RAW(SYS_getpid))
        serve();
    else
        stand_still();
}

/* The number in the environment; -1 where there is none. */
static int find_control(char **environment)
{
    for (; *environment; environment++) {
        const char *value = after(*environment, "HYPERSTACK_FORK=");

        if (!value)
            continue;
        int number = small_number(value);
        /* Nobody's business any more. */
        for (char *wiped = *environment; *wiped; wiped++)
            *wiped = 0;
        return number;
    }
    return -1;
}

/* What follows the prefix in the value of -name. */
static char *find_name(char **argv)
{
    for (; argv[0] && argv[1]; argv++) {
        const char *end = after(argv[0], "-name");

        if (end && !*end)
            return (char *)after(argv[1], "hyperstack-");
    }
    return NULL;
}

static void __attribute__((constructor)) begin(int argc, char **argv, char **environment)
{
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        unsigned long mask;
    } action = {on_signal, SA_RESTART | RESTORER, restorer, ~0UL};
    int tid = (int)RAW(SYS_gettid);

    (void)argc;
    control = find_control(environment);
    if (control < 0)
        return;
    shown_name = find_name(argv);
    while (*(int *)(thread_pointer() + tid_offset) != tid)
        if ((tid_offset += (long)sizeof(int)) >= TID_SEARCH)
            leave(FAILED);
    need(RAW(SYS_rt_sigaction, SIGNAL, &action, NULL, sizeof(action.mask)));
    listen_to_requests();
}

/* QEMU wants its guest's RAM to be left out of children. */
EXPORTED int madvise(void *address, size_t size, int advice)
{
    if (control >= 0 && advice == MADV_DONTFORK)
        return 0;
    return (int)told(RAW(SYS_madvise, address, size, advice));
}

/* Remembers what was settled about the tap, for the child's. */
EXPORTED int ioctl(int fd, unsigned long request, ...)
{
    va_list more;

    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    long result = RAW(SYS_ioctl, fd, request, argument);
    if (control >= 0 && result == 0 && request == TUN_SET_OFFLOAD)
        tap.offload = (unsigned)(uintptr_t)argument;
    if (control >= 0 && result == 0 && request == TUN_SET_HEADER_SIZE)
        tap.header_size = *(int *)argument;
    return (int)told(result);
}
