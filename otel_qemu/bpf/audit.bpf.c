/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The audit: it finds the request of each librbd call a second time, by following QEMU's calls and coroutines.  That is
 * exact and expensive, so it is compiled in with --audit only.
 *
 *   dma_blk_io(.., req, ..)        READ and WRITE: a blk_aio_*() that is called from here works for `req`
 *        │
 *   blk_aio_*(.., cb, opaque)      all others: `opaque` is the request, or begins with a pointer to it
 *        │
 *   aio_co_enter(ctx, co)          enters the coroutine that blk_aio_*() has created: from now on, `co` works for `req`
 *        ┆                         it may be throttled or serialised, and any thread may wake it
 *   qemu_coroutine_switch(from, to, action)      `to` runs on this thread now; after COROUTINE_TERMINATE `from` is gone
 *        │
 *   rbd_aio_*(..)                  belongs to the request of the coroutine that runs on this thread
 *
 * The audit shares nothing with the walk but the table of requests in flight.  It reads no completion, task, coroutine
 * or acb, so no offset can be wrong.  It reads memory at one place: for the request of an UNMAP or a WRITE SAME.
 *
 * A function is called from another one if its stack pointer at the entry is a little lower (is_below).  This is exact:
 * nothing else runs on this stack before the caller returns.
 */

#define CALLEES_BYTES 16384        /* bound of the stack between dma_blk_io, blk_aio_* and aio_co_enter */
#define COROUTINE_TERMINATE 2      /* enum CoroutineAction, include/qemu/coroutine_int.h; YIELD is 1, ENTER 3 */
#define COROUTINE_ENTER 3
#define AUDIT_LOST 0x80000000      /* in `audited`, beside the sites: a table was full, so CHAIN_NONE proves nothing */

/* The block I/O that a coroutine works for. */
struct work {
    u64 opaque;                    /* of its blk_aio_*() */
    u64 request;                   /* 0: no SCSI request in flight */
    u64 submit_ns;
};

/* The state of a thread, by (thread, process). */
struct thread {
    u64 coroutine;                 /* the one that runs on it; 0: it has not switched since the probes were attached */
    u64 creator;                   /* the coroutine that has created another one, which is not entered yet; 0: none */
    u64 dma_stack;                 /* stack pointer in dma_blk_io, until its blk_aio_*() is entered; 0: not in it */
    u64 dma_request;
    u64 block_stack;               /* stack pointer in blk_aio_*, until its aio_co_enter(); 0: not in it */
    struct work work;              /* of that blk_aio_*() */
};

BPF_HASH(threads, struct key, struct thread, REQUESTS);
BPF_HASH(coroutines, struct key, struct work, REQUESTS);
BPF_HASH(audited, u32, u32, PROCESSES);  /* bits: sites that have led to a request, and AUDIT_LOST */

/*
 * Set bits of an audited process.  Two CPUs that do so at once may lose a bit; the next hit of the same kind sets it.
 */
static __always_inline void set_bits(u32 bits)
{
    u32 pid = current_pid();
    u32 *known = audited.lookup(&pid);
    if (known && (*known & bits) != bits)
        *known |= bits;
}

/* The bit of a site in `audited`. */
#define LEADS(site) (1u << ((site) - SITE_DMA_BLK_IO))

/* The state of the current thread; 0, and counted, if its process is not audited or the table is full. */
static __always_inline struct thread *current_thread(void)
{
    struct key key = key_of((u32)bpf_get_current_pid_tgid());
    struct thread *thread = threads.lookup(&key), new = {};
    if (thread)
        return thread;
    if (!audited.lookup(&key.pid)) {
        count(COUNT_FOREIGN);
        return 0;
    }
    if (!threads.update(&key, &new))
        return threads.lookup(&key);
    set_bits(AUDIT_LOST);
    count(COUNT_AUDIT_ELSEWHERE);
    count(COUNT_AUDIT_TABLE_FULL);
    return 0;
}

/* Whether the function with this stack pointer was called, directly or not, from the one with `caller_stack`. */
static __always_inline bool is_below(u64 caller_stack, u64 stack)
{
    return caller_stack > stack && caller_stack - stack < CALLEES_BYTES;
}

/* If `request` is in flight, make `work` be for it; returns whether it is. */
static __always_inline bool set_request(struct work *work, u64 request)
{
    struct key key = key_of(request);
    struct record *record = request ? requests.lookup(&key) : 0;
    if (!record)
        return false;
    work->request = request;
    work->submit_ns = record->submit_ns;
    return true;
}

