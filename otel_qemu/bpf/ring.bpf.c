/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records: which traces are kept, and how a whole trace gets into the ring.
 */

/* Whether a request ended with an error.  CONDITION MET is a good status. */
static __always_inline bool has_failed(struct record *request)
{
    return request->ending != ENDING_COMPLETED || (request->status && request->status != CONDITION_MET);
}

static __always_inline bool call_failed(struct call *call)
{
    return call->return_value < 0 && call->return_value != RETURN_UNKNOWN;
}

/* Whether a random draw keeps a trace: one in `one_in`; 1 keeps all, 0 keeps none. */
static __always_inline bool is_sampled(u64 one_in)
{
    return one_in == 1 || (one_in && bpf_get_prandom_u32() < 0x100000000ULL / one_in);
}

/* Why a trace is kept, the rarest reason first; `kept` is the reason since its submit.  0: it is not kept. */
static __always_inline u8 reason_to_keep(u8 kept, bool failed, u64 duration_ns, u64 slow_ns, u64 one_in)
{
    if (failed)
        return KEPT_ERROR;
    if (duration_ns >= slow_ns)
        return KEPT_SLOW;
    if (kept)
        return kept;                 /* no draw here: user space draws for the whole trace */
    return is_sampled(one_in) ? KEPT_SAMPLED : 0;
}

/* Copy a call into the RBD half of a record. */
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

/* Write a RECORD_CALL; false if the ring is full. */
static __always_inline bool emit_call(u32 pid, struct call *call, u8 kept)
{
    struct record record = {};
    record.pid = pid;
    record.kind = RECORD_CALL;
    record.request = call->request;
    record.submit_ns = call->request_submit_ns;
    record.device = call->device;
    record.kept = kept;
    fill_call_half(&record, call);
    return ring.ringbuf_output(&record, sizeof(record), NO_WAKEUP) == 0;
}

/* A call without a request, or one that ended after its request: a trace of its own. */
static __always_inline void emit_lone_call(u32 pid, struct call *call, struct settings *settings)
{
    u64 duration_ns = call->complete_ns - call->submit_ns;
    u64 slow_ns = settings->slow_call_ns;
    u8 kept = reason_to_keep(call->kept, call_failed(call), duration_ns, slow_ns, settings->one_in);
    if (!kept)
        count(COUNT_CALLS_NOT_KEPT);
    else
        count(emit_call(pid, call, kept) ? COUNT_RECORDS : COUNT_RING_FULL_CALL);
}

/* The later of two times, without a branch: the verifier would follow both ways in every round of a loop. */
static __always_inline u64 later(u64 one, u64 other)
{
    s64 ahead = one - other, sign = ahead >> 63;
    asm volatile("" : "+r"(sign));   /* else the compiler makes it a branch */
    return one - (ahead & sign);
}

static __always_inline u64 sooner(u64 one, u64 other)
{
    return one + other - later(one, other);
}

/*
 * The length of the union of an ended request's call intervals; `last_end_ns` gets the end of the last one.  The calls
 * come in submit order, so each adds the part after the latest end so far.  An interval is cut at the request's end.
 */
static __always_inline u64 busy_ns(struct record *request, u64 *last_end_ns)
{
    struct key key = key_in(request->pid, request->request);
    u64 begin = request->call_submit_ns, end = request->call_complete_ns ? request->call_complete_ns : NOT_ENDED;
    end = sooner(end, request->complete_ns);
    u64 busy = end - begin;
    for (u32 i = 1; i < MAX_CALLS; i++) {
        if (i >= request->calls)
            break;
        key.index = i;
        struct call *call = held.lookup(&key);
        if (!call)             /* not held: counted when it ends */
            continue;
        begin = later(call->submit_ns, end);
        end = later(begin, sooner(call->complete_ns, request->complete_ns));
        busy += end - begin;
    }
    *last_end_ns = end;
    return busy;
}

/* Emit the further calls of an ended request; false if the ring has become full. */
static __always_inline bool emit_held(struct record *request)
{
    struct key key = key_in(request->pid, request->request);
    int counter = COUNT_RECORDS;
    u64 *records = counters.lookup(&counter);  /* a look-up in the loop would cost the verifier four times as much */
    if (!records)
        return false;
    for (u32 i = 1; i < MAX_CALLS; i++) {
        if (i >= request->calls)
            break;
        key.index = i;
        struct call *call = held.lookup(&key);
        if (!call || call->complete_ns == NOT_ENDED)   /* when it ends, it is a lone call (COUNT_PARENT_GONE) */
            continue;
        if (!emit_call(request->pid, call, request->kept))
            return false;
        __sync_fetch_and_add(records, 1);
    }
    return true;
}

/* Remove the held calls.  In the loop above, where the verifier tracks the ring, this would double its work. */
static __always_inline void release_held(struct record *request)
{
    struct key key = key_in(request->pid, request->request);
    for (u32 i = 1; i < MAX_CALLS; i++) {
        if (i >= request->calls)
            break;
        key.index = i;
        held.delete(&key);
    }
}

/*
 * Put a whole trace into the ring, or none of it.  Room for the request is reserved first, and discarded if one of the
 * further calls finds no room.  Calls that were written by then have no request, by which user space recognises them.
 */
static __always_inline void emit_request(struct record *request)
{
    struct record *out = ring.ringbuf_reserve(sizeof(*out));
    if (!out) {
        count(COUNT_RING_FULL_REQUEST);
        return;
    }
    if (!emit_held(request)) {
        ring.ringbuf_discard(out, NO_WAKEUP);
        count(COUNT_RING_FULL_REQUEST);
        return;
    }
    __builtin_memcpy(out, request, sizeof(*out));
    ring.ringbuf_submit(out, NO_WAKEUP);
    count(COUNT_RECORDS);
}
