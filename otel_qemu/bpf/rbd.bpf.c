/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * librbd calls, from rbd_aio_* to rbd_aio_release, and the pointer walk from a call to its SCSI request.
 *
 * Begin with on_rbd_submit (submit) and on_rbd_release (end); link_parent() walks.
 */

/* Read *(u64 *)(pointer + offset); 0 if that fails.  No pointer of the walk is 0. */
static __always_inline u64 follow(u64 pointer, u32 offset)
{
    u64 value = 0;
    if (pointer)
        bpf_probe_read_user(&value, sizeof(value), (void *)(pointer + offset));
    return value;
}

/*
 * The walk goes from a call's completion to the opaque pointer of the blk_aio_*() call that led to it:
 *
 *   rbd_completion_t → io::AioCompletion → RBDTask → Coroutine.entry_arg → BlkAioEmAIOCB.common.opaque
 *
 * The coroutine stays the same object, however long the request is throttled and whichever thread wakes it.  The
 * offsets 8 and 24 have not moved since QEMU 4.2 (util/qemu-coroutine.c, include/block/aio.h).
 */

/* RBDTask → Coroutine. */
static __always_inline u64 coroutine_of(u64 task, struct process *process)
{
    u64 coroutine = follow(task, process->coroutine);
    if (process->through_acb)  /* RADOSCB.acb → BlockAIOCB.opaque → CoroutineIOCompletion.coroutine */
        coroutine = follow(follow(coroutine, 24), 0);
    return coroutine;
}

/* Coroutine.entry_arg → BlkAioEmAIOCB.common.opaque. */
static __always_inline u64 opaque_of(u64 coroutine)
{
    return follow(follow(coroutine, 8), 24);
}

/*
 * The coroutine that a helper coroutine works for.  qcow2 creates a helper for each run of clusters, copy-before-write
 * one for each piece.
 *
 *   Coroutine.entry_arg → AioTask.pool → AioTaskPool.main_co        all of them first fields (block/aio_task.c)
 */
static __always_inline u64 main_coroutine(u64 coroutine)
{
    return follow(follow(follow(coroutine, 8), 0), 0);
}

/*
 * Find the SCSI request in flight that an opaque pointer leads to.  The table of requests in flight is the proof: with
 * a wrong offset the walk finds no parent, never a wrong one.
 *
 * For READ and WRITE the opaque is a DMAAIOCB, and the request is its opaque.  For UNMAP and WRITE SAME it is an
 * UnmapCBData or WriteSameCBData, which begins with the request.  For flushes and zeroing it is the request itself.
 * The likely one for the librbd operation is tried first.  The others are needed when QEMU changes the operation, for
 * example a WRITE into write_zeroes or discard (detect-zeroes).  Without a parent, `key` is left at the likely one.
 */
static __always_inline struct record *parent_of(u64 opaque, u8 operation, struct key *key)
{
    bool data = operation == RBD_READ || operation == RBD_WRITE;
    u64 likely = data ? follow(opaque, 24) : (operation == RBD_DISCARD ? follow(opaque, 0) : opaque);
    key->pointer = likely;
    struct record *parent = requests.lookup(key);
    if (parent)
        return parent;
    key->pointer = data ? opaque : follow(opaque, 24);
    parent = requests.lookup(key);
    if (parent)
        return parent;
    key->pointer = operation == RBD_DISCARD ? opaque : follow(opaque, 0);
    parent = requests.lookup(key);
    if (parent)
        return parent;
    key->pointer = likely;
    return 0;
}

/*
 * Find the request that a coroutine works for, directly or as a helper.  Helpers of a qcow2 image's backing file work
 * for other helpers.  Without a parent, `key` is left where the walk from the first coroutine ended.
 */
static __always_inline struct record *parent_of_coroutine(u64 coroutine, u8 operation, struct key *key)
{
    struct record *parent = parent_of(opaque_of(coroutine), operation, key);
    u64 end = key->pointer;
    for (u32 i = 0; i < HELPERS && !parent; i++) {
        coroutine = main_coroutine(coroutine);
        if (!coroutine)
            break;
        parent = parent_of(opaque_of(coroutine), operation, key);
    }
    if (!parent)
        key->pointer = end;
    return parent;
}

/*
 * Walk from the completion to the parent.  Sets the link of `call`, its request (the parent, or the end of the walk),
 * and the address where QEMU will store its return value.
 */
