"""The HTTP front door: probes and metrics."""
