/* fstest cases DIR            what POSIX and Linux promise of a file system, case by case
 * fstest random DIR SEED N    N random operations on a file, compared with a model in memory
 * fstest hold FILE            locks it until it is killed; prints "held" when it has
 * fstest try FILE             1 where somebody else has it locked
 * fstest attributes FILE      1 where it has others than user.test, or others can be set
 *
 * Each case prints "ok NAME" or "not ok NAME: what, line". Runs as root within DIR, which it leaves empty. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define OTHER 4321

static const char *failed;
static int failed_line, failed_errno;

#define CHECK(condition)                                \
    do {                                                \
        if (!(condition)) {                             \
            failed = #condition;                        \
            failed_line = __LINE__;                     \
            failed_errno = errno;                       \
            return;                                     \
        }                                               \
    } while (0)
#define FAILS(call, error) CHECK((call) < 0 && errno == (error))

static int make(const char *name, const char *text)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return -1;
    return fd;
}

static bool holds(const char *name, const char *text)
{
    char buffer[256];
    int fd = open(name, O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof(buffer));
    close(fd);
    return size == (ssize_t)strlen(text) && memcmp(buffer, text, (size_t)size) == 0;
}

/* The exit code of `work`, done by a child that is another user where `uid` says so. */
static int in_child(uid_t uid, gid_t group, int (*work)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (uid && (setgroups(1, &group) < 0 || setgid(uid) < 0 || setuid(uid) < 0))
            _exit(99);
        _exit(work());
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

static int open_error(void)
{
    int fd = open("f", O_RDONLY);
    return fd < 0 ? errno : 0;
}

static int write_error(void)
{
    return open("f", O_WRONLY) < 0 ? errno : 0;
}

static int create_error(void)
{
    return open("d/new", O_WRONLY | O_CREAT, 0600) < 0 ? errno : 0;
}

static int unlink_error(void)
{
    return unlink("d/f") < 0 ? errno : 0;
}

static int chmod_error(void)
{
    return chmod("f", 0777) < 0 ? errno : 0;
}

static void modes_are_kept(void)
{
    struct stat status;
    static const mode_t modes[] = {0, 0400, 0644, 0755, 0777, 01777, 02755, 04755, 06711};
    CHECK(close(make("f", "")) == 0);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        CHECK(chmod("f", modes[i]) == 0);
        CHECK(stat("f", &status) == 0 && (status.st_mode & 07777) == modes[i]);
    }
    CHECK(mkdir("d", 01750) == 0 && stat("d", &status) == 0 && (status.st_mode & 07777) == 01750);
    umask(077);
    CHECK(close(open("g", O_CREAT | O_WRONLY, 0666)) == 0);
    umask(022);
    CHECK(stat("g", &status) == 0 && (status.st_mode & 07777) == 0600);
}

static void a_set_group_mode_of_any_group_is_kept(void)
{
    struct stat status;
    CHECK(close(make("f", "")) == 0 && chown("f", 0, OTHER) == 0 && chmod("f", 02755) == 0);
    CHECK(stat("f", &status) == 0 && (status.st_mode & 07777) == 02755);
}

static void permissions_hold(void)
{
    CHECK(close(make("f", "x")) == 0 && chmod("f", 0600) == 0);
    CHECK(in_child(OTHER, OTHER, open_error) == EACCES);
    CHECK(chmod("f", 0644) == 0 && in_child(OTHER, OTHER, open_error) == 0);
    CHECK(in_child(OTHER, OTHER, write_error) == EACCES && in_child(OTHER, OTHER, chmod_error) == EPERM);
    CHECK(chown("f", 0, 77) == 0 && chmod("f", 0660) == 0);
    CHECK(in_child(OTHER, 77, write_error) == 0 && in_child(OTHER, 78, write_error) == EACCES);
}

static void a_group_of_many_lets_create(void)
{
    struct stat status;
    CHECK(mkdir("d", 0) == 0 && chown("d", 0, 77) == 0 && chmod("d", 0770) == 0);
    CHECK(in_child(OTHER, 78, create_error) == EACCES);
    CHECK(in_child(OTHER, 77, create_error) == 0);
    CHECK(stat("d/new", &status) == 0 && status.st_uid == OTHER && status.st_gid == OTHER);
}

