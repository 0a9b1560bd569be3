/* Preloaded, answers every flock as a file system does that has none: with the error number in NO_FLOCK. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int flock(int file, int operation)
{
    const char *answer = getenv("NO_FLOCK");
    if (!answer)
        return (int)syscall(SYS_flock, file, operation);
    errno = atoi(answer);
    return -1;
}
