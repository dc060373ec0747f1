/* SPDX-License-Identifier: Apache-2.0 */
/*
 * librbd.so.1: completes every call from a thread of its own, as librbd does.
 *
 *   COMPLETE_ARG   offset of complete_arg in librbd::io::AioCompletion: 0xb8 (14.2), 0x60 (16.2, 18.2), 0x30 (20.2)
 *   OPAQUE         AioCompletion::get_arg() is not two plain loads, so that its bytes do not show that offset
 */
#include "librbd.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#define EXPORTED_BY_CXX(name) __asm__(name)

/* librbd::io::AioCompletion (librbd/io/AioCompletion.h) */
struct io_AioCompletion {
    char lock_and_condition[COMPLETE_ARG - 8];
    rbd_callback_t complete_cb;
    void *complete_arg;
    rbd_completion_t rbd_comp;
    ssize_t rval;
    struct io_AioCompletion *next;
};
_Static_assert(offsetof(struct io_AioCompletion, complete_arg) == COMPLETE_ARG, "layout of io::AioCompletion");

/* librbd::RBD::AioCompletion (include/rbd/librbd.hpp) */
struct AioCompletion {
    struct io_AioCompletion *pc;
};

struct fake_librbd fake_librbd;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t submitted = PTHREAD_COND_INITIALIZER;
static struct io_AioCompletion *first, **last = &first;
static struct io_AioCompletion *first_held, **last_held = &first_held;

/* librbd's api_strand: one thread that calls back, in order, for all calls of an image (librbd/AsioEngine.h) */
static void *api_strand(void *unused)
{
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!first)
            pthread_cond_wait(&submitted, &lock);
        struct io_AioCompletion *done = first;
        first = NULL;
        last = &first;
        pthread_mutex_unlock(&lock);
        while (done) {
            struct io_AioCompletion *next = done->next;
            done->complete_cb(done->rbd_comp, done->complete_arg);  /* frees it */
            done = next;
        }
    }
    return unused;
}

__attribute__((constructor)) static void start_strand(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, api_strand, NULL))
        abort();
}

/* librbd::api::Io<>::aio_* (librbd/api/Io.cc): queue the request, or refuse it */
static __attribute__((noinline)) int submit(rbd_completion_t c, ssize_t good)
{
    struct io_AioCompletion *pc = ((struct AioCompletion *)c)->pc;
    fake_librbd.calls++;
    if (fake_librbd.refused)
        return fake_librbd.refused;
    pc->rval = fake_librbd.result ? fake_librbd.result : good;
    pc->next = NULL;
    pthread_mutex_lock(&lock);
    if (fake_librbd.holding) {
        *last_held = pc;
        last_held = &pc->next;
    } else {
        if (!first)
            pthread_cond_signal(&submitted);
        *last = pc;
        last = &pc->next;
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

/* What was held is completed now, and nothing more is held. */
void fake_librbd_let_go(void)
{
    pthread_mutex_lock(&lock);
    fake_librbd.holding = 0;
    if (first_held) {
        *last = first_held;
        last = last_held;
        first_held = NULL;
        last_held = &first_held;
        pthread_cond_signal(&submitted);
    }
    pthread_mutex_unlock(&lock);
}

static size_t iovec_bytes(const struct iovec *iov, int iovcnt)
{
    size_t bytes = 0;
    for (int i = 0; i < iovcnt; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/*
 * The C API (librbd/librbd.cc).  Like the real functions, those of reading and writing keep registers on the stack,
 * so that they begin with a push; the rare ones need not.
 */
#define KEEP_A_REGISTER() __asm__ volatile("" ::: "rbx")

int rbd_aio_create_completion(void *cb_arg, rbd_callback_t complete_cb, rbd_completion_t *c)
{
    KEEP_A_REGISTER();
    struct AioCompletion *completion = malloc(sizeof(*completion));
    completion->pc = calloc(1, sizeof(*completion->pc));
    completion->pc->complete_cb = complete_cb;
    completion->pc->complete_arg = cb_arg;
    completion->pc->rbd_comp = completion;
    *c = completion;
    return 0;
}

int rbd_aio_readv(rbd_image_t image, const struct iovec *iov, int iovcnt, uint64_t off, rbd_completion_t c)
{
    KEEP_A_REGISTER();
    return submit(c, iovec_bytes(iov, iovcnt));
}

int rbd_aio_writev(rbd_image_t image, const struct iovec *iov, int iovcnt, uint64_t off, rbd_completion_t c)
{
    KEEP_A_REGISTER();
    return submit(c, 0 * iovec_bytes(iov, iovcnt));
}

int rbd_aio_read(rbd_image_t image, uint64_t off, size_t len, char *buf, rbd_completion_t c)
{
    return submit(c, len);
}

int rbd_aio_write(rbd_image_t image, uint64_t off, size_t len, const char *buf, rbd_completion_t c)
{
    return submit(c, 0);
}

/*
 * librbd::api::Io<>::aio_discard(), aio_write_zeroes() and aio_flush() (librbd/api/Io.cc): the C API hands them its
 * arguments in this order, and nothing else stands before the call that a kernel would emulate.
 */
static __attribute__((noipa)) int api_io(rbd_image_t image, struct io_AioCompletion *pc, uint64_t off, uint64_t len)
{
    return submit(pc->rbd_comp, 0);
}

int rbd_aio_discard(rbd_image_t image, uint64_t off, uint64_t len, rbd_completion_t c)
{
    return api_io(image, ((struct AioCompletion *)c)->pc, off, len);
}

int rbd_aio_write_zeroes(rbd_image_t image, uint64_t off, size_t len, rbd_completion_t c, int zero_flags, int op_flags)
{
    return api_io(image, ((struct AioCompletion *)c)->pc, off, len);
}

int rbd_aio_flush(rbd_image_t image, rbd_completion_t c)
{
    return api_io(image, ((struct AioCompletion *)c)->pc, 0, 0);
}

/* librbd::RBD::AioCompletion::get_arg() (librbd/librbd.cc) */
void *AioCompletion_get_arg(struct AioCompletion *self) EXPORTED_BY_CXX("_ZN6librbd3RBD13AioCompletion7get_argEv");
void *AioCompletion_get_arg(struct AioCompletion *self)
{
#ifdef OPAQUE
    (void)*(volatile uint64_t *)self->pc->lock_and_condition;
#endif
    return self->pc->complete_arg;
}

/* librbd::RBD::AioCompletion::get_return_value() */
ssize_t AioCompletion_get_return_value(struct AioCompletion *self)
    EXPORTED_BY_CXX("_ZN6librbd3RBD13AioCompletion16get_return_valueEv");
ssize_t AioCompletion_get_return_value(struct AioCompletion *self)
{
    return self->pc->rval;
}

/* librbd::RBD::AioCompletion::release() */
void AioCompletion_release(struct AioCompletion *self) EXPORTED_BY_CXX("_ZN6librbd3RBD13AioCompletion7releaseEv");
void AioCompletion_release(struct AioCompletion *self)
{
    free(self->pc);
    free(self);
}

/* The two are a jump each, through the PLT, as in every librbd that was looked at. */
ssize_t rbd_aio_get_return_value(rbd_completion_t c)
{
    return AioCompletion_get_return_value(c);
}

void rbd_aio_release(rbd_completion_t c)
{
    AioCompletion_release(c);
}
