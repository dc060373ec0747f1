"""Counts and health into OTLP metrics, and the thread that sends them."""
