/*
 * hw/scsi/scsi-disk.c over system/dma-helpers.c over block/block-backend.c: which objects point to which while a
 * request is on its way to the block driver.
 */
#include "scsi.h"

#ifdef INLINED
#define scsi_req_complete scsi_req_complete_inlined
#endif

#include <endian.h>
#include <stdlib.h>
#include <string.h>

static const BlockCall flush = {.operation = FLUSH};
enum { PAGE = 4096, MOST_IOVECS = 1024, PARAMETER_BYTES = 8, DESCRIPTOR_BYTES = 16, DISCARD_BYTES = 65536, WORDS = 8 };

/* SCSIDiskReq (hw/scsi/scsi-disk.c); what follows `req` is the scenario it plays */
typedef struct SCSIDiskReq {
    SCSIRequest req;
    Scenario scenario;
    uint64_t offset;
} SCSIDiskReq;

/* UnmapCBData (hw/scsi/scsi-disk.c) */
typedef struct UnmapCBData {
    SCSIDiskReq *r;
    uint8_t *inbuf;
    int count;
} UnmapCBData;

/* BlkAioEmAIOCB (block/block-backend.c): its beginning, and the error that a BH brings */
typedef struct BlkAioEmAIOCB {
    BlockAIOCB common;
    void *blk;
    int ret;
} BlkAioEmAIOCB;

/* DMAAIOCB (system/dma-helpers.c) */
typedef struct DMAAIOCB {
    BlockAIOCB common;
    void *ctx;
} DMAAIOCB;

/* AioTask (block/aio_task.c) and BlockCopyTask (block/block-copy.c): what a block job's coroutine has */
typedef struct BlockCopyTask {
    void *pool;
    void *func;
    int ret;
    void **state;
} BlockCopyTask;
_Static_assert(offsetof(BlockCopyTask, state) == 24, "BlockCopyTask.s");

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

static Coroutine *qemu_coroutine_create(void (*entry)(Coroutine *, int64_t), void *opaque)
{
    Coroutine *co = malloc(sizeof(*co));
    co->entry = entry;
    co->entry_arg = opaque;
    return co;
}

/* blk_aio_prwv() */
static void blk_aio(const BlockCall *call, BlockCompletionFunc *cb, void *opaque)
{
    BlkAioEmAIOCB *acb = calloc(1, sizeof(*acb));
    acb->common.cb = cb;
    acb->common.opaque = opaque;
    Coroutine *co = qemu_coroutine_create(blk_aio_entry, acb);
    acb->ret = bdrv_driver_start(co, call);
    if (acb->ret < 0) {
        free(co);
        aio_bh_schedule_oneshot(blk_aio_complete_bh, acb);
    }
}

/* ---- system/dma-helpers.c ---- */

/* dma_blk_cb(), at the end */
static void dma_blk_cb(void *opaque, int64_t ret)
{
    DMAAIOCB *dbs = opaque;
    dbs->common.cb(dbs->common.opaque, ret);
    free(dbs);
}

static void dma_blk_io(BlockCall *call, BlockCompletionFunc *cb, void *opaque)
{
    static struct iovec pages[MOST_IOVECS];
    DMAAIOCB *dbs = calloc(1, sizeof(*dbs));
    dbs->common.cb = cb;
    dbs->common.opaque = opaque;
    for (uint64_t left = call->bytes; left && call->iovcnt < MOST_IOVECS; call->iovcnt++) {
        pages[call->iovcnt].iov_len = left < PAGE ? left : PAGE;
        left -= pages[call->iovcnt].iov_len;
    }
    call->iov = pages;
    blk_aio(call, dma_blk_cb, dbs);
}

/* ---- hw/scsi/scsi-disk.c ---- */

/* scsi_dma_restart_req(): the guest runs again */
static void restart(void *opaque)
{
    SCSIDiskReq *r = opaque;
    if (r->req.cmd.buf[0] == SYNCHRONIZE_CACHE)
        scsi_req_enqueue(&r->req);
    else
        scsi_req_continue(&r->req);
}

/* scsi_handle_rw_error() */
static void handle_error(SCSIDiskReq *r)
{
    static const uint8_t io_error[] = {0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x00, 0x06};
    if (r->scenario.on_error == STOP) {
        scsi_req_retry(&r->req);
        aio_bh_schedule_oneshot(restart, r);
        return;
    }
#if QEMU > 52
    if (r->scenario.on_error == HOST_FAILURE) {
        scsi_req_complete_failed(&r->req, SCSI_HOST_ERROR);
        return;
    }
#endif
    memcpy(r->req.sense, io_error, sizeof(io_error));
    r->req.sense_len = sizeof(io_error);
    scsi_req_complete(&r->req, CHECK_CONDITION);
}

/* scsi_disk_req_check_error() */
static bool ended_badly(SCSIDiskReq *r, int64_t ret)
{
    if (r->req.io_canceled)
        scsi_req_cancel_complete(&r->req);
    else if (ret < 0)
        handle_error(r);
    return r->req.io_canceled || ret < 0;
}

static void scsi_aio_complete(void *opaque, int64_t ret)
{
    SCSIDiskReq *r = opaque;
    r->req.refcount++;
    if (!ended_badly(r, ret))
        scsi_req_complete(&r->req, GOOD);
    if (--r->req.refcount == 0)
        free(r);
}

/* scsi_dma_complete(); for a WRITE with FUA, scsi_write_do_fua() */
static void scsi_dma_complete(void *opaque, int64_t ret)
{
    SCSIDiskReq *r = opaque;
    if (ret >= 0 && !r->req.io_canceled && r->scenario.fua)
        blk_aio(&flush, scsi_aio_complete, r);
    else
        scsi_aio_complete(r, ret);
}