static void a_set_group_directory_gives_its_group(void)
{
    struct stat status;
    CHECK(mkdir("d", 0) == 0 && chown("d", 0, 77) == 0 && chmod("d", 02777) == 0);
    CHECK(in_child(OTHER, 78, create_error) == 0);
    CHECK(stat("d/new", &status) == 0 && status.st_gid == 77);
    CHECK(mkdir("d/e", 0755) == 0 && stat("d/e", &status) == 0 && status.st_gid == 77 && status.st_mode & S_ISGID);
}

static void sticky_directories_guard_names(void)
{
    CHECK(mkdir("d", 0) == 0 && chmod("d", 01777) == 0 && close(make("d/f", "")) == 0);
    CHECK(in_child(OTHER, OTHER, unlink_error) == EPERM);
    CHECK(chmod("d", 0777) == 0 && in_child(OTHER, OTHER, unlink_error) == 0);
}

static void owners_change(void)
{
    struct stat status;
    CHECK(close(make("f", "")) == 0 && chown("f", 12, 34) == 0);
    CHECK(stat("f", &status) == 0 && status.st_uid == 12 && status.st_gid == 34);
    CHECK(chown("f", (uid_t)-1, 35) == 0 && stat("f", &status) == 0 && status.st_uid == 12 && status.st_gid == 35);
    CHECK(symlink("f", "l") == 0 && lchown("l", 9, 9) == 0);
    CHECK(lstat("l", &status) == 0 && status.st_uid == 9 && stat("l", &status) == 0 && status.st_uid == 12);
}

static void a_write_takes_set_user_bits_away(void)
{
    struct stat status;
    int fd = make("f", "x");
    CHECK(fd >= 0 && fchown(fd, OTHER, OTHER) == 0 && fchmod(fd, 06777) == 0);
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgid(OTHER + 1) < 0 || setuid(OTHER + 1) < 0)
            _exit(1);
        fd = open("f", O_WRONLY);
        _exit(fd < 0 || write(fd, "y", 1) != 1);
    }
    int code;
    CHECK(waitpid(pid, &code, 0) == pid && code == 0);
    CHECK(stat("f", &status) == 0 && !(status.st_mode & S_ISUID));
}

static void renames_replace(void)
{
    struct stat before, after;
    CHECK(close(make("a", "a")) == 0 && close(make("b", "b")) == 0 && stat("a", &before) == 0);
    CHECK(rename("a", "b") == 0 && holds("b", "a") && stat("b", &after) == 0 && before.st_ino == after.st_ino);
    FAILS(access("a", F_OK), ENOENT);
    FAILS(rename("a", "b"), ENOENT);
    CHECK(mkdir("d", 0755) == 0 && mkdir("e", 0755) == 0 && close(make("e/f", "")) == 0);
    FAILS(rename("d", "e"), ENOTEMPTY);
    FAILS(rename("b", "d"), EISDIR);
    FAILS(rename("d", "b"), ENOTDIR);
    FAILS(rename("d", "d/x"), EINVAL);
    CHECK(rename("e", "d") == 0 && access("d/f", F_OK) == 0);
}

static void renames_with_flags(void)
{
    CHECK(close(make("a", "a")) == 0 && close(make("b", "b")) == 0);
    FAILS(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    CHECK(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE) == 0);
    CHECK(holds("a", "b") && holds("b", "a"));
    CHECK(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE) == 0 && holds("c", "b"));
}

static void a_directory_moves_under_what_is_open(void)
{
    CHECK(mkdir("d", 0755) == 0 && mkdir("d/in", 0755) == 0 && mkdir("e", 0755) == 0);
    int fd = make("d/in/f", "before"), directory = open("d/in", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0 && directory >= 0 && rename("d", "e/d") == 0);
    CHECK(pwrite(fd, "beyond", 6, 0) == 6 && holds("e/d/in/f", "beyond"));
    CHECK(openat(directory, "g", O_CREAT | O_WRONLY, 0644) >= 0 && access("e/d/in/g", F_OK) == 0);
}

