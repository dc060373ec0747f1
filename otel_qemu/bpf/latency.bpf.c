/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exact histograms.  Every request and every call is counted here, before anything can be dropped.
 *
 * Entries only grow, by atomic additions, and are never reset.  A reader that copies an entry meanwhile may miss the
 * latest additions; its next copy has them.
 */

/* The key of a histogram. */
struct series {
    u64 device;                /* SCSIDevice *; 0: calls without a request */
    u32 pid;
    u8 layer;                  /* enum layer */
    u8 operation;              /* opcode of a request, enum rbd_operation of a call */
    u8 failed;                 /* 1: not completed, bad status, or a negative return value */
    u8 unused;
};

/* A histogram: the sum, and the count of each bin. */
struct distribution {
    u64 sum_ns;
    u64 counts[BINS];          /* values above the previous bound, up to and including this one; the last has none */
};

/* All counts of one series together, so that a request takes one look-up. */
struct latency {
    u64 bytes;                 /* transferred */
    struct distribution duration;
    struct distribution wait;       /* time before and between the calls, of requests that made calls */
    struct distribution completion; /* time after the last call, of the same requests */
};

BPF_HASH(latencies, struct series, struct latency, SERIES);
BPF_ARRAY(nothing_yet, struct latency, 1);   /* all zero: an entry is too large for the stack */

/* The bin of a value: the number of bounds below it.  A binary search in five steps, unrolled for the verifier. */
static __always_inline u32 bin_of(struct settings *settings, u64 value_ns)
{
    u32 bin = 0;
#pragma unroll
    for (u32 step = BINS / 2; step; step /= 2)
        if (value_ns > settings->bounds_ns[(bin + step - 1) & (BINS - 1)])
            bin += step;
    return bin & (BINS - 1);
}

/* Add a value to a histogram. */
static __always_inline void add(struct distribution *to, struct settings *settings, u64 value_ns)
{
    __sync_fetch_and_add(&to->counts[bin_of(settings, value_ns)], 1);
    __sync_fetch_and_add(&to->sum_ns, value_ns);
}

/* The counts of a series, created if needed; 0 if the table is full. */
static __always_inline struct latency *latency_of(struct series *series)
{
    struct latency *found = latencies.lookup(series);
    if (found)
        return found;
    int zero = 0;
    struct latency *fresh = nothing_yet.lookup(&zero);
    if (fresh)
        latencies.insert(series, fresh);   /* if another CPU was first, its entry stays */
    found = latencies.lookup(series);
    if (!found)
        count(COUNT_SERIES_FULL);
    return found;
}

/* Count an ended request: its duration, and, if it made calls, the wait above librbd and the completion after it. */
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

/* Count an ended call: its duration and its bytes. */
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