/*
 * BlockAIOCB *dma_blk_io(..., DMAIOFunc *io_func, void *io_func_opaque, BlockCompletionFunc *cb, ...)
 *
 * The opaque is the SCSIRequest (hw/scsi/scsi-disk.c).  It is the sixth argument, or the fifth from QEMU 10.0 on, which
 * has dropped the first one.  The other of the two is a function, and so no request in flight.
 */
static __always_inline int on_dma_blk_io(struct pt_regs *ctx)
{
    struct work work = {};
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    thread->dma_stack = 0;
    if (!set_request(&work, PT_REGS_PARM6(ctx)) && !set_request(&work, PT_REGS_PARM5(ctx))) {
        count(COUNT_AUDIT_ELSEWHERE);   /* IDE, NVMe, or a request that began before the probes */
        return 0;
    }
    thread->dma_stack = PT_REGS_SP(ctx);
    thread->dma_request = work.request;
    set_bits(LEADS(SITE_DMA_BLK_IO));
    count(COUNT_AUDIT_LED);
    return 0;
}

/*
 * The opaque of a blk_aio_*() (block/block-backend.c).  All candidates are read before one is chosen.  Otherwise the
 * compiler would choose between addresses in the context, which the verifier refuses.
 */
static __always_inline u64 opaque_argument(struct pt_regs *ctx, u32 site)
{
    u64 third = *(volatile u64 *)&PT_REGS_PARM3(ctx), fifth = *(volatile u64 *)&PT_REGS_PARM5(ctx);
    u64 sixth = *(volatile u64 *)&PT_REGS_PARM6(ctx);
    return site == SITE_BLK_AIO_FLUSH      ? third    /* (blk, cb, opaque) */
           : site == SITE_BLK_AIO_PDISCARD ? fifth    /* (blk, offset, bytes, cb, opaque) */
                                           : sixth;   /* (blk, offset, qiov or bytes, flags, cb, opaque) */
}

/*
 * Whether a blk_aio_*() goes on with the work of the running coroutine: it is called from that one's callback, with the
 * same opaque, for the next descriptor of an UNMAP or the next piece of a DMA.
 */
static __always_inline bool continues(struct work *work, struct thread *thread)
{
    struct key key = key_of(thread->coroutine);
    struct work *running = coroutines.lookup(&key);
    return running && running->opaque == work->opaque && set_request(work, running->request);
}

/* UnmapCBData and WriteSameCBData (hw/scsi/scsi-disk.c) begin with the request. */
static __always_inline u64 first_field(u64 opaque)
{
    u64 value = 0;
    bpf_probe_read_user(&value, sizeof(value), (void *)opaque);
    return value;
}

/* blk_aio_*(): find the request that it works for, in each of the four ways. */
static __always_inline int on_block_call(struct pt_regs *ctx, u32 site)
{
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    struct work work = {.opaque = opaque_argument(ctx, site)};
    bool is_data = site == SITE_BLK_AIO_PREADV || site == SITE_BLK_AIO_PWRITEV;
    bool is_dma = is_data && is_below(thread->dma_stack, PT_REGS_SP(ctx));
    bool is_ours = set_request(&work, work.opaque) || (is_dma && set_request(&work, thread->dma_request)) ||
                   continues(&work, thread) || set_request(&work, first_field(work.opaque));
    thread->dma_stack = 0;
    thread->block_stack = PT_REGS_SP(ctx);
    thread->work = work;
    if (is_ours)
        set_bits(LEADS(site));
    count(is_ours ? COUNT_AUDIT_LED : COUNT_AUDIT_ELSEWHERE);
    return 0;
}

/*
 * void aio_co_enter(AioContext *ctx, Coroutine *co) (util/async.c)
 *
 * Called from a blk_aio_*(), it enters the coroutine which that function has created: at once, after the running one,
 * or on another thread.  Called from elsewhere, it wakes a coroutine.
 */
static __always_inline int on_aio_co_enter(struct pt_regs *ctx)
{
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    bool is_new = is_below(thread->block_stack, PT_REGS_SP(ctx)) && thread->work.request;
    thread->block_stack = 0;
    thread->creator = 0;                 /* the creator does not enter this coroutine itself */
    if (!is_new) {
        count(COUNT_AUDIT_ELSEWHERE);
        return 0;
    }
    struct key key = key_of(PT_REGS_PARM2(ctx));
    struct work work = thread->work;
    if (coroutines.update(&key, &work)) {
        set_bits(AUDIT_LOST);
        count(COUNT_AUDIT_TABLE_FULL);
    }
    count(COUNT_AUDIT_LED);
    return 0;
}

