"""Traces into spans: their names, attributes and bytes."""
