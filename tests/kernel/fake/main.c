/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop (util/async.c, one AioContext) and the commands on stdin, a line each; tests/kernel/fake_qemu.py has
 * the list.  Requests are submitted and ended by this thread; librbd calls back from its own.
 */
#define _GNU_SOURCE
#include "scsi.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

enum { MOST_IN_FLIGHT = 4096, FLAT_OUT_DEPTH = 32, PLACES = 1 << 20 };

/* QEMUBH (util/async.c) */
typedef struct QEMUBH {
    void (*run)(void *opaque);
    void *opaque;
    struct QEMUBH *next;
} QEMUBH;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t scheduled;
static QEMUBH *first, **last = &first;
static int waiting;

static struct fake_librbd not_loaded;
struct fake_librbd *librbd = &not_loaded;
static void (*let_go)(void);
static int (*start_co)(Coroutine *, const BlockCall *);
static uint64_t in_flight, requests, block_job_calls;

void request_finished(void)
{
    in_flight--;
    requests++;
}

void block_job_call_finished(void)
{
    in_flight--;
    block_job_calls++;
}

void aio_bh_schedule_oneshot(void (*run)(void *opaque), void *opaque)
{
    QEMUBH *bh = malloc(sizeof(*bh));
    *bh = (QEMUBH){run, opaque, NULL};
    pthread_mutex_lock(&lock);
    *last = bh;
    last = &bh->next;
    if (waiting)
        pthread_cond_signal(&scheduled);
    pthread_mutex_unlock(&lock);
}

