/* SPDX-License-Identifier: Apache-2.0 */
/* block-rbd.so: QEMU's block driver for rbd (block/rbd.c), with the per-call object of each version. */
#include "librbd.h"
#include "qemu.h"

#include <stdlib.h>

/* BDRVRBDState (block/rbd.c) */
static struct BDRVRBDState {
    void *cluster;
    void *io_ctx;
    rbd_image_t image;
} state = {.image = &state};

#if QEMU <= 52

/* CoroutineIOCompletion (block/io.c), on the coroutine's stack; RBDAIOCB and RADOSCB (block/rbd.c) */
typedef struct CoroutineIOCompletion {
    Coroutine *coroutine;
    int64_t ret;
} CoroutineIOCompletion;
typedef struct RBDAIOCB {
    BlockAIOCB common;
    int64_t ret;
} RBDAIOCB;
typedef struct RADOSCB {
    RBDAIOCB *acb;
    struct BDRVRBDState *s;
    int64_t size;
    char *buf;
    int64_t ret;
} Task;
_Static_assert(offsetof(Task, ret) == 32, "RADOSCB.ret");

/* rbd_start_aio(), as far as it allocates */
static Task *new_task(Coroutine *co)
{
    CoroutineIOCompletion *completion = (void *)co->stack;
    Task *task = malloc(sizeof(*task));
    completion->coroutine = co;
    task->acb = calloc(1, sizeof(*task->acb));
    task->acb->common.opaque = completion;
    return task;
}

/* rbd_finish_bh() or qemu_rbd_complete_aio(): tell bdrv_co_io_em_complete(), which wakes the coroutine */
static void finish_bh(void *opaque)
{
    Task *task = opaque;
    CoroutineIOCompletion *completion = task->acb->common.opaque;
    int64_t ret = task->ret;
    free(task->acb);
    free(task);
    aio_co_wake(completion->coroutine, ret);
}

static void delete_task(Task *task)
{
    free(task->acb);
    free(task);
}

#else

/* RBDTask (block/rbd.c), on the coroutine's stack */
typedef struct RBDTask {
#if QEMU < 100
    struct BDRVRBDState *bs;
    Coroutine *co;
    bool complete;
#else
    Coroutine *co;
#endif
    int64_t ret;
} Task;
_Static_assert(offsetof(Task, co) == (QEMU < 100 ? 8 : 0), "RBDTask.co");
_Static_assert(offsetof(Task, ret) == (QEMU < 100 ? 24 : 8), "RBDTask.ret");

static Task *new_task(Coroutine *co)
{
    Task *task = (void *)co->stack;
    task->co = co;
    return task;
}

/* qemu_rbd_finish_bh() */
static void finish_bh(void *opaque)
{
    Task *task = opaque;
    aio_co_wake(task->co, task->ret);
}

static void delete_task(Task *task)
{
    (void)task;
}

#endif

/* qemu_rbd_completion_cb() or rbd_finish_aiocb(), on a thread of librbd */
static ENTERED void qemu_rbd_completion_cb(rbd_completion_t c, void *opaque)
{
    Task *task = opaque;
    task->ret = rbd_aio_get_return_value(c);
    rbd_aio_release(c);
    aio_bh_schedule_oneshot(finish_bh, task);
}

static int start(const BlockCall *call, rbd_completion_t c)
{
    switch (call->operation) {
    case READ:
        return rbd_aio_readv(state.image, call->iov, call->iovcnt, call->offset, c);
    case WRITE:
        return rbd_aio_writev(state.image, call->iov, call->iovcnt, call->offset, c);
    case DISCARD:
        return rbd_aio_discard(state.image, call->offset, call->bytes, c);
    case WRITE_ZEROES:
        return rbd_aio_write_zeroes(state.image, call->offset, call->bytes, c, 0, 0);
    case FLUSH:
        return rbd_aio_flush(state.image, c);
    case FLAT_READ:  /* as QEMU 5.2 does where it was built with a librbd that knows no iovecs */
        return rbd_aio_read(state.image, call->offset, call->bytes, NULL, c);
    case FLAT_WRITE:
        return rbd_aio_write(state.image, call->offset, call->bytes, NULL, c);
    }
    abort();
}

/* qemu_rbd_start_co() or rbd_start_aio() */
int qemu_rbd_start_co(Coroutine *co, const BlockCall *call)
{
    rbd_completion_t c;
    Task *task = new_task(co);
    task->ret = 0;
    if (rbd_aio_create_completion(task, qemu_rbd_completion_cb, &c) < 0)
        abort();
    int error = start(call, c);
    if (error < 0) {
        rbd_aio_release(c);
        delete_task(task);
    }
    return error;
}
