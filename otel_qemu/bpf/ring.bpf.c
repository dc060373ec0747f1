/*
 * Records: which traces are worth one, and how a whole trace leaves.
 */

static __always_inline bool has_failed(struct record *request)
{
    return request->ending != ENDING_COMPLETED || (request->status && request->status != CONDITION_MET);
}

static __always_inline bool call_failed(struct call *call)
{
    return call->return_value < 0 && call->return_value != RETURN_UNKNOWN;
}

/* Whether the dice say so: one in `one_in`, all of them for 1, none for 0. */
static __always_inline bool is_sampled(u64 one_in)
{
    return one_in == 1 || (one_in && bpf_get_prandom_u32() < 0x100000000ULL / one_in);
}

/* Why a trace is kept, the rarest reason first, or the reason it was `kept` for anyway; 0: it is not kept. */
static __always_inline u8 reason_to_keep(u8 kept, bool failed, u64 duration_ns, u64 slow_ns, u64 one_in)
{
    if (failed)
        return KEPT_ERROR;
    if (duration_ns >= slow_ns)
        return KEPT_SLOW;
    if (kept)
        return kept;                 /* no dice: user space throws them for the whole trace */
    return is_sampled(one_in) ? KEPT_SAMPLED : 0;
}

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

/* A call that belongs to no request, or came after its end: a trace of its own. */
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

/* The later of two times, without a branch: in a loop, each is one more for the verifier to follow every time round. */
static __always_inline u64 later(u64 one, u64 other)
{
    s64 ahead = one - other, sign = ahead >> 63;
    asm volatile("" : "+r"(sign));   /* or the compiler makes a branch of it */
    return one - (ahead & sign);
}

static __always_inline u64 sooner(u64 one, u64 other)
{
    return one + other - later(one, other);
}

/*
 * The union of the intervals of an ended request's calls, and in `last_end_ns` the end of the last: in submit order,
 * each adds what lies beyond the latest end so far.  One that outlives its request is over when that is.
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

/* Emit an ended request's further calls until one finds no room: whether all did. */
static __always_inline bool emit_held(struct record *request)
{
    struct key key = key_in(request->pid, request->request);
    int what = COUNT_RECORDS;
    u64 *records = counters.lookup(&what);  /* looked up in the loop, it costs the verifier four times as much */
    if (!records)
        return false;
    for (u32 i = 1; i < MAX_CALLS; i++) {
        if (i >= request->calls)
            break;
        key.index = i;
        struct call *call = held.lookup(&key);
        if (!call || call->complete_ns == NOT_ENDED)   /* it leaves by itself when it does (COUNT_PARENT_GONE) */
            continue;
        if (!emit_call(request->pid, call, request->kept))
            return false;
        __sync_fetch_and_add(records, 1);
    }
    return true;
}

/* Forget them.  A loop of its own: what the one above knows of the ring would double what the verifier has to follow. */
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
 * One whole trace into the ring, or none: the request's place is taken first, and given back if one of its further calls
 * finds none.  Calls that had found one by then are left without a request, by which user space knows them.
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
