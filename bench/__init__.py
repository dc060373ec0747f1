# SPDX-License-Identifier: Apache-2.0
"""What tracing costs: ``python -m bench.probe``."""
