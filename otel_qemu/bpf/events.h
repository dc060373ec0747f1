/*
 * The record a probe emits, and every counter a probe can add to: the one source for both sides.
 *
 * The BPF program includes this file; otel_qemu/events.py reads the field names, types and counters from its text,
 * and tests/bpf compares every offset with what the C compiler makes of it.  Fixed-width types only; 8-byte fields
 * first within each half; no implicit padding.  Byte arrays are `char`: bcc 0.26 exits on `unsigned char[n]`.
 */
#ifndef OTEL_QEMU_EVENTS_H
#define OTEL_QEMU_EVENTS_H

/*
 * One SCSI request with the first librbd call made for it (RECORD_REQUEST), or one further call, or a call without a
 * parent (RECORD_CALL).  All times are CLOCK_MONOTONIC ns.  A RECORD_CALL names its parent by (pid, request,
 * submit_ns) and its device, and leaves the rest of the SCSI half zero.
 *
 * With --audit there is a RECORD_AUDIT for each call, too, written when it is made: what the exact chain says of it
 * (audit.bpf.c).  `ending` is an enum chain, `tag` the chain's functions that have led to a request of this process so
 * far, by enum site; (request, submit_ns) is the request, if there is one; the RBD half says which call.
 */
struct record {
    /* Who and what. */
    u32 pid;             /* thread group of the QEMU process, in the initial pid namespace of the tracer */
    u8 kind;             /* enum record_kind */
    u8 ending;           /* enum ending: how the SCSI request ended */
    u8 operation;        /* enum rbd_operation of the RBD half; 0: there is none */
    u8 link;             /* enum link: how the call's parent was found, or why there is none */

    /* SCSI half: SCSIRequest, SAM-5 and SPC-5. */
    u64 request;         /* SCSIRequest *, the pairing key; in a call without parent: where the walk ended, or 0 */
    u64 submit_ns;       /* entry of scsi_req_enqueue; 0: it began before the probes were attached */
    u64 complete_ns;     /* entry of the function that ended it */
    u64 device;          /* SCSIDevice * */
    char cdb[16];        /* command descriptor block as the guest wrote it */
    u32 transfer_bytes;  /* SCSICommand.xfer: data of READ and WRITE, parameter list of UNMAP */
    u32 tag;             /* low 32 bits of the tag the guest gave */
    u16 lun;
    u8 status;           /* SAM status: 0 GOOD, 2 CHECK CONDITION ... */
    u8 host_status;      /* QEMU's SCSI_HOST_*: set when ending is ENDING_FAILED */
    u8 sense_key;        /* the three are set when status is CHECK CONDITION */
    u8 asc;
    u8 ascq;
    u8 retries;          /* times the same request was submitted again (werror=stop, then cont) */
    u16 calls;           /* RBD calls made for this request; 65535 stands for more */
    u8 kept;             /* enum kept: why there is a record */
    u8 unused;
    s32 return_value;    /* of the RBD half: bytes or 0, or a negative errno; RETURN_UNKNOWN */
    u64 rbd_ns;          /* union of its calls' intervals within it, but for those that COUNT_CALLS_NOT_HELD counts */

    /* RBD half: librbd.h. */
    u64 image;           /* rbd_image_t */
    u64 call_submit_ns;  /* entry of rbd_aio_*; 0: no RBD half */
    u64 call_complete_ns;/* entry of rbd_aio_release; 0: not released when the record left */
    u64 offset;          /* bytes */
    u64 length;          /* bytes */
};

#define RETURN_UNKNOWN (-2147483647 - 1)

