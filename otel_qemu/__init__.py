"""
Trace every SCSI request of QEMU guests over the librbd calls it became.

Read it in this order.  A part imports only from parts above it; the packages in brackets are its own, which no other
part may import (`tests/unit/test_architecture.py` holds both).

    errors    what a person can do something about
    events    the record a probe emits, and batches of them
    trace     batches into whole traces and counts: numpy and nothing else
    policy    what an operator decides: which traces are kept, which waits are shown
    settings  the settings of `run`, by click, from flags, environment and one file  [click]
    probe     processes, symbols, layouts, tracer, ring: kernel and QEMU's memory into batches  [elftools, capstone]
    export    traces and counts into OTLP  [opentelemetry, grpc, requests]
    views     traces and settings into something a person reads
    sinks     where the loop's results go
    meters    what is known at one moment, for those who export numbers
    notify    tells the service manager how it goes
    signals   an orderly end by SIGINT and SIGTERM
    service   the loop
    options   options that several commands share  [click]
    cli       the commands  [click]
"""

__version__ = "0.2.0"
