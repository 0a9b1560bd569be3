/* Preloaded, answers every flock as a file system does that has none: with the error NUMBER. */
#include <errno.h>

int flock(int file, int operation)
{
    (void)file;
    (void)operation;
    errno = NUMBER;
    return -1;
}
