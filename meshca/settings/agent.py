"""The agent's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from meshca.pki.keys import KeyAlgorithm
from meshca.settings.sources import Duration, Settings

# What Envoy takes in its default build; others would be issued and then refused by every proxy.
KEY_TYPES = (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA2048, KeyAlgorithm.RSA3072, KeyAlgorithm.RSA4096)


class AgentSettings(Settings):
    """`meshca agent`: flags, `MESHCA_AGENT_…` and the TOML file."""

    model_config = SettingsConfigDict(env_prefix="MESHCA_AGENT_")

    server: str  # host:port of the token listener
    trust_bundle: Path
    join_token: SecretStr | None = None
    token_file: Path | None = None
    socket: Path
    socket_group: str | None = None
    output_dir: Path | None = None
    state_dir: Path | None = None  # default: `state` beside the socket
    key_type: KeyAlgorithm = KeyAlgorithm.P256
    ttl: Duration | None = None  # default: the server's
    server_name: str | None = Field(default=None, min_length=1, max_length=253)
    ready_file: Path | None = None
    max_streams: Annotated[int, Field(ge=1, le=100_000)] = 1000
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("key_type")
    @classmethod
    def _key_type(cls, value: KeyAlgorithm) -> KeyAlgorithm:
        if value not in KEY_TYPES:
            names = ", ".join(algorithm.value for algorithm in KEY_TYPES)
            raise ValueError(f"{value.value} is a key that Envoy refuses: use one of {names}")
        return value

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if (self.join_token is None) == (self.token_file is None):
            raise ValueError("give exactly one of join_token (better in MESHCA_AGENT_JOIN_TOKEN) and token_file")
        if self.ttl is not None and self.ttl.total_seconds() < 1:
            raise ValueError(f"ttl is {self.ttl}: at least 1s is needed")
        return self
