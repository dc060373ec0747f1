"""Traces and histograms as something a person or another program reads."""
