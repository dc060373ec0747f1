"""What tracing costs: ``python -m bench.probe``."""
