# SPDX-License-Identifier: Apache-2.0
"""Tests of everything from a trap to a trace, against a process that has QEMU's functions and structs."""
