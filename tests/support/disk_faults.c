/* Disk calls that fail on command, for LD_PRELOAD.
 *
 * DISK_FAULTS names a file of 1024 bytes, mapped by the test and by every process under test:
 *   0    int      call that fails: one of the CALL_ numbers, 0 for none
 *   4    int      errno
 *   8    int      calls of this kind to let pass first
 *   12   int      calls to fail then; -1 for all
 *   16   int      calls that were failed, counted here
 *   32   char[96] part of the process's command line
 *   128  char[512] part of the path
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CALL_WRITE = 1, CALL_FSYNC, CALL_RENAME, CALL_OPEN, CALL_UNLINK, CALL_MKDIR, CALL_READ, CALL_TRUNCATE,
       CALL_OPEN_TO_READ, CALL_MAP };
struct control { int call, number, skip, times, failed, pad[3]; char process[96]; char path[512]; };
static volatile struct control *control;
static char command_line[4096];

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("DISK_FAULTS");
    if (!name) return;
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    long n = syscall(SYS_read, fd, command_line, sizeof command_line - 1);
    syscall(SYS_close, fd);
    for (long i = 0; i < n - 1; i++) if (!command_line[i]) command_line[i] = ' ';
    if (page != MAP_FAILED) control = page;
}

static int fails(int call, const char *path) {
    if (!control || control->call != call || !path) return 0;
    if (control->process[0] && !strstr(command_line, (const char *)control->process)) return 0;
    if (control->path[0] && !strstr(path, (const char *)control->path)) return 0;
    if (__atomic_sub_fetch(&control->skip, 1, __ATOMIC_SEQ_CST) >= 0) return 0;
    if (control->times == 0) return 0;
    if (control->times > 0) __atomic_sub_fetch(&control->times, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = control->number;
    return 1;
}

static int fails_on(int call, int fd) {
    if (!control || control->call != call) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(call, path);
}

#define REAL(name, type) static __typeof__((type)0) real; if (!real) real = (type)dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t n) {
    REAL("write", ssize_t (*)(int, const void *, size_t));
    return fails_on(CALL_WRITE, fd) ? -1 : real(fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL("pwrite", ssize_t (*)(int, const void *, size_t, off_t));
    return fails_on(CALL_WRITE, fd) ? -1 : real(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t));
    return fails_on(CALL_WRITE, fd) ? -1 : real(fd, data, n, at);
}
ssize_t read(int fd, void *data, size_t n) {
    REAL("read", ssize_t (*)(int, void *, size_t));
    return fails_on(CALL_READ, fd) ? -1 : real(fd, data, n);
}
ssize_t pread(int fd, void *data, size_t n, off_t at) {
    REAL("pread", ssize_t (*)(int, void *, size_t, off_t));
    return fails_on(CALL_READ, fd) ? -1 : real(fd, data, n, at);
}
ssize_t pread64(int fd, void *data, size_t n, off64_t at) {
    REAL("pread64", ssize_t (*)(int, void *, size_t, off64_t));
    return fails_on(CALL_READ, fd) ? -1 : real(fd, data, n, at);
}
void *mmap(void *where, size_t n, int protection, int flags, int fd, off_t at) {
    REAL("mmap", void *(*)(void *, size_t, int, int, int, off_t));
    return fd >= 0 && fails_on(CALL_MAP, fd) ? MAP_FAILED : real(where, n, protection, flags, fd, at);
}
void *mmap64(void *where, size_t n, int protection, int flags, int fd, off64_t at) {
    REAL("mmap64", void *(*)(void *, size_t, int, int, int, off64_t));
    return fd >= 0 && fails_on(CALL_MAP, fd) ? MAP_FAILED : real(where, n, protection, flags, fd, at);
}
int fsync(int fd) { REAL("fsync", int (*)(int)); return fails_on(CALL_FSYNC, fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL("fdatasync", int (*)(int)); return fails_on(CALL_FSYNC, fd) ? -1 : real(fd); }
int rename(const char *from, const char *to) {
    REAL("rename", int (*)(const char *, const char *));
    return fails(CALL_RENAME, to) ? -1 : real(from, to);
}
int unlink(const char *path) { REAL("unlink", int (*)(const char *)); return fails(CALL_UNLINK, path) ? -1 : real(path); }
int mkdir(const char *path, mode_t mode) {
    REAL("mkdir", int (*)(const char *, mode_t));
    return fails(CALL_MKDIR, path) ? -1 : real(path, mode);
}
int posix_fallocate(int fd, off_t at, off_t n) {
    REAL("posix_fallocate", int (*)(int, off_t, off_t));
    return fails_on(CALL_TRUNCATE, fd) ? errno : real(fd, at, n);
}
int posix_fallocate64(int fd, off64_t at, off64_t n) {
    REAL("posix_fallocate64", int (*)(int, off64_t, off64_t));
    return fails_on(CALL_TRUNCATE, fd) ? errno : real(fd, at, n);
}
int ftruncate(int fd, off_t n) { REAL("ftruncate", int (*)(int, off_t)); return fails_on(CALL_TRUNCATE, fd) ? -1 : real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL("ftruncate64", int (*)(int, off64_t)); return fails_on(CALL_TRUNCATE, fd) ? -1 : real(fd, n); }

#define OPENING(name) \
int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); int mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, int) : 0; va_end(rest); \
    REAL(#name, int (*)(const char *, int, ...)); \
    return fails((flags & O_ACCMODE) == O_RDONLY ? CALL_OPEN_TO_READ : CALL_OPEN, path) ? -1 : real(path, flags, mode); \
}
OPENING(open)
OPENING(open64)
