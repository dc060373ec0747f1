# SPDX-License-Identifier: Apache-2.0
"""Counts and health into OTLP metrics, and the thread that sends them."""
