/*
 * Time every SCSI request and every librbd call of QEMU, and put each call under its request.
 *
 *   scsi_req_enqueue ──► requests ◄── walk ── rbd_aio_readv, ...  ──► calls; a request's further ones: `held`, too
 *                           │  ▲                                        │
 *                           │  └── first call's end, in the entry ──────┤ rbd_aio_release
 *                           │      further calls' ends, in `held` ──────┘
 *   scsi_req_complete ──────┴──► histograms, exactly; then, if it is worth keeping, ring: one record a request, and
 *                                one for each further call
 *
 * The program is these files, one after the other (bcc takes one text): tables, ring, latency, scsi, rbd, sites; with
 * --audit, audit lies before rbd.
 *
 * Entry probes only: a return probe would patch the return address on a coroutine's stack, and QEMU leaves that stack
 * before it returns.  All that a return value could tell is read where QEMU has already stored it.
 *
 * Who writes what, without locks: a request's entry is written by the thread that submits for it (one AioContext) and
 * by librbd's callback thread (one strand an image); they write different fields.  A completion and a SCSIRequest are
 * freed only after the probe of their end has run, so a key is never live twice, except when an end was lost: counted.
 */
#include <uapi/linux/ptrace.h>
#include "events.h"

/*
 * The licence that bcc puts into the program's "license" section (bcc src/cc/export/footer.h; GPL is also what it puts
 * there where nothing is said).  The kernel gives bpf_probe_read_user to GPL programs only.
 */
#define BPF_LICENSE GPL v2

#define BINS 32                /* of a histogram: 31 bounds at most, and what lies above them */
#define EXPECTED 4096          /* requests made and not submitted yet, in processes whose layout is being proven */
#define SAMPLES 64             /* requests of a process that user space looks at together to find its layout */
#define SAMPLED 1024           /* such requests of all processes */
#define MAX_CALLS 256          /* calls kept until their request ends; UNMAP makes at most 255 (max_unmap_descr) */
#define HELPERS 3              /* coroutines between a call's and its request's: qcow2 images on each other */
#define MOST_CALLS 65535        /* that a record can tell */
#define MAX_IOVECS 1024        /* IOV_MAX */
#define UNKNOWN_OFFSET 0xffffffff
#define CHECK_CONDITION 2      /* SAM-5 5.3.1 */
#define CONDITION_MET 4
#define ENDING_RETRY 0x80      /* only inside `requests`: QEMU stopped on an error and will submit this request again */
#define NOT_ENDED (1ULL << 62) /* complete_ns of a call in `held` that is in flight: later than all times */
#define EXISTS (-17)           /* -EEXIST */
#define NO_WAKEUP 1            /* BPF_RB_NO_WAKEUP: the reader comes on a timer; a wake-up costs 50 times a record */

/*
 * One traced process: offsets in bytes within QEMU's and librbd's structs (otel_qemu/probe/layouts.py derives them;
 * UNKNOWN_OFFSET: not known for this build), and whether its records may be thinned out.
 */
struct process {
    u32 device;                /* SCSIRequest.dev */
    u32 tag;                   /* SCSIRequest.tag, and what follows it up to .cmd (struct scsi_request_fields) */
    u32 sense;                 /* SCSIRequest.sense */
    u32 completion_argument;   /* librbd::io::AioCompletion.complete_arg */
    u32 coroutine;             /* in QEMU's object of one call: RBDTask.co, or RADOSCB.acb */
    u32 through_acb;           /* 1: that is RADOSCB.acb, and the coroutine is two pointers further (QEMU 6.0 and older) */
    u32 return_value;          /* RBDTask.ret or RADOSCB.ret */
    u32 keep_all;              /* 1: calls are joined in user space, which needs every record */
    u32 proving;               /* 1: only requests that read as what scsi_req_new was called with are taken */
    u32 proven;                /* how many did */
    u32 refuted;               /* how many did not */
    u32 walked;                /* 1: a walk has ended at a request in flight, so its offsets are right */
    u32 made;                  /* while `device` is not known: samples taken of what scsi_req_new was called with */
    u32 submitted;             /* and of what scsi_req_enqueue was given */
};

/* What scsi_req_new was called with. */
struct expected_request {
    u64 device;
    u64 cdb;                   /* its first 6 bytes: every CDB has them (SPC-5 4.2) */
    u32 tag, lun;
};

/* The beginning of a SCSIRequest, whatever is in it. */
struct request_bytes {
    char bytes[256];
};

struct key {
    u64 pointer;               /* SCSIRequest * or rbd_completion_t */
    u32 pid;
    u32 index;                 /* of a held call within its request; else 0 */
};

