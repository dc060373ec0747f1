/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hw/scsi/scsi-disk.c: what becomes of each command, above system/dma-helpers.c and block/block-backend.c
 * (block_backend.c).
 */
#include "scsi.h"

#ifdef INLINED
#define scsi_req_complete scsi_req_complete_inlined
#endif
#ifdef IN_CALLERS
#define blk_aio_preadv blk_aio_preadv_in_callers
#endif

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { PARAMETER_BYTES = 8, DESCRIPTOR_BYTES = 16 };

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

/* ---- hw/scsi/scsi-disk.c ---- */

/* scsi_dma_restart_req(): the guest runs again, and this time all goes well */
static void restart(void *opaque)
{
    SCSIDiskReq *r = opaque;
    r->req.retry = false;
    r->scenario.error = 0;
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
        blk_aio_flush(NULL, scsi_aio_complete, r);
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
    uint64_t offset = data->r->offset;
    data->r->offset += 2 * DISCARD_BYTES;
    blk_aio_pdiscard(NULL, offset, DISCARD_BYTES, scsi_unmap_complete, data);
}

/* scsi_dma_readv() and scsi_dma_writev() */
static BlockAIOCB *scsi_dma_readv_or_writev(int64_t offset, QEMUIOVector *iov, BlockCompletionFunc *cb, void *cb_opaque,
                                            void *opaque)
{
    SCSIDiskReq *r = opaque;
    BlockCall *call = (BlockCall *)iov;
    call->layered = r->scenario.layered;
    bool reads = call->operation == READ || call->operation == FLAT_READ;
    return (reads ? blk_aio_preadv : blk_aio_pwritev)(NULL, offset, iov, 0, cb, cb_opaque);
}

static void set_librbd(const SCSIDiskReq *r)
{
    librbd->refused = r->scenario.refused ? r->scenario.error : 0;
    librbd->result = r->scenario.refused ? 0 : r->scenario.error;
}

/* scsi_disk_dma_command() and scsi_disk_emulate_command() */
static int32_t send_command(SCSIRequest *req, uint8_t *buf)
{
    SCSIDiskReq *r = (SCSIDiskReq *)req;
    set_librbd(r);
    if (buf[0] == SYNCHRONIZE_CACHE)
        blk_aio_flush(NULL, scsi_aio_complete, r);
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
        blk_aio_pwrite_zeroes(NULL, call.offset, call.bytes, 0, scsi_aio_complete, r);
    } else {
        start_dma(&call, scsi_dma_readv_or_writev, r, scsi_dma_complete);
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