static void links_are_one_file(void)
{
    struct stat a, b;
    CHECK(close(make("a", "a")) == 0 && link("a", "b") == 0 && stat("a", &a) == 0 && stat("b", &b) == 0);
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 2);
    CHECK(close(make("b", "both")) == 0 && holds("a", "both"));
    CHECK(unlink("a") == 0 && stat("b", &b) == 0 && b.st_nlink == 1);
    FAILS(link("b", "b"), EEXIST);
    CHECK(mkdir("d", 0755) == 0);
    FAILS(link("d", "e"), EPERM);
    CHECK(symlink("b", "s") == 0 && linkat(AT_FDCWD, "s", AT_FDCWD, "t", 0) == 0 && lstat("t", &a) == 0);
    CHECK(S_ISLNK(a.st_mode));
}

static void what_is_unlinked_lives_while_it_is_open(void)
{
    char buffer[8];
    struct stat status;
    int fd = make("f", "alive");
    CHECK(fd >= 0 && unlink("f") == 0);
    FAILS(access("f", F_OK), ENOENT);
    CHECK(fstat(fd, &status) == 0 && status.st_nlink == 0 && status.st_size == 5);
    CHECK(pwrite(fd, "!", 1, 5) == 1 && pread(fd, buffer, 8, 0) == 6 && memcmp(buffer, "alive!", 6) == 0);
    CHECK(ftruncate(fd, 2) == 0 && fstat(fd, &status) == 0 && status.st_size == 2 && fchmod(fd, 0600) == 0);
    int other = make("f", "other");
    CHECK(other >= 0 && pread(fd, buffer, 8, 0) == 2 && close(fd) == 0 && holds("f", "other"));
}

