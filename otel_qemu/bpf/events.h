/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The record that a probe emits, and every counter that a probe adds to.  This file is the one source for both sides.
 *
 * The BPF program includes it.  otel_qemu/events.py reads field names, types and counters from its text, and tests/bpf
 * compares every offset with the C compiler's.  Types have a fixed width, 8-byte fields come first within each half,
 * and there is no implicit padding.  Byte arrays are `char`, because bcc 0.26 exits on `unsigned char[n]`.
 */
#ifndef OTEL_QEMU_EVENTS_H
#define OTEL_QEMU_EVENTS_H

/*
 * A RECORD_REQUEST is one SCSI request with the first librbd call made for it.  A RECORD_CALL is a further call of a
 * request, or a call without a parent.  All times are CLOCK_MONOTONIC ns.
 *
 * A RECORD_CALL names its parent by (pid, request, submit_ns) and its device.  The rest of its SCSI half is zero.
 *
 * With --audit, each call also has a RECORD_AUDIT, written at its submit: the parent by the exact chain (audit.bpf.c).
 * There `ending` is an enum chain, and (request, submit_ns) is the request, if the chain found one.  `tag` has a bit
 * for each of the chain's functions that has led to a request of this process so far.  The RBD half is the call.
 */
struct record {
    /* Who and what. */
    u32 pid;             /* thread group of the QEMU process, in the initial pid namespace of the tracer */
    u8 kind;             /* enum record_kind */
    u8 ending;           /* enum ending: how the SCSI request ended */
    u8 operation;        /* enum rbd_operation of the RBD half; 0: no RBD half */
    u8 link;             /* enum link: how the call's parent was found, or why it was not */

    /* SCSI half: SCSIRequest, SAM-5 and SPC-5. */
    u64 request;         /* SCSIRequest *, the pairing key; in a call without a parent: the end of the walk, or 0 */
    u64 submit_ns;       /* entry of scsi_req_enqueue; 0: the request began before the probes were attached */
    u64 complete_ns;     /* entry of the function that ended the request */
    u64 device;          /* SCSIDevice * */
    char cdb[16];        /* command descriptor block, as the guest wrote it */
    u32 transfer_bytes;  /* SCSICommand.xfer: data of READ and WRITE, parameter list of UNMAP */
    u32 tag;             /* low 32 bits of the guest's tag */
    u16 lun;
    u8 status;           /* SAM status: 0 GOOD, 2 CHECK CONDITION ... */
    u8 host_status;      /* QEMU's SCSI_HOST_*: set when ending is ENDING_FAILED */
    u8 sense_key;        /* this and the next two are set when status is CHECK CONDITION */
    u8 asc;
    u8 ascq;
    u8 retries;          /* how often the same request was submitted again (werror=stop, then cont) */
    u16 calls;           /* RBD calls made for this request; 65535 stands for that many or more */
    u8 kept;             /* enum kept: why this trace has a record */
    u8 unused;
    s32 return_value;    /* of the RBD half: bytes or 0, a negative errno, or RETURN_UNKNOWN */
    u64 rbd_ns;          /* union of the calls' intervals within the request; COUNT_CALLS_NOT_HELD has the exceptions */

    /* RBD half: librbd.h. */
    u64 image;           /* rbd_image_t */
    u64 call_submit_ns;  /* entry of rbd_aio_*; 0: no RBD half */
    u64 call_complete_ns;/* entry of rbd_aio_release; 0: not yet released when the record was written */
    u64 offset;          /* bytes */
    u64 length;          /* bytes */
};

#define RETURN_UNKNOWN (-2147483647 - 1)

/*
 * Probed functions.  The number is the cookie of a site in a uprobe_multi link.  otel_qemu/probe/sites.py looks for the
 * functions by these names.
 */
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

/* A call's parent by the exact chain. */
enum chain {
    CHAIN_REQUEST = 1,     /* the call was made for this request */
    CHAIN_NONE = 2,        /* its coroutine works for no SCSI request that was in flight when its block I/O began */
    CHAIN_BROKEN = 3,      /* the coroutine that made the call is not known */
};

enum ending {
    ENDING_COMPLETED = 1,  /* scsi_req_complete */
    ENDING_FAILED = 2,     /* scsi_req_complete_failed: the host adapter could not do it */
    ENDING_CANCELLED = 3,  /* scsi_req_cancel_complete: task abort, reset, unplug */
    ENDING_LOST = 4,       /* the end was not seen: another request was submitted at the same address */
    ENDING_HUNG = 5,       /* only user space sets it, for a request that has been in flight for too long */
};

enum rbd_operation {
    RBD_READ = 1,
    RBD_WRITE = 2,
    RBD_DISCARD = 3,
    RBD_WRITE_ZEROES = 4,
    RBD_FLUSH = 5,
};

/* The stage of tracing.  User space sets it for all processes at once. */
enum stage {
    STAGE_TRACING = 0,
    STAGE_ENDING = 1,      /* no new request is put in flight; the others go on to their end */
    STAGE_ENDED = 2,       /* no hit changes anything: probes are removed one by one, so ends would be missed now */
};

enum layer {
    LAYER_SCSI = 0,        /* a request, from its submit to its end */
    LAYER_RBD = 1,         /* a call, from its submit to its release */
};

