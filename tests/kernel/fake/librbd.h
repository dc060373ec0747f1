/* SPDX-License-Identifier: Apache-2.0 */
/* The part of librbd.h that QEMU's block/rbd.c uses, and the knobs by which a test chooses what librbd does. */
#ifndef FAKE_LIBRBD_H
#define FAKE_LIBRBD_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef void *rbd_image_t;
typedef void *rbd_completion_t;
typedef void (*rbd_callback_t)(rbd_completion_t c, void *arg);

int rbd_aio_create_completion(void *cb_arg, rbd_callback_t complete_cb, rbd_completion_t *c);
int rbd_aio_readv(rbd_image_t image, const struct iovec *iov, int iovcnt, uint64_t off, rbd_completion_t c);
int rbd_aio_writev(rbd_image_t image, const struct iovec *iov, int iovcnt, uint64_t off, rbd_completion_t c);
int rbd_aio_read(rbd_image_t image, uint64_t off, size_t len, char *buf, rbd_completion_t c);
int rbd_aio_write(rbd_image_t image, uint64_t off, size_t len, const char *buf, rbd_completion_t c);
int rbd_aio_discard(rbd_image_t image, uint64_t off, uint64_t len, rbd_completion_t c);
int rbd_aio_write_zeroes(rbd_image_t image, uint64_t off, size_t len, rbd_completion_t c, int zero_flags, int op_flags);
int rbd_aio_flush(rbd_image_t image, rbd_completion_t c);
ssize_t rbd_aio_get_return_value(rbd_completion_t c);
void rbd_aio_release(rbd_completion_t c);

/* Knobs, read when a call is submitted. */
struct fake_librbd {
    ssize_t result;            /* of the calls to come; 0: what a call that went well returns */
    int refused;               /* not 0: rbd_aio_* returns it at once, and never calls back */
    int holding;               /* 1: calls stay in flight until fake_librbd_let_go() */
    uint64_t calls;            /* rbd_aio_* entered so far */
};
extern struct fake_librbd fake_librbd;
void fake_librbd_let_go(void);

#endif
