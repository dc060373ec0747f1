/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * SCSI requests, from scsi_req_enqueue to the function that ends them (QEMU hw/scsi/scsi-bus.c).
 *
 * Begin with on_scsi_req_enqueue (submit) and end_request (end); finish() counts an ended request and emits its record.
 */

/*
 * SCSIRequest from `tag` to `cmd` (include/hw/scsi/scsi.h).  The fields between have kept their size since QEMU 2.12.
 * One read takes them all, because reading 56 bytes costs no more than reading 8.
 */
struct scsi_request_fields {
    u32 tag, lun;
    u32 between[5];            /* status, host_status, hba_private, residual */
    char cdb[16];              /* cmd.buf */
    u32 length, padding;       /* cmd.len */
    u32 transfer_bytes;        /* cmd.xfer, its low 32 bits */
};

/* Copy the fields of a SCSIRequest into its record; 0 on success.  The guest wrote the CDB, so it is never trusted. */
static __always_inline int read_request(struct record *record, struct process *process, u64 request)
{
    struct scsi_request_fields fields = {};
    if (bpf_probe_read_user(&record->device, 8, (void *)(request + process->device)) ||
        bpf_probe_read_user(&fields, sizeof(fields), (void *)(request + process->tag)))
        return -1;
    record->tag = fields.tag;
    record->lun = fields.lun;
    record->transfer_bytes = fields.transfer_bytes;
    __builtin_memcpy(record->cdb, fields.cdb, sizeof(record->cdb));
    return 0;
}

/* The key of a request in `expected`: the guest's name for it, as no address is known before scsi_req_new returns. */
static __always_inline struct key key_of_name(u32 pid, u32 tag, u32 lun)
{
    return key_in(pid, (u64)lun << 32 | tag);
}

/* The first 6 bytes of a CDB. */
static __always_inline u64 command_start(void *buf)
{
    u64 start = 0;
    __builtin_memcpy(&start, buf, 6);
    return start;
}

/* Whether user space still looks for the process's layout of SCSIRequest, and needs samples for that. */
static __always_inline bool is_calibrating(struct process *process)
{
    return process->proving && process->device == UNKNOWN_OFFSET;
}

/* The key of a process's next sample.  Two threads may get the same key; then the later sample replaces the other. */
static __always_inline struct key next_sample(u32 pid, u32 *taken)
{
    struct key key = {.pointer = 0, .pid = pid, .index = *taken};
    *taken = key.index + 1;
    return key;
}

/*
 * SCSIRequest *scsi_req_new(SCSIDevice *d, uint32_t tag, uint32_t lun, uint8_t *buf, ...)
 *
 * Probed only until the layout is proven.  At its submit, the request must have these arguments as its fields.
 */
static __always_inline int on_scsi_req_new(struct pt_regs *ctx)
{
    struct expected_request it = {.device = PT_REGS_PARM1(ctx), .tag = PT_REGS_PARM2(ctx), .lun = PT_REGS_PARM3(ctx)};
    struct key key = key_of_name(current_pid(), it.tag, it.lun);
    struct process *process = processes.lookup(&key.pid);
    /* Other processes run the same binary.  Their entries would stay for ever: no submit would take them out. */
    bool wanted = process && process->proving;
    if (wanted && !bpf_probe_read_user(&it.cdb, 6, (void *)PT_REGS_PARM4(ctx))) {
        if (!is_calibrating(process)) {
            expected.update(&key, &it);
        } else if (process->made < SAMPLES) {
            key = next_sample(key.pid, &process->made);
            made.update(&key, &it);
        }
    }
    count(process ? COUNT_SCSI_MADE : COUNT_FOREIGN);
    return 0;
}

/*
 * Copy the memory of a request whose layout is not known yet, if there is room.  User space compares it with the
 * arguments of scsi_req_new.  Such a request is not traced.
 */
