"""Implementations of the stores behind the ports: memory and SQL."""
