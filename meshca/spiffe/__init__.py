"""SPIFFE ids, trust bundles and X509-SVID verification. Pure: no I/O, no clock."""
