/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the kernel enters the program, and where to begin reading it.
 *
 * A uprobe_multi link runs one program for all sites of a binary.  The link's cookie says which site was hit.  Linux
 * before 6.6 has no such link, so there each probed function has a program of its own.  Every entry function is guarded
 * against private stacks (tables.bpf.c).
 */

/* A hit in QEMU: a submit (scsi.bpf.c: on_scsi_req_enqueue) or one of the ways in which a request ends. */

static __always_inline int on_scsi_site(struct pt_regs *ctx, u64 site)
{
    if (site == SITE_SCSI_REQ_ENQUEUE)
        return on_scsi_req_enqueue(ctx);
    if (site == SITE_SCSI_REQ_NEW)
        return on_scsi_req_new(ctx);
    if (site == SITE_SCSI_REQ_RETRY)
        return on_scsi_req_retry(ctx);
    return on_scsi_end(ctx, site == SITE_SCSI_REQ_COMPLETE          ? ENDING_COMPLETED
                            : site == SITE_SCSI_REQ_COMPLETE_FAILED ? ENDING_FAILED
                                                                    : ENDING_CANCELLED);
}

/* A hit in librbd (rbd.bpf.c): the end of a call, or the submit of one. */
static __always_inline int on_rbd_site(struct pt_regs *ctx, u64 site)
{
    return site == SITE_RBD_AIO_RELEASE ? on_rbd_release(ctx) : on_rbd_submit(ctx, site);
}

/* For uprobe_multi links: one program per layer. */
int scsi_site(struct pt_regs *ctx) { return on_scsi_site(guarded_site(ctx), bpf_get_attach_cookie(ctx)); }
int rbd_site(struct pt_regs *ctx) { return on_rbd_site(guarded_site(ctx), bpf_get_attach_cookie(ctx)); }

/* For perf events: one program per probed function. */
int scsi_req_new(struct pt_regs *ctx) { return on_scsi_site(guarded(ctx), SITE_SCSI_REQ_NEW); }
int scsi_req_enqueue(struct pt_regs *ctx) { return on_scsi_site(guarded(ctx), SITE_SCSI_REQ_ENQUEUE); }
int scsi_req_complete(struct pt_regs *ctx) { return on_scsi_site(guarded(ctx), SITE_SCSI_REQ_COMPLETE); }
int scsi_req_complete_failed(struct pt_regs *ctx) { return on_scsi_site(guarded(ctx), SITE_SCSI_REQ_COMPLETE_FAILED); }
int scsi_req_cancel_complete(struct pt_regs *ctx) { return on_scsi_site(guarded(ctx), SITE_SCSI_REQ_CANCEL_COMPLETE); }
int scsi_req_retry(struct pt_regs *ctx) { return on_scsi_site(guarded(ctx), SITE_SCSI_REQ_RETRY); }
int rbd_aio_release(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_RELEASE); }
int rbd_aio_readv(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_READV); }
int rbd_aio_writev(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_WRITEV); }
int rbd_aio_read(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_READ); }
int rbd_aio_write(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_WRITE); }
int rbd_aio_discard(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_DISCARD); }
int rbd_aio_write_zeroes(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_WRITE_ZEROES); }
int rbd_aio_flush(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_FLUSH); }
int rbd_aio_discard_inner(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_DISCARD_INNER); }
int rbd_aio_write_zeroes_inner(struct pt_regs *ctx)
{
    return on_rbd_site(guarded(ctx), SITE_RBD_AIO_WRITE_ZEROES_INNER);
}
int rbd_aio_flush_inner(struct pt_regs *ctx) { return on_rbd_site(guarded(ctx), SITE_RBD_AIO_FLUSH_INNER); }
