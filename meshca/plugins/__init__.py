"""Implementations of the pluggable ports: key managers, JWKS sources."""
