# SPDX-License-Identifier: Apache-2.0
"""Correlate, split, count: batches of records into whole traces.  Pure numpy, no clock, no I/O."""