/* bdrv_driver_preadv() and its like (block/io.c) */
int bdrv_driver_start(Coroutine *co, const BlockCall *call)
{
    return start_co(co, call);
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* aio_poll(): run what is scheduled; with nothing to run, wait for it until a time (0: do not wait). */
static void aio_poll(uint64_t until_ns)
{
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    pthread_mutex_lock(&lock);
    waiting = 1;
    while (!first && until_ns && pthread_cond_timedwait(&scheduled, &lock, &until) != ETIMEDOUT)
        ;
    waiting = 0;
    QEMUBH *bh = first;
    first = NULL;
    last = &first;
    pthread_mutex_unlock(&lock);
    while (bh) {
        QEMUBH *next = bh->next;
        bh->run(bh->opaque);
        free(bh);
        bh = next;
    }
}

/* Some block of the disk, in an order that looks random and repeats after PLACES requests. */
static uint64_t next_lba(void)
{
    static uint64_t turn;
    return turn++ * 0x9e3779b1 % PLACES * 2048;
}

static void submit(const Scenario *scenario)
{
    in_flight++;
    if (scenario)
        submit_request(scenario, next_lba());
    else
        start_block_job_call(next_lba() * BLOCK_BYTES);
}

/* `count` requests, `depth` at a time; while librbd holds its calls, all at once and without waiting for their end. */
static void run(const Scenario *scenario, uint64_t count, uint64_t depth)
{
    for (; count; count--) {
        submit(scenario);
        while (in_flight >= depth && !librbd->holding)
            aio_poll(UINT64_MAX / 2);
    }
    while (in_flight && !librbd->holding)
        aio_poll(UINT64_MAX / 2);
}

/* Whether the next command waits already. */
static bool told_to_stop(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

/*
 * 4 KiB reads and writes in turn for some seconds, each at its time; `rate` 0: as many as there can be.  Another
 * command ends it.
 */
static uint64_t run_at_rate(double rate, double seconds)
{
    static const Scenario kinds[] = {{READ_10, READ, 4096}, {WRITE_10, WRITE, 4096}};
    uint64_t start = now_ns(CLOCK_MONOTONIC), end = start + seconds * 1e9, most_late = 0, count = 0, due = start;
    while (due < end) {
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        if (in_flight >= (rate ? MOST_IN_FLIGHT : FLAT_OUT_DEPTH) || due > now) {
            aio_poll(rate && due > now ? due : end);
            continue;
        }
        most_late = now - due > most_late && rate ? now - due : most_late;
        submit(&kinds[count++ % 2]);
        due = rate ? start + count * 1e9 / rate : now;
        if (count % 16 == 0)
            aio_poll(0);
        if (count % 1024 == 0 && told_to_stop())
            break;
    }
    run(NULL, 0, 1);
    return most_late;
}

static const struct {
    const char *name;
    Scenario scenario;
} commands[] = {
    {"read", {READ_10, READ}},
    {"write", {WRITE_10, WRITE}},
    {"flat-read", {READ_10, FLAT_READ}},
    {"flat-write", {WRITE_10, FLAT_WRITE}},
    {"fua", {WRITE_10, WRITE, 4096, .fua = true}},
    {"flush", {SYNCHRONIZE_CACHE}},
    {"layered", {WRITE_10, WRITE, .layered = true}},
    {"unmap", {UNMAP}},
    {"zero", {WRITE_SAME_16, WRITE_ZEROES, 1 << 20}},
    {"inquiry", {INQUIRY}},
    {"fail", {READ_10, READ, 4096, .error = -EIO, .on_error = HOST_FAILURE}},
    {"check-condition", {READ_10, READ, 4096, .error = -EIO}},
    {"early-fail", {WRITE_10, WRITE, 4096, .error = -EINVAL, .refused = true}},
    {"cancel", {READ_10, READ, 4096, .cancelled = true}},
    {"retry", {SYNCHRONIZE_CACHE, .error = -ENOSPC, .on_error = STOP}},
    {"retry-data", {WRITE_10, WRITE, 4096, .error = -ENOSPC, .on_error = STOP}},
};

/* module_load() (util/module.c), which brings librbd with it: at the start, or when the first rbd disk is plugged */
static void load_block_driver(const char *path)
{
#ifdef STATIC
    (void)path;
    start_co = qemu_rbd_start_co;
    librbd = &fake_librbd;
    let_go = fake_librbd_let_go;
#else
    void *module = dlopen(path, RTLD_NOW);
    if (!module) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    start_co = (int (*)(Coroutine *, const BlockCall *))dlsym(module, "qemu_rbd_start_co");
    librbd = dlsym(module, "fake_librbd");
    let_go = (void (*)(void))dlsym(module, "fake_librbd_let_go");
#endif
}

/* Returns what the command adds to the answer, or NULL when there is no such command. */
static const char *obey(const char *line)
{
    static char answer[64];
    char name[32] = "", path[200] = "";
    double a = 0, b = 0, c = 0;
    *answer = 0;
    sscanf(line, "%31s %lf %lf %lf", name, &a, &b, &c);
    sscanf(line, "load %199s", path);
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        Scenario scenario = commands[i].scenario;
        if (strcmp(name, commands[i].name))
            continue;
        scenario.bytes = scenario.bytes ? scenario.bytes : b;
        scenario.descriptors = b;
        run(&scenario, a, c ? c : 8);
        return answer;
    }
    if (!strcmp(name, "orphan"))
        run(NULL, a, 8);
    else if (!strcmp(name, "hold"))
        librbd->holding = 1;
    else if (!strcmp(name, "release-held"))
        let_go(), run(NULL, 0, 1);
    else if (!strcmp(name, "stop"))
        ;  /* it ended a `rate` by being there */
    else if (!strcmp(name, "load"))
        load_block_driver(path);
    else if (!strcmp(name, "rate"))
        snprintf(answer, sizeof(answer), " late_ns=%" PRIu64, run_at_rate(a, b));
    else
        return NULL;
    return answer;
}

int main(int argc, char **argv)
{
    char line[256];
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&scheduled, &monotonic);
    prctl(PR_SET_TIMERSLACK, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1)
        load_block_driver(argv[1]);
    puts("QEMU emulator version fake");
    while (fgets(line, sizeof(line), stdin) && strncmp(line, "quit", 4)) {
        uint64_t start = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), before = requests;
        uint64_t calls = librbd->calls;
        const char *more = obey(line);
        if (!more)
            printf("unknown command: %s", line);
        else
            printf("ok requests=%" PRIu64 " calls=%" PRIu64 " in_flight=%" PRIu64 " strange_returns=%" PRIu64
                   " elapsed_ns=%" PRIu64 " cpu_ns=%" PRIu64 "%s\n",
                   requests - before, librbd->calls - calls, in_flight, strange_returns,
                   now_ns(CLOCK_MONOTONIC) - start, now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu, more);
    }
    return 0;
}
