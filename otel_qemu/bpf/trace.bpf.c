/*
 * Time every SCSI request and every librbd call of QEMU, and put each call under its request.
 *
 *   scsi_req_enqueue ──► requests ◄── walk ── rbd_aio_readv, ...  ──► calls
 *                           │  ▲                                        │
 *                           │  └── first call's end, in the entry ──────┤ rbd_aio_release
 *                           │      further calls' ends, in `held` ──────┘
 *   scsi_req_complete ──────┴──► ring: one record a request, then one for each further call
 *
 * Entry probes only: a return probe would patch the return address on a coroutine's stack, and QEMU leaves that stack
 * before it returns.  All that a return value could tell is read where QEMU has already stored it.
 *
 * Who writes what, without locks: a request's entry is written by the thread that submits for it (one AioContext) and
 * by librbd's callback thread (one strand an image); they write different fields.  A completion and a SCSIRequest are
 * freed only after the probe of their end has run, so a key is never live twice, except when an end was lost: counted.
 *
 * QEMU's struct offsets come with each process, in `processes` (otel_qemu/probe/layouts.py derives them).
 */
#include <uapi/linux/ptrace.h>
#include "events.h"

#define MAX_CALLS 256          /* calls kept until their request ends; UNMAP makes at most 255 (max_unmap_descr) */
#define MAX_IOVECS 1024        /* IOV_MAX */
#define UNKNOWN_OFFSET 0xffffffff
#define CHECK_CONDITION 2      /* SAM-5 5.3.1 */
#define ENDING_RETRY 0x80      /* only inside `requests`: QEMU stopped on an error and will submit this request again */
#define EXISTS (-17)           /* -EEXIST */
#define NO_WAKEUP 1            /* BPF_RB_NO_WAKEUP: the reader comes on a timer; a wake-up costs 50 times a record */

/* Offsets in bytes within QEMU's and librbd's structs, one set a process; UNKNOWN_OFFSET: not known for this build. */
struct process {
    u32 device;                /* SCSIRequest.dev */
    u32 tag;                   /* SCSIRequest.tag, followed by .lun */
    u32 command;               /* SCSIRequest.cmd: buf[16], len, xfer */
    u32 sense;                 /* SCSIRequest.sense */
    u32 completion_argument;   /* librbd::io::AioCompletion.complete_arg */
    u32 coroutine;             /* in QEMU's object of one call: RBDTask.co, or RADOSCB.acb */
    u32 through_acb;           /* 1: that is RADOSCB.acb, and the coroutine is two pointers further (QEMU 6.0 and older) */
    u32 return_value;          /* RBDTask.ret or RADOSCB.ret */
};

struct key {
    u64 pointer;               /* SCSIRequest * or rbd_completion_t */
    u32 pid;
    u32 index;                 /* of a held call within its request; else 0 */
};

/* One librbd call in flight, or ended and held until its request ends. */
struct call {
    u64 image;
    u64 submit_ns;
    u64 complete_ns;
    u64 offset;
    u64 length;
    u64 request;               /* parent, with its submit_ns: an address alone may since have been used again */
    u64 request_submit_ns;
    u64 return_at;             /* address of the return value once QEMU has stored it; 0: not known */
    u32 index;                 /* which of its request's calls */
    u32 thread;                /* that submitted it */
    s32 return_value;
    u8 operation;
    u8 link;
    u16 unused;
};

BPF_HASH(processes, u32, struct process, PROCESSES);
BPF_HASH(requests, struct key, struct record, REQUESTS);
BPF_HASH(calls, struct key, struct call, REQUESTS);
BPF_HASH(held, struct key, struct call, REQUESTS);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);

/* Atomic although per CPU: one probe may preempt another on the same CPU. */
static __always_inline void count(int what)
{
    u64 *value = counters.lookup(&what);
    if (value)
        __sync_fetch_and_add(value, 1);
}

static __always_inline u32 current_pid(void)
{
    return bpf_get_current_pid_tgid() >> 32;
}

/* The key of `pointer` in the current process; every byte set, for padding is part of a key. */
static __always_inline struct key key_of(u64 pointer)
{
    struct key key = {.pointer = pointer, .pid = current_pid(), .index = 0};
    return key;
}

