/* Preloaded, answers every flock with the error NUMBER, as a file system does that has none. With 0 it grants all of
   them: what a process sees on a machine of its own, where a file system has locks for each machine alone. */
#include <errno.h>

int flock(int file, int operation)
{
    (void)file;
    (void)operation;
    errno = NUMBER;
    return NUMBER ? -1 : 0;
}
