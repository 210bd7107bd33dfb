"""JWKS values, JWT verification, claims, join tokens. Pure: time and randomness are arguments."""