/* A hit that changes nothing in flight: count it, unless it is in a process that nobody asked for. */
static __always_inline int count_traced(int what)
{
    u32 pid = current_pid();
    count(processes.lookup(&pid) ? what : COUNT_FOREIGN);
    return 0;
}

/* ---- records ------------------------------------------------------------------------------------------------ */

static __always_inline void fill_call_half(struct record *record, struct call *call)
{
    record->operation = call->operation;
    record->link = call->link;
    record->return_value = call->return_value;
    record->image = call->image;
    record->call_submit_ns = call->submit_ns;
    record->call_complete_ns = call->complete_ns;
    record->offset = call->offset;
    record->length = call->length;
}

static __always_inline void emit_call(struct call *call)
{
    struct record record = {};
    record.pid = current_pid();
    record.kind = RECORD_CALL;
    record.request = call->request;
    record.submit_ns = call->request_submit_ns;
    fill_call_half(&record, call);
    count(ring.ringbuf_output(&record, sizeof(record), NO_WAKEUP) ? COUNT_RING_FULL_CALL : COUNT_RECORDS);
}

/*
 * Take the further calls of an ended request out of `held`, emit them if their request could be, and return the union
 * of all its calls' intervals: in submit order, each adds what lies beyond the latest end so far.
 */
static __always_inline u64 release_held(struct record *request, bool emit)
{
    struct key key = key_of(request->request);
    u64 end = request->call_complete_ns ? request->call_complete_ns : request->complete_ns;
    u64 busy_ns = end - request->call_submit_ns;
    for (u32 i = 1; i < MAX_CALLS; i++) {
        if (i >= request->calls)
            break;
        key.index = i;
        struct call *call = held.lookup(&key);
        if (!call)             /* not ended yet (COUNT_PARENT_GONE tells when it does), or the table was full */
            continue;
        u64 from = call->submit_ns > end ? call->submit_ns : end;
        if (call->complete_ns > from) {
            busy_ns += call->complete_ns - from;
            end = call->complete_ns;
        }
        if (emit)
            emit_call(call);
        held.delete(&key);
    }
    return busy_ns;
}

/*
 * One whole trace into the ring, or nothing of it: the request's place is taken first, and its further calls leave only
 * behind it.  Should the ring fill up between them, RING_FULL_CALL counts what is missing and the request's `calls`
 * shows it.
 */
static __always_inline void emit_request(struct record *request)
{
    struct record *out = ring.ringbuf_reserve(sizeof(*out));
    if (request->calls)
        request->rbd_ns = release_held(request, out != 0);
    if (!out) {
        count(COUNT_RING_FULL_REQUEST);
        return;
    }
    __builtin_memcpy(out, request, sizeof(*out));
    ring.ringbuf_submit(out, NO_WAKEUP);
    count(COUNT_RECORDS);
}

/* ---- SCSI requests ------------------------------------------------------------------------------------------ */

/* Read what a SCSIRequest says when it is submitted.  The guest wrote the CDB: it is copied, never trusted. */
static __always_inline int read_request(struct record *record, struct process *process, u64 request)
{
    struct { u32 tag, lun; } name = {};
    struct { char buf[16]; u32 len, pad; u64 xfer; } command = {};
    if (bpf_probe_read_user(&record->device, 8, (void *)(request + process->device)) ||
        bpf_probe_read_user(&name, sizeof(name), (void *)(request + process->tag)) ||
        bpf_probe_read_user(&command, sizeof(command), (void *)(request + process->command)))
        return -1;
    record->tag = name.tag;
    record->lun = name.lun;
    record->transfer_bytes = command.xfer;
    __builtin_memcpy(record->cdb, command.buf, sizeof(record->cdb));
    return 0;
}

/* The address is in flight already: a retry of the same request, or one whose end was never seen. */
static __always_inline void submit_again(struct key *key, struct record *record)
{
    struct record *before = requests.lookup(key);
    if (before && before->ending == ENDING_RETRY) {
        before->ending = 0;
        count(COUNT_SCSI_RESUBMITTED);
        return;
    }
    if (before) {
        before->ending = ENDING_LOST;
        before->complete_ns = record->submit_ns;
        emit_request(before);
        count(COUNT_SCSI_END_LOST);
    }
    count(requests.update(key, record) ? COUNT_SCSI_TABLE_FULL : COUNT_SCSI_SUBMITTED);
}

