"""The gRPC front doors of the server: bytes to values, never a decision."""
