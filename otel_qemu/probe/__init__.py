"""Processes, domains, symbols, layouts, tracer and ring: QEMU's memory and the kernel, into batches."""
