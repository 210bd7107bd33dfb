"""meshca: a certificate authority and workload-identity service for service meshes."""

__version__ = "0.1.0"
