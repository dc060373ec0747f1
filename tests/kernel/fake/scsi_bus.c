/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hw/scsi/scsi-bus.c: the functions that are probed.  They have a file of their own so that no caller can inline them,
 * as in QEMU; and each looks where it will return to, which only a return probe would have changed.
 */
#include "scsi.h"

#include <stdlib.h>
#include <string.h>

extern const char __executable_start[], etext[];
uint64_t strange_returns;

static inline void check_return(const char *address)
{
    strange_returns += address < __executable_start || address >= etext;
}
#define CHECK_RETURN() check_return(__builtin_return_address(0))

/* with scsi_req_alloc() and scsi_req_parse_cdb(), but for the length of the data */
ENTERED SCSIRequest *scsi_req_new(SCSIDevice *d, uint32_t tag, uint32_t lun, uint8_t *buf, void *hba_private)
{
    CHECK_RETURN();
    const SCSIReqOps *ops = d->req_ops;
    SCSIRequest *req = calloc(1, ops->size);
    req->refcount = 1;
    req->ops = ops;
    req->dev = d;
    req->tag = tag;
    req->lun = lun;
    req->hba_private = hba_private;
    req->status = -1;
    memcpy(req->cmd.buf, buf, sizeof(req->cmd.buf));
    return req;
}

static void scsi_req_unref(SCSIRequest *req)
{
    if (--req->refcount == 0)
        free(req);
}

/* scsi_req_dequeue(), then the HBA's .complete, .fail or .cancel (hw/scsi/virtio-scsi.c) */
static void dequeue(SCSIRequest *req)
{
    req->enqueued = false;
    request_finished();
    scsi_req_unref(req);
}

ENTERED int32_t scsi_req_enqueue(SCSIRequest *req)
{
    CHECK_RETURN();
    if (req->retry)
        abort();
    req->enqueued = true;
    req->refcount++;
    const SCSIReqOps *ops = req->ops;
    int32_t bytes = ops->send_command(req, req->cmd.buf);
    scsi_req_unref(req);
    return bytes;
}

void scsi_req_continue(SCSIRequest *req)
{
    const SCSIReqOps *ops = req->ops;
    ops->read_or_write_data(req);
}

#ifdef INLINED  /* as by a compiler that put it where it is called: its own entry is never reached */
#define scsi_req_complete scsi_req_complete_inlined
#endif
ENTERED void scsi_req_complete(SCSIRequest *req, int status)
{
    CHECK_RETURN();
    if (req->status != (typeof(req->status))-1)
        abort();
    req->status = status;
    dequeue(req);
}

#ifdef INLINED
#undef scsi_req_complete
void scsi_req_complete(SCSIRequest *req, int status)
{
    scsi_req_complete_inlined(req, status);
}
#endif

#if QEMU > 52
ENTERED void scsi_req_complete_failed(SCSIRequest *req, int host_status)
{
    CHECK_RETURN();
    if (req->status != -1)
        abort();
    req->host_status = host_status;
    dequeue(req);
}
#endif

void scsi_req_cancel_async(SCSIRequest *req)
{
    req->io_canceled = true;
}

ENTERED void scsi_req_cancel_complete(SCSIRequest *req)
{
    CHECK_RETURN();
    if (!req->io_canceled)
        abort();
    dequeue(req);
}

void scsi_req_retry(SCSIRequest *req)
{
    req->retry = true;
}
