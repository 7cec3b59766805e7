// SPDX-License-Identifier: Apache-2.0
/*
 * A writer that can prove what it wrote, whatever moment of its disk one looks at.
 *
 *     writer run NAME FOLDER MIB PAUSE_MS    writes on and on; prints "DONJON-GUEST ACK NAME N" when all of operation
 *                                            N, and of every one before it, is durable
 *     writer check NAME FOLDER               prints "DONJON-GUEST checked NAME: N recovered, B bad"
 *
 * FOLDER/slots has slots of 4 KiB. An operation fills one of them with data, or makes zeros of a megabyte of them, by
 * writing zeros or by giving the blocks back. Its number alone says which, where, and what data. When it is durable,
 * its number and a checksum are appended to FOLDER/log; when that is durable, it is acknowledged. So at any moment the
 * log is 1, 2, ... N, and each slot has what the newest operation in the log put there; only the slots of operation
 * N + 1 may be newer. "bad" counts the slots and the log records of which this is not true.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SLOT = 4096, REGION = 256, RARE = 8 };
enum kind { DATA, ZEROS, HOLE };

struct operation {
    enum kind kind;
    uint64_t first, count;
};

struct record {
    uint64_t number, checksum;
};

struct files {
    int slots, log;
    uint64_t total;
};

static void fail(const char *what)
{
    printf("DONJON-GUEST FAILED writer: cannot %s: %s\n", what, strerror(errno));
    exit(1);
}

/* A well-mixed word for each input: the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable PRNGs, 2014). */
static uint64_t mixed(uint64_t word)
{
    word += 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
}

static struct operation operation(uint64_t number, uint64_t total)
{
    uint64_t random = mixed(number), regions = total / REGION;
    if (regions && random % RARE == 0)
        return (struct operation){random >> 8 & 1 ? ZEROS : HOLE, (random >> 16) % regions * REGION, REGION};
    return (struct operation){DATA, (random >> 16) % total, 1};
}

static int touches(struct operation done, uint64_t slot)
{
    return slot - done.first < done.count;
}

static void fill(unsigned char *slot, enum kind kind, uint64_t number)
{
    uint64_t word;
    memset(slot, 0, SLOT);
    for (int i = 0; kind == DATA && i < SLOT; i += sizeof word) {
        word = mixed(number << 16 | i);
        memcpy(slot + i, &word, sizeof word);
    }
}

static struct files open_files(const char *folder, int flags)
{
    char path[256];
    struct files files;
    struct stat found;
    snprintf(path, sizeof path, "%s/slots", folder);
    if ((files.slots = open(path, flags, 0644)) < 0 || fstat(files.slots, &found))
        fail(path);
    files.total = found.st_size / SLOT;
    snprintf(path, sizeof path, "%s/log", folder);
    if ((files.log = open(path, flags, 0644)) < 0)
        fail(path);
    return files;
}

/* How many records there are from the first on that are what they should be. */
static uint64_t intact_records(int log)
{
    struct record record;
    uint64_t number = 1;
    while (pread(log, &record, sizeof record, (number - 1) * sizeof record) == sizeof record &&
           record.number == number && record.checksum == mixed(number ^ SLOT))
        number++;
    return number - 1;
}

static void perform(struct files files, uint64_t number)
{
    static unsigned char slot[SLOT];
    struct operation todo = operation(number, files.total);
    if (todo.kind == HOLE &&
        fallocate(files.slots, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, todo.first * SLOT, todo.count * SLOT))
        fail("punch a hole");
    fill(slot, todo.kind, number);
    for (uint64_t i = 0; todo.kind != HOLE && i < todo.count; i++)
        if (pwrite(files.slots, slot, SLOT, (todo.first + i) * SLOT) != SLOT)
            fail("write a slot");
    if (fdatasync(files.slots))
        fail("sync the slots");
}

static void run(const char *name, const char *folder, uint64_t mib, long pause_ms)
{
    struct files files = open_files(folder, O_RDWR | O_CREAT);
    if (!files.total) {
        files.total = (mib << 20) / SLOT;
        if (ftruncate(files.slots, mib << 20) || fsync(files.slots))
            fail("size the slots");
    }
    uint64_t number = intact_records(files.log);
    if (ftruncate(files.log, number * sizeof(struct record)))
        fail("cut the log");
    for (;;) {
        number++;
        perform(files, number);
        struct record record = {number, mixed(number ^ SLOT)};
        if (pwrite(files.log, &record, sizeof record, (number - 1) * sizeof record) != sizeof record ||
            fdatasync(files.log))
            fail("append to the log");
        printf("DONJON-GUEST ACK %s %llu\n", name, (unsigned long long)number);
        struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
}

static int slot_is_bad(struct files files, uint64_t slot, uint64_t newest, uint64_t next)
{
    static unsigned char found[SLOT], wanted[SLOT];
    if (pread(files.slots, found, SLOT, slot * SLOT) != SLOT)
        return 1;
    fill(wanted, newest ? operation(newest, files.total).kind : HOLE, newest);
    if (!memcmp(found, wanted, SLOT))
        return 0;
    if (!touches(operation(next, files.total), slot))
        return 1;
    fill(wanted, operation(next, files.total).kind, next);
    return memcmp(found, wanted, SLOT) != 0;
}

static int check(const char *name, const char *folder)
{
    struct files files = open_files(folder, O_RDONLY);
    uint64_t recovered = intact_records(files.log);
    uint64_t bad = lseek(files.log, 0, SEEK_END) / sizeof(struct record) - recovered;
    uint64_t *newest = calloc(files.total + 1, sizeof *newest);
    if (!newest)
        fail("get memory");
    for (uint64_t number = 1; number <= recovered; number++) {
        struct operation done = operation(number, files.total);
        for (uint64_t i = 0; i < done.count; i++)
            newest[done.first + i] = number;
    }
    for (uint64_t slot = 0; slot < files.total; slot++)
        bad += slot_is_bad(files, slot, newest[slot], recovered + 1);
    printf("DONJON-GUEST checked %s: %llu recovered, %llu bad\n", name, (unsigned long long)recovered,
           (unsigned long long)bad);
    return bad != 0;
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count == 6 && !strcmp(words[1], "run"))
        run(words[2], words[3], strtoull(words[4], NULL, 10), strtol(words[5], NULL, 10));
    if (count == 4 && !strcmp(words[1], "check"))
        return check(words[2], words[3]);
    fprintf(stderr, "usage: writer run NAME FOLDER MIB PAUSE_MS | writer check NAME FOLDER\n");
    return 2;
}