static void symbolic_links_hold_any_target(void)
{
    char target[4000], found[PATH_MAX];
    struct stat status;
    memset(target, 'x', sizeof(target) - 1);
    target[sizeof(target) - 1] = 0;
    CHECK(symlink(target, "l") == 0 && readlink("l", found, sizeof(found)) == sizeof(target) - 1);
    CHECK(lstat("l", &status) == 0 && status.st_size == sizeof(target) - 1);
    FAILS(open("l", O_RDONLY), ENAMETOOLONG);
    CHECK(symlink("round", "round") == 0);
    FAILS(open("round", O_RDONLY), ELOOP);
    FAILS(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
}

static void holes_read_as_zeros(void)
{
    char buffer[4096], zeros[4096] = {0};
    struct stat status;
    int fd = make("f", "");
    CHECK(fd >= 0 && pwrite(fd, "end", 3, 8 << 20) == 3 && fstat(fd, &status) == 0);
    CHECK(status.st_size == (8 << 20) + 3 && status.st_blocks * 512 < 1 << 20);
    CHECK(pread(fd, buffer, sizeof(buffer), 1 << 20) == 4096 && memcmp(buffer, zeros, 4096) == 0);
    CHECK(ftruncate(fd, 10) == 0 && ftruncate(fd, 20) == 0 && pread(fd, buffer, 99, 0) == 20 && !buffer[15]);
    FAILS(ftruncate(fd, -1), EINVAL);
    CHECK(fallocate(fd, 0, 0, 1 << 20) == 0 && fstat(fd, &status) == 0 && status.st_size == 1 << 20);
}

static void appends_go_to_the_end(void)
{
    int first = open("f", O_CREAT | O_WRONLY | O_APPEND, 0644), second = open("f", O_WRONLY | O_APPEND);
    CHECK(first >= 0 && second >= 0);
    CHECK(write(first, "one ", 4) == 4 && write(second, "two ", 4) == 4 && write(first, "three", 5) == 5);
    CHECK(holds("f", "one two three"));
    for (int child = 0; child < 4; child++) {
        if (fork() == 0) {
            int fd = open("g", O_CREAT | O_WRONLY | O_APPEND, 0644);
            for (int i = 0; i < 50; i++)
                if (write(fd, "0123456789", 10) != 10)
                    _exit(1);
            _exit(0);
        }
    }
    int code, bad = 0;
    while (wait(&code) > 0)
        bad |= code;
    struct stat status;
    CHECK(bad == 0 && stat("g", &status) == 0 && status.st_size == 2000);
}

static void opens_as_they_are_asked_to(void)
{
    int fd;
    FAILS(open("f", O_RDONLY), ENOENT);
    CHECK(close(open("f", O_CREAT | O_EXCL | O_WRONLY, 0)) == 0);
    FAILS(open("f", O_CREAT | O_EXCL | O_WRONLY, 0644), EEXIST);
    CHECK(chmod("f", 0644) == 0 && close(make("f", "text")) == 0);
    fd = open("f", O_WRONLY | O_TRUNC);
    CHECK(fd >= 0 && holds("f", "") && close(fd) == 0);
    FAILS(open("f/x", O_RDONLY), ENOTDIR);
    FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK(mkdir("d", 0755) == 0);
    FAILS(open("d", O_WRONLY), EISDIR);
    fd = open("new", O_CREAT | O_RDWR, 0444); /* a file that nobody may write is written by who made it */
    CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
    fd = open("f", O_RDONLY);
    FAILS(write(fd, "x", 1), EBADF);
    FAILS(ftruncate(fd, 0), EINVAL);
}

static void locks_exclude(void)
{
    int fd = make("f", "");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
    CHECK(fd >= 0 && fcntl(fd, F_SETLK, &lock) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct flock other = lock;
        int mine = open("f", O_RDWR);
        bool held = fcntl(mine, F_SETLK, &other) < 0 && (errno == EAGAIN || errno == EACCES);
        other = lock;
        held = held && fcntl(mine, F_GETLK, &other) == 0 && other.l_type == F_WRLCK && other.l_start == 10;
        other = lock;
        other.l_start = 20;
        held = held && fcntl(mine, F_SETLK, &other) == 0;
        other.l_start = 10;
        _exit(held && fcntl(mine, F_SETLKW, &other) == 0 ? 0 : 1); /* until the parent lets go */
    }
    usleep(200000);
    lock.l_type = F_UNLCK;
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    int code;
    CHECK(waitpid(pid, &code, 0) == pid && code == 0);
    lock.l_type = F_WRLCK;
    CHECK(fcntl(fd, F_SETLK, &lock) == 0); /* the child's ended with it */
}

static void a_close_lets_go_of_a_processs_locks(void)
{
    int fd = make("f", ""), again = open("f", O_RDWR);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0 && close(again) == 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(fcntl(open("f", O_RDWR), F_SETLK, &lock) < 0);
    int code;
    CHECK(waitpid(pid, &code, 0) == pid && code == 0);
}

static void whole_file_locks_exclude(void)
{
    int fd = make("f", ""), other = open("f", O_RDWR);
    CHECK(flock(fd, LOCK_EX) == 0);
    FAILS(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK(flock(fd, LOCK_SH) == 0 && flock(other, LOCK_SH | LOCK_NB) == 0);
    FAILS(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK(close(other) == 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
}

static void alarmed(int number)
{
    (void)number;
}

static void waiting_for_a_lock_can_be_broken_off(void)
{
    int fd = make("f", "");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct sigaction action = {.sa_handler = alarmed};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        sigaction(SIGALRM, &action, NULL);
        alarm(1);
        _exit(fcntl(open("f", O_RDWR), F_SETLKW, &lock) < 0 && errno == EINTR ? 0 : 1);
    }
    int code;
    CHECK(waitpid(pid, &code, 0) == pid && code == 0);
}

static void memory_maps_are_the_file(void)
{
    char buffer[16];
    int fd = make("f", "");
    CHECK(fd >= 0 && ftruncate(fd, 3 * 4096 + 5) == 0);
    char *map = mmap(NULL, 3 * 4096 + 5, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED);
    memcpy(map + 4090, "across the page", 15);
    CHECK(pread(fd, buffer, 15, 4090) == 15 && memcmp(buffer, "across the page", 15) == 0);
    CHECK(pwrite(fd, "by hand", 7, 100) == 7 && memcmp(map + 100, "by hand", 7) == 0);
    CHECK(msync(map, 3 * 4096 + 5, MS_SYNC) == 0);
    char *copy = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(copy != MAP_FAILED);
    copy[0] = 'p';
    CHECK(pread(fd, buffer, 1, 0) == 1 && buffer[0] == 0);
    strcpy(map, "after the close");
    CHECK(close(fd) == 0 && munmap(map, 3 * 4096 + 5) == 0 && munmap(copy, 4096) == 0);
    fd = open("f", O_RDONLY);
    CHECK(pread(fd, buffer, 15, 0) == 15 && memcmp(buffer, "after the close", 15) == 0);
    /* A map of a file that is only appended to has its place all the same. */
    fd = open("g", O_CREAT | O_RDWR | O_APPEND, 0644);
    CHECK(write(fd, "0123456789", 10) == 10);
    map = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED);
    map[3] = 'x';
    CHECK(msync(map, 10, MS_SYNC) == 0 && munmap(map, 10) == 0 && close(fd) == 0 && holds("g", "012x456789"));
}

static void attributes_are_kept(void)
{
    char value[65536], list[256];
    int fd = make("f", "");
    FAILS(getxattr("f", "user.absent", value, 10), ENODATA);
    CHECK(setxattr("f", "user.one", "1", 1, XATTR_CREATE) == 0);
    FAILS(setxattr("f", "user.one", "2", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("f", "user.two", "2", 1, XATTR_REPLACE), ENODATA);
    CHECK(fsetxattr(fd, "user.two", "zw\0ei", 5, 0) == 0);
    CHECK(getxattr("f", "user.two", value, sizeof(value)) == 5 && memcmp(value, "zw\0ei", 5) == 0);
    CHECK(getxattr("f", "user.two", NULL, 0) == 5);
    FAILS(getxattr("f", "user.two", value, 2), ERANGE);
    ssize_t size = listxattr("f", list, sizeof(list));
    CHECK(size >= 18 && memmem(list, (size_t)size, "user.one", 9) && memmem(list, (size_t)size, "user.two", 9));
    CHECK(removexattr("f", "user.one") == 0);
    FAILS(getxattr("f", "user.one", value, 10), ENODATA);
}

static void times_are_kept_to_the_nanosecond(void)
{
    struct stat status, later;
    int fd = make("f", "");
    const struct timespec times[2] = {{1234567890, 123456789}, {987654321, 987654321}};
    CHECK(futimens(fd, times) == 0 && stat("f", &status) == 0);
    CHECK(status.st_atim.tv_sec == 1234567890 && status.st_mtim.tv_sec == 987654321);
    CHECK(status.st_mtim.tv_nsec == 987654321);
    CHECK(write(fd, "x", 1) == 1 && stat("f", &later) == 0 && later.st_mtim.tv_sec > status.st_mtim.tv_sec);
    CHECK(utimensat(AT_FDCWD, "f", NULL, 0) == 0 && stat("f", &later) == 0 && later.st_atim.tv_sec > 1500000000);
    CHECK(mkdir("d", 0755) == 0 && utimensat(AT_FDCWD, "d", times, 0) == 0);
    CHECK(close(make("d/f", "")) == 0 && stat("d", &later) == 0 && later.st_mtim.tv_sec > 1500000000);
    CHECK(symlink("f", "l") == 0 && utimensat(AT_FDCWD, "l", times, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(lstat("l", &later) == 0 && later.st_mtim.tv_sec == 987654321);
}

static void names_are_bytes_up_to_255(void)
{
    char name[300];
    for (unsigned byte = 1; byte < 256; byte += 3) {
        if (byte == '/')
            continue;
        snprintf(name, sizeof(name), "a%cb", (int)byte);
        CHECK(close(make(name, "")) == 0 && unlink(name) == 0);
    }
    memset(name, 'n', 256);
    name[255] = 0;
    CHECK(close(make(name, "long")) == 0 && holds(name, "long") && unlink(name) == 0);
    name[255] = 'n';
    name[256] = 0;
    FAILS(open(name, O_CREAT | O_WRONLY, 0644), ENAMETOOLONG);
    FAILS(mkdir("", 0755), ENOENT);
}

static void trees_go_deep(void)
{
    int at = open(".", O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 60; i++) {
        CHECK(mkdirat(at, "deep-directory", 0755) == 0);
        int next = openat(at, "deep-directory", O_RDONLY | O_DIRECTORY);
        CHECK(next >= 0 && close(at) == 0);
        at = next;
    }
    CHECK(openat(at, "bottom", O_CREAT | O_WRONLY, 0644) >= 0);
    struct stat up;
    CHECK(fstatat(at, "../deep-directory/bottom", &up, 0) == 0);
}

static void listings_have_each_name_once(void)
{
    char name[32];
    static bool seen[400];
    memset(seen, 0, sizeof(seen));
    CHECK(mkdir("d", 0755) == 0);
    for (int i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "d/entry-%04d", i);
        CHECK(close(make(name, "")) == 0);
    }
    DIR *listing = opendir("d");
    int count = 0, number, dots = 0;
    for (struct dirent *entry; (entry = readdir(listing));) {
        if (entry->d_name[0] == '.') {
            dots++;
            continue;
        }
        CHECK(sscanf(entry->d_name, "entry-%d", &number) == 1 && number < 400 && !seen[number]);
        CHECK(entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN);
        seen[number] = true;
        count++;
    }
    CHECK(count == 400 && dots == 2);
    rewinddir(listing);
    for (int i = 0; i < 300; i++)
        CHECK(readdir(listing));
    long place = telldir(listing);
    struct dirent *entry = readdir(listing);
    CHECK(entry);
    snprintf(name, sizeof(name), "%.31s", entry->d_name);
    seekdir(listing, place);
    CHECK((entry = readdir(listing)) && strcmp(entry->d_name, name) == 0);
    closedir(listing);
    /* Removing while one reads misses nobody. */
    listing = opendir("d");
    count = 0;
    while ((entry = readdir(listing)))
        if (entry->d_name[0] != '.' && unlinkat(dirfd(listing), entry->d_name, 0) == 0)
            count++;
    closedir(listing);
    CHECK(count == 400 && rmdir("d") == 0);
}

static void directories_go_when_they_are_empty(void)
{
    CHECK(mkdir("d", 0755) == 0 && close(make("d/f", "")) == 0);
    FAILS(rmdir("d"), ENOTEMPTY);
    FAILS(unlink("d"), EISDIR);
    FAILS(rmdir("d/f"), ENOTDIR);
    FAILS(mkdir("d", 0755), EEXIST);
    CHECK(unlink("d/f") == 0 && rmdir("d") == 0);
    FAILS(rmdir("d"), ENOENT);
}

static void special_files_work_within_a_machine(void)
{
    char buffer[8];
    struct stat status;
    CHECK(mkfifo("p", 0640) == 0 && stat("p", &status) == 0 && S_ISFIFO(status.st_mode));
    int fd = open("p", O_RDWR);
    CHECK(fd >= 0 && write(fd, "through", 7) == 7 && read(fd, buffer, 8) == 7);
    CHECK(mknod("s", S_IFSOCK | 0600, 0) == 0 && stat("s", &status) == 0 && S_ISSOCK(status.st_mode));
}

static void data_and_holes_are_told_apart(void)
{
    int fd = make("f", "");
    CHECK(pwrite(fd, "x", 1, 4 << 20) == 1 && fsync(fd) == 0);
    off_t data = lseek(fd, 0, SEEK_DATA), hole = lseek(fd, 0, SEEK_HOLE);
    CHECK(data > 0 && data <= 4 << 20 && hole == 0);
    FAILS((int)lseek(fd, 5 << 20, SEEK_DATA), ENXIO);
}

static void ranges_are_copied(void)
{
    char buffer[16];
    int from = make("a", "0123456789"), to = make("b", "");
    off_t at = 2;
    ssize_t copied = syscall(SYS_copy_file_range, from, &at, to, NULL, 5, 0);
    CHECK(copied == 5 && pread(to, buffer, 16, 0) == 5 && memcmp(buffer, "23456", 5) == 0);
}

static void the_file_system_tells_its_size(void)
{
    struct statfs found;
    CHECK(statfs(".", &found) == 0 && found.f_blocks > 0 && found.f_bsize >= 512 && found.f_namelen == 255);
}

static void watchers_are_told(void)
{
    char buffer[4096];
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(fd >= 0 && inotify_add_watch(fd, ".", IN_CREATE | IN_MOVED_TO | IN_DELETE) >= 0);
    CHECK(close(make("f", "x")) == 0 && rename("f", "g") == 0 && unlink("g") == 0);
    uint32_t told = 0;
    ssize_t size = read(fd, buffer, sizeof(buffer));
    CHECK(size > 0 && close(fd) == 0);
    for (ssize_t at = 0; at < size;) {
        struct inotify_event event;
        memcpy(&event, buffer + at, sizeof(event));
        told |= event.mask;
        at += (ssize_t)(sizeof(event) + event.len);
    }
    CHECK(told == (IN_CREATE | IN_MOVED_TO | IN_DELETE));
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
#define CASE(name) {#name, name}
    CASE(modes_are_kept), CASE(a_set_group_mode_of_any_group_is_kept), CASE(permissions_hold),
    CASE(a_group_of_many_lets_create), CASE(a_set_group_directory_gives_its_group),
    CASE(sticky_directories_guard_names), CASE(owners_change), CASE(a_write_takes_set_user_bits_away),
    CASE(renames_replace), CASE(renames_with_flags), CASE(a_directory_moves_under_what_is_open),
    CASE(links_are_one_file), CASE(what_is_unlinked_lives_while_it_is_open), CASE(symbolic_links_hold_any_target),
    CASE(holes_read_as_zeros), CASE(appends_go_to_the_end), CASE(opens_as_they_are_asked_to), CASE(locks_exclude),
    CASE(a_close_lets_go_of_a_processs_locks), CASE(whole_file_locks_exclude),
    CASE(waiting_for_a_lock_can_be_broken_off), CASE(memory_maps_are_the_file), CASE(attributes_are_kept),
    CASE(times_are_kept_to_the_nanosecond), CASE(names_are_bytes_up_to_255), CASE(trees_go_deep),
    CASE(listings_have_each_name_once), CASE(directories_go_when_they_are_empty),
    CASE(special_files_work_within_a_machine), CASE(data_and_holes_are_told_apart), CASE(ranges_are_copied),
    CASE(the_file_system_tells_its_size), CASE(watchers_are_told),
};

static int run_cases(void)
{
    int bad = 0;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        failed = NULL;
        if (mkdir("case", 0777) < 0 || chmod("case", 0777) < 0 || chdir("case") < 0) {
            printf("not ok %s: no directory: %s\n", cases[i].name, strerror(errno));
            return 1;
        }
        cases[i].run();
        if (failed)
            printf("not ok %s: %s, line %d (%s)\n", cases[i].name, failed, failed_line, strerror(failed_errno));
        else
            printf("ok %s\n", cases[i].name);
        bad += failed != NULL;
        syscall(SYS_close_range, 3U, ~0U, 0U);
        if (chdir("..") < 0 || system("rm -rf case") != 0)
            return 1;
    }
    return bad;
}

/* The random half. */

#define MODEL_MAX (512 * 1024)
#define PIECE_MAX 40000

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20) % below;
}

static uint8_t model[MODEL_MAX], piece[MODEL_MAX];
static size_t model_size;

static void fill_piece(size_t size)
{
    uint8_t first = (uint8_t)draw(256);
    for (size_t i = 0; i < size; i++)
        piece[i] = (uint8_t)(first + i * 7);
}

/* What one operation is; false with `failed` where the file is not what the model says. */
static bool step(int *fd)
{
    size_t at = draw(MODEL_MAX - PIECE_MAX), size = draw(PIECE_MAX);
    struct stat status;
    switch (draw(10)) {
    case 0:
    case 1:
        fill_piece(size);
        if (pwrite(*fd, piece, size, (off_t)at) != (ssize_t)size)
            return failed = "pwrite", false;
        if (size) {
            memcpy(model + at, piece, size);
            model_size = at + size > model_size ? at + size : model_size;
        }
        return true;
    case 2:
    case 3: {
        ssize_t wanted = at >= model_size ? 0 : (ssize_t)(at + size > model_size ? model_size - at : size);
        if (pread(*fd, piece, size, (off_t)at) != wanted || memcmp(piece, model + at, (size_t)wanted) != 0)
            return failed = "pread", false;
        return true;
    }
    case 4:
        if (ftruncate(*fd, (off_t)at) < 0)
            return failed = "ftruncate", false;
        if (at < model_size)
            memset(model + at, 0, model_size - at);
        model_size = at;
        return true;
    case 5: {
        if (model_size == 0)
            return true;
        uint8_t *map = mmap(NULL, model_size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
        if (map == MAP_FAILED)
            return failed = "mmap", false;
        at = draw((uint32_t)model_size);
        size = size > model_size - at ? model_size - at : size;
        bool same = memcmp(map, model, model_size) == 0;
        fill_piece(size);
        memcpy(map + at, piece, size);
        memcpy(model + at, piece, size);
        munmap(map, model_size);
        return same || (failed = "what was mapped", false);
    }
    case 6:
        close(*fd);
        *fd = open("random", O_RDWR);
        if (*fd < 0 || fstat(*fd, &status) < 0 || (size_t)status.st_size != model_size)
            return failed = "size after an open", false;
        return true;
    case 7:
        if ((draw(2) ? fsync(*fd) : fdatasync(*fd)) < 0)
            return failed = "fsync", false;
        return true;
    case 8: {
        int appending = open("random", O_WRONLY | O_APPEND);
        size = size % 3000;
        if (model_size + size > MODEL_MAX)
            return close(appending) == 0;
        fill_piece(size);
        if (write(appending, piece, size) != (ssize_t)size || close(appending) < 0)
            return failed = "append", false;
        memcpy(model + model_size, piece, size);
        model_size += size;
        return true;
    }
    default:
        if (rename("random", "moved") < 0 || rename("moved", "random") < 0)
            return failed = "rename", false;
        return true;
    }
}

static int run_random(uint64_t seed, unsigned count)
{
    int fd = open("random", O_CREAT | O_TRUNC | O_RDWR, 0644);
    state = seed * 0x9E3779B97F4A7C15ULL + 1;
    for (unsigned i = 0; fd >= 0 && i < count; i++) {
        if (!step(&fd)) {
            printf("not ok random: %s, step %u of seed %llu (%s)\n", failed, i, (unsigned long long)seed,
                   strerror(errno));
            return 1;
        }
    }
    if (fd < 0 || pread(fd, piece, MODEL_MAX, 0) != (ssize_t)model_size || memcmp(piece, model, model_size) != 0) {
        printf("not ok random: the end of seed %llu\n", (unsigned long long)seed);
        return 1;
    }
    printf("ok random\n");
    return unlink("random") != 0;
}

/* Both kinds of lock on a file, until the process ends. */
static int run_lock(const char *name, bool hold)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(name, O_RDWR);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fcntl(fd, F_SETLK, &lock) < 0)
        return errno == EWOULDBLOCK || errno == EACCES ? 1 : 3;
    while (hold) {
        printf("held\n");
        pause();
    }
    return 0;
}

/* Whether a file's attributes are those of users alone, and no others can be set. */
static int run_attributes(const char *name)
{
    static const char *const foreign[] = {"security.capability", "security.test", "trusted.test",
                                          "system.posix_acl_access"};
    char value[64];
    ssize_t size = listxattr(name, value, sizeof(value));
    bool alone = size == sizeof("user.test") && strcmp(value, "user.test") == 0;
    for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++)
        alone &= getxattr(name, foreign[i], value, sizeof(value)) < 0 && setxattr(name, foreign[i], "1", 1, 0) < 0;
    return !alone;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    umask(022);
    if (argc == 3 && (strcmp(argv[1], "hold") == 0 || strcmp(argv[1], "try") == 0))
        return run_lock(argv[2], argv[1][0] == 'h');
    if (argc == 3 && strcmp(argv[1], "attributes") == 0)
        return run_attributes(argv[2]);
    if (argc < 3 || chdir(argv[2]) < 0)
        return 2;
    if (strcmp(argv[1], "cases") == 0)
        return run_cases();
    if (strcmp(argv[1], "random") == 0 && argc == 5)
        return run_random(strtoull(argv[3], NULL, 10), (unsigned)strtoul(argv[4], NULL, 10));
    return 2;
}
