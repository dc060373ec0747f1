/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Time every SCSI request and every librbd call of QEMU, and join each call to its request.
 *
 * bcc loads functions of its main text only, so these files are compiled as one text, in this order: tables, ring,
 * latency, scsi, rbd, sites.  With --audit, audit comes before rbd.  C wants each function defined before its use, so
 * the order for reading is the other way round: sites, scsi, rbd, ring, latency.
 *
 *   scsi_req_enqueue ──► requests ◄── walk ── rbd_aio_readv, ...  ──► calls; from the second on also `held`
 *                           │  ▲                                        │
 *                           │  └── first call's end, in the entry ──────┤ rbd_aio_release
 *                           │      further calls' ends, in `held` ──────┘
 *   scsi_req_complete ──────┴──► histograms, exactly; then the ring, if the trace is kept: one record for the request
 *                                with its first call, and one for each further call
 *
 * Only function entries are probed.  A return probe would patch the return address on a coroutine's stack, and QEMU
 * leaves that stack before the function returns.  Return values are read where QEMU has already stored them.
 *
 * There are no locks.  Two threads write a request's entry: the one that submits its calls (one AioContext), and
 * librbd's callback thread (one strand per image).  They write different fields.  QEMU frees a completion or a
 * SCSIRequest only after the probe of its end has run, so no key is live twice.  If an end was lost, that is counted.
 */
#include <uapi/linux/ptrace.h>
#include "events.h"

/*
 * bcc puts this licence into the program's "license" section (bcc src/cc/export/footer.h; without it, bcc puts GPL).
 * The kernel gives bpf_probe_read_user to GPL programs only.
 */
#define BPF_LICENSE GPL v2

#define BINS 32                /* of a histogram: at most 31 bounds, and one bin above the last */
#define EXPECTED 4096          /* requests created and not yet submitted, in processes whose layout is being proven */
#define SAMPLES 64             /* sampled requests of one process, from which user space finds its layout */
#define SAMPLED 1024           /* sampled requests of all processes */
#define MAX_CALLS 256          /* calls that a request holds; UNMAP makes at most 255 (max_unmap_descr) */
#define HELPERS 3              /* coroutines between a call's and its request's: qcow2 images on top of each other */
#define MOST_CALLS 65535       /* the largest number of calls that fits into a record */
#define MAX_IOVECS 1024        /* IOV_MAX */
#define UNKNOWN_OFFSET 0xffffffff
#define CHECK_CONDITION 2      /* SAM-5 5.3.1 */
#define CONDITION_MET 4
#define ENDING_RETRY 0x80      /* only in `requests`: an error has stopped the guest, and the request waits for a retry */
#define NOT_ENDED (1ULL << 62) /* complete_ns of a call in `held` that is in flight: later than any time */
#define EXISTS (-17)           /* -EEXIST */
#define NO_WAKEUP 1            /* BPF_RB_NO_WAKEUP: the reader polls; a wake-up costs as much as 50 records */

/*
 * One traced process.  The first fields are offsets in bytes within QEMU's and librbd's structs.  otel_qemu/probe finds
 * them for each build (layouts.py); UNKNOWN_OFFSET stands for one that it could not find.
 */
struct process {
    u32 device;                /* SCSIRequest.dev */
    u32 tag;                   /* SCSIRequest.tag; struct scsi_request_fields begins there */
    u32 sense;                 /* SCSIRequest.sense */
    u32 completion_argument;   /* librbd::io::AioCompletion.complete_arg */
    u32 coroutine;             /* RBDTask.co, or RADOSCB.acb: QEMU's object for one call */
    u32 through_acb;           /* 1: it is RADOSCB.acb, two pointers away from the coroutine (QEMU 6.0 and older) */
    u32 return_value;          /* RBDTask.ret or RADOSCB.ret */
    u32 keep_all;              /* 1: user space joins the calls, and needs every record for that */
    u32 proving;               /* 1: take a request only if its fields match the arguments of scsi_req_new */
    u32 proven;                /* requests that matched */
    u32 refuted;               /* requests that did not */
    u32 walked;                /* 1: a walk has ended at a request in flight, so the walk's offsets are right */
    u32 made;                  /* samples of scsi_req_new's arguments, taken while `device` is not known */
    u32 submitted;             /* samples of scsi_req_enqueue's argument, taken at the same time */
};

/* The arguments of scsi_req_new, which the fields of the request must match at its submit. */
struct expected_request {
    u64 device;
    u64 cdb;                   /* the first 6 bytes: no CDB is shorter (SPC-5 4.2) */
    u32 tag, lun;
};

/* A copy of the beginning of a SCSIRequest, whose layout is not known yet. */
struct request_bytes {
    char bytes[256];
};

/* The key of most tables. */
struct key {
    u64 pointer;               /* SCSIRequest * or rbd_completion_t */
    u32 pid;
    u32 index;                 /* which of its request's calls, in `held`; else 0 */
};

/*
 * One librbd call in flight.  A request's first call is also in the request's entry.  Each further call is also in
 * `held`, where it stays until the request ends.
 */
