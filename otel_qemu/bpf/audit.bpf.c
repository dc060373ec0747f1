/*
 * The audit: whose each librbd call is, by another way than the walk's, exact and dear.  Compiled in with --audit only.
 *
 *   dma_blk_io(.., req, ..)        READ and WRITE: what is entered below it on this stack is for `req`
 *        │
 *   blk_aio_*(.., cb, opaque)      all others: `opaque` is the request, or begins with a pointer to it
 *        │
 *   aio_co_enter(ctx, co)          the coroutine that this one blk_aio_*() has made: from now on, `co` works for `req`
 *        ┆                         throttled, serialised, woken by any thread, for as long as it likes
 *   qemu_coroutine_switch(from, to, action)      what runs on this thread now; COROUTINE_TERMINATE: `from` works no more
 *        │
 *   rbd_aio_*(..)                  is made by the coroutine that runs on this thread, and so for its request
 *
 * It has nothing in common with the walk but the table of requests in flight: no completion, task, coroutine or acb is
 * read, so no offset can be wrong.  Memory is read at one place: for the request of an UNMAP or a WRITE SAME.
 *
 * "Below it on this stack" is exact: a call whose stack pointer is a little lower than its caller's at the entry was
 * made before that caller returned, since nothing else runs on this stack in between.
 */

#define CALLEES_BYTES 16384        /* of stack, between dma_blk_io, blk_aio_* and aio_co_enter; really a few hundred */
#define COROUTINE_TERMINATE 2      /* enum CoroutineAction, include/qemu/coroutine_int.h; YIELD is 1, ENTER 3 */
#define COROUTINE_ENTER 3
#define AUDIT_LOST 0x80000000      /* beside the sites in `led`: the table was full, so of no call can it be said NONE */

/* Whom a coroutine works for. */
struct work {
    u64 opaque;                    /* of its blk_aio_*() */
    u64 request;
    u64 submit_ns;
};

/* What is known of a thread, by (thread, process). */
struct thread {
    u64 coroutine;                 /* that runs on it; 0: it has not switched since we came */
    u64 creator;                   /* the coroutine that ran when one was made that has not been entered yet; 0: none */
    u64 dma_stack;                 /* stack pointer in dma_blk_io, until its blk_aio_*() is entered; 0: in none */
    u64 dma_request;
    u64 block_stack;               /* stack pointer in blk_aio_*, until its aio_co_enter(); 0: in none */
    struct work work;              /* what it was called for; request 0: for nobody we know */
};

BPF_HASH(threads, struct key, struct thread, REQUESTS);
BPF_HASH(coroutines, struct key, struct work, REQUESTS);
BPF_HASH(led, u32, u32, PROCESSES);  /* of audited processes: sites that have led to a request, and AUDIT_LOST */

/*
 * Remember for a process, for as long as it is audited, that a site leads to requests, or that the audit has holes.  Two
 * CPUs at once may lose a bit; what sets it will again.
 */
static __always_inline void remember(u32 bits)
{
    u32 pid = current_pid();
    u32 *known = led.lookup(&pid);
    if (known && (*known & bits) != bits)
        *known |= bits;
}

#define LEADS(site) (1u << ((site) - SITE_DMA_BLK_IO))

/* The thread that was hit; 0, counted: its process is not audited, or there is no room. */
static __always_inline struct thread *current_thread(void)
{
    struct key key = key_of((u32)bpf_get_current_pid_tgid());
    struct thread *thread = threads.lookup(&key), new = {};
    if (thread)
        return thread;
    if (!led.lookup(&key.pid)) {
        count(COUNT_FOREIGN);
        return 0;
    }
    if (!threads.update(&key, &new))
        return threads.lookup(&key);
    remember(AUDIT_LOST);
    count(COUNT_AUDIT_ELSEWHERE);
    count(COUNT_AUDIT_TABLE_FULL);
    return 0;
}

static __always_inline bool is_below(u64 caller_stack, u64 stack)
{
    return caller_stack > stack && caller_stack - stack < CALLEES_BYTES;
}

/* Whether `request` is one in flight; then `work` is for it. */
static __always_inline bool works_for(struct work *work, u64 request)
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
 * BlockAIOCB *dma_blk_io(..., DMAIOFunc *io_func, void *io_func_opaque, BlockCompletionFunc *cb, ...): the opaque is the
 * SCSIRequest (hw/scsi/scsi-disk.c).  QEMU 10.0 dropped the first argument, so it is the fifth or the sixth; the other
 * one of the two is a function then, and no request.
 */