/* Probed functions: the cookie of a uprobe_multi link, and the names that otel_qemu/probe/sites.py looks for. */
enum site {
    SITE_SCSI_REQ_NEW,
    SITE_SCSI_REQ_ENQUEUE,
    SITE_SCSI_REQ_COMPLETE,
    SITE_SCSI_REQ_COMPLETE_FAILED,
    SITE_SCSI_REQ_CANCEL_COMPLETE,
    SITE_SCSI_REQ_RETRY,
    SITE_RBD_AIO_RELEASE,
    SITE_RBD_AIO_READV,
    SITE_RBD_AIO_WRITEV,
    SITE_RBD_AIO_READ,
    SITE_RBD_AIO_WRITE,
    SITE_RBD_AIO_DISCARD,
    SITE_RBD_AIO_WRITE_ZEROES,
    SITE_RBD_AIO_FLUSH,
    SITE_RBD_AIO_DISCARD_INNER,
    SITE_RBD_AIO_WRITE_ZEROES_INNER,
    SITE_RBD_AIO_FLUSH_INNER,
    SITE_DMA_BLK_IO,       /* from here on: only with --audit */
    SITE_BLK_AIO_PREADV,
    SITE_BLK_AIO_PWRITEV,
    SITE_BLK_AIO_PWRITE_ZEROES,
    SITE_BLK_AIO_PDISCARD,
    SITE_BLK_AIO_FLUSH,
    SITE_QEMU_COROUTINE_CREATE,
    SITE_AIO_CO_ENTER,
    SITE_QEMU_COROUTINE_SWITCH,
};

enum record_kind {
    RECORD_REQUEST = 1,
    RECORD_CALL = 2,
    RECORD_AUDIT = 3,
};

/* What the exact chain says of a call. */
enum chain {
    CHAIN_REQUEST = 1,     /* it was made for this request */
    CHAIN_NONE = 2,        /* its coroutine works for no SCSI request that was in flight when its block I/O began */
    CHAIN_BROKEN = 3,      /* which coroutine made it is not known: the chain cannot tell */
};

enum ending {
    ENDING_COMPLETED = 1,  /* scsi_req_complete */
    ENDING_FAILED = 2,     /* scsi_req_complete_failed: the host adapter could not do it */
    ENDING_CANCELLED = 3,  /* scsi_req_cancel_complete: task abort, reset, unplug */
    ENDING_HUNG = 5,       /* never written by a probe: user space reports a request that is in flight for too long */
    ENDING_LOST = 4,       /* its address was submitted again: the end was not seen */
};

enum rbd_operation {
    RBD_READ = 1,
    RBD_WRITE = 2,
    RBD_DISCARD = 3,
    RBD_WRITE_ZEROES = 4,
    RBD_FLUSH = 5,
};

/* How far a tracer has come: it sets this for all processes at once. */
enum stage {
    STAGE_TRACING = 0,
    STAGE_ENDING = 1,      /* no new request is put in flight; those that are go on to their end */
    STAGE_ENDED = 2,       /* no hit changes anything: probes go one by one, so ends would be missed from here on */
};

enum layer {
    LAYER_SCSI = 0,        /* a request, from its submit to its end */
    LAYER_RBD = 1,         /* a call, from its submit to its release */
};

enum kept {
    KEPT_ERROR = 1,        /* it failed */
    KEPT_SLOW = 2,         /* it took as long as the threshold of its operation, or longer */
    KEPT_SAMPLED = 3,      /* one in N of the others, or everything is wanted */
    KEPT_JOINED_LATER = 4, /* neither, but joined in user space, which needs every record */
};

enum link {
    LINK_NONE = 0,         /* no RBD half */
    LINK_WALK = 1,         /* the pointer walk ended at a request in flight */
    LINK_NO_LAYOUT = 2,    /* the walk's offsets are not known for this build */
    LINK_FAULT = 3,        /* a pointer on the way was null or could not be read, and no walk has succeeded yet */
    LINK_NOT_IN_FLIGHT = 4,/* the walk ended at no SCSI request in flight: QEMU's own, or begun before us */
};

/*
 * Every hit of a probe adds to exactly one of the counters that have no (+); those with a (+) are counted beside it.
 * A counter with a (!) is a loss: something was not seen, or not as it was.  Users see the names in lower case.
 */
