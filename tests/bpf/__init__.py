# SPDX-License-Identifier: Apache-2.0
"""The BPF program as an ordinary shared library: every branch of it, with no kernel."""