static __always_inline int on_dma_blk_io(struct pt_regs *ctx)
{
    struct work work = {};
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    thread->dma_stack = 0;
    if (!works_for(&work, PT_REGS_PARM6(ctx)) && !works_for(&work, PT_REGS_PARM5(ctx))) {
        count(COUNT_AUDIT_ELSEWHERE);   /* IDE, NVMe; or a request begun before us */
        return 0;
    }
    thread->dma_stack = PT_REGS_SP(ctx);
    thread->dma_request = work.request;
    remember(LEADS(SITE_DMA_BLK_IO));
    count(COUNT_AUDIT_LED);
    return 0;
}

/*
 * The opaque of a blk_aio_*(): block/block-backend.c.  All are read before one is chosen: of a choice between registers
 * the compiler would make a choice between addresses in the context, which the verifier refuses.
 */
static __always_inline u64 opaque_argument(struct pt_regs *ctx, u32 site)
{
    u64 third = *(volatile u64 *)&PT_REGS_PARM3(ctx), fifth = *(volatile u64 *)&PT_REGS_PARM5(ctx);
    u64 sixth = *(volatile u64 *)&PT_REGS_PARM6(ctx);
    return site == SITE_BLK_AIO_FLUSH      ? third    /* (blk, cb, opaque) */
           : site == SITE_BLK_AIO_PDISCARD ? fifth    /* (blk, offset, bytes, cb, opaque) */
                                           : sixth;   /* (blk, offset, qiov or bytes, flags, cb, opaque) */
}

/* The same opaque as that of the coroutine which runs, and calls back: the next descriptor, or the next piece of a DMA. */
static __always_inline bool goes_on(struct work *work, struct thread *thread)
{
    struct key key = key_of(thread->coroutine);
    struct work *running = coroutines.lookup(&key);
    return running && running->opaque == work->opaque && works_for(work, running->request);
}

/* UnmapCBData and WriteSameCBData (hw/scsi/scsi-disk.c) begin with the request. */
static __always_inline u64 first_field(u64 opaque)
{
    u64 value = 0;
    bpf_probe_read_user(&value, sizeof(value), (void *)opaque);
    return value;
}

static __always_inline int on_block_call(struct pt_regs *ctx, u32 site)
{
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    struct work work = {.opaque = opaque_argument(ctx, site)};
    bool is_data = site == SITE_BLK_AIO_PREADV || site == SITE_BLK_AIO_PWRITEV;
    bool is_dma = is_data && is_below(thread->dma_stack, PT_REGS_SP(ctx));
    bool is_ours = works_for(&work, work.opaque) || (is_dma && works_for(&work, thread->dma_request)) ||
                   goes_on(&work, thread) || works_for(&work, first_field(work.opaque));
    thread->dma_stack = 0;
    thread->block_stack = PT_REGS_SP(ctx);
    thread->work = work;
    if (is_ours)
        remember(LEADS(site));
    count(is_ours ? COUNT_AUDIT_LED : COUNT_AUDIT_ELSEWHERE);
    return 0;
}

/*
 * void aio_co_enter(AioContext *ctx, Coroutine *co) (util/async.c): blk_aio_prwv() hands over the coroutine it has made;
 * it runs at once, after the one that runs, or on another thread.  Not below a blk_aio_*(), it is a wake-up.
 */
static __always_inline int on_aio_co_enter(struct pt_regs *ctx)
{
    struct thread *thread = current_thread();
    if (!thread)
        return 0;
    bool is_made_for = is_below(thread->block_stack, PT_REGS_SP(ctx)) && thread->work.request;
    thread->block_stack = 0;
    thread->creator = 0;                 /* what was made is handed over here, not entered by who made it */
    if (!is_made_for) {
        count(COUNT_AUDIT_ELSEWHERE);
        return 0;
    }
    struct key key = key_of(PT_REGS_PARM2(ctx));
    struct work work = thread->work;
    if (coroutines.update(&key, &work)) {
        remember(AUDIT_LOST);
        count(COUNT_AUDIT_TABLE_FULL);
    }
    count(COUNT_AUDIT_LED);
    return 0;
}

/* Coroutine *qemu_coroutine_create(CoroutineEntry *entry, void *opaque): which one it makes, its first switch tells. */
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
 * A coroutine that another one has made and enters helps it with its work: qcow2 has one for each run of clusters
 * (block/aio_task.c), copy-before-write one for each piece (block/block-copy.c).
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
        remember(AUDIT_LOST);
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
    if (action == COROUTINE_TERMINATE) {   /* its memory is used again, for other work */
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

/* Say of a call that is being made whose it is.  The sites that have led anywhere tell user space what NONE is worth. */
static __always_inline void tell_chain(struct call *call)
{
    struct key key = key_of((u32)bpf_get_current_pid_tgid());
    struct thread *thread = threads.lookup(&key);
    key.pointer = thread ? thread->coroutine : 0;
    struct work *work = key.pointer ? coroutines.lookup(&key) : 0;
    u32 *known = led.lookup(&key.pid);
    if (!known)                            /* a build without the chain's functions */
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
