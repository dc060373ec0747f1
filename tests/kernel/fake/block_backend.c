/* SPDX-License-Identifier: Apache-2.0 */
/*
 * system/dma-helpers.c over block/block-backend.c over util/qemu-coroutine.c: which objects point to which while a
 * request is on its way to the block driver, and which coroutine runs then.  What the audit probes has a name and is
 * called as QEMU calls it.
 */
#include "scsi.h"

#include <stdlib.h>

enum { PAGE = 4096, MOST_IOVECS = 1024, WORDS = 8 };

/* As in a file of its own, which is where QEMU has each. */
#define OF_ANOTHER_FILE ENTERED
#ifdef CHAINLESS
#define dma_blk_io dma_blk_io_of_another_name
#endif

/* BlkAioEmAIOCB (block/block-backend.c): its beginning; then what its coroutine is to do */
typedef struct BlkAioEmAIOCB {
    BlockAIOCB common;
    void *blk;
    int ret;
    BlockCall call;
    AioTaskPool pool;          /* really: on the coroutine's stack */
} BlkAioEmAIOCB;

/* DMAAIOCB (system/dma-helpers.c), its beginning; then its scatter list */
typedef struct DMAAIOCB {
    BlockAIOCB common;
    void *ctx;
    BlockCall *call;
    DMAIOFunc *io_func;
    void *io_func_opaque;
} DMAAIOCB;

/* ---- util/qemu-coroutine.c, util/async.c ---- */

static Coroutine leader, *current = &leader;
enum CoroutineAction { COROUTINE_YIELD = 1, COROUTINE_TERMINATE, COROUTINE_ENTER };

Coroutine *qemu_coroutine_create(void (*entry)(Coroutine *, int64_t), void *opaque);
OF_ANOTHER_FILE Coroutine *qemu_coroutine_create(void (*entry)(Coroutine *, int64_t), void *opaque)
{
    Coroutine *co = malloc(sizeof(*co));
    co->entry = entry;
    co->entry_arg = opaque;
    return co;
}

/* Here a coroutine is a function that is called back, so that nothing is switched but who is said to run. */
int qemu_coroutine_switch(Coroutine *from, Coroutine *to, enum CoroutineAction action);
OF_ANOTHER_FILE int qemu_coroutine_switch(Coroutine *from, Coroutine *to, enum CoroutineAction action)
{
    (void)from;
    current = to;
    return action;
}

void aio_co_enter(void *ctx, Coroutine *co);
OF_ANOTHER_FILE void aio_co_enter(void *ctx, Coroutine *co)
{
    qemu_coroutine_switch(current, co, COROUTINE_ENTER);
}

/* qemu_coroutine_enter(), not by way of an AioContext */
static void enter(Coroutine *co)
{
    qemu_coroutine_switch(current, co, COROUTINE_ENTER);
}

static void leave(Coroutine *to, enum CoroutineAction action)
{
    qemu_coroutine_switch(current, to, action);
}

void aio_co_wake(Coroutine *co, int64_t ret)
{
    Coroutine *before = current;
    enter(co);
    co->entry(co, ret);        /* to its end, which frees it */
    leave(before, COROUTINE_TERMINATE);
}

/* ---- block/aio_task.c, for block/qcow2.c ---- */

/* aio_task_co(): the helper's end, which wakes whom it helps */
static void aio_task_entry(Coroutine *self, int64_t ret)
{
    AioTask *task = self->entry_arg;
    Coroutine *main_co = task->pool->main_co;
    free(task->state);
    free(task);
    free(self);
    aio_co_wake(main_co, ret);
}

/* aio_task_pool_start_task() */
static int start_task(AioTaskPool *pool, const BlockCall *call)
{
    AioTask *task = calloc(1, sizeof(*task));
    task->pool = pool;
    task->state = calloc(WORDS, sizeof(*task->state));
    for (int i = 0; i < WORDS; i++)
        task->state[i] = task;
    Coroutine *helped = current, *co = qemu_coroutine_create(aio_task_entry, task);
    pool->main_co = helped;
    enter(co);
    int ret = bdrv_driver_start(co, call);
    leave(helped, COROUTINE_YIELD);
    return ret;
}

/* ---- block/block-backend.c ---- */

/* blk_aio_complete() */
static void blk_aio_complete(BlkAioEmAIOCB *acb, int64_t ret)
{
    acb->common.cb(acb->common.opaque, ret);
    free(acb);
}

/* blk_aio_read_entry() and its like, from where they wait for the driver */
static void blk_aio_entry(Coroutine *self, int64_t ret)
{
    BlkAioEmAIOCB *acb = self->entry_arg;
    free(self);
    blk_aio_complete(acb, ret);
}

static void blk_aio_complete_bh(void *opaque)
{
    BlkAioEmAIOCB *acb = opaque;
    blk_aio_complete(acb, acb->ret);
}

static BlockAIOCB *blk_aio_prwv(const BlockCall *call, BlockCompletionFunc *cb, void *opaque)
{
    BlkAioEmAIOCB *acb = calloc(1, sizeof(*acb));
    acb->common.cb = cb;
    acb->common.opaque = opaque;
    Coroutine *before = current, *co = qemu_coroutine_create(blk_aio_entry, acb);
    aio_co_enter(NULL, co);
    acb->ret = call->layered ? start_task(&acb->pool, call) : bdrv_driver_start(co, call);
    leave(before, acb->ret < 0 ? COROUTINE_TERMINATE : COROUTINE_YIELD);
    if (acb->ret < 0) {
        free(co);
        aio_bh_schedule_oneshot(blk_aio_complete_bh, acb);
    }
    return &acb->common;
}