enum kept {
    KEPT_ERROR = 1,        /* it failed */
    KEPT_SLOW = 2,         /* it took at least the threshold of its operation */
    KEPT_SAMPLED = 3,      /* it is one in N of the others; N may be 1 */
    KEPT_JOINED_LATER = 4, /* none of these, but user space joins this process's calls and needs every record */
};

enum link {
    LINK_NONE = 0,         /* no RBD half */
    LINK_WALK = 1,         /* the pointer walk ended at a request in flight */
    LINK_NO_LAYOUT = 2,    /* this build's offsets for the walk are not known */
    LINK_FAULT = 3,        /* a pointer of the walk was null or unreadable, and no walk has succeeded yet */
    LINK_NOT_IN_FLIGHT = 4,/* the walk ended at no SCSI request in flight: QEMU's own I/O, or begun before the probes */
};

/*
 * Every hit of a probe adds to exactly one of the counters without a (+).  It may add to counters with a (+) as well.
 * A counter with a (!) is a loss: something was not seen, or not completely.  Users see the names in lower case.
 */
enum counter {
    COUNT_SCSI_MADE,             /* SCSI requests created while their process's layout was not proven yet */
    COUNT_SCSI_UNPROVEN,         /* SCSI submits not taken: their fields differ from scsi_req_new's arguments */
    COUNT_SCSI_SUBMITTED,        /* SCSI requests put in flight */
    COUNT_SCSI_RETRIED,          /* SCSI requests that failed, stopped the guest (werror=stop), and wait for a retry */
    COUNT_SCSI_RESUBMITTED,      /* SCSI submits of such a request, which is still the same request */
    COUNT_SCSI_UNREADABLE,       /* (!) SCSI submits whose SCSIRequest could not be read */
    COUNT_SCSI_TABLE_FULL,       /* (!) SCSI submits that found the in-flight table full */
    COUNT_SCSI_NOT_TAKEN,        /* SCSI submits not taken, because tracing was ending */
    COUNT_SCSI_COMPLETED,        /* SCSI requests that ended */
    COUNT_SCSI_END_LOST,         /* (+) (!) SCSI requests whose end was not seen: their address was submitted again */
    COUNT_SCSI_UNSTARTED,        /* SCSI ends of requests not in flight: begun before tracing, not taken, or no room */
    COUNT_RBD_SUBMITTED,         /* RBD calls put in flight */
    COUNT_RBD_TABLE_FULL,        /* (!) RBD calls that found the in-flight table full */
    COUNT_RBD_NOT_TAKEN,         /* RBD calls not taken: they belong to no request in flight, and tracing was ending */
    COUNT_RBD_COMPLETED,         /* RBD calls that ended */
    COUNT_RBD_END_LOST,          /* (+) (!) RBD calls whose end was not seen: their completion was submitted again */
    COUNT_RBD_UNSTARTED,         /* RBD ends of calls not in flight: begun before tracing, not taken, or no room */
    COUNT_FOREIGN,               /* hits of probes in a process that is not traced */
    COUNT_PARENT_FOUND,          /* (+) RBD calls whose walk ended at a SCSI request in flight */
    COUNT_PARENT_NO_LAYOUT,      /* (+) RBD calls not walked: the offsets of this build are not known */
    COUNT_PARENT_FAULT,          /* (+) RBD calls whose walk met a null pointer or unreadable memory */
    COUNT_PARENT_NOT_IN_FLIGHT,  /* (+) RBD calls whose walk ended at no SCSI request in flight */
    COUNT_PARENT_GONE,           /* (+) (!) RBD calls that ended after their SCSI request did */
    COUNT_SENSE_UNREADABLE,      /* (+) (!) SCSI requests whose sense data could not be read */
    COUNT_RETURN_UNREADABLE,     /* (+) (!) RBD calls whose return value could not be read */
    COUNT_LENGTH_UNREADABLE,     /* (+) (!) RBD calls whose iovec could not be read: their length is short */
    COUNT_CALLS_NOT_HELD,        /* (+) (!) RBD calls without a record: their request already holds the maximum */
    COUNT_REQUESTS_NOT_KEPT,     /* (+) SCSI requests without a record: not an error, not slow, not sampled */
    COUNT_CALLS_NOT_KEPT,        /* (+) RBD calls without a request and without a record, for the same reason */
    COUNT_SERIES_FULL,           /* (+) (!) requests and calls not counted: too many processes, disks or operations */
    COUNT_RING_FULL_REQUEST,     /* (+) (!) SCSI requests whose whole trace was dropped: the ring was full */
    COUNT_RING_FULL_CALL,        /* (+) (!) RBD calls without a request that were dropped: the ring was full */
    COUNT_RECORDS,               /* (+) records written to the ring */
    COUNT_AUDIT_LED,             /* hits of the audit's probes that concern a SCSI request in flight */
    COUNT_AUDIT_ELSEWHERE,       /* hits of the audit's probes that concern no SCSI request in flight */
    COUNT_AUDIT_SWITCHED,        /* coroutine switches that the audit followed */
    COUNT_AUDIT_TABLE_FULL,      /* (+) (!) threads and coroutines that the audit had no room for */
    COUNT_AUDIT_RING_FULL,       /* (+) (!) RBD calls without an audit record: the ring was full */
    COUNTERS
};

#endif