/* Coroutine *qemu_coroutine_create(CoroutineEntry *entry, void *opaque): the first switch shows which one is new. */
static __always_inline int on_coroutine_create(void)
{
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    thread->creator = thread->coroutine;
    count(COUNT_AUDIT_ELSEWHERE);
    return 0;
}

/*
 * A coroutine that another one creates and enters helps with that one's work.  qcow2 creates one for each run of
 * clusters (block/aio_task.c), copy-before-write one for each piece (block/block-copy.c).
 */
static __always_inline void inherit(u64 creator, u64 made)
{
    struct key from = key_of(creator), to = key_of(made);
    struct work *known = coroutines.lookup(&from);
    if (!known)
        return;
    struct work work = *known;
    int error = coroutines.insert(&to, &work);
    if (error && error != EXISTS) {
        set_bits(AUDIT_LOST);
        count(COUNT_AUDIT_TABLE_FULL);
    }
}

/* CoroutineAction qemu_coroutine_switch(Coroutine *from, Coroutine *to, CoroutineAction action) */
static __always_inline int on_coroutine_switch(struct pt_regs *ctx)
{
    struct thread *thread = current_thread();
    u64 from = PT_REGS_PARM1(ctx), to = PT_REGS_PARM2(ctx);
    u32 action = PT_REGS_PARM3(ctx);
    if (!thread)
        return 0;
    if (action == COROUTINE_TERMINATE) {   /* its memory will be used for another coroutine */
        struct key key = key_of(from);
        coroutines.delete(&key);
    } else if (action == COROUTINE_ENTER && thread->creator == from) {
        thread->creator = 0;
        inherit(from, to);
    }
    thread->coroutine = to;
    count(COUNT_AUDIT_SWITCHED);
    return 0;
}

/*
 * Emit a RECORD_AUDIT for a call at its submit: the request by the exact chain, if there is one.  User space trusts
 * CHAIN_NONE only if the sites for this operation have led to a request before.
 */
static __always_inline void emit_chain(struct call *call)
{
    struct key key = key_of((u32)bpf_get_current_pid_tgid());
    struct thread *thread = threads.lookup(&key);
    key.pointer = thread ? thread->coroutine : 0;
    struct work *work = key.pointer ? coroutines.lookup(&key) : 0;
    u32 *known = audited.lookup(&key.pid);
    if (!known)                            /* not audited, or a build without the chain's functions */
        return;
    struct record *out = ring.ringbuf_reserve(sizeof(*out));
    if (!out) {
        count(COUNT_AUDIT_RING_FULL);
        return;
    }
    __builtin_memset(out, 0, sizeof(*out));
    out->pid = key.pid;
    out->kind = RECORD_AUDIT;
    out->ending = work ? CHAIN_REQUEST : (key.pointer ? CHAIN_NONE : CHAIN_BROKEN);
    out->tag = *known;
    if (work) {
        out->request = work->request;
        out->submit_ns = work->submit_ns;
    }
    fill_call_half(out, call);
    ring.ringbuf_submit(out, NO_WAKEUP);
    count(COUNT_RECORDS);
}

static __always_inline int on_audit_site(struct pt_regs *ctx, u64 site)
{
    if (site == SITE_DMA_BLK_IO)
        return on_dma_blk_io(ctx);
    if (site == SITE_AIO_CO_ENTER)
        return on_aio_co_enter(ctx);
    if (site == SITE_QEMU_COROUTINE_CREATE)
        return on_coroutine_create();
    if (site == SITE_QEMU_COROUTINE_SWITCH)
        return on_coroutine_switch(ctx);
    return on_block_call(ctx, site);
}

int audit_site(struct pt_regs *ctx) { return on_audit_site(guarded_site(ctx), bpf_get_attach_cookie(ctx)); }

int dma_blk_io(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_DMA_BLK_IO); }
int blk_aio_preadv(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_BLK_AIO_PREADV); }
int blk_aio_pwritev(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_BLK_AIO_PWRITEV); }
int blk_aio_pwrite_zeroes(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_BLK_AIO_PWRITE_ZEROES); }
int blk_aio_pdiscard(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_BLK_AIO_PDISCARD); }
int blk_aio_flush(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_BLK_AIO_FLUSH); }
int qemu_coroutine_create(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_QEMU_COROUTINE_CREATE); }
int aio_co_enter(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_AIO_CO_ENTER); }
int qemu_coroutine_switch(struct pt_regs *ctx) { return on_audit_site(guarded(ctx), SITE_QEMU_COROUTINE_SWITCH); }
