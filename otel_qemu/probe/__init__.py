# SPDX-License-Identifier: Apache-2.0
"""Finds QEMU processes, attaches probes to them, and reads the kernel's ring into batches."""