static __always_inline void take_sample(struct process *process, u32 pid, u64 request)
{
    int zero = 0;
    struct request_bytes *blank = blanks.lookup(&zero);   /* 256 bytes would be too many for the stack */
    if (!blank || process->submitted >= SAMPLES)
        return;
    struct key key = next_sample(pid, &process->submitted);
    submitted.update(&key, blank);
    struct request_bytes *sample = submitted.lookup(&key);
    if (sample)
        bpf_probe_read_user(sample, sizeof(*sample), (void *)request);   /* on failure it stays zero */
}

/* Whether a request's fields match the arguments of scsi_req_new.  The result counts for or against the layout. */
static __always_inline bool is_as_expected(struct record *record, struct process *process)
{
    struct key key = key_of_name(record->pid, record->tag, record->lun);
    struct expected_request *it = expected.lookup(&key);
    if (!it || it->device != record->device || it->cdb != command_start(record->cdb)) {
        __sync_fetch_and_add(&process->refuted, 1);
        return false;
    }
    expected.delete(&key);
    __sync_fetch_and_add(&process->proven, 1);
    return true;
}

/* Count an ended request in the histograms; then decide whether its trace is kept, emit it, and drop its calls. */
static __always_inline void finish(struct record *request)
{
    u64 last_end_ns = request->complete_ns;
    struct settings *settings = current_settings();
    if (!settings)
        return;
    if (request->calls)
        request->rbd_ns = busy_ns(request, &last_end_ns);
    if (request->ending != ENDING_LOST)   /* then its end was not seen, and its duration is not known */
        count_request(request, settings, last_end_ns);
    u64 slow_ns = settings->slow_ns[(u8)request->cdb[0]];
    u64 duration_ns = request->complete_ns - request->submit_ns;
    request->kept = reason_to_keep(request->kept, has_failed(request), duration_ns, slow_ns, settings->one_in);
    if (request->kept)
        emit_request(request);
    else
        count(COUNT_REQUESTS_NOT_KEPT);
    release_held(request);
}

/*
 * Whether a submit is a retry of the request in flight at its address.  The probe of scsi_req_retry has marked it; but
 * link-time optimisation may have inlined that function.  Then a retry is the same command with the same tag, after a
 * librbd call that failed.
 */
static __always_inline bool is_retry(struct record *before, struct record *again)
{
    if (before->ending == ENDING_RETRY)
        return true;
    bool failed = before->return_value < 0 && before->return_value != RETURN_UNKNOWN;
    u64 *cdb = (u64 *)before->cdb, *same = (u64 *)again->cdb;
    if (!failed || before->device != again->device || before->tag != again->tag || before->lun != again->lun ||
        cdb[0] != same[0] || cdb[1] != same[1])
        return false;
    if (before->retries < 255)
        before->retries++;
    return true;
}

/* A submit at an address in flight: a retry of that request; or a new request, and the end of the old one is lost. */
static __always_inline void submit_again(struct key *key, struct record *record)
{
    struct record *before = requests.lookup(key);
    if (before && is_retry(before, record)) {
        before->ending = 0;
        count(COUNT_SCSI_RESUBMITTED);
        return;
    }
    if (before) {
        before->ending = ENDING_LOST;
        before->complete_ns = record->submit_ns;
        finish(before);
        count(COUNT_SCSI_END_LOST);
    }
    if (!is_stage(STAGE_TRACING)) {
        requests.delete(key);
        count(COUNT_SCSI_NOT_TAKEN);
        return;
    }
    count(requests.update(key, record) ? COUNT_SCSI_TABLE_FULL : COUNT_SCSI_SUBMITTED);
}