/* scsi_unmap_complete(): one descriptor after the other */
static void scsi_unmap_complete(void *opaque, int64_t ret)
{
    UnmapCBData *data = opaque;
    if (ret < 0 || !data->count) {
        scsi_aio_complete(data->r, ret);
        free(data);
        return;
    }
    data->count--;
    BlockCall call = {.operation = DISCARD, .offset = data->r->offset, .bytes = DISCARD_BYTES};
    data->r->offset += 2 * DISCARD_BYTES;
    blk_aio(&call, scsi_unmap_complete, data);
}

/* The scenario's error is for the first call only: a retry goes well. */
static void set_librbd(const SCSIDiskReq *r)
{
    int error = r->req.retry ? 0 : r->scenario.error;
    librbd->refused = r->scenario.refused ? error : 0;
    librbd->result = r->scenario.refused ? 0 : error;
}

/* scsi_disk_dma_command() and scsi_disk_emulate_command() */
static int32_t send_command(SCSIRequest *req, uint8_t *buf)
{
    SCSIDiskReq *r = (SCSIDiskReq *)req;
    set_librbd(r);
    if (buf[0] == SYNCHRONIZE_CACHE)
        blk_aio(&flush, scsi_aio_complete, r);
    else if (buf[0] == INQUIRY)
        scsi_req_complete(req, GOOD);
    else
        return req->cmd.xfer;
    return 0;
}

/* scsi_read_data(), scsi_write_data(), scsi_disk_emulate_write_data() */
static void read_or_write_data(SCSIRequest *req)
{
    SCSIDiskReq *r = (SCSIDiskReq *)req;
    BlockCall call = {.operation = r->scenario.operation, .offset = r->offset, .bytes = r->scenario.bytes};
    set_librbd(r);
    if (req->cmd.buf[0] == UNMAP) {
        UnmapCBData *data = calloc(1, sizeof(*data));
        data->r = r;
        data->count = r->scenario.descriptors;
        scsi_unmap_complete(data, 0);
    } else if (req->cmd.buf[0] == WRITE_SAME_16) {
        blk_aio(&call, scsi_aio_complete, r);
    } else {
        dma_blk_io(&call, scsi_dma_complete, r);
    }
}

/* scsi_cdb_length(), scsi_cmd_xfer() and scsi_cmd_lba() the other way round: write the CDB and what they make of it */
static void write_command(SCSICommand *cmd, const Scenario *scenario, uint64_t lba)
{
    uint32_t lba_be = htobe32(lba), blocks = scenario->bytes / BLOCK_BYTES, blocks_be = htobe32(blocks);
    uint64_t lba_be64 = htobe64(lba);
    cmd->buf[0] = scenario->opcode;
    cmd->xfer = scenario->opcode == READ_10 || scenario->opcode == WRITE_10 ? scenario->bytes : 0;
    if (scenario->opcode == UNMAP) {
        cmd->xfer = PARAMETER_BYTES + DESCRIPTOR_BYTES * scenario->descriptors;
        cmd->buf[7] = cmd->xfer >> 8;
        cmd->buf[8] = cmd->xfer;
    } else if (scenario->opcode == WRITE_SAME_16) {
        cmd->xfer = BLOCK_BYTES;
        memcpy(cmd->buf + 2, &lba_be64, 8);
        memcpy(cmd->buf + 10, &blocks_be, 4);
    } else if (cmd->xfer) {
        cmd->buf[1] = scenario->fua << 3;
        memcpy(cmd->buf + 2, &lba_be, 4);
        cmd->buf[7] = blocks >> 8;
        cmd->buf[8] = blocks;
    }
}

/* virtio_scsi_handle_cmd_req_submit() (hw/scsi/virtio-scsi.c) */
void submit_request(const Scenario *scenario, uint64_t lba)
{
    static const SCSIReqOps ops = {sizeof(SCSIDiskReq), send_command, read_or_write_data};
    static SCSIDevice disk = {.id = "scsi0-0-0-3", .lun = 3, .req_ops = &ops};
    static uint32_t tag = 0xfedcba00;
    SCSICommand command = {};
    write_command(&command, scenario, lba);
    SCSIDiskReq *r = (SCSIDiskReq *)scsi_req_new(&disk, tag++, disk.lun, command.buf, NULL);
    r->req.cmd = command;
    r->scenario = *scenario;
    r->offset = lba * BLOCK_BYTES;
    r->req.refcount++;
    if (scsi_req_enqueue(&r->req))
        scsi_req_continue(&r->req);
    if (scenario->cancelled)
        scsi_req_cancel_async(&r->req);
    if (--r->req.refcount == 0)
        free(r);
}

/* ---- block/block-copy.c: a block job reads without any SCSI request ---- */
static void block_copy_task_entry(Coroutine *self, int64_t ret)
{
    BlockCopyTask *task = self->entry_arg;
    (void)ret;
    free(task->state);
    free(task);
    free(self);
    block_job_call_finished();
}

void start_block_job_call(uint64_t offset)
{
    BlockCopyTask *task = calloc(1, sizeof(*task));
    task->state = calloc(WORDS, sizeof(*task->state));
    for (int i = 0; i < WORDS; i++)
        task->state[i] = task;
    librbd->refused = librbd->result = 0;
    BlockCall call = {.operation = FLAT_READ, .offset = offset, .bytes = DISCARD_BYTES};
    bdrv_driver_start(qemu_coroutine_create(block_copy_task_entry, task), &call);
}