static __always_inline struct record *link_parent(u32 pid, struct call *call, struct process *process, u64 completion,
                                                  bool is_inner)
{
    struct key key = key_in(pid, 0);
    if (process->completion_argument == UNKNOWN_OFFSET || process->coroutine == UNKNOWN_OFFSET) {
        call->link = LINK_NO_LAYOUT;
        count(COUNT_PARENT_NO_LAYOUT);
        return 0;
    }
    u64 inner = is_inner ? completion : follow(completion, 0);
    u64 task = follow(inner, process->completion_argument);
    if (task && process->return_value != UNKNOWN_OFFSET)
        call->return_at = task + process->return_value;
    struct record *parent = parent_of_coroutine(coroutine_of(task, process), call->operation, &key);
    call->request = key.pointer;
    /* A null pointer.  If walks work in this process, no blk_aio_*() led to this call: it is a flush of QEMU's own. */
    if (!key.pointer) {
        call->link = process->walked ? LINK_NOT_IN_FLIGHT : LINK_FAULT;
        count(COUNT_PARENT_FAULT);
        return 0;
    }
    if (parent && !process->walked)
        process->walked = 1;
    call->link = parent ? LINK_WALK : LINK_NOT_IN_FLIGHT;
    count(parent ? COUNT_PARENT_FOUND : COUNT_PARENT_NOT_IN_FLIGHT);
    return parent;
}

/* Put a call in flight; 0 on success.  If its completion is in flight already, that call's end was lost. */
static __always_inline int insert_call(struct key *key, struct call *call)
{
    int error = calls.insert(key, call);
    if (error == EXISTS) {
        count(COUNT_RBD_END_LOST);
        error = calls.update(key, call);
    }
    count(error ? COUNT_RBD_TABLE_FULL : COUNT_RBD_SUBMITTED);
    return error;
}

/* Sum of iov_len.  Eight iovecs per read, because a request of 1 MiB may have 256 of them. */
static __always_inline u64 iovec_bytes(u64 iovecs, u32 iovec_count)
{
    struct {
        u64 base, len;
    } chunk[8];
    u64 bytes = 0;
    if (iovec_count == 1) {        /* most calls: read iov_len alone */
        if (bpf_probe_read_user(&bytes, sizeof(bytes), (void *)(iovecs + 8)))
            count(COUNT_LENGTH_UNREADABLE);
        return bytes;
    }
    for (u32 i = 0; i < MAX_IOVECS / 8; i++) {
        s32 left = iovec_count - i * 8;
        if (left <= 0)
            return bytes;
        __builtin_memset(chunk, 0, sizeof(chunk));
        u32 size = left >= 8 ? sizeof(chunk) : (left & 7) * sizeof(chunk[0]);
        if (bpf_probe_read_user(chunk, size, (void *)(iovecs + i * sizeof(chunk)))) {
            count(COUNT_LENGTH_UNREADABLE);
            return bytes;
        }
        bytes += chunk[0].len + chunk[1].len + chunk[2].len + chunk[3].len;
        bytes += chunk[4].len + chunk[5].len + chunk[6].len + chunk[7].len;
    }
    return bytes;
}

/*
 * Add a call to its request: the first one to the request's entry, a further one to `held`.  It is added at its submit,
 * so that its time counts even if it ends after its request.  If there is no room, its end is counted.
 */
static __always_inline void add_call(struct record *parent, struct call *call)
{
    struct key key = key_in(parent->pid, parent->request);
    key.index = call->index;
    if (!parent->calls) {
        fill_call_half(parent, call);
    } else if (key.index < MAX_CALLS) {
        call->complete_ns = NOT_ENDED;
        held.update(&key, call);
    }
    if (parent->calls < MOST_CALLS)
        parent->calls++;
}

/*
 * Put a call in flight, and join it to its request.
 *
 * `iovecs` is 0, or the address of `length` iovecs.  `completion` is the rbd_completion_t.  At an INNER site it is the
 * io::AioCompletion instead, which is that object's first field.  Either one is the key of the call.
 */
static __always_inline int submit_call(u8 operation, u64 image, u64 offset, u64 length, u64 iovecs, u64 completion,
                                       bool is_inner)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct key key = key_in(thread >> 32, completion);
    struct process *process = traced(key.pid);
    if (!process) {
        count(COUNT_FOREIGN);
        return 0;
    }
    struct call call = {.image = image, .offset = offset, .operation = operation};
    call.submit_ns = bpf_ktime_get_ns();
    call.length = iovecs ? iovec_bytes(iovecs, length) : length;
    call.thread = thread;
    call.return_value = RETURN_UNKNOWN;
    call.kept = kept_from_start(process);
    struct record *parent = link_parent(key.pid, &call, process, completion, is_inner);
    if (parent) {
        call.request_submit_ns = parent->submit_ns;
        call.device = parent->device;
        call.index = parent->calls;
    } else if (call.link == LINK_NOT_IN_FLIGHT && !is_stage(STAGE_TRACING)) {
        count(COUNT_RBD_NOT_TAKEN);   /* a call that cannot be walked is taken: its request may be in flight */
        return 0;
    }
#ifdef AUDIT
    emit_chain(&call);
#endif
    if (!insert_call(&key, &call) && parent)
        add_call(parent, &call);
    return 0;
}