/* int32_t scsi_req_enqueue(SCSIRequest *req) */
static __always_inline int on_scsi_req_enqueue(struct pt_regs *ctx)
{
    struct record record = {};
    struct key key = key_of(PT_REGS_PARM1(ctx));
    struct process *process = traced(key.pid);
    if (!process) {
        count(COUNT_FOREIGN);
        return 0;
    }
    if (!is_stage(STAGE_TRACING) && !requests.lookup(&key)) {   /* one in flight may be a retry, and go on */
        count(COUNT_SCSI_NOT_TAKEN);
        return 0;
    }
    record.submit_ns = bpf_ktime_get_ns();
    record.pid = key.pid;
    record.kind = RECORD_REQUEST;
    record.request = key.pointer;
    record.kept = kept_from_start(process);
    if (process->device == UNKNOWN_OFFSET) {
        if (is_calibrating(process))
            take_sample(process, key.pid, key.pointer);
        count(COUNT_SCSI_UNPROVEN);
        return 0;
    }
    if (read_request(&record, process, key.pointer)) {
        count(COUNT_SCSI_UNREADABLE);
        return 0;
    }
    if (process->proving && !requests.lookup(&key) && !is_as_expected(&record, process)) {
        count(COUNT_SCSI_UNPROVEN);
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
    if (!process || process->sense == UNKNOWN_OFFSET ||
        bpf_probe_read_user(sense, sizeof(sense), (void *)(request + process->sense))) {
        count(COUNT_SENSE_UNREADABLE);
        return;
    }
    bool descriptor = (sense[0] & 0x7e) == 0x72;
    record->sense_key = (descriptor ? sense[1] : sense[2]) & 0xf;
    record->asc = descriptor ? sense[2] : sense[12];
    record->ascq = descriptor ? sense[3] : sense[13];
}

/*
 * The end of a request that is not in flight.  Its record tells user space that calls whose walk ended at this address
 * have a parent, which began before the probes were attached.
 */
static __always_inline int end_unstarted(struct key *key, u8 ending)
{
    if (traced(key->pid)) {
        struct record record = {.pid = key->pid, .kind = RECORD_REQUEST, .ending = ending, .request = key->pointer};
        record.complete_ns = bpf_ktime_get_ns();
        record.kept = KEPT_SAMPLED;
        bool full = ring.ringbuf_output(&record, sizeof(record), NO_WAKEUP);
        count(full ? COUNT_RING_FULL_REQUEST : COUNT_RECORDS);
    }
    return count_traced(COUNT_SCSI_UNSTARTED);
}

/* End a request: complete its entry, count and emit it, and remove it from the table. */
static __always_inline int end_request(u64 request, u8 ending, u8 status, u8 host_status)
{
    struct key key = key_of(request);
    struct record *record = is_stage(STAGE_ENDED) ? 0 : requests.lookup(&key);
    if (!record)
        return end_unstarted(&key, ending);
    record->complete_ns = bpf_ktime_get_ns();
    record->ending = ending;
    record->status = status;
    record->host_status = host_status;
    if (status == CHECK_CONDITION)
        read_sense(record, request);
    finish(record);
    requests.delete(&key);
    count(COUNT_SCSI_COMPLETED);
    return 0;
}

/*
 * The three functions that end a request.  The second argument is a different status in each.
 *
 *   void scsi_req_complete(SCSIRequest *req, int status)               SAM status
 *   void scsi_req_complete_failed(SCSIRequest *req, int host_status)   QEMU 6.0 on: the host adapter's status
 *   void scsi_req_cancel_complete(SCSIRequest *req)                    an aborted request, after its block I/O
 */
static __always_inline int on_scsi_end(struct pt_regs *ctx, u8 ending)
{
    u8 argument = PT_REGS_PARM2(ctx);
    return end_request(PT_REGS_PARM1(ctx), ending, ending == ENDING_COMPLETED ? argument : 0,
                       ending == ENDING_FAILED ? argument : 0);
}

/* void scsi_req_retry(SCSIRequest *req): an error has stopped the guest; the request is submitted again when it runs */
static __always_inline int on_scsi_req_retry(struct pt_regs *ctx)
{
    struct key key = key_of(PT_REGS_PARM1(ctx));
    struct record *record = is_stage(STAGE_ENDED) ? 0 : requests.lookup(&key);
    if (record) {
        record->ending = ENDING_RETRY;
        if (record->retries < 255)
            record->retries++;
    }
    return count_traced(COUNT_SCSI_RETRIED);
}
