# SPDX-License-Identifier: Apache-2.0
"""Whole traces on their way out: the queue, the thread that sends them, and a count of what became of each."""
