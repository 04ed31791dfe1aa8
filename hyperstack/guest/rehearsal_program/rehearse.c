/* What programs in containers do, each thing once: so that the guest's kernel has gone these ways before a machine is
 * forked. What fails is of no importance; it ends with 0 all the same. `rehearse wait` waits for its end. */
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Pages that are read from the disk when they are first touched, as most of a program and its libraries are. */
__asm__(".section .rodata\n"
        ".balign 4096\n"
        "pages: .fill 1048576, 1, 0x5a\n"
        ".previous");
extern const volatile char pages[1 << 20];

static void on_signal(int number)
{
    (void)number;
}

static void *in_thread(void *context)
{
    return context;
}

static void files(void)
{
    char buffer[4096];
    struct stat status;
    DIR *directory = opendir("/");
    int fd = open("/rehearsed", O_RDWR | O_CREAT | O_APPEND, 0644);

    while (directory && readdir(directory))
        continue;
    if (directory)
        closedir(directory);
    memset(buffer, 'x', sizeof(buffer));
    for (int i = 0; i < 4; i++)
        if (write(fd, buffer, sizeof(buffer)) < 0)
            break;
    if (pread(fd, buffer, sizeof(buffer), 0) < 0 || fsync(fd) < 0 || ftruncate(fd, 100) < 0)
        perror("files");
    void *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (mapped != MAP_FAILED) {
        (void)*(volatile char *)mapped;
        munmap(mapped, 4096);
    }
    close(fd);
    mkdir("/rehearsed.d", 0755);
    rename("/rehearsed", "/rehearsed.d/file");
    symlink("file", "/rehearsed.d/link");
    stat("/rehearsed.d/link", &status);
    chmod("/rehearsed.d/file", 0600);
    unlink("/rehearsed.d/link");
    unlink("/rehearsed.d/file");
    rmdir("/rehearsed.d");
    for (const char *const *path = (const char *const[]){"/etc/hosts", "/etc/resolv.conf", "/etc/passwd", "/proc/self/status",
                                                         "/proc/mounts", "/sys/kernel/mm/transparent_hugepage/enabled",
                                                         "/dev/urandom", "/dev/null", NULL};
         *path; path++) {
        fd = open(*path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && (fstat(fd, &status) < 0 || read(fd, buffer, sizeof(buffer)) < 0))
            perror(*path);
        close(fd);
    }
}

/* What a loader does with a library. */
static void library(char *self)
{
    int fd = open(self, O_RDONLY | O_CLOEXEC);
    size_t size = 1 << 20;

    for (size_t at = 0; at < sizeof(pages); at += 24 << 10)
        (void)pages[at];
    volatile char *mapped = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_DENYWRITE, fd, 0);
    if (mapped != MAP_FAILED) {
        char *data = mmap((char *)mapped + size / 2, size / 4, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_FIXED | MAP_DENYWRITE, fd, size / 4);
        if (data != MAP_FAILED) {
            memset(data, 1, 3 << 12);
            mprotect(data, 1 << 12, PROT_READ);
        }
        for (size_t at = 0; at < size; at += 40 << 10)
            (void)mapped[at];
        munmap((char *)mapped, size);
    }
    close(fd);
}

/* What a C library does before main. */
static void start_up(void)
{
    static _Alignas(32) char sequences[32];
    char path[256];
    struct rlimit stack;
    long end = syscall(SYS_brk, 0);

    syscall(SYS_brk, end + (132 << 10));
    syscall(SYS_rseq, sequences, sizeof(sequences), 0, 0x53053053);
    if (readlink("/proc/self/exe", path, sizeof(path)) < 0 || getrandom(path, 8, GRND_NONBLOCK) < 0
        || getrlimit(RLIMIT_STACK, &stack) < 0)
        perror("start");
}

static void processes(char *self)
{
    int ends[2], status;
    char buffer[64];
    pthread_t thread;

    signal(SIGCHLD, SIG_DFL);
    if (pipe(ends) < 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        close(ends[0]);
        execl(self, self, "line", NULL);
        _exit(127);
    }
    close(ends[1]);
    while (read(ends[0], buffer, sizeof(buffer)) > 0)
        continue;
    close(ends[0]);
    waitpid(child, &status, 0);
    signal(SIGUSR1, on_signal);
    kill(getpid(), SIGUSR1);
    if (pthread_create(&thread, NULL, in_thread, NULL) == 0)
        pthread_join(thread, NULL);
    void *memory = malloc(1 << 20);
    if (memory)
        memset(memory, 1, 1 << 20);
    free(memory);
}

static void sockets(void)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(here);
    char buffer[64] = "datagram";
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};

    if (bind(listener, (struct sockaddr *)&here, size) == 0 && listen(listener, 8) == 0
        && getsockname(listener, (struct sockaddr *)&here, &size) == 0) {
        int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
        if (connect(client, (struct sockaddr *)&here, size) == 0 && epoll_wait(epoll, &event, 1, 1000) == 1) {
            int server = accept(listener, NULL, NULL);
            if (write(client, buffer, sizeof(buffer)) < 0 || read(server, buffer, sizeof(buffer)) < 0)
                perror("sockets");
            close(server);
        }
        close(client);
    }
    close(listener);
    close(epoll);
    int datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    here.sin_port = 0;
    size = sizeof(here);
    if (bind(datagrams, (struct sockaddr *)&here, size) == 0
        && getsockname(datagrams, (struct sockaddr *)&here, &size) == 0
        && (sendto(datagrams, buffer, 8, 0, (struct sockaddr *)&here, size) < 0
            || recv(datagrams, buffer, sizeof(buffer), 0) < 0))
        perror("datagrams");
    close(datagrams);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
        struct pollfd ready = {.fd = pair[1], .events = POLLIN};
        if (write(pair[0], buffer, 8) < 0 || poll(&ready, 1, 1000) < 0 || read(pair[1], buffer, 8) < 0)
            perror("pair");
        close(pair[0]);
        close(pair[1]);
    }
}

int main(int argc, char **argv)
{
    const struct timespec moment = {0, 1000000};
    struct utsname name;

    if (argc > 1 && strcmp(argv[1], "wait") == 0)
        for (;;)
            sleep(1000);
    start_up();
    uname(&name);
    printf("%s\n", name.nodename);
    fflush(stdout);
    if (argc > 1)
        return 0;
    nanosleep(&moment, NULL);
    files();
    library(argv[0]);
    processes(argv[0]);
    sockets();
    return 0;
}
