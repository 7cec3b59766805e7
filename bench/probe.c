// SPDX-License-Identifier: Apache-2.0
/* probe FILE MIB PAUSE_MS OUT: overwrites blocks of 4 KiB of FILE at random, each made durable (fdatasync), with a pause
 * between them, for ever; appends to OUT what each took, in microseconds, a line each. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
    static char block[4096];
    if (count != 5)
        return 2;
    int file = open(words[1], O_RDWR | O_CREAT, 0644), out = open(words[4], O_WRONLY | O_CREAT | O_APPEND, 0644);
    long blocks = atol(words[2]) << 8, pause_ms = atol(words[3]);
    if (file < 0 || out < 0 || posix_fallocate(file, 0, blocks << 12) || fsync(file))
        return 1;
    for (;;) {
        struct timespec begin, end, pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
        for (unsigned i = 0; i < sizeof block; i++)
            block[i] = rand();
        clock_gettime(CLOCK_MONOTONIC, &begin);
        if (pwrite(file, block, sizeof block, rand() % blocks << 12) < 0 || fdatasync(file))
            return 1;
        clock_gettime(CLOCK_MONOTONIC, &end);
        dprintf(out, "%ld\n", (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000);
        nanosleep(&pause, NULL);
    }
}
