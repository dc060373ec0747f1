# SPDX-License-Identifier: Apache-2.0
"""Traces and histograms as something a person or another program reads."""