/* One librbd call in flight; further ones of a request lie in `held` as well, until it ends. */
struct call {
    u64 image;
    u64 submit_ns;
    u64 complete_ns;           /* 0 in flight; in `held`, NOT_ENDED */
    u64 offset;
    u64 length;
    u64 request;               /* parent, with its submit_ns: an address alone may since have been used again */
    u64 request_submit_ns;
    u64 device;                /* parent's SCSIDevice *, or 0 */
    u64 return_at;             /* address of the return value once QEMU has stored it; 0: not known */
    u32 index;                 /* which of its request's calls */
    u32 thread;                /* that submitted it */
    s32 return_value;
    u8 operation;
    u8 link;
    u8 kept;                   /* as in a record: not 0 already if every record of its process is wanted */
    u8 unused;
};

/* How to count, and which traces get a record; everything is counted in any case. */
struct settings {
    u64 bounds_ns[BINS];       /* upper bounds of the histograms' bins, ascending, filled up with the largest u64 */
    u64 slow_ns[256];          /* by opcode: a request that takes this long or longer is kept */
    u64 slow_call_ns;          /* the same for a call without request */
    u64 one_in;                /* N: of the others, about one in N is kept; 1: all of them; 0: none */
    u64 stage;                 /* enum stage: changes while probes run, all else here does not */
};

BPF_ARRAY(settings, struct settings, 1);
BPF_HASH(processes, u32, struct process, PROCESSES);
BPF_HASH(expected, struct key, struct expected_request, EXPECTED);   /* by (tag and LUN, process) */
BPF_HASH(made, struct key, struct expected_request, SAMPLED);        /* by (process, index), as is the next */
BPF_HASH(submitted, struct key, struct request_bytes, SAMPLED);
BPF_ARRAY(blanks, struct request_bytes, 1);                          /* always zero */
BPF_HASH(requests, struct key, struct record, REQUESTS);
BPF_HASH(calls, struct key, struct call, REQUESTS);
BPF_HASH(held, struct key, struct call, REQUESTS);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);

/*
 * Tables of no programs.  From Linux 6.13 on, x86-64 gives a uprobe program of 64 bytes of stack or more a stack of its
 * own, one a CPU, for it takes it that such programs do not nest (kernel/bpf/verifier.c, bpf_enable_priv_stack).  But
 * they can be preempted: a thread is followed by another on the same CPU, in the same program, and both write to one
 * stack.  Calls get lost, and the kernel has crashed.  A program with a tail call stays on the stack of the thread that
 * it interrupts (same file, has_tail_call).  So every entry function has one, which is never taken: no trap is at
 * address 0, and no program is there to go on with.
 *
 * One table for each way of attaching: programs of two attach types may not use the same (bpf_prog_map_compatible).
 */
BPF_PROG_ARRAY(no_sites, 1);
BPF_PROG_ARRAY(no_functions, 1);

/* The context of a program for a uprobe_multi link. */
static __always_inline struct pt_regs *guarded_site(struct pt_regs *ctx)
{
    if (!PT_REGS_IP(ctx))
        no_sites.call(ctx, 0);
    return ctx;
}

/* The context of a program for a perf event. */
static __always_inline struct pt_regs *guarded(struct pt_regs *ctx)
{
    if (!PT_REGS_IP(ctx))
        no_functions.call(ctx, 0);
    return ctx;
}

/* Atomic although per CPU: one probe may preempt another on the same CPU. */
static __always_inline void count(int what)
{
    u64 *value = counters.lookup(&what);
    if (value)
        __sync_fetch_and_add(value, 1);
}

static __always_inline struct settings *current_settings(void)
{
    int zero = 0;
    return settings.lookup(&zero);   /* one entry, always there: the verifier wants to see it checked */
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

/* The key of `pointer` in a process; every byte set, for padding is part of a key. */
static __always_inline struct key key_in(u32 pid, u64 pointer)
{
    struct key key = {.pointer = pointer, .pid = pid, .index = 0};
    return key;
}

/* In the current one.  Asking who that is costs as much as a counter on every CPU: once a probe is enough. */
static __always_inline struct key key_of(u64 pointer)
{
    return key_in(current_pid(), pointer);
}

/* Why a trace of a process has a record before anything else is known of it: because all of them are wanted. */
static __always_inline u8 kept_anyway(struct process *process)
{
    return process->keep_all ? KEPT_JOINED_LATER : 0;
}

/*
 * A process that is traced, or 0.  Probes are attached before a process is put into the table, and detached after
 * STAGE_ENDED: so whatever is put in flight is put there while the probes of its end are in place.
 */
static __always_inline struct process *traced(u32 pid)
{
    return is_stage(STAGE_ENDED) ? 0 : processes.lookup(&pid);
}

/* A hit that changes nothing in flight: count it, unless it is in a process that is not traced. */
static __always_inline int count_traced(int what)
{
    count(traced(current_pid()) ? what : COUNT_FOREIGN);
    return 0;
}