/*
 * The submits, with their arguments (librbd.h):
 *
 *   rbd_aio_readv, writev(image, iov, iovcnt, off, c)
 *   rbd_aio_read, write(image, off, len, buf, c)
 *   rbd_aio_discard(image, off, len, c)
 *   rbd_aio_write_zeroes(image, off, len, c, zero_flags, op_flags)
 *   rbd_aio_flush(image, c)
 *
 * INNER sites lie inside these functions, where they call the next one with other arguments (otel_qemu/probe/sites.py):
 *
 *   Io<>::aio_discard, aio_write_zeroes(image, c->pc, off, len, ...)
 *   Io<>::aio_flush(image, c->pc, ...)
 */
static __always_inline int on_rbd_submit(struct pt_regs *ctx, u32 site)
{
    u64 second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx), fourth = PT_REGS_PARM4(ctx);
    u64 offset = second, length = third, iovecs = 0, completion = PT_REGS_PARM5(ctx);
    u8 operation = RBD_READ;
    bool is_inner = site >= SITE_RBD_AIO_DISCARD_INNER;
    if (is_inner) {
        completion = second;
        offset = third;
        length = fourth;
    }
    switch (site) {
    case SITE_RBD_AIO_WRITEV:
        operation = RBD_WRITE; /* fall through */
    case SITE_RBD_AIO_READV:   /* and writev: the third argument is the number of iovecs */
        iovecs = second;
        offset = fourth;
        break;
    case SITE_RBD_AIO_WRITE:
        operation = RBD_WRITE;
        break;
    case SITE_RBD_AIO_DISCARD:
        completion = fourth; /* fall through */
    case SITE_RBD_AIO_DISCARD_INNER:
        operation = RBD_DISCARD;
        break;
    case SITE_RBD_AIO_WRITE_ZEROES:
        completion = fourth; /* fall through */
    case SITE_RBD_AIO_WRITE_ZEROES_INNER:
        operation = RBD_WRITE_ZEROES;
        break;
    case SITE_RBD_AIO_FLUSH:
    case SITE_RBD_AIO_FLUSH_INNER:
        operation = RBD_FLUSH;
        offset = length = 0;
        completion = second;
        break;
    }
    return submit_call(operation, PT_REGS_PARM1(ctx), offset, length, iovecs, completion, is_inner);
}

/* Note the end of a further call in `held`.  No entry is created here: nothing would ever delete it. */
static __always_inline void end_held(struct key *key, struct call *call)
{
    key->index = call->index;
    struct call *its = call->index < MAX_CALLS ? held.lookup(key) : 0;
    if (!its) {
        count(COUNT_CALLS_NOT_HELD);
        return;
    }
    its->return_value = call->return_value;
    its->complete_ns = call->complete_ns;
}

/* Add a call's end to its request.  Without a request that is still in flight, the call becomes a trace of its own. */
static __always_inline void end_call(u32 pid, struct call *call, struct settings *settings)
{
    struct key key = key_in(pid, call->request);
    struct record *parent = call->link == LINK_WALK ? requests.lookup(&key) : 0;
    if (call->link == LINK_WALK && (!parent || parent->submit_ns != call->request_submit_ns)) {
        count(COUNT_PARENT_GONE);
        parent = 0;
    }
    if (!parent) {
        emit_lone_call(pid, call, settings);
    } else if (call->index == 0) {
        parent->return_value = call->return_value;
        parent->call_complete_ns = call->complete_ns;
    } else {
        end_held(&key, call);
    }
}

/*
 * void rbd_aio_release(rbd_completion_t c)
 *
 * QEMU's callback has stored the return value before it calls this.  If the thread that submitted the call releases it,
 * librbd has refused the call, and there is no return value.
 */
static __always_inline int on_rbd_release(struct pt_regs *ctx)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct key key = key_in(thread >> 32, PT_REGS_PARM1(ctx));
    struct call *call = calls.lookup(&key);
    if (is_stage(STAGE_ENDED))
        return count_traced(COUNT_RBD_UNSTARTED);
    if (!call) {   /* a call that was submitted at an INNER site has the io::AioCompletion as its key */
        key.pointer = follow(key.pointer, 0);
        call = calls.lookup(&key);
    }
    if (!call)
        return count_traced(COUNT_RBD_UNSTARTED);
    call->complete_ns = bpf_ktime_get_ns();
    if (call->return_at && call->thread != (u32)thread) {
        s64 value;
        if (bpf_probe_read_user(&value, sizeof(value), (void *)call->return_at))
            count(COUNT_RETURN_UNREADABLE);
        else
            call->return_value = value;
    }
    struct settings *settings = current_settings();
    if (settings) {
        count_call(key.pid, call, settings);
        end_call(key.pid, call, settings);
    }
    calls.delete(&key);
    count(COUNT_RBD_COMPLETED);
    return 0;
}
