# SPDX-License-Identifier: Apache-2.0
"""Each stage alone, on built records: needs numpy and nothing else."""
