# SPDX-License-Identifier: Apache-2.0
"""Array tools that know nothing of the domain: tables by the column, rows, groups of rows, bins.  numpy alone."""
