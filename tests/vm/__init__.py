# SPDX-License-Identifier: Apache-2.0
"""The probes on kernels other than this machine's, each booted in a virtual machine of its own."""
