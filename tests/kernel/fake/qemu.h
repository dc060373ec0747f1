/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The structs of QEMU that lie on the way from a librbd completion to the SCSI request, with the layout of
 *
 *   QEMU      52: QEMU 2.12 to 5.2      72: 6.1 to 9.2      100: 10.0.7 on
 *   STRANGE   SCSIRequest begins with fields that no QEMU has
 */
#ifndef FAKE_QEMU_H
#define FAKE_QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * A function that its callers enter with all of its arguments, whatever else is optimised at link time: as in QEMU, where
 * it has many callers.
 */
#ifdef __clang__
#define ENTERED __attribute__((noinline, used))
#else
#define ENTERED __attribute__((noipa))
#endif

/* DeviceState (include/hw/qdev-core.h) and SCSIDevice (include/hw/scsi/scsi.h), as far as both are constant */
typedef struct SCSIDevice {
    char object[0x28];
    char *id;
    uint32_t lun;
    const void *req_ops;       /* as in SCSIDeviceClass.alloc_req */
} SCSIDevice;
_Static_assert(offsetof(SCSIDevice, id) == 0x28, "DeviceState.id");

/* SCSICommand (include/hw/scsi/scsi.h) */
typedef struct SCSICommand {
    uint8_t buf[16];
    int len;
    size_t xfer;
    uint64_t lba;
    int mode;
} SCSICommand;

/* SCSIRequest (include/hw/scsi/scsi.h) */
typedef struct SCSIRequest {
#ifdef STRANGE
    void *strange[2];
#endif
    void *bus;
    SCSIDevice *dev;
    const void *ops;
#if QEMU >= 100
    void *ctx;
#endif
    uint32_t refcount;
    uint32_t tag;
    uint32_t lun;
#if QEMU <= 52
    uint32_t status;
#else
    int16_t status;
    int16_t host_status;
#endif
    void *hba_private;
    uint64_t residual;
    SCSICommand cmd;
    void *cancel_notifiers;
    uint8_t sense[252];
    uint32_t sense_len;
    bool enqueued;
    bool io_canceled;
    bool retry;
    bool dma_started;
    void *aiocb;
    void *sg;
} SCSIRequest;

#ifdef STRANGE
#define BEFORE 16
#else
#define BEFORE 0
#endif
#define MOVED (BEFORE + (QEMU >= 100 ? 8 : 0))
_Static_assert(offsetof(SCSIRequest, dev) == 0x08 + BEFORE, "SCSIRequest.dev");
_Static_assert(offsetof(SCSIRequest, tag) == 0x1c + MOVED, "SCSIRequest.tag");
_Static_assert(offsetof(SCSIRequest, status) == 0x24 + MOVED, "SCSIRequest.status");
_Static_assert(offsetof(SCSIRequest, cmd) == 0x38 + MOVED, "SCSIRequest.cmd");
_Static_assert(offsetof(SCSIRequest, cmd.xfer) == 0x50 + MOVED, "SCSIRequest.cmd.xfer");
_Static_assert(offsetof(SCSIRequest, sense) == 0x70 + MOVED, "SCSIRequest.sense");
_Static_assert(offsetof(SCSIRequest, retry) == 0x172 + MOVED, "SCSIRequest.retry");

/* Coroutine (include/qemu/coroutine_int.h); its stack follows here, with room for the one object that lives there */
typedef struct Coroutine {
    void (*entry)(struct Coroutine *self, int64_t ret);  /* where it goes on when woken; really: where it began */
    void *entry_arg;
    struct Coroutine *caller;
    char stack[128];
} Coroutine;
_Static_assert(offsetof(Coroutine, entry_arg) == 8, "Coroutine.entry_arg");

/* AioTask and AioTaskPool (block/aio_task.c), their beginnings */
typedef struct AioTaskPool {
    Coroutine *main_co;
} AioTaskPool;
typedef struct AioTask {
    AioTaskPool *pool;
    void *func;
    int ret;
    void **state;              /* of a BlockCopyTask (block/block-copy.c) or Qcow2AioTask (block/qcow2.c): what it works on */
} AioTask;
_Static_assert(offsetof(AioTask, state) == 24, "BlockCopyTask.s");

typedef void BlockCompletionFunc(void *opaque, int64_t ret);

/* BlockAIOCB (include/block/aio.h) */
typedef struct BlockAIOCB {
    const void *aiocb_info;
    void *bs;
    BlockCompletionFunc *cb;
    void *opaque;
    int refcnt;
} BlockAIOCB;
_Static_assert(offsetof(BlockAIOCB, opaque) == 24, "BlockAIOCB.opaque");

/* One call of the block driver; what block/rbd.c gets from the block layer above it. */
typedef enum Operation { READ, WRITE, DISCARD, WRITE_ZEROES, FLUSH, FLAT_READ, FLAT_WRITE } Operation;
typedef struct BlockCall {
    Operation operation;
    uint64_t offset;
    uint64_t bytes;
    const struct iovec *iov;
    int iovcnt;
    bool layered;              /* through a format above rbd, which has a coroutine of its own make the call */
} BlockCall;

/* block/rbd.c, in block-rbd.so: start a call for a coroutine; the result comes by aio_co_wake(), or at once if < 0. */
int qemu_rbd_start_co(Coroutine *co, const BlockCall *call);    /* STATIC: the driver is linked into the executable */

/* util/async.c, in the executable: run a function in the event loop; go on with a coroutine there. */
void aio_bh_schedule_oneshot(void (*run)(void *opaque), void *opaque);
void aio_co_wake(Coroutine *co, int64_t ret);

#endif
