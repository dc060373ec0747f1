# SPDX-License-Identifier: Apache-2.0
"""Traces into spans: their names, attributes and bytes."""
