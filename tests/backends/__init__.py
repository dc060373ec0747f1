# SPDX-License-Identifier: Apache-2.0
"""
Real OpenTelemetry backends for the tests and the demo: built once, cached, run on loopback.
"""