enum counter {
    COUNT_SCSI_MADE,             /* SCSI requests made while the layout of their process was not proven yet */
    COUNT_SCSI_UNPROVEN,         /* SCSI submits not taken: they do not read as what scsi_req_new was called with */
    COUNT_SCSI_SUBMITTED,        /* SCSI requests put in flight */
    COUNT_SCSI_RETRIED,          /* SCSI requests that failed, stopped the guest (werror=stop) and will be tried again */
    COUNT_SCSI_RESUBMITTED,      /* SCSI submits of such a request: the same request goes on */
    COUNT_SCSI_UNREADABLE,       /* (!) SCSI submits whose SCSIRequest could not be read */
    COUNT_SCSI_TABLE_FULL,       /* (!) SCSI submits that found the in-flight table full */
    COUNT_SCSI_NOT_TAKEN,        /* SCSI submits not taken: tracing was about to end */
    COUNT_SCSI_COMPLETED,        /* SCSI requests that ended */
    COUNT_SCSI_END_LOST,         /* (+) (!) SCSI requests whose address was submitted again before their end was seen */
    COUNT_SCSI_UNSTARTED,        /* SCSI ends of requests not put in flight: begun before us, not taken, no room */
    COUNT_RBD_SUBMITTED,         /* RBD calls put in flight */
    COUNT_RBD_TABLE_FULL,        /* (!) RBD calls that found the in-flight table full */
    COUNT_RBD_NOT_TAKEN,         /* RBD calls not taken: of no request in flight, and tracing was about to end */
    COUNT_RBD_COMPLETED,         /* RBD calls that ended */
    COUNT_RBD_END_LOST,          /* (+) (!) RBD calls whose completion was submitted again before its release was seen */
    COUNT_RBD_UNSTARTED,         /* releases of a completion whose call was not seen */
    COUNT_FOREIGN,               /* hits in a process that is not traced */
    COUNT_PARENT_FOUND,          /* (+) RBD calls whose walk ended at a SCSI request in flight */
    COUNT_PARENT_NO_LAYOUT,      /* (+) RBD calls not walked: the build's offsets are not known */
    COUNT_PARENT_FAULT,          /* (+) RBD calls whose walk met a null pointer or unreadable memory */
    COUNT_PARENT_NOT_IN_FLIGHT,  /* (+) RBD calls whose walk ended at no SCSI request in flight */
    COUNT_PARENT_GONE,           /* (+) (!) RBD calls that ended after their SCSI request did */
    COUNT_SENSE_UNREADABLE,      /* (+) (!) SCSI requests whose sense data could not be read */
    COUNT_RETURN_UNREADABLE,     /* (+) (!) RBD calls whose return value could not be read */
    COUNT_LENGTH_UNREADABLE,     /* (+) (!) RBD calls whose iovec could not be read: their length is short */
    COUNT_CALLS_NOT_HELD,        /* (+) (!) further RBD calls without a record: more than a request can hold */
    COUNT_REQUESTS_NOT_KEPT,     /* (+) SCSI requests without a record: not an error, not slow, not sampled */
    COUNT_CALLS_NOT_KEPT,        /* (+) RBD calls without a request that have no record either, for the same reason */
    COUNT_SERIES_FULL,           /* (+) (!) requests and calls in no histogram: too many processes, disks or operations */
    COUNT_RING_FULL_REQUEST,     /* (+) (!) SCSI requests whose whole trace was dropped: the ring was full */
    COUNT_RING_FULL_CALL,        /* (+) (!) RBD calls without a request that were dropped: the ring was full */
    COUNT_RECORDS,               /* (+) records written to the ring */
    COUNT_AUDIT_LED,             /* hits of the audit's probes that carried a request on */
    COUNT_AUDIT_ELSEWHERE,       /* hits of the audit's probes that carry no SCSI request in flight */
    COUNT_AUDIT_SWITCHED,        /* switches of coroutines that the audit followed */
    COUNT_AUDIT_TABLE_FULL,      /* (+) (!) threads and coroutines that the audit had no room for */
    COUNT_AUDIT_RING_FULL,       /* (+) (!) RBD calls of which the audit could not tell: the ring was full */
    COUNTERS
};

#endif
