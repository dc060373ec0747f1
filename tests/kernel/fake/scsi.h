/* SPDX-License-Identifier: Apache-2.0 */
/* Between the SCSI bus, the SCSI disk and the commands on stdin. */
#ifndef FAKE_SCSI_H
#define FAKE_SCSI_H

#include "librbd.h"
#include "qemu.h"

/* SCSIReqOps (include/hw/scsi/scsi.h) */
typedef struct SCSIReqOps {
    size_t size;
    int32_t (*send_command)(SCSIRequest *req, uint8_t *buf);
    void (*read_or_write_data)(SCSIRequest *req);
} SCSIReqOps;

/* hw/scsi/scsi-bus.c */
SCSIRequest *scsi_req_new(SCSIDevice *d, uint32_t tag, uint32_t lun, uint8_t *buf, void *hba_private);
int32_t scsi_req_enqueue(SCSIRequest *req);
void scsi_req_continue(SCSIRequest *req);
void scsi_req_complete(SCSIRequest *req, int status);
#ifdef INLINED
void scsi_req_complete_inlined(SCSIRequest *req, int status);
#endif
void scsi_req_cancel_async(SCSIRequest *req);
void scsi_req_cancel_complete(SCSIRequest *req);
void scsi_req_retry(SCSIRequest *req);
#if QEMU > 52
void scsi_req_complete_failed(SCSIRequest *req, int host_status);
#endif

/* How often a probed function of this file was about to return to somewhere else than its caller. */
extern uint64_t strange_returns;

/* What becomes of a request whose librbd call fails (rerror=, werror= of a QEMU drive, and which error it is). */
typedef enum OnError { REPORT, HOST_FAILURE, STOP } OnError;

/* One request that a command asked for. */
typedef struct Scenario {
    uint8_t opcode;
    Operation operation;       /* of its librbd calls */
    uint32_t bytes;
    int descriptors;           /* of an UNMAP */
    bool fua;                  /* a WRITE: followed by a flush */
    bool layered;              /* its disk is a qcow2 image */
    bool cancelled;            /* task abort, once it is in flight */
    int error;                 /* its first call returns it; 0: goes well */
    bool refused;              /* that call is refused at once */
    OnError on_error;
} Scenario;

/* hw/scsi/scsi-disk.c and block/block-copy.c */
void submit_request(const Scenario *scenario, uint64_t lba);
void start_block_job_call(uint64_t offset);

/* system/dma-helpers.c: dma_blk_io() as each version has it, a scatter list of pages being made of the call's bytes */
typedef struct QEMUIOVector QEMUIOVector;    /* really: the BlockCall */
typedef BlockAIOCB *DMAIOFunc(int64_t offset, QEMUIOVector *iov, BlockCompletionFunc *cb, void *cb_opaque, void *opaque);
void start_dma(BlockCall *call, DMAIOFunc *io_func, void *io_func_opaque, BlockCompletionFunc *cb);

/* block/block-backend.c */
BlockAIOCB *blk_aio_preadv(void *blk, int64_t offset, QEMUIOVector *qiov, int flags, BlockCompletionFunc *cb, void *opaque);
#ifdef IN_CALLERS
BlockAIOCB *blk_aio_preadv_in_callers(void *blk, int64_t offset, QEMUIOVector *qiov, int flags, BlockCompletionFunc *cb,
                                      void *opaque);
#endif
BlockAIOCB *blk_aio_pwritev(void *blk, int64_t offset, QEMUIOVector *qiov, int flags, BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_aio_pwrite_zeroes(void *blk, int64_t offset, int64_t bytes, int flags, BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_aio_pdiscard(void *blk, int64_t offset, int64_t bytes, BlockCompletionFunc *cb, void *opaque);
BlockAIOCB *blk_aio_flush(void *blk, BlockCompletionFunc *cb, void *opaque);

/* block/io.c: what calls into the block driver's module */
int bdrv_driver_start(Coroutine *co, const BlockCall *call);

/* The commands' side: the HBA's completion of a request, the end of a block job's call, librbd's knobs. */
void request_finished(void);
void block_job_call_finished(void);
extern struct fake_librbd *librbd;

enum {
    INQUIRY = 0x12, READ_10 = 0x28, WRITE_10 = 0x2a, SYNCHRONIZE_CACHE = 0x35, UNMAP = 0x42, WRITE_SAME_16 = 0x93,
    GOOD = 0, CHECK_CONDITION = 2, SCSI_HOST_ERROR = 7, BLOCK_BYTES = 512, DISCARD_BYTES = 65536,
};

#endif
