"""Values into what data planes read: SDS secrets, Envoy configuration. Pure."""