/* int32_t scsi_req_enqueue(SCSIRequest *req) */
int scsi_req_enqueue(struct pt_regs *ctx)
{
    struct record record = {};
    struct key key = key_of(PT_REGS_PARM1(ctx));
    struct process *process = processes.lookup(&key.pid);
    if (!process) {
        count(COUNT_FOREIGN);
        return 0;
    }
    record.submit_ns = bpf_ktime_get_ns();
    record.pid = key.pid;
    record.kind = RECORD_REQUEST;
    record.request = key.pointer;
    if (read_request(&record, process, key.pointer)) {
        count(COUNT_SCSI_UNREADABLE);
        return 0;
    }
    int error = requests.insert(&key, &record);
    if (error == EXISTS)
        submit_again(&key, &record);
    else
        count(error ? COUNT_SCSI_TABLE_FULL : COUNT_SCSI_SUBMITTED);
    return 0;
}

/* Sense data, fixed (70h, 71h) or descriptor (72h, 73h) format: SPC-5 4.4. */
static __always_inline void read_sense(struct record *record, u64 request)
{
    u8 sense[14] = {};
    struct process *process = processes.lookup(&record->pid);
    if (!process || bpf_probe_read_user(sense, sizeof(sense), (void *)(request + process->sense))) {
        count(COUNT_SENSE_UNREADABLE);
        return;
    }
    bool descriptor = (sense[0] & 0x7e) == 0x72;
    record->sense_key = (descriptor ? sense[1] : sense[2]) & 0xf;
    record->asc = descriptor ? sense[2] : sense[12];
    record->ascq = descriptor ? sense[3] : sense[13];
}

/* An end whose submit we did not see proves that calls which walked to this address had a parent, begun before us. */
static __always_inline int end_unstarted(struct key *key, u8 ending)
{
    if (processes.lookup(&key->pid)) {
        struct record record = {.pid = key->pid, .kind = RECORD_REQUEST, .ending = ending, .request = key->pointer};
        record.complete_ns = bpf_ktime_get_ns();
        emit_request(&record);
    }
    return count_traced(COUNT_SCSI_UNSTARTED);
}

static __always_inline int end_request(u64 request, u8 ending, u8 status, u8 host_status)
{
    struct key key = key_of(request);
    struct record *record = requests.lookup(&key);
    if (!record)
        return end_unstarted(&key, ending);
    record->complete_ns = bpf_ktime_get_ns();
    record->ending = ending;
    record->status = status;
    record->host_status = host_status;
    if (status == CHECK_CONDITION)
        read_sense(record, request);
    emit_request(record);
    requests.delete(&key);
    count(COUNT_SCSI_COMPLETED);
    return 0;
}

/* void scsi_req_complete(SCSIRequest *req, int status) */
int scsi_req_complete(struct pt_regs *ctx)
{
    return end_request(PT_REGS_PARM1(ctx), ENDING_COMPLETED, PT_REGS_PARM2(ctx), 0);
}

/* void scsi_req_complete_failed(SCSIRequest *req, int host_status): QEMU 6.0 on */
int scsi_req_complete_failed(struct pt_regs *ctx)
{
    return end_request(PT_REGS_PARM1(ctx), ENDING_FAILED, 0, PT_REGS_PARM2(ctx));
}

/* void scsi_req_cancel_complete(SCSIRequest *req): the end of an aborted request whose block I/O has come back */
int scsi_req_cancel_complete(struct pt_regs *ctx)
{
    return end_request(PT_REGS_PARM1(ctx), ENDING_CANCELLED, 0, 0);
}

/* void scsi_req_retry(SCSIRequest *req): werror=stop or rerror=stop; the request goes on when the guest does */
int scsi_req_retry(struct pt_regs *ctx)
{
    struct key key = key_of(PT_REGS_PARM1(ctx));
    struct record *record = requests.lookup(&key);
    if (record) {
        record->ending = ENDING_RETRY;
        if (record->retries < 255)
            record->retries++;
    }
    return count_traced(COUNT_SCSI_RETRIED);
}

/* ---- librbd calls ------------------------------------------------------------------------------------------- */

/* *(u64 *)(pointer + offset), or 0: no address on any of our ways is 0. */
static __always_inline u64 follow(u64 pointer, u32 offset)
{
    u64 value = 0;
    if (pointer)
        bpf_probe_read_user(&value, sizeof(value), (void *)(pointer + offset));
    return value;
}

