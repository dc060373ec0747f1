# SPDX-License-Identifier: Apache-2.0
"""What tests of several layers are made with; no test stands here."""
