# SPDX-License-Identifier: Apache-2.0
"""The sources of a QEMU that only makes requests, and how they become binaries."""
