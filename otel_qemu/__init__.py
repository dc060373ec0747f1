# SPDX-License-Identifier: Apache-2.0
"""
Trace every SCSI request of QEMU guests over the librbd calls it became.

Read it in this order.  A part imports only from parts above it.  The packages in brackets belong to one part, and no
other part may import them.  `tests/unit/repository/test_architecture.py` checks both.

    errors    the errors that a person can do something about
    events    the record that a probe emits, and batches of records
    trace     turns batches into whole traces and counts, with numpy alone
    policy    the operator's decisions: which traces are kept, which waits are shown
    settings  the settings of `run`, read by click from flags, environment and one file  [click]
    probe     turns kernel events and QEMU's memory into batches: symbols, layouts, ring  [elftools, capstone]
    export    turns traces and counts into OTLP  [opentelemetry, grpc, requests]
    views     turns traces and settings into text for a person
    sinks     the receivers of the loop's traces
    meters    the receivers of snapshots of all counts
    notify    reports the service's state to the service manager
    signals   an orderly end on SIGINT and SIGTERM
    service   the loop
    options   options that several commands share  [click]
    cli       the commands  [click]
"""

__version__ = "0.2.0"
