/* LD_PRELOAD library that makes each fsync take FSYNC_SECONDS, like a slow disk. */
#include <stdlib.h>
#include <time.h>

int fdatasync(int fd) {
    (void)fd;
    const char *text = getenv("FSYNC_SECONDS");
    double seconds = text ? atof(text) : 0;
    struct timespec span = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    return nanosleep(&span, NULL);
}

int fsync(int fd) { return fdatasync(fd); }
