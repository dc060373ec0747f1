# SPDX-License-Identifier: Apache-2.0
"""
What a person sees: Jaeger's page in a real Chromium without a screen.
"""