struct call {
    u64 image;
    u64 submit_ns;
    u64 complete_ns;           /* while in flight: 0; in `held`, NOT_ENDED */
    u64 offset;
    u64 length;
    u64 request;               /* parent; an address is used again, so (request, request_submit_ns) identifies it */
    u64 request_submit_ns;
    u64 device;                /* parent's SCSIDevice *, or 0 */
    u64 return_at;             /* address where QEMU stores the return value; 0: not known */
    u32 index;                 /* which of its request's calls */
    u32 thread;                /* the thread that submitted it */
    s32 return_value;
    u8 operation;
    u8 link;
    u8 kept;                   /* enum kept; from the submit on KEPT_JOINED_LATER if every record is needed, else 0 */
    u8 unused;
};

/* How to count, and which traces get a record.  Every request is counted in any case. */
struct settings {
    u64 bounds_ns[BINS];       /* upper bounds of the histograms' bins, ascending; unused ones are the largest u64 */
    u64 slow_ns[256];          /* by opcode: keep a request that takes this long or longer */
    u64 slow_call_ns;          /* the same for a call without a request */
    u64 one_in;                /* keep about one in N of the others; 1: all of them; 0: none */
    u64 stage;                 /* enum stage; the only field that changes while probes are attached */
};

BPF_ARRAY(settings, struct settings, 1);
BPF_HASH(processes, u32, struct process, PROCESSES);
BPF_HASH(expected, struct key, struct expected_request, EXPECTED);   /* by (tag and LUN, process) */
BPF_HASH(made, struct key, struct expected_request, SAMPLED);        /* by (process, index) */
BPF_HASH(submitted, struct key, struct request_bytes, SAMPLED);      /* by (process, index) */
BPF_ARRAY(blanks, struct request_bytes, 1);                          /* always zero */
BPF_HASH(requests, struct key, struct record, REQUESTS);
BPF_HASH(calls, struct key, struct call, REQUESTS);
BPF_HASH(held, struct key, struct call, REQUESTS);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);

/*
 * Tables without programs: they keep the kernel from giving our programs private stacks.
 *
 * Since Linux 6.13, x86-64 gives a uprobe program with a stack of 64 bytes or more one private stack per CPU, on the
 * assumption that such programs do not nest (kernel/bpf/verifier.c, bpf_enable_priv_stack).  But they can be preempted:
 * another thread on the same CPU then runs the same program, and both write to one stack.  Calls are lost, and the
 * kernel has crashed.
 *
 * A program with a tail call runs on the stack of the thread that it interrupts (same file, has_tail_call).  So every
 * entry function has a tail call.  It is never taken: no trap is at address 0, and the table has no program.
 *
 * There is one table for each way of attaching, because programs of two attach types may not share one
 * (bpf_prog_map_compatible).
 */
BPF_PROG_ARRAY(no_sites, 1);
BPF_PROG_ARRAY(no_functions, 1);

/* The guard of a program for a uprobe_multi link; returns the program's context. */
static __always_inline struct pt_regs *guarded_site(struct pt_regs *ctx)
{
    if (!PT_REGS_IP(ctx))
        no_sites.call(ctx, 0);
    return ctx;
}

/* The guard of a program for a perf event; returns the program's context. */
static __always_inline struct pt_regs *guarded(struct pt_regs *ctx)
{
    if (!PT_REGS_IP(ctx))
        no_functions.call(ctx, 0);
    return ctx;
}

/* Add to a counter.  The addition is atomic, although counters are per CPU: a probe can preempt another one. */
static __always_inline void count(int counter)
{
    u64 *value = counters.lookup(&counter);
    if (value)
        __sync_fetch_and_add(value, 1);
}

static __always_inline struct settings *current_settings(void)
{
    int zero = 0;
    return settings.lookup(&zero);   /* never 0: the array has one entry; but the verifier demands a check */
}

static __always_inline bool is_stage(u64 stage)
{
    struct settings *settings = current_settings();
    return settings && settings->stage == stage;
}

static __always_inline u32 current_pid(void)
{
    return bpf_get_current_pid_tgid() >> 32;
}

/* The key of `pointer` in a process.  It has no padding, for that would be part of the key. */
static __always_inline struct key key_in(u32 pid, u64 pointer)
{
    struct key key = {.pointer = pointer, .pid = pid, .index = 0};
    return key;
}

/* The same in the current process.  current_pid() costs as much as count(), so each probe calls it once. */
static __always_inline struct key key_of(u64 pointer)
{
    return key_in(current_pid(), pointer);
}

/* Why a trace of this process is kept whatever happens to it; 0: that depends on how it ends. */
static __always_inline u8 kept_from_start(struct process *process)
{
    return process->keep_all ? KEPT_JOINED_LATER : 0;
}

/*
 * A traced process, or 0.  User space attaches the probes before it adds the process, and detaches them only after
 * STAGE_ENDED.  So whenever a request is put in flight, the probes that see its end are in place.
 */
static __always_inline struct process *traced(u32 pid)
{
    return is_stage(STAGE_ENDED) ? 0 : processes.lookup(&pid);
}

/* Count a hit that changes nothing in flight; in a process that is not traced, count it as foreign. */
static __always_inline int count_traced(int counter)
{
    count(traced(current_pid()) ? counter : COUNT_FOREIGN);
    return 0;
}