/*
 * From a completion to the opaque pointer of the blk_aio_*() call that led to it: by the coroutine, which stays the
 * same object however long the request was throttled and whichever thread woke it.
 *
 *   rbd_completion_t → io::AioCompletion → RBDTask → Coroutine.entry_arg → BlkAioEmAIOCB.common.opaque
 *
 * The offsets 8 and 24 have not moved since QEMU 4.2 (util/qemu-coroutine.c, include/block/aio.h).
 */
static __always_inline u64 opaque_of(u64 task, struct process *process)
{
    u64 coroutine = follow(task, process->coroutine);
    if (process->through_acb)  /* RADOSCB.acb → BlockAIOCB.opaque → CoroutineIOCompletion.coroutine */
        coroutine = follow(follow(coroutine, 24), 0);
    return follow(follow(coroutine, 8), 24);
}

/*
 * The request in flight that an opaque pointer stands for.  Being in flight is the proof: a wrong offset finds no
 * parent, not a wrong one.  The opaque is a DMAAIOCB for READ and WRITE (its opaque is the request), an UnmapCBData or
 * WriteSameCBData (its first field is the request), or, for flushes and zeroing, the request itself.  The likely one
 * is tried first; the others serve a WRITE turned into write_zeroes or discard (detect-zeroes) and its like.
 * Without a parent, `key` is left at the likely one.
 */
static __always_inline struct record *parent_of(u64 opaque, u8 operation, struct key *key)
{
    u64 by_dma = follow(opaque, 24), by_data = follow(opaque, 0);
    bool data = operation == RBD_READ || operation == RBD_WRITE;
    u64 likely = data ? by_dma : operation == RBD_DISCARD ? by_data : opaque;
    key->pointer = likely;
    struct record *parent = requests.lookup(key);
    if (parent)
        return parent;
    key->pointer = data ? opaque : by_dma;
    parent = requests.lookup(key);
    if (parent)
        return parent;
    key->pointer = operation == RBD_DISCARD ? opaque : by_data;
    parent = requests.lookup(key);
    if (parent)
        return parent;
    key->pointer = likely;
    return 0;
}

/* Walk from the completion to the parent; leaves in `call` the link, and the parent or where the walk ended. */
static __always_inline struct record *link_parent(struct call *call, struct process *process, u64 completion)
{
    struct key key = key_of(0);
    if (process->completion_argument == UNKNOWN_OFFSET || process->coroutine == UNKNOWN_OFFSET) {
        call->link = LINK_NO_LAYOUT;
        count(COUNT_PARENT_NO_LAYOUT);
        return 0;
    }
    u64 task = follow(follow(completion, 0), process->completion_argument);
    if (task && process->return_value != UNKNOWN_OFFSET)
        call->return_at = task + process->return_value;
    struct record *parent = parent_of(opaque_of(task, process), call->operation, &key);
    call->request = key.pointer;
    if (!key.pointer) {
        call->link = LINK_FAULT;
        count(COUNT_PARENT_FAULT);
        return 0;
    }
    call->link = parent ? LINK_WALK : LINK_NOT_IN_FLIGHT;
    count(parent ? COUNT_PARENT_FOUND : COUNT_PARENT_NOT_IN_FLIGHT);
    return parent;
}

/* Put a call in flight; a completion still there lost its release. */
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

