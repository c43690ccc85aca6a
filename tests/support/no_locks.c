// For LD_PRELOAD: a file system on which nothing can be locked, renamed or linked, as the worst network file systems are.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int refuse(void) { errno = ENOLCK; return -1; }
// Only the spool is there: what else a process does with its own files is not what this is about.
static int inside(const char *path) {
    const char *folder = getenv("RUNSTREAM_SPOOL");
    return folder && *folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

int flock(int fd, int operation) { (void)fd; (void)operation; return refuse(); }
int lockf(int fd, int command, off_t size) { (void)fd; (void)command; (void)size; return refuse(); }

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (inside(from) || inside(to)) return refuse();
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    return real(from, to);
}

int link(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (inside(from) || inside(to)) return refuse();
    if (!real) real = dlsym(RTLD_NEXT, "link");
    return real(from, to);
}