OF_ANOTHER_FILE BlockAIOCB *blk_aio_preadv(void *blk, int64_t offset, QEMUIOVector *qiov, int flags,
                                           BlockCompletionFunc *cb, void *opaque)
{
    return blk_aio_prwv((BlockCall *)qiov, cb, opaque);
}

#ifdef IN_CALLERS
BlockAIOCB *blk_aio_preadv_in_callers(void *blk, int64_t offset, QEMUIOVector *qiov, int flags,
                                      BlockCompletionFunc *cb, void *opaque)
{
    return blk_aio_prwv((BlockCall *)qiov, cb, opaque);
}
#endif

OF_ANOTHER_FILE BlockAIOCB *blk_aio_pwritev(void *blk, int64_t offset, QEMUIOVector *qiov, int flags,
                                            BlockCompletionFunc *cb, void *opaque)
{
    return blk_aio_prwv((BlockCall *)qiov, cb, opaque);
}

OF_ANOTHER_FILE BlockAIOCB *blk_aio_pwrite_zeroes(void *blk, int64_t offset, int64_t bytes, int flags,
                                                  BlockCompletionFunc *cb, void *opaque)
{
    return blk_aio_prwv(&(BlockCall){.operation = WRITE_ZEROES, .offset = offset, .bytes = bytes}, cb, opaque);
}

OF_ANOTHER_FILE BlockAIOCB *blk_aio_pdiscard(void *blk, int64_t offset, int64_t bytes, BlockCompletionFunc *cb,
                                             void *opaque)
{
    return blk_aio_prwv(&(BlockCall){.operation = DISCARD, .offset = offset, .bytes = bytes}, cb, opaque);
}

OF_ANOTHER_FILE BlockAIOCB *blk_aio_flush(void *blk, BlockCompletionFunc *cb, void *opaque)
{
    return blk_aio_prwv(&(BlockCall){.operation = FLUSH}, cb, opaque);
}

/* ---- system/dma-helpers.c ---- */

/* dma_complete() */
static void dma_complete(void *opaque, int64_t ret)
{
    DMAAIOCB *dbs = opaque;
    dbs->common.cb(dbs->common.opaque, ret);
    free(dbs);
}

/* dma_blk_cb(), the first time: map the scatter list, ask for the block I/O */
static OF_ANOTHER_FILE void dma_blk_cb(DMAAIOCB *dbs)
{
    static struct iovec pages[MOST_IOVECS];
    BlockCall *call = dbs->call;
    for (uint64_t left = call->bytes; left && call->iovcnt < MOST_IOVECS; call->iovcnt++) {
        pages[call->iovcnt].iov_len = left < PAGE ? left : PAGE;
        left -= pages[call->iovcnt].iov_len;
    }
    call->iov = pages;
    dbs->io_func(call->offset, (QEMUIOVector *)call, dma_complete, dbs, dbs->io_func_opaque);
}

#if QEMU < 100
#define CONTEXT void *ctx,
#define OF_CONTEXT NULL,
#else
#define CONTEXT
#define OF_CONTEXT
#endif

BlockAIOCB *dma_blk_io(CONTEXT void *sg, uint64_t offset, uint32_t align, DMAIOFunc *io_func, void *io_func_opaque,
                       BlockCompletionFunc *cb, void *opaque, int dir);
OF_ANOTHER_FILE BlockAIOCB *dma_blk_io(CONTEXT void *sg, uint64_t offset, uint32_t align, DMAIOFunc *io_func,
                                       void *io_func_opaque, BlockCompletionFunc *cb, void *opaque, int dir)
{
    DMAAIOCB *dbs = calloc(1, sizeof(*dbs));
    dbs->common.cb = cb;
    dbs->common.opaque = opaque;
    dbs->call = sg;
    dbs->io_func = io_func;
    dbs->io_func_opaque = io_func_opaque;
    dma_blk_cb(dbs);
    return &dbs->common;
}

void start_dma(BlockCall *call, DMAIOFunc *io_func, void *io_func_opaque, BlockCompletionFunc *cb)
{
    dma_blk_io(OF_CONTEXT call, call->offset, BLOCK_BYTES, io_func, io_func_opaque, cb, io_func_opaque, 0);
}

/* ---- block/block-copy.c: a block job reads without any SCSI request ---- */

static void block_copy_task_entry(Coroutine *self, int64_t ret)
{
    AioTask *task = self->entry_arg;
    (void)ret;
    free(task->pool);
    free(task->state);
    free(task);
    free(self);
    block_job_call_finished();
}

void start_block_job_call(uint64_t offset)
{
    AioTask *task = calloc(1, sizeof(*task));
    task->pool = calloc(1, sizeof(*task->pool));
    task->pool->main_co = &leader;    /* really: the job's, which works for no request either */
    task->state = calloc(WORDS, sizeof(*task->state));
    for (int i = 0; i < WORDS; i++)
        task->state[i] = task;
    librbd->refused = librbd->result = 0;
    BlockCall call = {.operation = FLAT_READ, .offset = offset, .bytes = DISCARD_BYTES};
    Coroutine *co = qemu_coroutine_create(block_copy_task_entry, task);
    enter(co);
    bdrv_driver_start(co, &call);
    leave(&leader, COROUTINE_YIELD);
}