/* Sum of iov_len: eight iovecs a read, for a request of 1 MiB may have 256 of them. */
static __always_inline u64 iovec_bytes(u64 iovecs, u32 iovec_count)
{
    struct { u64 base, len; } chunk[8];
    u64 bytes = 0;
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

/* `iovecs`: 0, or where `length` iovecs are whose bytes are the length. */
static __always_inline int submit_call(u8 operation, u64 image, u64 offset, u64 length, u64 iovecs, u64 completion)
{
    struct key key = key_of(completion);
    struct process *process = processes.lookup(&key.pid);
    if (!process) {
        count(COUNT_FOREIGN);
        return 0;
    }
    struct call call = {.image = image, .offset = offset, .operation = operation};
    call.submit_ns = bpf_ktime_get_ns();
    call.length = iovecs ? iovec_bytes(iovecs, length) : length;
    call.thread = bpf_get_current_pid_tgid();
    call.return_value = RETURN_UNKNOWN;
    struct record *parent = link_parent(&call, process, completion);
    if (parent) {
        call.request_submit_ns = parent->submit_ns;
        call.index = parent->calls;
    }
    if (insert_call(&key, &call) || !parent)
        return 0;
    if (!parent->calls++)
        fill_call_half(parent, &call);
    return 0;
}

/* int rbd_aio_readv(rbd_image_t image, const struct iovec *iov, int iovcnt, uint64_t off, rbd_completion_t c) */
int rbd_aio_readv(struct pt_regs *ctx)
{
    return submit_call(RBD_READ, PT_REGS_PARM1(ctx), PT_REGS_PARM4(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM2(ctx),
                       PT_REGS_PARM5(ctx));
}

/* int rbd_aio_writev(rbd_image_t image, const struct iovec *iov, int iovcnt, uint64_t off, rbd_completion_t c) */
int rbd_aio_writev(struct pt_regs *ctx)
{
    return submit_call(RBD_WRITE, PT_REGS_PARM1(ctx), PT_REGS_PARM4(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM2(ctx),
                       PT_REGS_PARM5(ctx));
}

/* int rbd_aio_read(rbd_image_t image, uint64_t off, size_t len, char *buf, rbd_completion_t c) */
int rbd_aio_read(struct pt_regs *ctx)
{
    return submit_call(RBD_READ, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0,
                       PT_REGS_PARM5(ctx));
}

/* int rbd_aio_write(rbd_image_t image, uint64_t off, size_t len, const char *buf, rbd_completion_t c) */
int rbd_aio_write(struct pt_regs *ctx)
{
    return submit_call(RBD_WRITE, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0,
                       PT_REGS_PARM5(ctx));
}

/* int rbd_aio_discard(rbd_image_t image, uint64_t off, uint64_t len, rbd_completion_t c) */
int rbd_aio_discard(struct pt_regs *ctx)
{
    return submit_call(RBD_DISCARD, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0,
                       PT_REGS_PARM4(ctx));
}

/* int rbd_aio_write_zeroes(rbd_image_t image, uint64_t off, size_t len, rbd_completion_t c, int, int) */
int rbd_aio_write_zeroes(struct pt_regs *ctx)
{
    return submit_call(RBD_WRITE_ZEROES, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0,
                       PT_REGS_PARM4(ctx));
}

/* int rbd_aio_flush(rbd_image_t image, rbd_completion_t c) */
int rbd_aio_flush(struct pt_regs *ctx)
{
    return submit_call(RBD_FLUSH, PT_REGS_PARM1(ctx), 0, 0, 0, PT_REGS_PARM2(ctx));
}

/* A released call goes to its request if that is still the one it was made for, or leaves by itself. */
static __always_inline void end_call(struct call *call)
{
    struct key key = key_of(call->request);
    struct record *parent = call->link == LINK_WALK ? requests.lookup(&key) : 0;
    if (call->link == LINK_WALK && (!parent || parent->submit_ns != call->request_submit_ns)) {
        count(COUNT_PARENT_GONE);
        parent = 0;
    }
    if (parent && call->index == 0) {
        parent->return_value = call->return_value;
        parent->call_complete_ns = call->complete_ns;
        return;
    }
    key.index = call->index;
    if (parent && call->index < MAX_CALLS && held.update(&key, call) == 0)
        return;
    if (parent)
        count(COUNT_CALLS_NOT_HELD);
    emit_call(call);
}

/*
 * void rbd_aio_release(rbd_completion_t c): QEMU's callback has stored the return value by now.  Called by the thread
 * that submitted, it is the clean-up of a call that librbd refused, and there is no return value.
 */
int rbd_aio_release(struct pt_regs *ctx)
{
    struct key key = key_of(PT_REGS_PARM1(ctx));
    struct call *call = calls.lookup(&key);
    if (!call)
        return count_traced(COUNT_RBD_UNSTARTED);
    call->complete_ns = bpf_ktime_get_ns();
    if (call->return_at && call->thread != (u32)bpf_get_current_pid_tgid()) {
        s64 value;
        if (bpf_probe_read_user(&value, sizeof(value), (void *)call->return_at))
            count(COUNT_RETURN_UNREADABLE);
        else
            call->return_value = value;
    }
    end_call(call);
    calls.delete(&key);
    count(COUNT_RBD_COMPLETED);
    return 0;
}
