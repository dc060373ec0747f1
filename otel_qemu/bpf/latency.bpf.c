/*
 * Exact histograms: every request and every call is counted here before anything can be dropped.
 *
 * Entries only grow, by atomic additions, and are never reset: a reader that copies one while it is written to sees
 * some additions and not others, and none is lost.
 */

struct series {
    u64 device;                /* SCSIDevice *; 0: calls without request */
    u32 pid;
    u8 layer;                  /* enum layer */
    u8 operation;              /* opcode of a request, enum rbd_operation of a call */
    u8 failed;                 /* 1: not completed, bad status, or a negative return value */
    u8 unused;
};

struct distribution {
    u64 sum_ns;
    u64 counts[BINS];          /* above the bound before, up to and with the bin's own; the last has no upper bound */
};

/* All that is counted of one series: found once, added to several times. */
struct latency {
    u64 bytes;                 /* transferred */
    struct distribution duration;
    struct distribution wait;       /* of requests that made calls: before and between them */
    struct distribution completion; /* after the last of them */
};

BPF_HASH(latencies, struct series, struct latency, SERIES);
BPF_ARRAY(nothing_yet, struct latency, 1);

/* How many bounds lie below a value: its bin.  A binary search in five steps, without a loop for the verifier. */
static __always_inline u32 bin_of(struct settings *settings, u64 value_ns)
{
    u32 bin = 0;
#pragma unroll
    for (u32 step = BINS / 2; step; step /= 2)
        if (value_ns > settings->bounds_ns[(bin + step - 1) & (BINS - 1)])
            bin += step;
    return bin & (BINS - 1);
}

static __always_inline void add(struct distribution *to, struct settings *settings, u64 value_ns)
{
    __sync_fetch_and_add(&to->counts[bin_of(settings, value_ns)], 1);
    __sync_fetch_and_add(&to->sum_ns, value_ns);
}

static __always_inline struct latency *latency_of(struct series *series)
{
    struct latency *found = latencies.lookup(series);
    if (found)
        return found;
    int zero = 0;
    struct latency *fresh = nothing_yet.lookup(&zero);
    if (fresh)
        latencies.insert(series, fresh);   /* should another CPU be first, its entry stands */
    found = latencies.lookup(series);
    if (!found)
        count(COUNT_SERIES_FULL);
    return found;
}

/* A request that has ended: its duration, and, if it made calls, its wait above librbd and its completion after it. */
static __always_inline void count_request(struct record *request, struct settings *settings, u64 last_end_ns)
{
    struct series series = {.device = request->device, .pid = request->pid, .layer = LAYER_SCSI};
    series.operation = request->cdb[0];
    series.failed = has_failed(request);
    struct latency *latency = latency_of(&series);
    if (!latency)
        return;
    u64 duration_ns = request->complete_ns - request->submit_ns;
    __sync_fetch_and_add(&latency->bytes, request->transfer_bytes);
    add(&latency->duration, settings, duration_ns);
    if (!request->calls)
        return;
    u64 completion_ns = request->complete_ns - last_end_ns;
    add(&latency->completion, settings, completion_ns);
    add(&latency->wait, settings, duration_ns - request->rbd_ns - completion_ns);
}

static __always_inline void count_call(u32 pid, struct call *call, struct settings *settings)
{
    struct series series = {.device = call->device, .pid = pid, .layer = LAYER_RBD};
    series.operation = call->operation;
    series.failed = call_failed(call);
    struct latency *latency = latency_of(&series);
    if (!latency)
        return;
    __sync_fetch_and_add(&latency->bytes, call->length);
    add(&latency->duration, settings, call->complete_ns - call->submit_ns);
}
